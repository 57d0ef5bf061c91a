"""What a graph query looks like to the encoder: nodes, and who hears from whom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Block:
    """One hop: every node that gets a new state, and the sampled neighbours that it hears from.

    States of the layer below are the rows of a matrix ``[S, d]``; the block says which of them enter each
    new state. Places without a neighbour hold -1.

    Attributes
    ----------
    own : Tensor of int32, [M]
        Row below of the node itself.
    neighbours : Tensor of int32, [M, f]
        Rows below of its neighbours; -1 for none.
    kinds : Tensor of int32, [M, f]
        Edge type of each.
    ages : Tensor of float32, [M, f]
        Days from the edge to the moment of the query; 0 for edges without a time.
    weights : Tensor of float32, [M, f]
        Strength of the edge; 0 where there is none.
    degrees : Tensor of float32, [M, A]
        ``log1p`` of how many edges the node had before the moment: in all, and in the last windows. It
        says what a sample of fixed size hides.
    """

    own: Tensor
    neighbours: Tensor
    kinds: Tensor
    ages: Tensor
    weights: Tensor
    degrees: Tensor

    @property
    def mask(self) -> Tensor:
        """Where there is a neighbour, ``[M, f]``."""
        return self.neighbours >= 0

    def to(self, device: torch.device) -> Block:
        """The same block on a device."""
        return Block(*(getattr(self, f).to(device) for f in self.__dataclass_fields__))


@dataclass(frozen=True)
class NodeBatch:
    """The distinct nodes of a batch, sorted by type.

    Attributes
    ----------
    ids : Tensor of int32, [U, hashes]
        Rows of the id table; the first is the type's row for unknown ids where the node is unknown, and the
        others 0.
    counts : tuple of int
        How many nodes there are of each type, in the order of the types; they sum to U.
    features : dict of Tensor float32, [u, F]
        By type, if the type has any.
    """

    ids: Tensor
    counts: tuple[int, ...]
    features: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device) -> NodeBatch:
        """The same nodes on a device."""
        features = {name: x.to(device) for name, x in self.features.items()}
        return NodeBatch(self.ids.to(device), self.counts, features)


@dataclass(frozen=True)
class Activities:
    """What each member did before the moment of its query, oldest first, newest in the last place.

    Attributes
    ----------
    nodes : Tensor of int32, [G, N]
        Rows of the batch's nodes; -1 in the unused places at the front.
    kinds : Tensor of int32, [G, N]
        Edge types.
    ages : Tensor of float32, [G, N]
        Days to the moment of the query.
    crowd : Tensor of float32, [G, N, CROWD], optional
        What others did with the node (`memberwise.graph.degrees.crowds`), for what a member may come back to.
    """

    nodes: Tensor
    kinds: Tensor
    ages: Tensor
    crowd: Tensor | None = None

    @property
    def mask(self) -> Tensor:
        """Where there is an activity, ``[G, N]``."""
        return self.nodes >= 0

    def newest(self, length: int) -> Activities:
        """Only the last places."""
        crowd = None if self.crowd is None else self.crowd[:, -length:]
        return Activities(self.nodes[:, -length:], self.kinds[:, -length:], self.ages[:, -length:], crowd)

    def to(self, device: torch.device) -> Activities:
        """The same activities on a device."""
        crowd = None if self.crowd is None else self.crowd.to(device)
        return Activities(self.nodes.to(device), self.kinds.to(device), self.ages.to(device), crowd)


@dataclass(frozen=True)
class Query:
    """What one tower of the encoder sees of its seeds.

    Attributes
    ----------
    seeds : Tensor of int32, [G]
        Rows of the batch's nodes.
    blocks : tuple of Block
        The farthest hop first; the last one's M is G.
    activities : Activities, optional
        Of the seeds, for the temporal model.
    peers : Tensor of int32, [G, K], optional
        Rows of the batch's nodes: the seed's newest neighbours; -1 for none.
    """

    seeds: Tensor
    blocks: tuple[Block, ...]
    activities: Activities | None = None
    peers: Tensor | None = None

    def __len__(self) -> int:
        return len(self.seeds)

    @property
    def degrees(self) -> Tensor:
        """Of the seeds, ``[G, A]``."""
        return self.blocks[-1].degrees

    def to(self, device: torch.device) -> Query:
        """The same query on a device."""
        return Query(
            self.seeds.to(device),
            tuple(b.to(device) for b in self.blocks),
            None if self.activities is None else self.activities.to(device),
            None if self.peers is None else self.peers.to(device),
        )
