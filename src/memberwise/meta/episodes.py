"""Episodes from a log: whose rows, up to when, which of them come before.

A task is an entity (or a pair) and a cut-off. Its support are the entity's most recent rows strictly before
the cut-off, its query those that follow until the next one. Over all tasks of an entity the queries are its
rows, each exactly once, and the support of each is what a refresh at that cut-off would have seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit

from memberwise.data.hashing import U64
from memberwise.errors import DataError

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Tasks:
    """Tasks, each a range of places in ``order`` for its support and one for its query.

    Attributes
    ----------
    order : ndarray of int64
        Rows of the log by entity and time.
    support, query : ndarray of int64, shape [M, 2]
        First place and last + 1. Supports may be empty.
    cutoff : ndarray of int64, shape [M]
        Microseconds: every support row is older, no query row is.
    """

    order: I64
    support: I64
    query: I64
    cutoff: I64

    def __len__(self) -> int:
        return len(self.query)

    def pick(self, which: npt.NDArray[np.integer] | npt.NDArray[np.bool_]) -> Tasks:
        """Some of the tasks."""
        return Tasks(self.order, self.support[which], self.query[which], self.cutoff[which])

    @property
    def support_sizes(self) -> I64:
        """Rows of each support."""
        return self.support[:, 1] - self.support[:, 0]

    @property
    def query_sizes(self) -> I64:
        """Rows of each query."""
        return self.query[:, 1] - self.query[:, 0]

    def rows(self, which: str) -> tuple[I64, I64]:
        """Rows of all supports or queries, one task after the other, newest first, and the task of each."""
        return expand(self.order, self.support if which == "support" else self.query)

    def without_support(self, share: float, rng: np.random.Generator) -> Tasks:
        """The same tasks, a random share of which has lost its support."""
        lost = rng.random(len(self)) < share
        support = self.support.copy()
        support[lost, 0] = support[lost, 1]
        return Tasks(self.order, support, self.query, self.cutoff)


def find_tasks(
    keys: U64,
    times: I64,
    cutoffs: I64,
    *,
    support: int,
    window: int | None = None,
    first: int = 0,
    last: int | None = None,
    query: int | None = None,
    min_rows: int = 1,
) -> Tasks:
    """All tasks of a log.

    Parameters
    ----------
    keys : ndarray of uint64, shape [n]
        Entity of each row; rows with key 0 have none and belong to no task.
    times : ndarray of int64, shape [n]
        Microseconds, not decreasing.
    cutoffs : ndarray of int64, shape [n]
        When the vector that a row sees was made: never after the row (`memberwise.data.times.cutoffs`, or
        older for stale vectors).
    support
        Rows of a support at most; the most recent ones.
    window
        Microseconds before the cut-off that a support reaches back.
    first, last
        Only these rows are queries; supports may be older.
    query
        Rows of a query at most; longer ones are cut into several tasks with the same support.
    min_rows
        Leave out entities with fewer rows before `last`.

    Raises
    ------
    DataError
        If a row would see a vector made after it, or rows are not in time order.
    """
    n = len(keys)
    if (np.asarray(cutoffs) > np.asarray(times)).any():
        raise DataError("a cut-off lies after its row", where="meta episodes")
    if (np.diff(times) < 0).any():
        raise DataError("rows are not in time order", where="meta episodes")
    inside = np.flatnonzero(keys[: n if last is None else last] != 0)
    order = inside[np.argsort(keys[inside], kind="stable")]
    sorted_keys = keys[order]
    found = _find(
        sorted_keys,
        np.asarray(times)[order],
        np.asarray(cutoffs)[order],
        order >= first,
        support,
        -1 if window is None else window,
        np.iinfo(np.int64).max if query is None else query,
        min_rows,
    )
    return Tasks(order, found[:, 0:2].copy(), found[:, 2:4].copy(), found[:, 4].copy())


@njit(cache=True, nogil=True)
def _find(
    keys: U64,
    times: I64,
    cutoffs: I64,
    wanted: npt.NDArray[np.bool_],
    support: int,
    window: int,
    query: int,
    min_rows: int,
) -> I64:
    """Two pointers per entity: the end and the start of the support move forward with the cut-off."""
    n = len(keys)
    out = np.empty((n, 5), np.int64)
    made = 0
    begin = 0
    while begin < n:
        end = begin
        while end < n and keys[end] == keys[begin]:
            end += 1
        old, new = begin, begin
        at = begin
        while end - begin >= min_rows and at < end:
            if not wanted[at]:
                at += 1
                continue
            cut = cutoffs[at]
            stop = at
            while stop < end and cutoffs[stop] == cut and stop - at < query:
                stop += 1
            while new < at and times[new] < cut:
                new += 1
            while window >= 0 and old < new and times[old] < cut - window:
                old += 1
            out[made, 0] = max(old, new - support)
            out[made, 1] = new
            out[made, 2] = at
            out[made, 3] = stop
            out[made, 4] = cut
            made += 1
            at = stop
        begin = end
    return out[:made]


def expand(order: I64, ranges: I64) -> tuple[I64, I64]:
    """Rows of ranges of places, the last place of each first, and the range of each row."""
    sizes = ranges[:, 1] - ranges[:, 0]
    owner = np.repeat(np.arange(len(ranges)), sizes)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return order[ranges[owner, 1] - 1 - within], owner


def epoch(tasks: Tasks, size: int, seed: int, number: int, limit: int | None = None) -> Iterator[Tasks]:
    """Batches of tasks in random order, which depends on the seed and the epoch alone."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, number]))
    which = rng.permutation(len(tasks))[:limit]
    for start in range(0, len(which), size):
        yield tasks.pick(which[start : start + size])


def latest(keys: U64, times: I64, wanted: U64, cutoff: int, support: int, window: int | None = None) -> Tasks:
    """One task per wanted entity without a query: what a refresh at a moment adapts to.

    Parameters
    ----------
    keys, times
        As in `find_tasks`.
    wanted : ndarray of uint64, shape [M]
        Distinct entities.
    cutoff
        Microseconds; only older rows count.
    """
    there = np.flatnonzero(
        (keys != 0) & (times < cutoff) & ((window is None) | (times >= cutoff - (window or 0)))
    )
    order = there[np.argsort(keys[there], kind="stable")]
    sorted_keys = keys[order]
    first, last = (np.searchsorted(sorted_keys, wanted, side) for side in ("left", "right"))
    ends = np.stack([np.maximum(first, last - support), last], axis=1)
    return Tasks(order, ends, np.stack([last, last], axis=1), np.full(len(wanted), cutoff, np.int64))
