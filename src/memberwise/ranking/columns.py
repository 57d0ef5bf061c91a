"""From the ids of a batch to rows of the fused tables: dropped, compressed, and their parts summed."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from memberwise.data.layout import Layout, Table
from memberwise.data.vocabulary import FIRST, PAD, UNSEEN
from memberwise.nn.embedding import FusedEmbedding, masked_mean
from memberwise.nn.qr_embedding import qr_rows, qr_sizes


def table_size(table: Table, values: int) -> int:
    """Rows of a table with so many values: one each, or those of quotients and of remainders."""
    if table.encoding == "hash" or table.remainders is None:
        return values
    return FIRST + sum(qr_sizes(max(1, values - FIRST), table.remainders))


class TableRows:
    """The rows that make up a value of one table; an embedding is their sum.

    A value of a vocabulary has one row of its own, or two with `Table.remainders`:
    ``e(i) = Q[(i - 2) // R] + M[(i - 2) % R]``. Unseen and missing (0 and 1) keep a row of their own. A value
    of a hashed table comes with its four rows already.

    Parameters
    ----------
    table
        Its encoding.
    values : int
        Of the vocabulary, unseen and missing among them.

    Attributes
    ----------
    parts : int
        Columns of a value in a batch.
    rows : int
        Rows of a value in the table.
    """

    def __init__(self, table: Table, values: int) -> None:
        self.parts = table.parts
        self.compressed = table.encoding != "hash" and table.remainders is not None
        self.rows = 2 if self.compressed else table.parts
        if self.compressed:
            self.quotients, self.remainders = qr_sizes(max(1, values - FIRST), table.remainders or 1)

    def __call__(self, ids: Tensor) -> Tensor:
        """``[..., values * parts] -> [..., values, rows]``; PAD where there is no value or no second row."""
        ids = ids.unflatten(-1, (-1, self.parts))
        if not self.compressed:
            return ids
        pair = qr_rows(ids.squeeze(-1) - FIRST, self.remainders)
        start = torch.tensor([FIRST, FIRST + self.quotients], device=ids.device)
        alone = torch.cat([ids, torch.full_like(ids, PAD)], -1)
        return torch.where(ids >= FIRST, pair + start, alone)


class IdColumns(nn.Module):
    """How the id columns of a batch are looked up in fused tables.

    Parameters
    ----------
    layout
        Of the batches.
    values : dict of str to int
        Values of each table.
    """

    _first: Tensor
    _is_first: Tensor

    def __init__(self, layout: Layout, values: Mapping[str, int]) -> None:
        super().__init__()
        self.layout = layout
        self.rows_of = {t.name: TableRows(t, values[t.name]) for t in layout.tables}
        first = [f.start + c // f.parts * f.parts for f in layout.ids for c in range(f.width)]
        self.register_buffer("_first", torch.tensor(first, dtype=torch.int64), persistent=False)
        alone = self._first == torch.arange(len(first))
        self.register_buffer("_is_first", alone, persistent=False)

    def dropped(self, ids: Tensor, share: Tensor) -> Tensor:
        """Show values as unseen with the probability `share` of their first column. ``[B, C] -> [B, C]``"""
        drop = (torch.rand(ids.shape, device=ids.device) < share) & (ids >= FIRST)
        if bool(self._is_first.all()):
            return torch.where(drop, UNSEEN, ids)
        drop = drop.index_select(1, self._first)
        return torch.where(drop, torch.where(self._is_first, UNSEEN, PAD), ids)

    def fields(self, table: FusedEmbedding, ids: Tensor) -> dict[str, Tensor]:
        """Embedding of every id field that a fused table holds, ``[B, D]`` each, by one look-up.

        Several values of a field have their mean.
        """
        mine = [f for f in self.layout.ids if f.table in table.offsets]
        if not mine:
            return {}
        blocks = [self._fused(table, f.table, ids[:, f.start : f.start + f.width]) for f in mine]
        values = table(torch.cat([b.flatten(1) for b in blocks], 1))
        found, at = {}, 0
        for f, block in zip(mine, blocks, strict=True):
            _, count, rows = block.shape
            piece = values[:, at : at + count * rows].unflatten(1, (count, rows)).sum(2)
            found[f.name] = piece.squeeze(1) if count == 1 else masked_mean(piece, block[..., 0] > 0)
            at += count * rows
        return found

    def lookup(self, table: FusedEmbedding, name: str, ids: Tensor) -> Tensor:
        """Embeddings of values of one table, ``[B, N * parts] -> [B, N, D]``; zero where there is none."""
        return table(self._fused(table, name, ids)).sum(-2)

    def _fused(self, table: FusedEmbedding, name: str, ids: Tensor) -> Tensor:
        rows = self.rows_of[name](ids)
        return torch.where(rows >= 0, rows + table.offsets[name], 0)
