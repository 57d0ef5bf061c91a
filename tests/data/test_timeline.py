"""A row sees the newest vector that was ready when it happened, and none that came later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memberwise.data.entities import EntityEmbeddings
from memberwise.data.timeline import EmbeddingTimeline
from memberwise.errors import DataError

entry = st.tuples(st.integers(1, 5), st.integers(-3, 12))
asked = st.lists(st.tuples(st.integers(0, 6), st.integers(-5, 15)), max_size=30)


def made(entries: list[tuple[int, int]]) -> EmbeddingTimeline:
    keys, cutoffs = (np.array([e[j] for e in entries], dt) for j, dt in ((0, np.uint64), (1, np.int64)))
    vectors = np.array([[100 * k + c, 1] for k, c in entries], np.float32).reshape(-1, 2)
    return EmbeddingTimeline("item", "v1", keys, cutoffs, vectors)


@given(st.lists(entry, unique=True, max_size=20), asked)
def test_as_a_search_by_hand(entries: list[tuple[int, int]], rows: list[tuple[int, int]]):
    timeline = made(entries)
    keys, times = np.array([r[0] for r in rows], np.uint64), np.array([r[1] for r in rows], np.int64)
    found = timeline.gather(timeline.rows(keys, times))
    for (key, time), vector in zip(rows, found, strict=True):
        ready = [c for k, c in entries if k == key and c <= time]
        assert vector.tolist() == ([100 * key + max(ready), 1] if ready else [0, 0])


@given(st.lists(entry, unique=True, min_size=1, max_size=20), asked)
def test_what_comes_later_changes_nothing(entries: list[tuple[int, int]], rows: list[tuple[int, int]]):
    timeline = made(entries)
    later = timeline.append(np.arange(1, 6, dtype=np.uint64), np.full((5, 2), 7, np.float32), 13)
    keys, times = np.array([r[0] for r in rows], np.uint64), np.array([r[1] for r in rows], np.int64)
    before, after = (t.gather(t.rows(keys, times)) for t in (timeline, later))
    np.testing.assert_array_equal(before[times < 13], after[times < 13])


@given(st.lists(entry, unique=True, max_size=20))
def test_the_latest_are_those_of_the_end_of_time(entries: list[tuple[int, int]]):
    timeline, end = made(entries), np.full(6, 99)
    keys = np.arange(1, 7, dtype=np.uint64)
    latest = timeline.latest()
    assert len(latest) == len({k for k, _ in entries})
    expected = timeline.gather(timeline.rows(keys, end))
    np.testing.assert_array_equal(latest.gather(latest.rows(keys, end)), expected)
    assert not len(timeline.without(keys))


@given(st.lists(entry, unique=True, max_size=20), st.lists(entry, unique=True, max_size=20))
def test_what_is_merged_takes_the_place_of_what_was_there(
    old: list[tuple[int, int]], new: list[tuple[int, int]]
):
    timeline, more = made(old), made(new)
    held = timeline.vectors.copy()
    shuffled = np.random.default_rng(len(new)).permutation(len(new))
    merged = timeline.merged(more.keys[shuffled], more.cutoffs[shuffled], -more.vectors[shuffled], "v2")
    values = {e: [100.0 * e[0] + e[1], 1.0] for e in old}
    values |= {e: [-100.0 * e[0] - e[1], -1.0] for e in new}
    entries = list(zip(merged.keys.tolist(), merged.cutoffs.tolist(), strict=True))
    assert entries == sorted(values)
    assert merged.vectors.tolist() == [values[e] for e in entries]
    assert merged.version == "v2"
    np.testing.assert_array_equal(timeline.vectors, held)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_it_survives_its_file(dtype: Any, tmp_path: Path):
    one = made([(3, 4), (3, 1), (2, 9)])
    one = EmbeddingTimeline(one.entity, one.version, one.keys, one.cutoffs, one.vectors.astype(dtype))
    one.write(tmp_path / "t.arrow")
    other = EmbeddingTimeline.read(tmp_path / "t.arrow")
    assert (other.entity, other.version, other.vectors.dtype) == ("item", "v1", dtype)
    for name in ("keys", "cutoffs", "vectors"):
        np.testing.assert_array_equal(getattr(other, name), getattr(one, name))
    empty = EmbeddingTimeline.empty("member", 5)
    empty.write(tmp_path / "e.arrow")
    again = EmbeddingTimeline.read(tmp_path / "e.arrow")
    assert again.dim == 5
    assert again.gather(again.rows(np.array([1], np.uint64), np.array([1]))).tolist() == [[0.0] * 5]


def test_another_table_is_refused(tmp_path: Path):
    made([(1, 1)]).write(tmp_path / "t.arrow")
    with pytest.raises(DataError, match="not a table of entity embeddings"):
        EntityEmbeddings.read(tmp_path / "t.arrow")


def test_what_does_not_fit_is_refused():
    with pytest.raises(DataError, match="repeats with the same cut-off"):
        made([(1, 1), (1, 1)])
    with pytest.raises(DataError, match="id is missing"):
        made([(0, 1)])
    with pytest.raises(DataError, match="newer than those before"):
        made([(1, 5)]).append(np.array([1], np.uint64), np.ones((1, 2), np.float32), 5)
    with pytest.raises(DataError, match="not finite"):
        EmbeddingTimeline.at("item", np.array([1], np.uint64), np.full((1, 1), np.nan, np.float32), "v", 1)
    with pytest.raises(DataError, match="do not go together"):
        EmbeddingTimeline.at("item", np.array([1], np.uint64), np.zeros((2, 1), np.float32), "v", 1)
