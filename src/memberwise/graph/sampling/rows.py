"""The kernel under every neighbour sampler: from each of many nodes, up to k edges before its cut-off.

What is drawn from one row of the adjacency, positions 0 (oldest) to n - 1 (newest before the cut-off):

========  ==========================================================================================
uniform   k of n without replacement, by Floyd's algorithm: every subset has the same probability
weighted  one after another without replacement, each with probability proportional to its weight
          among those left; edges of weight 0 never
last      the k newest, newest first
========  ==========================================================================================

Sources: R. W. Floyd in J. Bentley, Programming pearls, CACM 30 (1987), 754; P. Efraimidis, P. Spirakis,
Weighted random sampling with a reservoir, 2006 (where a few heavy edges make repeated draws too frequent).
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from numba import njit

from memberwise.graph.adjacency import Segment, bisect
from memberwise.graph.sampling.random import GOLDEN, below, stream, uniform
from memberwise.graph.types import NEVER, TIMELESS, Whole

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]

Draw = Literal["uniform", "weighted", "last"]
CODES: dict[str, int] = {"uniform": 0, "weighted": 1, "last": 2}

_LINEAR = 16
"""Up to so many picks are compared one by one; more go into a hash set."""


CHUNK = 64
"""Rows that are picked together before what they lead to is read: many reads of memory are then under way."""


@njit(cache=True, nogil=True)
def valid_range(indptr: I64, time: I64, v: Whole, cut: Whole, since: Whole) -> Any:
    """Positions of node v's edges with since <= time < cut."""
    first, last = indptr[v], indptr[v + 1]
    if len(time) and last > first:
        if cut != NEVER and time[last - 1] >= cut:
            last = bisect(time, first, last, cut)
        if since != TIMELESS and last > first and time[first] < since:
            first = bisect(time, first, last, since)
    return first, last


@njit(cache=True, nogil=True)
def sample_rows(
    base: Segment,
    tail: Segment,
    nodes: I32,
    cuts: I64,
    window: Whole,
    draw: Whole,
    seed: Whole,
    out_nodes: I32,
    out_times: I64,
    out_weights: F32,
    out_edges: I32,
    out_count: I32,
) -> None:
    """Fill the rows of a block; a node of -1 has no neighbours.

    Parameters
    ----------
    base, tail
        Of the adjacency.
    nodes, cuts : [P]
        Where to start, and strictly before when.
    window : int
        Microseconds before the cut-off; 0: everything before it.
    draw : int
        See `CODES`.
    seed : int
        Row r has a stream of its own, made from (seed, r).
    out_nodes, out_times, out_weights, out_edges : [P, k]; out_count : [P]
        Written whole.
    """
    k = out_nodes.shape[1]
    positions = np.empty((CHUNK, k), np.int64)
    table, slots = empty_set(k)
    for first in range(0, len(nodes), CHUNK):
        last = min(first + CHUNK, len(nodes))
        pick_rows(
            base, tail, nodes, cuts, first, last, window, draw, seed, positions, out_count, table, slots
        )
        _fill_rows(
            base, tail, first, last, positions, out_nodes, out_times, out_weights, out_edges, out_count
        )


@njit(cache=True, nogil=True)
def _fill_rows(
    base: Segment,
    tail: Segment,
    first: Whole,
    last: Whole,
    positions: I64,
    out_nodes: I32,
    out_times: I64,
    out_weights: F32,
    out_edges: I32,
    out_count: I32,
) -> None:
    k, edges = positions.shape[1], len(base.target)
    weighted = len(base.weight) + len(tail.weight) > 0
    timed = len(base.time) + len(tail.time) > 0
    for r in range(first, last):
        for j in range(out_count[r]):
            p = positions[r - first, j]
            if p < edges:
                out_nodes[r, j] = base.target[p]
                out_edges[r, j] = base.edge[p]
                out_times[r, j] = base.time[p] if timed else TIMELESS
                out_weights[r, j] = base.weight[p] if weighted else np.float32(1.0)
            else:
                p -= edges
                out_nodes[r, j] = tail.target[p]
                out_edges[r, j] = tail.edge[p]
                out_times[r, j] = tail.time[p] if timed else TIMELESS
                out_weights[r, j] = tail.weight[p] if weighted else np.float32(1.0)
        for j in range(out_count[r], k):
            out_nodes[r, j] = -1
            out_edges[r, j] = -1
            out_times[r, j] = TIMELESS
            out_weights[r, j] = 0.0


