"""First states of nodes: what is known of them, and who they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from memberwise.data.hashing import U64, HashIndex, combine
from memberwise.graph.blocks import NodeBatch
from memberwise.nn.embedding import FusedEmbedding

_SALTS = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9], np.uint64)


ID_STD = 0.01
"""Of the initial id embeddings: an id that was hardly trained says next to nothing."""


class IdRows:
    """Rows of the id table for nodes: several hashes of the id if it was common in train, else its type's.

    The table holds one row for the unknown ids of each type, then `buckets` rows that all ids share. A
    known id is the sum of `hashes` of them, so that two ids rarely agree in all.

    Parameters
    ----------
    types : int
        Number of node types.
    buckets : int
        Shared rows.
    hashes : int
        Rows that make up an id, 1 to 3.
    known : ndarray of uint64
        Hashed ids that the encoder was trained on.
    """

    def __init__(self, types: int, buckets: int, hashes: int, known: U64) -> None:
        self.types, self.buckets, self.hashes = types, buckets, hashes
        self.known = HashIndex(np.unique(known))

    def only(self, known: U64) -> IdRows:
        """The same rows for other ids."""
        return IdRows(self.types, self.buckets, self.hashes, known)

    @property
    def sizes(self) -> dict[str, int]:
        """Tables for `FusedEmbedding`."""
        return {"unknown": self.types, "ids": self.buckets}

    def of(self, hashed: U64, types: npt.NDArray[np.integer]) -> npt.NDArray[np.int32]:
        """Rows of nodes in the fused matrix. ``[n], [n] -> [n, hashes]``"""
        rows = np.zeros((len(hashed), self.hashes), np.int32)
        rows[:, 0] = 1 + types
        known = self.known.find(hashed) >= 0
        for j in range(self.hashes):
            salted = combine(hashed[known], np.full(int(known.sum()), _SALTS[j]))
            rows[known, j] = 1 + self.types + (salted % np.uint64(self.buckets)).astype(np.int32)
        return rows


class NodeInput(nn.Module):
    """First state of a node: its features in a common space, and who it is.

    ``h_v = norm(W_type x_v + b_type + sum_j E[hash_j(v)])``

    In training a share of the ids is shown as unknown (``E[type]`` instead), so that the encoder also learns
    to do without: new nodes have nothing else.

    Parameters
    ----------
    features : dict of str to int
        Width of the features of each type that has any; all types in their order, 0 for none.
    dim : int
        Width d of a state.
    ids : IdRows or None
        Rows of the id table; None to know nodes by their features and neighbours alone.
    id_dropout : float
        Share of the ids shown as unknown.

    Notes
    -----
    Nodes ``ids [U, hashes]``, features ``[u, F]`` by type; result ``[U, d]``.

    References
    ----------
    LiGNN (Borisyuk et al., 2024), section 4.3: id embeddings were the largest single gain.
    """

    def __init__(
        self, features: Mapping[str, int], dim: int, ids: IdRows | None, id_dropout: float = 0.15
    ) -> None:
        super().__init__()
        self.types, self.dim, self.id_dropout = list(features), dim, id_dropout
        self.project = nn.ModuleDict(
            {name: nn.Linear(width, dim, bias=False) for name, width in features.items() if width}
        )
        self.kind = nn.Embedding(len(self.types), dim)
        nn.init.normal_(self.kind.weight, std=0.1)
        self.table = FusedEmbedding(ids.sizes, dim, std=ID_STD) if ids is not None else None

    @property
    def sparse_tables(self) -> list[FusedEmbedding]:
        """The tables that a sparse optimiser trains."""
        return [self.table] if self.table is not None else []

    def forward(self, nodes: NodeBatch) -> Tensor:
        """``[U, d]``."""
        kinds = torch.arange(len(self.types), device=nodes.ids.device)
        kinds = kinds.repeat_interleave(torch.tensor(nodes.counts, device=nodes.ids.device))
        x = self.kind(kinds)
        parts = [self._projected(nodes, name, n) for name, n in zip(self.types, nodes.counts, strict=True)]
        x = x + torch.cat(parts)
        if self.table is not None:
            x = x + self.table(self._dropped(nodes.ids, kinds)).sum(1)
        return nn.functional.layer_norm(x, (self.dim,))

    def _projected(self, nodes: NodeBatch, name: str, count: int) -> Tensor:
        if name in self.project and count:
            return self.project[name](nodes.features[name])
        return torch.zeros(count, self.dim, device=nodes.ids.device)

    def _dropped(self, ids: Tensor, kinds: Tensor) -> Tensor:
        if not self.training or not self.id_dropout:
            return ids
        drop = torch.rand(len(ids), 1, device=ids.device) < self.id_dropout
        unknown = torch.zeros_like(ids)
        unknown[:, 0] = 1 + kinds.to(ids.dtype)
        return torch.where(drop, unknown, ids)


def frequent(hashed: U64, degrees: npt.NDArray[np.integer], min_count: int) -> U64:
    """Hashed ids of the nodes that have at least `min_count` edges in train."""
    return hashed[degrees >= min_count]


def type_counts(nodes: npt.NDArray[np.integer], offsets: Sequence[int]) -> tuple[int, ...]:
    """How many of the sorted `nodes` lie in each type's range of ids."""
    edges = np.searchsorted(nodes, np.asarray(offsets))
    return tuple(int(n) for n in np.diff(edges))
