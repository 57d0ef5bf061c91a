"""Episodes: supports strictly earlier, every row a query once, equal to a reader's own search."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memberwise.data.times import cutoffs
from memberwise.errors import DataError
from memberwise.meta.episodes import epoch, find_tasks, latest
from memberwise.meta.supports import Supports, newest
from memberwise.schema import HOUR

DELAYS = st.sampled_from(["none", "hourly", "daily"])


@st.composite
def logs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    n = draw(st.integers(0, 40))
    times = np.sort(np.array(draw(st.lists(st.integers(0, 100), min_size=n, max_size=n)), np.int64))
    keys = np.array(draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)), np.uint64)
    return keys, times * (HOUR // 4)


@given(
    logs(),
    DELAYS,
    st.integers(1, 5),
    st.sampled_from([None, HOUR, 30 * HOUR]),
    st.sampled_from([None, 1, 3]),
    st.integers(0, 20),
    st.sampled_from([0, 5 * HOUR]),
)
def test_tasks_are_those_that_a_reader_would_find(
    log: Any, delay: Any, support: int, window: int | None, query: int | None, first: int, age: int
):
    keys, times = log
    cuts = cutoffs(times, delay) - age
    tasks = find_tasks(keys, times, cuts, support=support, window=window, first=first, query=query)
    asked, owner = tasks.rows("query")
    # Every row with an entity is a query exactly once.
    wanted = np.flatnonzero((keys != 0) & (np.arange(len(keys)) >= first))
    np.testing.assert_array_equal(np.sort(asked), wanted)
    np.testing.assert_array_equal(tasks.cutoff[owner], cuts[asked])
    assert (tasks.query_sizes <= (query or len(keys))).all()
    for i in range(len(tasks)):
        one = tasks.pick(np.array([i]))
        found, _ = one.rows("support")
        mine = keys[one.rows("query")[0][0]]
        past = np.flatnonzero((keys == mine) & (times < one.cutoff[0]))
        past = past if window is None else past[times[past] >= one.cutoff[0] - window]
        np.testing.assert_array_equal(found, past[::-1][:support])  # the most recent, newest first
        assert (times[one.rows("query")[0]] >= one.cutoff[0]).all()


@given(logs(), st.integers(0, 30 * HOUR), st.integers(1, 4), st.sampled_from([None, 3 * HOUR]))
def test_a_refresh_takes_the_latest_rows(log: Any, moment: int, support: int, window: int | None):
    keys, times = log
    wanted = np.array([1, 3, 7], np.uint64)
    tasks = latest(keys, times, wanted, moment, support, window)
    for i, key in enumerate(wanted):
        past = np.flatnonzero((keys == key) & (times < moment))
        past = past if window is None else past[times[past] >= moment - window]
        found, _ = tasks.pick(np.array([i])).rows("support")
        np.testing.assert_array_equal(found, past[::-1][:support])


def test_rare_entities_can_be_left_out():
    keys = np.array([1, 2, 1, 1, 2], np.uint64)
    times = np.arange(5, dtype=np.int64)
    tasks = find_tasks(keys, times, times, support=9, min_rows=3)
    assert set(keys[tasks.rows("query")[0]]) == {1}
    assert len(find_tasks(keys, times, times, support=9, min_rows=3, last=3)) == 0


def test_a_row_that_would_see_its_future_is_refused():
    keys, times = np.ones(3, np.uint64), np.arange(3, dtype=np.int64)
    with pytest.raises(DataError, match="cut-off lies after"):
        find_tasks(keys, times, times + 1, support=3)
    with pytest.raises(DataError, match="time order"):
        find_tasks(keys, times[::-1], times[::-1], support=3)


def test_an_epoch_shows_every_task_once_in_an_order_of_its_own():
    keys = np.repeat(np.arange(1, 8, dtype=np.uint64), 3)
    times = np.arange(21, dtype=np.int64)
    tasks = find_tasks(keys, times, times, support=3)
    first = np.concatenate([t.query[:, 0] for t in epoch(tasks, 4, 0, 0)])
    again = np.concatenate([t.query[:, 0] for t in epoch(tasks, 4, 0, 0)])
    later = np.concatenate([t.query[:, 0] for t in epoch(tasks, 4, 0, 1)])
    np.testing.assert_array_equal(np.sort(first), np.sort(tasks.query[:, 0]))
    np.testing.assert_array_equal(first, again)
    assert (first != later).any()
    assert sum(len(t) for t in epoch(tasks, 4, 0, 0, limit=10)) == 10
    lost = tasks.without_support(0.5, np.random.default_rng(0))
    gone = (lost.support_sizes == 0) & (tasks.support_sizes > 0)
    assert 0.2 < gone.sum() / (tasks.support_sizes > 0).sum() < 0.8
    np.testing.assert_array_equal(lost.query, tasks.query)


@given(logs(), st.integers(1, 4), st.integers(0, 40))
def test_kept_supports_are_what_a_refresh_of_the_whole_log_would_read(log: Any, size: int, cut: int):
    keys, times = log
    other = keys[::-1].copy()
    arrays = {"time": times, "row": np.arange(len(keys)), "member": keys}
    cut = min(cut, len(keys))

    def part(rows: slice) -> tuple[dict[str, Any], dict[str, Any]]:
        return {k: a[rows] for k, a in arrays.items()}, {"a": keys[rows], "b": other[rows]}

    kept = Supports(*part(slice(0, cut)), size).extended(*part(slice(cut, None)))
    kept = Supports.from_arrays(kept.to_arrays(), size)
    for name, whole in (("a", keys), ("b", other)):
        wanted = np.unique(whole[whole != 0])
        ours = latest(kept.keys[name], kept.arrays["time"], wanted, 10**15, size)
        theirs = latest(whole, times, wanted, 10**15, size)
        np.testing.assert_array_equal(kept.arrays["row"][ours.rows("support")[0]], theirs.rows("support")[0])
    assert sum(len(p) for p in kept.pieces[1:]) <= len(kept.pieces[0]) // 2
    kept = Supports(kept.arrays, kept.keys, size)
    assert len(kept) <= newest(keys, size).sum() + newest(other, size).sum()
    gone = kept.without("member", np.uint64(1))
    assert not (gone.arrays["member"] == 1).any()
    assert len(gone) == (kept.arrays["member"] != 1).sum()


@given(
    logs(),
    st.integers(1, 4),
    st.lists(st.integers(0, 40), max_size=20).map(sorted),
    st.sets(st.integers(1, 8)),
)
def test_rows_of_some_keys_are_those_of_a_search_by_hand(
    log: Any, size: int, cuts: list[int], wanted: set[int]
):
    keys, times = log
    arrays = {"time": times, "row": np.arange(len(keys))}
    edges = [0, *(min(c, len(keys)) for c in cuts), len(keys)]
    kept = Supports({k: a[:0] for k, a in arrays.items()}, {"a": keys[:0]}, size)
    for first, last in pairwise(edges):
        kept = kept.extended({k: a[first:last] for k, a in arrays.items()}, {"a": keys[first:last]})
    kept = Supports.from_arrays(kept.to_arrays(), size)
    found, own = kept.of("a", np.array(sorted(wanted), np.uint64))
    assert (np.diff(found["row"]) > 0).all()
    np.testing.assert_array_equal(own, keys[found["row"]])
    assert set(own.tolist()) <= wanted
    for key in wanted:
        mine = found["row"][own == key]
        by_hand = np.flatnonzero(keys == key)[-size:]
        np.testing.assert_array_equal(mine[len(mine) - len(by_hand) :], by_hand)
