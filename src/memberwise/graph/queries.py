"""From a sampler's tree of padded blocks to what the encoder takes: distinct nodes, a block per layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from memberwise.graph.sampling.base import SampledBatch
from memberwise.graph.types import NEVER, TIMELESS, EdgeType
from memberwise.schema import DAY

I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]
Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class NodeNumbers:
    """One numbering for the nodes of all types: those of a type are consecutive.

    Attributes
    ----------
    types : tuple of str
        Sorted.
    offsets : tuple of int
        First number of each type, and the number of all nodes.
    """

    types: tuple[str, ...]
    offsets: tuple[int, ...]

    @classmethod
    def of(cls, counts: Mapping[str, int]) -> NodeNumbers:
        """Number the nodes of these types."""
        types = tuple(sorted(counts))
        ends = np.cumsum([counts[t] for t in types])
        return cls(types, (0, *(int(n) for n in ends)))

    @property
    def total(self) -> int:
        """Number of all nodes."""
        return self.offsets[-1]

    def start(self, node_type: str) -> int:
        """First number of a type."""
        return self.offsets[self.types.index(node_type)]

    def slice(self, node_type: str) -> slice:
        """Numbers of a type."""
        i = self.types.index(node_type)
        return slice(self.offsets[i], self.offsets[i + 1])

    def types_of(self, numbers: npt.NDArray[np.integer]) -> I64:
        """Place of each node's type in `types`."""
        return np.searchsorted(np.asarray(self.offsets), numbers, side="right") - 1


@dataclass(frozen=True)
class Level:
    """The nodes of one hop that are there, and the places of their neighbours in the next level.

    Attributes
    ----------
    nodes : ndarray of int64, [M]
        Numbers over all types.
    seeds : ndarray of int64, [M]
        The seed that each hangs under.
    children : ndarray of int64, [M, f]
        Places in the next level; -1 for none. The last level has no columns.
    kinds, ages, weights : ndarrays, [M, f]
        Edge type, days and strength of the edges to the children.
    """

    nodes: I64
    seeds: I64
    children: I64
    kinds: I64
    ages: F32
    weights: F32


def levels(
    batch: SampledBatch, numbers: NodeNumbers, kinds: Mapping[EdgeType, int], hops: int
) -> list[Level]:
    """The tree by hops, without its padding: ``hops + 1`` levels, the seeds first."""
    count = len(batch.seeds)
    times = np.full(count, NEVER) if batch.seeds.times is None else batch.seeds.times
    nodes = batch.seeds.nodes.astype(np.int64) + numbers.start(batch.seeds.type)
    seeds = np.arange(count)
    frontier = [(-1, np.arange(count))]  # block, and which of its flat places are there
    out = []
    for _ in range(hops):
        sides: list[list[Arrays]] = []
        reached, under, following = [], [], []
        at = begin = 0
        for parent, rows in frontier:
            mine = seeds[begin : begin + len(rows)]
            begin += len(rows)
            side: list[Arrays] = []
            for index in batch.children(parent):
                block = batch.blocks[index]
                found, k = block.nodes[rows], block.nodes.shape[1]
                mask = found >= 0
                place = np.full(found.shape, -1, np.int64)
                n = int(np.count_nonzero(mask))
                place[mask] = np.arange(at, at + n)
                at += n
                side.append(
                    {
                        "children": place,
                        "kinds": np.full(found.shape, kinds[block.edge_type], np.int64),
                        "ages": ages(times[mine][:, None], block.times[rows]),
                        "weights": block.weights[rows],
                    }
                )
                reached.append(found[mask].astype(np.int64) + numbers.start(block.edge_type[2]))
                under.append(np.repeat(mine, mask.sum(1)))
                following.append((index, (rows[:, None] * k + np.arange(k))[mask]))
            sides.append(side)
        lengths = [len(rows) for _, rows in frontier]
        out.append(Level(nodes, seeds, **_side_by_side(sides, lengths)))
        nodes, seeds = _joined(reached), _joined(under)
        frontier = following
    none = np.zeros((len(nodes), 0), np.int64)
    out.append(Level(nodes, seeds, none, none, none.astype(np.float32), none.astype(np.float32)))
    return out


def ages(now: I64, then: I64) -> F32:
    """Days from edges to the moments of their queries; 0 for what always holds."""
    undated = (then == TIMELESS) | (now == NEVER)
    return np.where(undated, 0.0, (now - np.where(undated, 0, then)) / DAY).astype(np.float32)


def _side_by_side(sides: Sequence[Sequence[Arrays]], lengths: Sequence[int]) -> dict[str, Any]:
    """Children of several blocks beside each other, of several parents below each other, padded."""
    empty = {"children": np.int64, "kinds": np.int64, "ages": np.float32, "weights": np.float32}
    width = max((sum(a["children"].shape[1] for a in side) for side in sides), default=0)
    out: dict[str, Any] = {}
    for name, dtype in empty.items():
        whole = np.full((sum(lengths), width), -1 if name == "children" else 0, dtype)
        row = 0
        for side, length in zip(sides, lengths, strict=True):
            column = 0
            for part in side:
                k = part[name].shape[1]
                whole[row : row + length, column : column + k] = part[name]
                column += k
            row += length
        out[name] = whole
    return out


def _joined(parts: Sequence[I64]) -> I64:
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def layer_blocks(tree: Sequence[Level], rows: I64, degrees: F32) -> list[Arrays]:
    """The encoder's blocks, the farthest hop first; see `memberwise.graph.blocks.Block`.

    Parameters
    ----------
    tree
        Levels, the seeds first.
    rows : ndarray of int64
        Row of the batch's nodes for every node of all levels, one level behind the other.
    degrees : ndarray of float32
        Of the nodes of all levels but the last.
    """
    starts = np.concatenate([[0], np.cumsum([len(level.nodes) for level in tree])])
    hops = len(tree) - 1
    blocks = []
    for layer in range(hops):
        inner = tree[: hops - layer]  # levels that get a new state in this layer
        width = max(level.children.shape[1] for level in inner)
        total = int(starts[len(inner)])
        block: Arrays = {
            "own": np.arange(total),
            "neighbours": np.full((total, width), -1, np.int64),
            "kinds": np.zeros((total, width), np.int64),
            "ages": np.zeros((total, width), np.float32),
            "weights": np.zeros((total, width), np.float32),
            "degrees": degrees[:total],
        }
        for h, level in enumerate(inner):
            part = slice(int(starts[h]), int(starts[h + 1])), slice(0, level.children.shape[1])
            block["neighbours"][part] = np.where(level.children < 0, -1, level.children + starts[h + 1])
            for name in ("kinds", "ages", "weights"):
                block[name][part] = getattr(level, name)
        if layer == 0:  # below the first layer stand the batch's distinct nodes
            place = block["neighbours"]
            block["own"] = rows[:total]
            block["neighbours"] = np.where(place < 0, -1, rows[np.maximum(place, 0)])
        blocks.append(block)
    return blocks


def distinct(numbers: I64, total: int) -> tuple[I64, I64]:
    """Sorted distinct node numbers, and the row of each in them; like `numpy.unique` with its inverse."""
    if total > 16 * len(numbers):
        found, rows = np.unique(numbers, return_inverse=True)
        return found, rows.reshape(-1)
    # Few nodes in all: marking them is faster than sorting.
    there = np.zeros(total, bool)
    there[numbers] = True
    found = np.flatnonzero(there)
    place = np.empty(total, np.int64)
    place[found] = np.arange(len(found))
    return found, place[numbers]
