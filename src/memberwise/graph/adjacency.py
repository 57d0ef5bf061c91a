"""The neighbours of every node along one edge type, oldest first: what the sampling kernels walk on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from memberwise.graph.types import NEVER, EdgeType, Whole

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]


class Segment(NamedTuple):
    """Compressed rows: node v owns positions ``indptr[v]`` to ``indptr[v + 1]``, oldest first.

    Arrays are read-only, so that kernels compile once for files and memory alike. ``time`` is empty if the
    edges are timeless; ``weight`` and ``cumulative`` (running sum within the row) are empty if all weights
    are 1; ``edge`` is the number of the edge in the order in which edges were given.
    """

    indptr: I64
    target: I32
    time: I64
    weight: F32
    cumulative: F64
    edge: I32

    @property
    def edges(self) -> int:
        """Number of edges."""
        return len(self.target)


class Coo(NamedTuple):
    """Edges as rows of a table, in any order; `time` and `weight` may be None. Shapes [E]."""

    source: I32
    target: I32
    time: I64 | None
    weight: F32 | None
    edge: I32

    def take(self, rows: npt.NDArray[Any]) -> Coo:
        """Some of the edges, in the order of `rows`."""
        time = None if self.time is None else self.time[rows]
        weight = None if self.weight is None else self.weight[rows]
        return Coo(self.source[rows], self.target[rows], time, weight, self.edge[rows])

    def then(self, other: Coo) -> Coo:
        """These edges followed by others of the same kind."""
        time = None if self.time is None or other.time is None else np.concatenate([self.time, other.time])
        both = self.weight is not None and other.weight is not None
        weight = np.concatenate([self.weight, other.weight]) if both else None
        return Coo(
            np.concatenate([self.source, other.source]),
            np.concatenate([self.target, other.target]),
            time,
            weight,
            np.concatenate([self.edge, other.edge]),
        )

    def flipped(self) -> Coo:
        """The same edges backwards."""
        return self._replace(source=self.target, target=self.source)


@dataclass(frozen=True)
class Adjacency:
    """Neighbours along one edge type: a base that may lie in files, and a tail of what was appended.

    The neighbours of a node are those in the base followed by those in the tail; every edge of the tail is
    at or after every edge of the base, so the whole is in the order of time.

    Attributes
    ----------
    edge_type
        Source type, relation, target type.
    sources, targets
        Number of nodes at either end.
    base, tail
        `tail` has an ``indptr`` of length 1 when nothing was appended.
    """

    edge_type: EdgeType
    sources: int
    targets: int
    base: Segment
    tail: Segment

    @property
    def timed(self) -> bool:
        """Whether edges have times."""
        return len(self.base.time) > 0 or len(self.tail.time) > 0

    @property
    def weighted(self) -> bool:
        """Whether edges have weights other than 1."""
        return len(self.base.weight) > 0 or len(self.tail.weight) > 0

    @property
    def edges(self) -> int:
        """Number of edges."""
        return self.base.edges + self.tail.edges

    @property
    def last_time(self) -> int | None:
        """Time of the newest edge, None without timed edges."""
        newest = [int(s.time.max()) for s in (self.base, self.tail) if len(s.time)]
        return max(newest) if newest else None

    def degrees(self, before: int | None = None) -> I32:
        """Number of neighbours of every node, of edges strictly before a moment if one is given. [sources]"""
        out = np.zeros(self.sources, np.int32)
        cut = np.int64(NEVER if before is None else before)
        for segment in (self.base, self.tail):
            if len(segment.indptr) > 1:
                _count(segment.indptr, segment.time, cut, out)
        return out

    def neighbours(self, node: int, before: int | None = None) -> I32:
        """Targets of one node, oldest first."""
        parts = []
        for s in (self.base, self.tail):
            if len(s.indptr) > node + 1:
                first, last = int(s.indptr[node]), int(s.indptr[node + 1])
                if before is not None and len(s.time):
                    last = first + int(np.searchsorted(s.time[first:last], before))
                parts.append(s.target[first:last])
        return np.concatenate(parts) if parts else np.zeros(0, np.int32)

    def at(self, position: I32, field: str, default: Any = None) -> npt.NDArray[Any]:
        """A field of `Segment` by position, base before tail; `default` if edges do not have it. [e]"""
        base, tail = getattr(self.base, field), getattr(self.tail, field)
        if not len(base) and not len(tail):
            return np.full(len(position), default)
        if not self.tail.edges:
            return base[position]
        return np.concatenate([base, tail])[position]

    def coo(self) -> Coo:
        """All edges, row by row; base before tail."""
        parts = [s for s in (self.base, self.tail) if s.edges]
        source = [np.repeat(np.arange(len(s.indptr) - 1, dtype=np.int32), np.diff(s.indptr)) for s in parts]
        if not parts:
            parts, source = [self.base], [np.zeros(0, np.int32)]
        return Coo(
            np.concatenate(source),
            np.concatenate([s.target for s in parts]),
            np.concatenate([s.time for s in parts]) if self.timed else None,
            np.concatenate([s.weight for s in parts]) if self.weighted else None,
            np.concatenate([s.edge for s in parts]),
        )

    def resized(self, sources: int, targets: int) -> Adjacency:
        """With room for nodes that were added behind the old ones."""
        if sources == self.sources and targets == self.targets:
            return self
        segments = [_stretched(s, sources) for s in (self.base, self.tail)]
        return replace(self, sources=sources, targets=targets, base=segments[0], tail=segments[1])


def no_edges() -> Segment:
    """The empty tail."""
    return _frozen(
        np.zeros(1, np.int64),
        np.zeros(0, np.int32),
        np.zeros(0, np.int64),
        np.zeros(0, np.float32),
        np.zeros(0, np.float64),
        np.zeros(0, np.int32),
    )


def compress(edges: Coo, sources: int) -> Segment:
    """Rows by source, each in the order of time; edges of one moment keep the order in which they came."""
    if edges.time is not None and not bool((np.diff(edges.time) >= 0).all()):
        edges = edges.take(np.argsort(edges.time, kind="stable"))
    indptr, order = _group(edges.source, sources)
    weight = np.zeros(0, np.float32) if edges.weight is None else edges.weight[order]
    cumulative = np.zeros(len(weight), np.float64)
    if edges.weight is not None:
        _accumulate(indptr, weight, cumulative)
    time = np.zeros(0, np.int64) if edges.time is None else edges.time[order]
    return _frozen(indptr, edges.target[order], time, weight, cumulative, edges.edge[order])


def _frozen(*arrays: npt.NDArray[Any]) -> Segment:
    for array in arrays:
        array.setflags(write=False)
    return Segment(*arrays)


def _stretched(segment: Segment, sources: int) -> Segment:
    missing = sources + 1 - len(segment.indptr)
    if missing == 0 or len(segment.indptr) == 1:
        return segment
    indptr = np.concatenate([segment.indptr, np.full(missing, segment.indptr[-1])])
    return _frozen(indptr, *segment[1:])


@njit(cache=True, nogil=True)
def _group(source: I32, sources: int) -> tuple[I64, I64]:
    """Stable counting sort by source: row bounds, and the order."""
    indptr = np.zeros(sources + 1, np.int64)
    for e in range(len(source)):
        indptr[source[e] + 1] += 1
    for v in range(sources):
        indptr[v + 1] += indptr[v]
    place = indptr[:-1].copy()
    order = np.empty(len(source), np.int64)
    for e in range(len(source)):
        v = source[e]
        order[place[v]] = e
        place[v] += 1
    return indptr, order


@njit(cache=True, nogil=True)
def _accumulate(indptr: I64, weight: F32, out: F64) -> None:
    for v in range(len(indptr) - 1):
        total = 0.0
        for p in range(indptr[v], indptr[v + 1]):
            total += weight[p]
            out[p] = total


@njit(cache=True, nogil=True)
def bisect(values: npt.NDArray[Any], low: Whole, high: Whole, value: Any) -> Any:
    """First position in [low, high) whose value is not less; `high` if there is none."""
    while low < high:
        middle = (low + high) >> 1
        if values[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low


@njit(cache=True, nogil=True)
def _count(indptr: I64, time: I64, cut: Whole, out: I32) -> None:
    for v in range(len(indptr) - 1):
        first, last = indptr[v], indptr[v + 1]
        if len(time) and cut != NEVER and last > first and time[last - 1] >= cut:
            last = bisect(time, first, last, cut)
        out[v] += last - first
