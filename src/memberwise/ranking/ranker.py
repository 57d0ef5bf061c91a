"""The ranker: from a batch to one logit per task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from memberwise.data.batch import Batch
from memberwise.data.layout import HistoryField, IdField, Layout
from memberwise.errors import ConfigError
from memberwise.nn.embedding import FusedEmbedding
from memberwise.ranking.columns import IdColumns, table_size
from memberwise.ranking.config import RankerConfig
from memberwise.ranking.wiring import history_encoder

PAD_TO = 16  # widths that enter a matrix product; odd widths cost up to 40 % on CPUs


class Ranker(nn.Module):
    """Embeddings, numbers, history and vectors, crossed and mixed, into a logit per task.

    ``x0 = [e_1 | ... | e_F | dense | history | vectors]``, ``h = [block_1(x0) | block_2(x0) | ...]``,
    ``logit_t = <w_t, head_t(h)> + b_t + sum_f wide_ft``, then, if asked for, task t's calibration curve.

    Parameters
    ----------
    layout
        What a batch holds.
    rows : dict of str to int
        Rows of each embedding table.
    vector_dims : dict of str to int
        Widths of the entity embeddings that are features.
    config
        Blocks and widths.
    seed
        Of the initial weights.
    counts : dict of str to Tensor, optional
        How often the value of each row of a table stands in train.

    References
    ----------
    LiRank (Borisyuk et al., 2024), section 2; DCN V2 (Wang et al., 2021); Wide & Deep (Cheng et al., 2016).
    """

    _shares: Tensor
    _share_start: Tensor

    def __init__(
        self,
        layout: Layout,
        rows: Mapping[str, int],
        vector_dims: Mapping[str, int],
        config: RankerConfig,
        seed: int = 0,
        counts: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.layout, self.config = layout, config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self._build(rows, vector_dims)
        self._register_rarity(counts or {})

    def _build(self, rows: Mapping[str, int], vector_dims: Mapping[str, int]) -> None:
        layout, config = self.layout, self.config
        self.vector_dims = dict(vector_dims)
        self._dim_of = {t.name: t.dim or config.embedding_dim for t in layout.tables}
        self.columns = IdColumns(layout, rows)
        size = {t.name: table_size(t, rows[t.name]) for t in layout.tables}
        self.embeddings = nn.ModuleDict()
        for dim in sorted(set(self._dim_of.values())):
            sizes = {t: size[t] for t, d in self._dim_of.items() if d == dim}
            self.embeddings[str(dim)] = FusedEmbedding(sizes, dim)
        tasks = len(layout.tasks)
        self.wide = FusedEmbedding(size, tasks, std=0.0)
        self.wide_bias = nn.Parameter(torch.zeros(tasks))
        self.histories = nn.ModuleDict()
        for h in layout.histories:
            dims = self._dim_of[h.item_table], self._dim_of[h.action_table]
            self.histories[h.name] = history_encoder(h.encoder, *dims)
        dense = sum(1 + c.indicator for c in layout.dense)
        # The columns are normalised already: a small eps would blow up one that is rarely not zero.
        self.norm = nn.BatchNorm1d(dense, eps=1e-2) if config.batch_norm and dense else nn.Identity()
        self.drop = nn.Dropout(config.input_dropout)
        width = sum(self._dim_of[f.table] for f in layout.ids) + dense + sum(vector_dims.values())
        width += sum(m.out_dim for m in self.histories.values())  # type: ignore[misc]
        curves = len(layout.dense) if config.numeric is not None else 0
        self.numbers = config.numeric.build(curves) if config.numeric is not None and curves else None
        width += self.numbers.out_dim if self.numbers is not None else 0
        self.padding = -width % PAD_TO
        self.in_dim = width + self.padding
        self.blocks = nn.ModuleList()
        at, total = self.in_dim, 0
        for block in config.blocks:
            self.blocks.append(block.build(at))
            out = int(self.blocks[-1].out_dim)  # type: ignore[arg-type]
            total += out
            at = out if config.stacked else at
        self.out_dim = out if config.stacked else total
        self.heads = config.heads.build(self.out_dim, layout.tasks)
        self.head_weight = nn.Parameter(torch.empty(tasks, self.heads.out_dim).normal_(std=0.01))
        self.curves = config.calibration.build(tasks) if config.calibration is not None else None
        self._build_curve_effects(rows)

    def _build_curve_effects(self, rows: Mapping[str, int]) -> None:
        """What calibration features add to the curves: zero rows, one weight per task and bucket."""
        names = self.config.calibration_features
        known = {f.name: f for f in self.layout.ids if f.width == 1}
        for name in names:
            if name not in known or self.curves is None:
                raise ConfigError(
                    f"{name!r} is no single-valued categorical feature"
                    if self.curves is not None
                    else "features are given, but no 'calibration'",
                    where="ranker.calibration_features",
                    fix=f"use some of: {', '.join(known)}"
                    if self.curves is not None
                    else "add calibration: {}",
                )
        self._curve_fields = [known[name] for name in names]
        self.curve_effects: FusedEmbedding | None = None
        if self._curve_fields and self.curves is not None:
            sizes = {f.table: rows[f.table] for f in self._curve_fields}
            width = len(self.layout.tasks) * self.curves.buckets
            self.curve_effects = FusedEmbedding(sizes, width, std=0.0)

    def _register_rarity(self, counts: Mapping[str, Tensor]) -> None:
        """How often each id stands in train: rare ones are dropped and shrunk more."""
        p, few = self.config.id_dropout, self.config.id_dropout_few
        shares = {}
        for name, count in counts.items():
            n = count.clamp_min(1.0)
            shares[name] = p + (1.0 - p) * few / (few + n)
            if not self.columns.rows_of[name].compressed:
                for table in self._fused():
                    if name in table.offsets:
                        table.rarity[table.offsets[name] : table.offsets[name] + len(n)] = 1.0 / n
        # One list for all tables; a column finds its table's part by its start.
        starts, parts, at = {}, [torch.full((1,), p)], 1
        for name, share in shares.items():
            starts[name] = at
            parts.append(share)
            at += len(share)
        columns = [f.table for f in self.layout.ids for _ in range(f.width)]
        start = [starts.get(t, -1) for t in columns]
        self.register_buffer("_shares", torch.cat(parts), persistent=False)
        self.register_buffer("_share_start", torch.tensor(start, dtype=torch.int64), persistent=False)

    def _fused(self) -> list[FusedEmbedding]:
        tables: list[Any] = [*self.embeddings.values(), self.wide]
        return tables

    def _table(self, name: str) -> FusedEmbedding:
        return self.embeddings[str(self._dim_of[name])]  # type: ignore[return-value]

    @property
    def sparse_tables(self) -> list[FusedEmbedding]:
        """The tables that a sparse optimiser trains."""
        tables: list[Any] = list(self.embeddings.values())
        tables += [self.wide] if self.config.wide else []
        return tables + ([self.curve_effects] if self.curve_effects is not None else [])

    def set_prior(self, rates: Tensor) -> None:
        """Start from the label rate of each task: the first step need not learn it."""
        with torch.no_grad():
            self.wide_bias.copy_(torch.logit(rates.clamp(1e-4, 1 - 1e-4)))

    def set_curves(self, dense: Tensor) -> None:
        """Bend the curves of numbers at the quantiles of these rows of train, ``[rows, n]``."""
        if self.numbers is not None:
            self.numbers.fit(dense[:, : len(self.layout.dense)].to(self.wide_bias.device))

    def rescale(self, slope: Tensor, shift: Tensor) -> None:
        """Fold ``slope * logit + shift`` of each task (``[T]``) into the last weights; no curves follow."""
        assert self.curves is None
        with torch.no_grad():
            self.head_weight.mul_(slope.unsqueeze(1))
            self.wide.weight.mul_(slope)
            self.wide_bias.mul_(slope).add_(shift)

    # -- forward ----------------------------------------------------------------------------------

    def forward(self, batch: Batch) -> Tensor:
        """Logits of a batch, ``[B, T]``."""
        ids = self._dropped(batch.ids)
        return self.finish(self.inputs(batch, ids), *self.beside(ids))

    def beside(self, ids: Tensor) -> tuple[Tensor, Tensor | None]:
        """What does not pass through the blocks: the wide logits ``[B, T]``, and what bends the curves."""
        wide = self._wide_logits(ids) if self.config.wide and self.layout.ids else None
        bias = self.wide_bias.expand(len(ids), -1)
        return (bias if wide is None else wide + bias), self._effects(ids)

    def finish(self, x0: Tensor, wide: Tensor, effects: Tensor | None = None) -> Tensor:
        """Logits from the input of the blocks and what stands beside them, ``[B, T]``."""
        parted = self.heads(self.mix(x0))
        logits = torch.einsum("bto,to->bt", parted, self.head_weight) + wide
        return logits if self.curves is None else self.curves(logits, effects)

    def columns_of(self, vector: str) -> slice:
        """Where a vector feature stands in ``x0``."""
        after = [v.name for v in self.layout.vectors]
        last = self.in_dim - self.padding
        last -= sum(self.vector_dims[name] for name in after[after.index(vector) + 1 :])
        return slice(last - self.vector_dims[vector], last)

    @contextmanager
    def uncurved(self) -> Iterator[None]:
        """Logits inside are those before the calibration curves."""
        curves, self.curves = self.curves, None
        try:
            yield
        finally:
            self.curves = curves

    def _effects(self, ids: Tensor) -> Tensor | None:
        """What the calibration features add to each row's curves, ``[B, T, K]``."""
        table = self.curve_effects
        if table is None or self.curves is None:
            return None
        rows = torch.stack([ids[:, f.start] + table.offsets[f.table] for f in self._curve_fields], 1)
        return table(rows).sum(1).view(len(ids), len(self.layout.tasks), self.curves.buckets)

    def auxiliary_loss(self) -> Tensor:
        """What layers ask to add to the training loss: balance of experts, pull of the curves."""
        asked = [m.auxiliary_loss for m in (self.heads, self.curves) if m is not None]
        return torch.stack([torch.as_tensor(a, device=self.wide_bias.device) for a in asked]).sum()

    def _dropped(self, ids: Tensor) -> Tensor:
        """In training, a share of the ids shown as unseen."""
        if not self.training or not (self.config.id_dropout or self.config.id_dropout_few):
            return ids
        known = (ids >= 0) & (self._share_start >= 0)
        share = self._shares[torch.where(known, ids + self._share_start, 0)]
        return self.columns.dropped(ids, share)

    def inputs(self, batch: Batch, ids: Tensor | None = None) -> Tensor:
        """The input of the blocks, ``x0: [B, in_dim]``."""
        ids = batch.ids if ids is None else ids
        fields = self.embed(ids)
        parts = [self.drop(torch.cat(list(fields.values()), 1))] if fields else []
        if batch.dense.shape[1]:
            parts.append(self.norm(batch.dense))
        if self.numbers is not None:
            parts.append(self.numbers(batch.dense[:, : len(self.layout.dense)]))
        parts += [self._history(batch, h, fields) for h in self.layout.histories]
        parts += list(batch.vectors.values())
        if self.padding:
            parts.append(batch.dense.new_zeros(len(ids), self.padding))
        return torch.cat(parts, 1)

    def mix(self, x0: Tensor) -> Tensor:
        """The interaction blocks, ``[B, in_dim] -> [B, out_dim]``."""
        if self.config.stacked:
            for block in self.blocks:
                x0 = block(x0)
            return x0
        outputs = [block(x0) for block in self.blocks]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, 1)

    def embed(self, ids: Tensor) -> dict[str, Tensor]:
        """Embedding of every id field, ``[B, D]`` each: one gather per width for all single values."""
        found: dict[str, Tensor] = {}
        for table in self.embeddings.values():
            found |= self.columns.fields(table, ids)  # type: ignore[arg-type]
        return {f.name: found[f.name] for f in self.layout.ids}

    def _history(self, batch: Batch, field: HistoryField, fields: Mapping[str, Tensor]) -> Tensor:
        history = batch.histories[field.name]
        mask = history.items[:, :: field.parts] >= 0
        items = self.look_up(field.item_table, history.items)
        actions = self.look_up(field.action_table, history.actions)
        candidate = self._candidate(field, fields)
        return self.histories[field.name](items, actions, history.ages, mask, candidate)

    def look_up(self, name: str, ids: Tensor) -> Tensor:
        """Embeddings of values of a table, ``[B, N] -> [B, N, D]``; zero where an id is below zero.

        Of a hashed table, four ids make a value: ``[B, 4 N] -> [B, N, D]``.
        """
        return self.columns.lookup(self._table(name), name, ids)

    def _candidate(self, field: HistoryField, fields: Mapping[str, Tensor]) -> Tensor | None:
        """Embedding of the row's own item, if an id field shares the history's table."""
        shared: list[IdField] = [f for f in self.layout.ids if f.table == field.item_table and f.values == 1]
        return fields[shared[0].name] if shared else None

    def _wide_logits(self, ids: Tensor) -> Tensor:
        """Sum of the weights of all ids, several values of a field sharing one weight. ``[B, T]``"""
        return torch.stack(list(self.columns.fields(self.wide, ids).values())).sum(0)
