"""Segments: what they tell turns the old arrays into the new ones, bit by bit, and is small."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memberwise.data.segments import applied, changes, size
from memberwise.errors import BundleError

DTYPES = (np.float64, np.float32, np.int64, np.int32, np.uint64, np.bool_)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """An array before and after: rows changed, rows added, or another array altogether."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    dtype, width = draw(st.sampled_from(DTYPES)), draw(st.sampled_from([0, 1, 3]))
    rows, more = draw(st.sampled_from([0, 1, 2000])), draw(st.sampled_from([0, 1, 700]))
    shape = (rows, width) if width else (rows,)
    old = rng.integers(0, 2, shape).astype(dtype)
    new = old.copy()
    changed = rng.random(rows) < draw(st.sampled_from([0.0, 0.01, 0.9]))
    new[changed] = rng.integers(0, 3, (int(changed.sum()), *shape[1:])).astype(dtype)
    if np.issubdtype(dtype, np.floating) and rows:
        new[rng.integers(0, rows, 3)] = draw(st.sampled_from([np.nan, -0.0, np.inf]))
    new = np.concatenate([new, rng.integers(0, 5, (more, *shape[1:])).astype(dtype)])
    if draw(st.booleans()) and draw(st.booleans()):
        new = np.ones(len(new) // 2, draw(st.sampled_from(DTYPES)))
    return {"a": old}, {"a": new}


def same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


@given(pairs(), pairs())
def test_what_is_told_gives_the_new_arrays(one: Any, other: Any) -> None:
    old, new = {"p": one[0], "q": other[0]}, {"p": one[1], "q": other[1]}
    segment = changes(old, new)
    found = applied(old, segment)
    for part in new:
        assert same(found[part]["a"], new[part]["a"])
    assert changes(new, found) == {}


def test_a_segment_costs_what_changed() -> None:
    rng = np.random.default_rng(0)
    old = {"p": {"sums": rng.normal(size=(100_000, 4)), "keys": rng.integers(0, 9, 100_000)}}
    new = {"p": {"sums": old["p"]["sums"].copy(), "keys": np.append(old["p"]["keys"], [1, 2])}}
    new["p"]["sums"][[5, 70_000]] += 1.0
    segment = changes(old, new)
    assert size(segment) < 200
    assert set(segment["p"]) == {"sums~rows", "sums~values", "keys~tail"}
    assert changes(old, old) == {}


def test_a_segment_of_another_state_is_refused() -> None:
    old = {"p": {"a": np.zeros(1000)}}
    new = {"p": {"a": np.zeros(1000)}}
    new["p"]["a"][900] = 1.0
    segment = changes(old, new)
    with pytest.raises(BundleError, match="does not fit"):
        applied({"p": {"a": np.zeros(800)}}, segment)
    with pytest.raises(BundleError, match="not there"):
        applied({}, segment)


def test_arrays_and_groups_that_are_new() -> None:
    new = {"p": {"a": np.arange(3)}, "q": {"b": np.arange(2.0)}}
    found = applied({}, changes({}, new))
    assert same(found["p"]["a"], new["p"]["a"])
    assert same(found["q"]["b"], new["q"]["b"])
