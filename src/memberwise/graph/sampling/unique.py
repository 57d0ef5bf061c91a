"""Each node of a sampled batch once: so that its features are read and projected once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit

from memberwise.graph.sampling.base import SampledBatch

I32 = npt.NDArray[np.int32]


@dataclass(frozen=True)
class UniqueNodes:
    """The distinct nodes of a batch, and where each place of the tree finds its own.

    Attributes
    ----------
    nodes : mapping of str to ndarray of int32, shape [U]
        By node type, in order of first appearance (the seeds first); at least one node for every type that
        occurs in the batch.
    seeds : ndarray of int32, shape [B]
        Position of each seed in the nodes of its type.
    positions : tuple of ndarray of int32, shape [P, k] each
        By block. Unused places have position 0, which can be read but means nothing: use the block's mask.
    """

    nodes: Mapping[str, I32]
    seeds: I32
    positions: tuple[I32, ...]


def unique_nodes(batch: SampledBatch) -> UniqueNodes:
    """Distinct nodes per node type of all levels of a batch."""
    places: dict[str, list[I32]] = {batch.seeds.type: [batch.seeds.nodes]}
    for block in batch.blocks:
        places.setdefault(block.edge_type[2], []).append(block.nodes)
    nodes, position = {}, {}
    for node_type, parts in places.items():
        flat = np.concatenate([p.ravel() for p in parts])
        nodes[node_type], position[node_type] = _unique(flat)
    first = len(batch.seeds)
    taken = dict.fromkeys(places, 0) | {batch.seeds.type: first}
    positions = []
    for block in batch.blocks:
        node_type, size = block.edge_type[2], block.nodes.size
        start = taken[node_type]
        positions.append(position[node_type][start : start + size].reshape(block.nodes.shape))
        taken[node_type] += size
    return UniqueNodes(nodes, position[batch.seeds.type][:first], tuple(positions))


@njit(cache=True, nogil=True)
def _unique(flat: I32) -> tuple[I32, I32]:
    """Distinct values in order of first appearance, and the position of each; -1 has position 0."""
    size = 16
    while size < 2 * len(flat):
        size *= 2
    mask = np.uint64(size - 1)
    keys, codes = np.full(size, -1, np.int32), np.empty(size, np.int32)
    nodes, position = np.empty(max(len(flat), 1), np.int32), np.zeros(len(flat), np.int32)
    found = 0
    for i in range(len(flat)):
        v = flat[i]
        if v < 0:
            continue
        slot = ((np.uint64(v) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(20)) & mask
        while keys[slot] >= 0 and keys[slot] != v:
            slot = (slot + np.uint64(1)) & mask
        if keys[slot] < 0:
            keys[slot], codes[slot] = v, found
            nodes[found] = v
            found += 1
        position[i] = codes[slot]
    if found == 0:
        nodes[0] = 0  # nothing is there: one node that no mask lets through
        found = 1
    return nodes[:found].copy(), position
