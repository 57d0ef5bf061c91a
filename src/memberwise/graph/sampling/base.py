"""What goes into a sampler and what comes out of it.

A sampled batch is a **tree of padded blocks**. The seeds are level 0. For every edge type that leaves the
type of a level's nodes there is one block of their sampled neighbours, and the entries of a block are the
nodes from which the next level's blocks start::

    seeds                     nodes  [B]
    block 0 (parent -1)       nodes  [B, k1]            neighbours of the seeds
    block 1 (parent 0)        nodes  [B * k1, k2]       row r: those of entry (r // k1, r % k1) of block 0

Every row of a block belongs to one node of its parent (the seeds, if `parent` is -1), in the order of the
parent's flattened entries: aggregation is a reduction over the last axis and no scatter is needed. With
several edge types per node type a parent has several children, side by side. Blocks stand parents first, so
that walking the list backwards aggregates from the leaves to the seeds.

A seed's cut-off holds for the whole tree below it: no edge in it happened at or after that moment.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from memberwise.errors import ConfigError
from memberwise.graph.types import EdgeType

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]

FanOuts = Sequence[int] | Mapping[EdgeType, Sequence[int]]
"""Neighbours a node per hop, for all edge types alike or for each (a missing one is not followed)."""


@dataclass(frozen=True)
class SeedBatch:
    """Nodes of one type whose neighbourhoods are asked for.

    Attributes
    ----------
    type
        Node type.
    nodes : ndarray of int32, shape [B]
        Node numbers; repeated ones are independent of each other.
    times : ndarray of int64, shape [B], optional
        Cut-off of each seed in microseconds: only edges strictly before it are seen. None: all edges.
    """

    type: str
    nodes: I32
    times: I64 | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "nodes", np.ascontiguousarray(self.nodes, np.int32))
        if self.times is not None:
            object.__setattr__(self, "times", np.ascontiguousarray(self.times, np.int64))
            if len(self.times) != len(self.nodes):
                raise ConfigError(f"{len(self.nodes)} seeds but {len(self.times)} times")

    def __len__(self) -> int:
        return len(self.nodes)


@dataclass(frozen=True)
class SampleRequest:
    """One query of a sampler.

    Attributes
    ----------
    seeds
        Where to start.
    fan_outs
        Per hop, at most how many neighbours a node gets: ``(15, 10)`` for all edge types alike, or by edge
        type. A schedule changes it from request to request.
    seed
        Of the draws: the same request gives the same batch, on any thread.
    """

    seeds: SeedBatch
    fan_outs: FanOuts
    seed: int = 0

    @property
    def hops(self) -> int:
        """Number of levels below the seeds."""
        if isinstance(self.fan_outs, Mapping):
            return max((len(f) for f in self.fan_outs.values()), default=0)
        return len(self.fan_outs)

    def fan_out(self, edge_type: EdgeType, hop: int) -> int:
        """Neighbours a node along an edge type in a hop (from 0); 0 if it is not followed."""
        per_hop = self.fan_outs.get(edge_type, ()) if isinstance(self.fan_outs, Mapping) else self.fan_outs
        return int(per_hop[hop]) if hop < len(per_hop) else 0


@dataclass(frozen=True)
class Block:
    """Sampled neighbours along one edge type, padded: P parents, up to k neighbours each.

    Attributes
    ----------
    edge_type
        Parents are of its source type, `nodes` of its target type.
    parent
        Index of the block whose flattened entries are the P parents; -1: the seeds.
    hop
        From 0.
    nodes : ndarray of int32, shape [P, k]
        Neighbours, packed to the front of the row; -1 in unused places.
    count : ndarray of int32, shape [P]
        Used places of each row; 0 where the parent itself is padding.
    times : ndarray of int64, shape [P, k]
        Of the edges; `TIMELESS` where they have none and in unused places.
    weights : ndarray of float32, shape [P, k]
        Of the edges (or scores, from PPR); 0 in unused places.
    edges : ndarray of int32, shape [P, k]
        Numbers of the edges, rows of the graph's `edge_features`; -1 in unused places.
    """

    edge_type: EdgeType
    parent: int
    hop: int
    nodes: I32
    count: I32
    times: I64
    weights: F32
    edges: I32

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """Which places are used. Shape [P, k]."""
        return np.arange(self.nodes.shape[1], dtype=np.int32) < self.count[:, None]

    @property
    def sampled(self) -> int:
        """Number of sampled edges."""
        return int(self.count.sum(dtype=np.int64))


@dataclass(frozen=True)
class SampledBatch:
    """A tree of neighbourhoods; see the module for its layout."""

    seeds: SeedBatch
    blocks: tuple[Block, ...]

    @property
    def sampled(self) -> int:
        """Number of sampled edges."""
        return sum(b.sampled for b in self.blocks)

    def children(self, parent: int) -> tuple[int, ...]:
        """Indices of the blocks that hang at a block (-1: at the seeds)."""
        return tuple(i for i, b in enumerate(self.blocks) if b.parent == parent)


class Sampler(ABC):
    """Answers requests for neighbourhoods; safe to call from many threads at once."""

    @abstractmethod
    def sample(self, request: SampleRequest) -> SampledBatch:
        """The neighbourhoods of the seeds.

        Raises
        ------
        ConfigError
            If the request names a node type or an edge type that the graph does not have.
        DataError
            If a seed is not a node.
        """
