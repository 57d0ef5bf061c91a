"""A batch of edges to predict: flat arrays while it travels, tensors when it arrives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from memberwise.graph.blocks import Activities, Block, NodeBatch, Query

Arrays = dict[str, npt.NDArray[Any]]
_BLOCK = ("own", "neighbours", "kinds", "ages", "weights", "degrees")


@dataclass(frozen=True)
class LinkBatch:
    """Records, the queries of their sources and destinations, and the nodes that those have met.

    Attributes
    ----------
    nodes : NodeBatch
        Distinct nodes.
    source : Query
        One seed per group of records.
    destination : Query
        Candidates: the destinations of the records, then those drawn uniformly.
    group, column, relation, place : Tensor of int64, [R]
        Group, candidate, kind of edge, and place in the group of each record.
    row : Tensor of int64, [R]
        Row of the score matrix: records of one group and kind of edge share one.
    first : Tensor of int64, [Q]
        A record of each row.
    weights : Tensor of float32, [R]
        In the loss.
    log_q : Tensor of float32, [C]
        Log of the chance that a candidate is in a batch.
    forbidden : Tensor of bool, [Q, C]
        No negatives: destinations that the row's source chose too.
    uniform : Tensor of bool, [C]
        Candidates that were drawn uniformly.
    """

    nodes: NodeBatch
    source: Query
    destination: Query
    group: Tensor
    column: Tensor
    relation: Tensor
    place: Tensor
    row: Tensor
    first: Tensor
    weights: Tensor
    log_q: Tensor
    forbidden: Tensor
    uniform: Tensor

    def __len__(self) -> int:
        return len(self.group)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], types: tuple[str, ...]) -> LinkBatch:
        """The tensors of what `LinkFeed.batch` returns; memory is shared."""

        def tensor(name: str) -> Tensor:
            return torch.from_numpy(arrays[name])

        return cls(
            nodes_of(arrays, types),
            query_of(arrays, "source"),
            query_of(arrays, "destination"),
            group=tensor("group").long(),
            column=tensor("column").long(),
            relation=tensor("relation").long(),
            place=tensor("place").long(),
            row=tensor("row").long(),
            first=tensor("first").long(),
            weights=tensor("weights"),
            log_q=tensor("log_q"),
            forbidden=tensor("forbidden"),
            uniform=tensor("uniform"),
        )

    def to(self, device: torch.device) -> LinkBatch:
        """The same batch on a device."""
        return LinkBatch(*(getattr(self, f).to(device) for f in self.__dataclass_fields__))


def nodes_of(arrays: Mapping[str, npt.NDArray[Any]], types: tuple[str, ...]) -> NodeBatch:
    """The distinct nodes of a batch."""
    features = {t: torch.from_numpy(arrays[f"features.{t}"]) for t in types if f"features.{t}" in arrays}
    return NodeBatch(torch.from_numpy(arrays["ids"]), tuple(int(n) for n in arrays["counts"]), features)


def query_of(arrays: Mapping[str, npt.NDArray[Any]], tower: str) -> Query:
    """The query of one tower."""

    def tensor(name: str) -> Tensor:
        return torch.from_numpy(arrays[f"{tower}.{name}"])

    blocks: list[Block] = []
    while f"{tower}.{len(blocks)}.own" in arrays:
        blocks.append(Block(*(tensor(f"{len(blocks)}.{name}") for name in _BLOCK)))
    activities = None
    if f"{tower}.activities.nodes" in arrays:
        crowd = tensor("activities.crowd") if f"{tower}.activities.crowd" in arrays else None
        nodes, kinds, ages = (tensor(f"activities.{name}") for name in ("nodes", "kinds", "ages"))
        activities = Activities(nodes, kinds, ages, crowd)
    peers = tensor("peers") if f"{tower}.peers" in arrays else None
    return Query(tensor("seeds"), tuple(blocks), activities, peers)


def narrow(arrays: Arrays) -> Arrays:
    """The same arrays with whole numbers in 32 bits and in one piece: half the bytes to move."""
    out = {}
    for name, array in arrays.items():
        whole = array.dtype == np.int64
        out[name] = np.ascontiguousarray(array, np.int32 if whole else array.dtype)
    return out