@njit(cache=True, nogil=True)
def pick_rows(
    base: Segment,
    tail: Segment,
    nodes: I32,
    cuts: I64,
    first: Whole,
    last: Whole,
    window: Whole,
    draw: Whole,
    seed: Whole,
    positions: I64,
    count: I32,
    table: I64,
    slots: I64,
) -> None:
    """Positions of up to k edges of each of the rows [first, last), base before tail, and how many.

    `positions`: [CHUNK, k], from row `first` on; `count`: [P]; `table`, `slots`: an `empty_set`.
    """
    indptr, time, more, tail_time = base.indptr, base.time, tail.indptr, tail.time
    k, edges, tailed = positions.shape[1], len(base.target), len(tail.indptr) > 1
    weighted = draw == 1 and len(base.weight) + len(tail.weight) > 0
    for r in range(first, last):
        v, cut, picks = nodes[r], cuts[r], positions[r - first]
        if v < 0:
            count[r] = 0
            continue
        since = TIMELESS
        if window > 0 and cut != NEVER:
            since = cut - window
        bl, bh = valid_range(indptr, time, v, cut, since)
        tl, th = np.int64(0), np.int64(0)
        if tailed:
            tl, th = valid_range(more, tail_time, v, cut, since)
        nb = bh - bl
        n = nb + th - tl
        got = min(k, n)
        if draw == 2:
            for j in range(got):
                picks[j] = n - 1 - j
        elif weighted:
            got = _weighted(base, tail, v, bl, bh, tl, th, stream(seed, r), picks, table, slots)
        elif n <= k:
            for j in range(n):
                picks[j] = j
        else:
            _floyd(n, stream(seed, r), picks, table, slots)
        count[r] = got
        for j in range(got):
            picks[j] += bl if picks[j] < nb else edges + tl - nb


@njit(cache=True, nogil=True)
def empty_set(k: Whole) -> tuple[I64, I64]:
    """An open-addressing set of up to k positions, and where each of them went; empty for small k."""
    size = 0
    if k > _LINEAR:
        size = 1
        while size < 3 * k:
            size *= 2
    return np.full(size, -1, np.int64), np.empty(k, np.int64)


@njit(cache=True, nogil=True)
def _add(picks: I64, got: Whole, p: Whole, table: I64, slots: I64) -> bool:
    """Add p as pick number `got` unless it is among the picks already."""
    if len(table) == 0:
        for j in range(got):
            if picks[j] == p:
                return False
    else:
        mask = len(table) - 1
        slot = (p * 0x9E3779B1) & mask
        while table[slot] >= 0:
            if table[slot] == p:
                return False
            slot = (slot + 1) & mask
        table[slot] = p
        slots[got] = slot
    picks[got] = p
    return True


@njit(cache=True, nogil=True)
def _clear(got: Whole, table: I64, slots: I64) -> None:
    if len(table):
        for j in range(got):
            table[slots[j]] = -1


