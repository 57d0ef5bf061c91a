"""How many edges a node had before a moment, and how many of them were recent."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from memberwise.graph.adjacency import bisect
from memberwise.graph.queries import NodeNumbers
from memberwise.graph.store import HeteroGraph
from memberwise.schema import DAY, HOUR

WINDOWS = (30 * DAY, 7 * DAY, 2 * DAY, 12 * HOUR, HOUR)
WIDTH = 1 + len(WINDOWS)
"""Numbers per node: of all edges, then of those within each window."""

CROWD = WIDTH + 1
"""Numbers that `crowds` gives."""

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]


def degrees(graph: HeteroGraph, numbers: NodeNumbers, nodes: I64, times: I64) -> F32:
    """``log1p`` of the edges of nodes strictly before their moments, in all and by window. ``[n, WIDTH]``

    Edges of all types that leave a node count, but for those that densification made: they would make the
    cold look popular. Of edges without times only the first number knows.
    """
    counts = np.zeros((len(nodes), WIDTH), np.float32)
    types = numbers.types_of(nodes)
    for i, name in enumerate(numbers.types):
        mine = np.flatnonzero(types == i)
        if not len(mine):
            continue
        part = np.zeros((len(mine), WIDTH), np.float32)
        rows, moments = nodes[mine] - numbers.offsets[i], times[mine]
        for edge_type in graph.observed_types_from(name):
            adjacency = graph.adjacency[edge_type]
            for segment in (adjacency.base, adjacency.tail):
                _count_windows(segment.indptr, segment.time, rows, moments, _WINDOWS, part)
        counts[mine] = part
    return np.log1p(counts)


def crowds(graph: HeteroGraph, numbers: NodeNumbers, nodes: I64, then: I64, now: I64) -> F32:
    """``log1p`` of the edges of nodes since a moment of their own, then `degrees` at `now`. ``[n, CROWD]``

    Edges strictly after `then` and strictly before `now` count: what others did with a node since.
    """
    counts = np.zeros(len(nodes), np.float32)
    types = numbers.types_of(nodes)
    for i, name in enumerate(numbers.types):
        mine = np.flatnonzero(types == i)
        part = np.zeros(len(mine), np.float32)
        for edge_type in graph.observed_types_from(name) if len(mine) else ():
            adjacency = graph.adjacency[edge_type]
            for segment in (adjacency.base, adjacency.tail):
                rows = nodes[mine] - numbers.offsets[i]
                _count_between(segment.indptr, segment.time, rows, then[mine], now[mine], part)
        counts[mine] = part
    return np.column_stack([np.log1p(counts), degrees(graph, numbers, nodes, now)])


_WINDOWS = np.asarray(WINDOWS, np.int64)


@njit(cache=True, nogil=True)
def _count_windows(
    indptr: I64, time: I64, rows: I64, moments: I64, windows: I64, out: F32
) -> None:  # pragma: no cover - compiled
    for i in range(len(rows)):
        v = rows[i]
        if v + 1 >= len(indptr):  # nothing was appended
            continue
        first, last = indptr[v], indptr[v + 1]
        if not len(time):
            out[i, 0] += last - first
            continue
        end = bisect(time, first, last, moments[i])
        out[i, 0] += end - first
        for w in range(len(windows)):
            out[i, 1 + w] += end - bisect(time, first, end, moments[i] - windows[w])


@njit(cache=True, nogil=True)
def _count_between(
    indptr: I64, time: I64, rows: I64, then: I64, now: I64, out: F32
) -> None:  # pragma: no cover - compiled
    if not len(time):  # edges that always hold
        return
    for i in range(len(rows)):
        v = rows[i]
        if v + 1 < len(indptr):
            end = bisect(time, indptr[v], indptr[v + 1], now[i])
            out[i] += end - bisect(time, indptr[v], end, then[i] + 1)
