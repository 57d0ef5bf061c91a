"""The places of a subgraph: numbered as they are reached, and found again.

Without cut-offs a place is a node, and a dense table by node finds it. With cut-offs a place belongs to the
neighbourhood of one seed (and, by the edge's clock, to one cut-off): a hash table finds it, in which what
belongs to one seed lies close together, so that it stays in the cache while the seed is worked on.

Tables are kept from batch to batch. Their entries only ever grow, and one below the first of this batch
counts as empty, so that nothing has to be cleared.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from memberwise.graph.adjacency import Adjacency, Segment
from memberwise.graph.sampling.neighbours import Rule
from memberwise.graph.sampling.rows import CHUNK, CODES, empty_set, pick_rows
from memberwise.graph.types import NEVER, Whole

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
Drawn = tuple[I32, I32, I32]
"""Place of the source, place of the target, position in the adjacency, of every sampled edge."""

_LAST = 2**31 - 2**27
"""Entries start anew before they reach this."""
_free: list[Places] = []
"""Tables that no batch uses; taking from a list and giving back are atomic."""


class Places:
    """The places of one node type.

    Attributes
    ----------
    nodes : ndarray of int32, at least `size` long
        Of every place.
    roots : ndarray of int32
        Seed of every place, if `apart`.
    cuts : ndarray of int64
        Cut-off of every place, if `apart`.
    """

    def __init__(self) -> None:
        self.first, self.size, self.apart = 1, 0, False
        self.nodes, self.roots = np.empty(1024, np.int32), np.empty(1024, np.int32)
        self.cuts = np.empty(1024, np.int64)
        self.dense = np.zeros(0, np.int32)
        self.slots = np.zeros(2048, np.int32)
        self.stride = 1

    def start(self, count: int, seeds: int, apart: bool) -> None:
        """Forget all places.

        Parameters
        ----------
        count
            Number of nodes of the type.
        seeds
            Number of seeds of the batch.
        apart
            Keep the neighbourhoods of seeds apart.
        """
        self.first += self.size
        if self.first > _LAST:
            self.slots[:], self.dense[:] = 0, 0
            self.first = 1
        self.size, self.apart = 0, apart
        if not apart and len(self.dense) < count:
            self.dense = np.zeros(count, np.int32)
        if apart and len(self.slots) < 2 * len(self.nodes):
            self.slots = np.zeros(2 * len(self.nodes), np.int32)
        self._spread(seeds)

    def _spread(self, seeds: int) -> None:
        self.seeds = seeds
        self.stride = 1  # the power of two next to what one seed gets
        while 2 * self.stride * seeds <= len(self.slots):
            self.stride *= 2

    def add(self, nodes: I32, roots: I32, cuts: I64, merge: bool = True) -> I32:
        """Places of seeds; one each unless they `merge`."""
        while self.size + len(nodes) >= len(self.nodes):
            self.grow()
        if not merge and not self.apart:
            found = np.arange(self.size, self.size + len(nodes), dtype=np.int32)
            self.nodes[found] = nodes
            self.dense[nodes[::-1]] = self.first + found[::-1]  # of equal ones the first is found again
            self.size += len(nodes)
            return found
        found = nodes.copy()
        if self.apart:
            self.size = _number_apart(
                found,
                0,
                len(found),
                roots,
                cuts,
                self.nodes,
                self.roots,
                self.cuts,
                self.slots,
                self.stride,
                self.first,
                self.size,
            )
        else:
            self.size = _number(found, 0, len(found), self.nodes, self.dense, self.first, self.size)
        return found

    def grow(self) -> None:
        """Twice the room; the hash table stays at most half full."""
        self.nodes, self.roots, self.cuts = (
            np.concatenate([a, np.empty_like(a)]) for a in (self.nodes, self.roots, self.cuts)
        )
        if self.apart:
            self.slots = np.zeros(2 * len(self.nodes), np.int32)
            self._spread(self.seeds)
            _refill(self.nodes, self.roots, self.slots, self.stride, self.first, self.size)

    def reach(
        self,
        adjacency: Adjacency,
        source: Places,
        start: int,
        stop: int,
        k: int,
        rule: Rule,
        seed: np.uint64,
        by_edge: bool,
    ) -> Drawn:
        """Draw up to k neighbours of the places of `source` [start, stop), and give them places here.

        `by_edge`: the cut-off of what an edge leads to is the time of the edge, not that of its source.
        """
        rows = slice(start, stop)
        nodes, roots, cuts = source.nodes[rows].copy(), source.roots[rows].copy(), source.cuts[rows].copy()
        if not source.apart:
            cuts[:] = NEVER
        out = [np.empty(len(nodes) * k, np.int32) for _ in range(3)]
        row, drawn = 0, 0
        while row < len(nodes):
            while len(self.nodes) - self.size < CHUNK * k:
                self.grow()
            row, drawn, self.size = _reach(
                adjacency.base,
                adjacency.tail,
                nodes,
                roots,
                cuts,
                row,
                k,
                rule.window or 0,
                CODES[rule.draw],
                seed,
                by_edge,
                start,
                self.apart,
                self.nodes,
                self.roots,
                self.cuts,
                self.dense,
                self.slots,
                self.stride,
                self.first,
                self.size,
                out[0],
                out[1],
                out[2],
                drawn,
            )
        return out[0][:drawn], out[1][:drawn], out[2][:drawn]


@contextmanager
def places_of(counts: Mapping[str, int], seeds: int, apart: bool) -> Iterator[dict[str, Places]]:
    """Empty places for every node type; what is read of them must be copied before the end."""
    taken: dict[str, Places] = {}
    try:
        for node_type, count in counts.items():
            try:
                taken[node_type] = _free.pop()
            except IndexError:
                taken[node_type] = Places()
            taken[node_type].start(count, seeds, apart)
        yield taken
    finally:
        _free.extend(taken.values())


@njit(cache=True, nogil=True, inline="always")
def _slot(node: Whole, root: Whole, stride: Whole) -> Any:
    """Where the search for a place begins: the seed says in which stretch, the node where in it."""
    h = (np.uint64(node) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(33)
    return root * stride + (np.int64(h) & (stride - 1))


@njit(cache=True, nogil=True)
def _number(found: I32, start: Whole, stop: Whole, nodes: I32, dense: I32, first: Whole, size: Whole) -> Any:
    """Replace nodes by their places; new ones are numbered from `size` on. No seed owns a place."""
    for at in range(start, stop):
        node = found[at]
        known = dense[node] - first
        new = known < 0  # no branch: which it is cannot be foretold
        place = size if new else known
        dense[node] = first + place
        nodes[size] = node
        size += new
        found[at] = place
    return size


@njit(cache=True, nogil=True)
def _number_apart(
    found: I32,
    start: Whole,
    stop: Whole,
    from_root: I32,
    from_cut: I64,
    nodes: I32,
    roots: I32,
    cuts: I64,
    slots: I32,
    stride: Whole,
    first: Whole,
    size: Whole,
) -> Any:
    """As `_number`, a place belonging to a seed and a cut-off, those of `found[start:]`."""
    mask = len(slots) - 1
    for at in range(start, stop):
        node, root, cut = found[at], np.int64(from_root[at - start]), from_cut[at - start]
        slot = _slot(node, root, stride) & mask
        while True:
            place = np.int64(slots[slot]) - first
            if place < 0:
                place = size
                slots[slot] = first + size
                nodes[size], roots[size], cuts[size] = node, root, cut
                size += 1
                break
            if nodes[place] == node and roots[place] == root and cuts[place] == cut:
                break
            slot = (slot + 1) & mask
        found[at] = place
    return size


@njit(cache=True, nogil=True)
def _refill(nodes: I32, roots: I32, slots: I32, stride: Whole, first: Whole, size: Whole) -> None:
    mask = len(slots) - 1
    for place in range(size):
        slot = _slot(nodes[place], np.int64(roots[place]), stride) & mask
        while slots[slot] != 0:
            slot = (slot + 1) & mask
        slots[slot] = first + place


@njit(cache=True, nogil=True)
def _reach(
    base: Segment,
    tail: Segment,
    new_nodes: I32,
    new_roots: I32,
    new_cuts: I64,
    row: Whole,
    k: Whole,
    window: Whole,
    draw: Whole,
    seed: Whole,
    by_edge: bool,
    start: Whole,
    apart: bool,
    nodes: I32,
    roots: I32,
    cuts: I64,
    dense: I32,
    slots: I32,
    stride: Whole,
    first: Whole,
    size: Whole,
    out_source: I32,
    out_target: I32,
    out_position: I32,
    drawn: Whole,
) -> Any:
    """From `row` on until all are drawn or the room is too small for more; returns how far it came."""
    positions, count = np.empty((CHUNK, k), np.int64), np.empty(len(new_nodes), np.int32)
    root, cut = np.empty(CHUNK * k, np.int32), np.empty(CHUNK * k, np.int64)
    chosen, chosen_slots = empty_set(k)
    by_edge = by_edge and len(base.time) + len(tail.time) > 0
    edges, target, time = len(base.target), base.target, base.time
    more, more_time = tail.target, tail.time
    while row < len(new_nodes) and size + CHUNK * k <= len(nodes):
        last = min(row + CHUNK, len(new_nodes))
        pick_rows(
            base,
            tail,
            new_nodes,
            new_cuts,
            row,
            last,
            window,
            draw,
            seed,
            positions,
            count,
            chosen,
            chosen_slots,
        )
        at = drawn
        for r in range(row, last):
            for j in range(count[r]):
                p = positions[r - row, j]
                out_position[at] = p
                out_source[at] = start + r
                out_target[at] = target[p] if p < edges else more[p - edges]
                if apart:
                    root[at - drawn], cut[at - drawn] = new_roots[r], new_cuts[r]
                    if by_edge:
                        cut[at - drawn] = time[p] if p < edges else more_time[p - edges]
                at += 1
        if apart:
            size = _number_apart(
                out_target, drawn, at, root, cut, nodes, roots, cuts, slots, stride, first, size
            )
        else:
            size = _number(out_target, drawn, at, nodes, dense, first, size)
        row, drawn = last, at
    return row, drawn, size