@njit(cache=True, nogil=True)
def _floyd(n: Whole, state: np.uint64, picks: I64, table: I64, slots: I64) -> None:
    """len(picks) of n positions, each subset equally likely; n > len(picks)."""
    k = len(picks)
    if n <= 64:  # one bit a position
        taken = np.uint64(0)
        for j in range(k):
            state += GOLDEN
            p = below(state, n - k + j + 1)
            if (taken >> np.uint64(p)) & np.uint64(1):
                p = n - k + j
            taken |= np.uint64(1) << np.uint64(p)
            picks[j] = p
        return
    for j in range(k):
        top = n - k + j
        state += GOLDEN
        if not _add(picks, j, below(state, top + 1), table, slots):
            _add(picks, j, top, table, slots)
    _clear(k, table, slots)


@njit(cache=True, nogil=True)
def _mass(s: Segment, v: Whole, low: Whole, high: Whole) -> Any:
    """Sum of weights before position `low` of the row, and of those in [low, high)."""
    if high <= low:
        return 0.0, 0.0
    before = s.cumulative[low - 1] if low > s.indptr[v] else 0.0
    return before, s.cumulative[high - 1] - before


@njit(cache=True, nogil=True)
def _weighted(
    base: Segment,
    tail: Segment,
    v: Whole,
    bl: Whole,
    bh: Whole,
    tl: Whole,
    th: Whole,
    state: np.uint64,
    picks: I64,
    table: I64,
    slots: I64,
) -> Any:
    """Draw with replacement and ignore repetitions: the distinct ones are draws without replacement."""
    before_b, mass_b = _mass(base, v, bl, bh)
    before_t, mass_t = _mass(tail, v, tl, th)
    nb = bh - bl
    n = nb + th - tl
    wanted = min(len(picks), n)
    got, tries = 0, 0
    while got < wanted and tries < 4 * wanted + 16 and mass_b + mass_t > 0.0:
        tries += 1
        state += GOLDEN
        x = uniform(state) * (mass_b + mass_t)
        if x < mass_b:
            p = min(bisect(base.cumulative, bl, bh, before_b + x), bh - 1)
            weight, p = base.weight[p], p - bl
        else:
            p = min(bisect(tail.cumulative, tl, th, before_t + (x - mass_b)), th - 1)
            weight, p = tail.weight[p], p - tl + nb
        if weight > 0 and _add(picks, got, p, table, slots):
            got += 1
    if got < wanted and mass_b + mass_t > 0.0:
        got = _fill(base, tail, bl, nb, tl, n, state, picks, got, wanted, table, slots)
    _clear(got, table, slots)
    return got


@njit(cache=True, nogil=True)
def _fill(
    base: Segment,
    tail: Segment,
    bl: Whole,
    nb: Whole,
    tl: Whole,
    n: Whole,
    state: np.uint64,
    picks: I64,
    got: Whole,
    wanted: Whole,
    table: I64,
    slots: I64,
) -> Any:
    """The remaining picks among those left: the smallest of -log(u) / weight."""
    room = wanted - got
    keys = np.full(room, np.inf)
    best = np.empty(room, np.int64)
    found = 0
    for p in range(n):
        weight = np.float64(base.weight[bl + p] if p < nb else tail.weight[tl + p - nb])
        state += GOLDEN
        if weight <= 0.0 or _known(picks, got, p, table):
            continue
        key = -np.log(uniform(state)) / weight
        if key >= keys[room - 1]:
            continue
        at = min(found, room - 1)
        while at > 0 and keys[at - 1] > key:
            keys[at], best[at] = keys[at - 1], best[at - 1]
            at -= 1
        keys[at], best[at] = key, p
        found = min(found + 1, room)
    for j in range(found):
        _add(picks, got + j, best[j], table, slots)
    return got + found


@njit(cache=True, nogil=True)
def _known(picks: I64, got: Whole, p: Whole, table: I64) -> bool:
    if len(table) == 0:
        for j in range(got):  # noqa: SIM110 (a kernel)
            if picks[j] == p:
                return True
        return False
    mask = len(table) - 1
    slot = (p * 0x9E3779B1) & mask
    while table[slot] >= 0:
        if table[slot] == p:
            return True
        slot = (slot + 1) & mask
    return False
