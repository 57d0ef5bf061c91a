"""Personalised PageRank from many seeds, each under its own cut-off: two hops exactly, or by forward push.

A walk from the seed stops at every node with probability alpha, else it follows one of the node's edges
before the cut-off, all edge types together, alike or by weight; where there is none it stops. ``pi(s, v)`` is
the probability that it stops at v::

    two hops     pi2(s, .) = alpha e_s + alpha (1 - alpha) e_s P + (1 - alpha)^2 e_s P^2
    forward push p + sum_u r(u) pi(u, .) = pi(s, .)  until  r(u) <= eps d(u) for all u,

where d(u) is the number (or the weight) of u's edges, 1 if there are none; of what is left at a node, the
part alpha is its own for certain and counted: the scores lie below pi, by at most eps times the degrees'
share. Sources: R. Andersen, F. Chung, K. Lang, Local graph
partitioning using PageRank vectors, FOCS 2006, algorithm 1; LiGNN (KDD 2024), samplers.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import carray, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from memberwise.graph.adjacency import Segment
from memberwise.graph.sampling.rows import valid_range
from memberwise.graph.types import NEVER, TIMELESS, Whole

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]


class Walk(NamedTuple):
    """All segments that a walk may use, S of them; a node of any type has one number (its `offset` added).

    Segments are given by the addresses of their arrays: a tuple of arrays would make kernels be compiled
    anew for every number of edge types. Whoever makes one keeps the segments alive (see `walk_on`).

    Attributes
    ----------
    address, length : ndarray of int64, shape [S, 5]
        Of ``indptr``, ``target``, ``time``, ``weight`` and ``cumulative``.
    source, target : ndarray of int64, shape [S]
        Node types.
    offset : ndarray of int64, shape [T + 1]
        Number of the first node of each type.
    """

    address: I64
    length: I64
    source: I64
    target: I64
    offset: I64


def walk_on(segments: list[Segment], source: list[int], target: list[int], counts: list[int]) -> Walk:
    """A walk over segments between node types; `counts`: nodes of each type."""
    arrays = [s[:5] for s in segments]
    return Walk(
        np.array([[a.ctypes.data for a in row] for row in arrays], np.int64),
        np.array([[len(a) for a in row] for row in arrays], np.int64),
        np.array(source, np.int64),
        np.array(target, np.int64),
        np.cumsum([0, *counts]).astype(np.int64),
    )


def _address_to_pointer(typing_context: Any, address: Any) -> Any:
    """An address as a pointer, for `carray`."""
    del typing_context, address

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), generate


_pointer: Any = intrinsic(_address_to_pointer)


@njit(cache=True, nogil=True, inline="always")
def _indptr(walk: Walk, s: Whole) -> Any:
    return carray(_pointer(walk.address[s, 0]), (walk.length[s, 0],), np.int64)


@njit(cache=True, nogil=True, inline="always")
def _to(walk: Walk, s: Whole) -> Any:
    return carray(_pointer(walk.address[s, 1]), (walk.length[s, 1],), np.int32)


@njit(cache=True, nogil=True, inline="always")
def _time(walk: Walk, s: Whole) -> Any:
    return carray(_pointer(walk.address[s, 2]), (walk.length[s, 2],), np.int64)


@njit(cache=True, nogil=True, inline="always")
def _weight(walk: Walk, s: Whole) -> Any:
    return carray(_pointer(walk.address[s, 3]), (walk.length[s, 3],), np.float32)


@njit(cache=True, nogil=True, inline="always")
def _cumulative(walk: Walk, s: Whole) -> Any:
    return carray(_pointer(walk.address[s, 4]), (walk.length[s, 4],), np.float64)


@njit(cache=True, nogil=True)
def _type_of(walk: Walk, node: Whole) -> Any:
    t = 0
    while node >= walk.offset[t + 1]:
        t += 1
    return t


@njit(cache=True, nogil=True)
def _spans(walk: Walk, node: Whole, cut: Whole, window: Whole, cap: Whole, weighted: bool, spans: I64) -> Any:
    """Positions of a node's edges in each segment, the newest `cap`, and their mass. spans: [S, 2]"""
    t = _type_of(walk, node)
    v = node - walk.offset[t]
    since = TIMELESS
    if window > 0 and cut != NEVER:
        since = cut - window
    mass = 0.0
    for s in range(len(spans)):
        spans[s, 0], spans[s, 1] = 0, 0
        if walk.source[s] != t:
            continue
        indptr = _indptr(walk, s)
        first, last = valid_range(indptr, _time(walk, s), v, cut, since)
        first = max(first, last - cap)
        if last <= first:
            continue
        spans[s, 0], spans[s, 1] = first, last
        if weighted and walk.length[s, 3] > 0:
            cumulative = _cumulative(walk, s)
            mass += cumulative[last - 1]
            if first > indptr[v]:
                mass -= cumulative[first - 1]
        else:
            mass += last - first
    return mass


@njit(cache=True, nogil=True)
def _spread(
    walk: Walk, spans: I64, weighted: bool, share: Whole, values: F64, touched: I64, size: Whole
) -> Any:
    """Add `share` a unit of mass to what the edges lead to; nodes that had nothing are noted as touched."""
    for s in range(len(spans)):
        first, last = spans[s, 0], spans[s, 1]
        if last <= first:
            continue
        to, weight, offset = _to(walk, s), _weight(walk, s), walk.offset[walk.target[s]]
        heavy = weighted and len(weight) > 0
        for p in range(first, last):
            got = share * weight[p] if heavy else share
            if got <= 0.0:
                continue
            u = offset + to[p]
            if values[u] == 0.0:
                touched[size] = u
                size += 1
            values[u] += got
    return size


@njit(cache=True, nogil=True)
def _best(walk: Walk, seed: Whole, scores: F64, touched: I64, size: Whole, out: I32, out_scores: F32) -> None:
    """The nodes of largest score of every type, the seed aside; of equal ones the lower number. [T, k]"""
    k = out.shape[1]
    out[:, :] = -1
    out_scores[:, :] = 0.0
    for i in range(size):
        node = touched[i]
        score = np.float32(scores[node])
        if node == seed or score <= 0.0:
            continue
        t = _type_of(walk, node)
        v = node - walk.offset[t]
        names, values = out[t], out_scores[t]
        if values[k - 1] > score or (values[k - 1] == score and 0 <= names[k - 1] < v):
            continue
        j = k - 1
        while j > 0 and (values[j - 1] < score or (values[j - 1] == score and names[j - 1] > v)):
            names[j], values[j] = names[j - 1], values[j - 1]
            j -= 1
        names[j], values[j] = v, score


@njit(cache=True, nogil=True)
def two_hop(
    walk: Walk,
    seeds: I64,
    cuts: I64,
    window: Whole,
    cap: Whole,
    weighted: bool,
    alpha: float,
    out: I32,
    out_scores: F32,
) -> None:
    """Best nodes of ``pi2`` of every seed. `out`, `out_scores`: [B, T, k]."""
    nodes, spans = walk.offset[-1], np.empty((len(walk.source), 2), np.int64)
    once, scores = np.zeros(nodes), np.zeros(nodes)
    near, touched = np.empty(nodes, np.int64), np.empty(nodes, np.int64)
    for i in range(len(seeds)):
        mass = _spans(walk, seeds[i], cuts[i], window, cap, weighted, spans)
        first = 0
        if mass > 0.0:
            first = _spread(walk, spans, weighted, 1.0 / mass, once, near, 0)
        size = 0
        for j in range(first):
            u = near[j]
            reached = once[u]
            once[u] = 0.0
            if scores[u] == 0.0:
                touched[size] = u
                size += 1
            scores[u] += alpha * (1.0 - alpha) * reached
            mass = _spans(walk, u, cuts[i], window, cap, weighted, spans)
            onward = (1.0 - alpha) * (1.0 - alpha) * reached
            if mass > 0.0:
                size = _spread(walk, spans, weighted, onward / mass, scores, touched, size)
            else:
                scores[u] += onward
        _best(walk, seeds[i], scores, touched, size, out[i], out_scores[i])
        for j in range(size):
            scores[touched[j]] = 0.0


@njit(cache=True, nogil=True)
def push(
    walk: Walk,
    seeds: I64,
    cuts: I64,
    window: Whole,
    cap: Whole,
    weighted: bool,
    alpha: float,
    eps: float,
    out: I32,
    out_scores: F32,
) -> None:
    """Best nodes of the forward push from every seed. `out`, `out_scores`: [B, T, k]."""
    nodes, spans = walk.offset[-1], np.empty((len(walk.source), 2), np.int64)
    left, scores = np.zeros(nodes), np.zeros(nodes)
    degree = np.zeros(nodes)  # 0: not asked yet
    touched, waiting = np.empty(nodes, np.int64), np.empty(nodes, np.int64)
    queued, more = np.zeros(nodes, np.bool_), np.empty_like(spans)
    for i in range(len(seeds)):
        seed = seeds[i]
        touched[0], left[seed], degree[seed] = seed, 1.0, 1.0
        waiting[0], queued[seed] = seed, True
        size, head, count = 1, 0, 1
        while count > 0:
            u = waiting[head]
            head = (head + 1) % nodes
            count -= 1
            queued[u] = False
            rest, left[u] = left[u], 0.0
            mass = _spans(walk, u, cuts[i], window, cap, weighted, spans)
            if mass <= 0.0:
                scores[u] += rest
                continue
            scores[u] += alpha * rest
            for s in range(len(spans)):
                first, last = spans[s, 0], spans[s, 1]
                if last <= first:
                    continue
                to, weight, offset = _to(walk, s), _weight(walk, s), walk.offset[walk.target[s]]
                heavy = weighted and len(weight) > 0
                share = (1.0 - alpha) * rest / mass
                for p in range(first, last):
                    got = share * weight[p] if heavy else share
                    if got <= 0.0:
                        continue
                    v = offset + to[p]
                    if degree[v] == 0.0:
                        touched[size] = v
                        size += 1
                        degree[v] = -1.0
                    left[v] += got
                    # Without weights a degree is at least 1: no need to look it up for less than eps.
                    if queued[v] or (not weighted and left[v] <= eps):
                        continue
                    if degree[v] < 0.0:
                        degree[v] = _degree(walk, v, cuts[i], window, cap, weighted, more)
                    if left[v] > eps * degree[v]:
                        waiting[(head + count) % nodes] = v
                        queued[v] = True
                        count += 1
        for j in range(size):
            scores[touched[j]] += alpha * left[touched[j]]  # at least so much of what is left stays there
        _best(walk, seed, scores, touched, size, out[i], out_scores[i])
        for j in range(size):
            u = touched[j]
            scores[u], left[u], degree[u] = 0.0, 0.0, 0.0


@njit(cache=True, nogil=True)
def _degree(
    walk: Walk, node: Whole, cut: Whole, window: Whole, cap: Whole, weighted: bool, spans: I64
) -> Any:
    """Mass of a node's edges, 1 where there are none."""
    mass = _spans(walk, node, cut, window, cap, weighted, spans)
    return mass if mass > 0.0 else 1.0
