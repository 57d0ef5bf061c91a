"""Aggregates know what happened before a row's cut-off, all of it, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memberwise.data.aggregates import AggregateState
from memberwise.data.arrays import load_arrays, save_arrays
from memberwise.data.events import TIME
from memberwise.data.frame import Frame
from memberwise.errors import DataError
from memberwise.schema import DAY, HOUR, Aggregate
from support.logs import START, Event, aggregate_schema, cut, events, schema, table
from support.twins import aggregate_row, cutoff

TASKS = ("y", "z")
TRAIN_END = START + DAY + 5 * HOUR
KINDS: dict[str, dict[str, Any]] = {
    "rates": {"by": "m"},
    "one rate": {"by": "m", "rates": ["z"], "count": False, "prior_strength": 0.5},
    "count": {"by": "i", "rates": []},
    "means": {"by": "m", "rates": [], "means": ["num"]},
    "distinct": {"by": "m", "rates": [], "distinct": ["i", "cat"]},
    "recency": {"by": "m", "rates": [], "recency": True},
    "window": {"by": "m", "window": "7h", "means": ["num"], "recency": True},
    "window, distinct": {"by": "m", "rates": ["y"], "window": "1d", "distinct": ["i"]},
    "half-life": {"by": "m", "half_life": "5h", "means": ["num"], "recency": True},
    "missing keys": {"by": "cat", "recency": True},
    "several values": {"by": "tags", "means": ["num"], "distinct": ["i"], "recency": True},
    "at most one value": {"by": "tags", "max_values": 1},
    "crossing": {"by": ["m", "cat"]},
    "crossing with several values": {"by": ["m", "tags"], "distinct": ["i"], "window": "9h"},
    "three columns": {"by": ["tags", "m", "i"], "recency": True},
}
DELAYS = ("none", "hourly", "daily", "frozen")
few = settings(max_examples=settings().max_examples // 10)
kinds = pytest.mark.parametrize("kind", KINDS)


def specs(kind: str) -> st.SearchStrategy[Aggregate]:
    return st.sampled_from(DELAYS).map(lambda delay: Aggregate(**KINDS[kind], delay=delay))  # type: ignore[arg-type]


def new(spec: Aggregate) -> AggregateState:
    return AggregateState(spec, TASKS, TRAIN_END)


def walk(spec: Aggregate, log: list[Event], size: int, state: AggregateState | None = None) -> np.ndarray:
    """The columns of every row of a log, absorbed and read in pieces."""
    state = state or new(spec)
    parts = []
    for frame in cut(log, size, aggregate_schema(spec)):
        state.absorb(frame)
        parts.append(state.read(frame))
    return np.concatenate(parts)


def by_hand(spec: Aggregate, log: list[Event]) -> np.ndarray:
    return np.array([aggregate_row(spec, log, row, TRAIN_END) for row in log])


@kinds
@few
@given(data=st.data())
def test_equals_a_count_by_hand_however_the_log_is_cut(kind: str, data: st.DataObject):
    spec, log = data.draw(specs(kind)), data.draw(events())
    expected = by_hand(spec, log)
    for size in (len(log), 7, 1):
        found = walk(spec, log, size)
        assert found.shape == (len(log), len(new(spec).columns))
        np.testing.assert_allclose(found, expected, rtol=2e-5, atol=2e-5)


@kinds
@few
@given(data=st.data())
def test_nothing_at_or_after_the_cutoff_reaches_a_row(kind: str, data: st.DataObject):
    """Other events from some moment on, and other labels: rows that must not know them stay as they are."""
    spec, log = data.draw(specs(kind)), data.draw(events())
    moment = data.draw(st.sampled_from([e[TIME] for e in log]))
    other = [e for e in log if e[TIME] < moment] + [e for e in data.draw(events()) if e[TIME] >= moment]
    rows = [e for e in log if cutoff(e[TIME], spec.delay, TRAIN_END) <= moment]
    meaning = aggregate_schema(spec)

    def read(past: list[Event]) -> np.ndarray:
        state = new(spec)
        state.absorb(Frame(table(past), meaning, {}))
        return state.read(Frame(table(rows), meaning, {}))

    np.testing.assert_array_equal(read(log), read(other))


@kinds
@few
@given(data=st.data())
def test_saved_in_the_middle_it_goes_on_as_without_a_stop(
    kind: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
):
    spec, log = data.draw(specs(kind)), data.draw(events())
    stop = data.draw(st.integers(0, len(log)))
    first = new(spec)
    before = walk(spec, log[:stop], 5, first) if stop else None
    path = tmp_path_factory.getbasetemp() / "aggregate.safetensors"
    save_arrays(path, {"state": first.to_arrays()})
    second = new(spec)
    second.load_arrays(load_arrays(path)["state"])
    after = walk(spec, log[stop:], 5, second) if stop < len(log) else None
    found = np.concatenate([part for part in (before, after) if part is not None])
    np.testing.assert_array_equal(found, walk(spec, log, 5))


@kinds
@few
@given(data=st.data())
def test_an_update_in_batches_equals_one_of_all(kind: str, data: st.DataObject):
    """Absorb and advance, as a version does that moves forward, then read rows after the log."""
    spec, log = data.draw(specs(kind)), data.draw(events())
    rows = [{**e, TIME: log[-1][TIME] + 1 + k * HOUR} for k, e in enumerate(log)]
    meaning = aggregate_schema(spec)
    results = []
    for size in (len(log), 4, 1):
        state = new(spec)
        for frame in cut(log, size, meaning):
            state.absorb(frame)
            state.advance(int(frame.times[-1]))
        results.append(state.read(Frame(table(rows), meaning, {})))
    np.testing.assert_allclose(results[1], results[0], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(results[2], results[0], rtol=1e-6, atol=1e-6)
    expected = np.array([aggregate_row(spec, log, row, TRAIN_END) for row in rows])
    np.testing.assert_allclose(results[0], expected, rtol=2e-5, atol=2e-5)


def event(hours: float, **values: Any) -> Event:
    base: Event = {"m": "a", "i": "p", "cat": "u", "tags": [], "num": 1.0}
    base |= {"label:y": 1.0, "label:z": 0.0, "where:past": True}
    return base | {TIME: START + int(hours * HOUR)} | values


def test_a_batch_that_is_older_than_what_was_counted_is_refused():
    spec = Aggregate(by=["m"], delay="none")
    state, meaning = new(spec), aggregate_schema(spec)
    state.absorb(Frame(table([event(1), event(5)]), meaning, {}))
    with pytest.raises(DataError, match="older than events already counted"):
        state.absorb(Frame(table([event(4)]), meaning, {}))
    state.advance(START + 9 * HOUR)
    with pytest.raises(DataError, match="older than events already counted"):
        state.absorb(Frame(table([event(3)]), meaning, {}))
    state.absorb(Frame(table([event(9)]), meaning, {}))


def test_a_row_that_would_see_its_future_is_refused():
    spec = Aggregate(by=["m"], delay="none")
    state, meaning = new(spec), aggregate_schema(spec)
    state.absorb(Frame(table([event(1), event(5)]), meaning, {}))
    state.advance(START + 9 * HOUR)
    with pytest.raises(DataError, match="would see its future"):
        state.read(Frame(table([event(4)]), meaning, {}))


def test_equal_times_are_not_the_past():
    spec = Aggregate(by=["m"], rates=[], delay="none")
    found = walk(spec, [event(1), event(1), event(1), event(2)], 4)
    np.testing.assert_allclose(np.expm1(found[:, 0]), [0, 0, 0, 3], atol=1e-6)


def test_a_day_ends_at_midnight_utc():
    spec = Aggregate(by=["m"], rates=[], delay="daily")
    last = event(24)
    found = walk(spec, [event(0), event(23.999), {**last, TIME: last[TIME] - 1}, last, event(47.9)], 2)
    np.testing.assert_allclose(np.expm1(found[:, 0]), [0, 0, 0, 3, 3], atol=1e-6)


def test_a_window_is_closed_at_its_start_and_open_at_its_end():
    spec = Aggregate(by=["m"], rates=[], delay="none", window="2h")  # type: ignore[arg-type]
    log = [event(0), event(1), {**event(2), TIME: event(2)[TIME]}, {**event(2), TIME: event(2)[TIME] + 1}]
    np.testing.assert_allclose(np.expm1(walk(spec, log, 9)[:, 0]), [0, 1, 2, 2], atol=1e-6)


def test_frozen_rows_do_not_know_what_came_after_train():
    spec = Aggregate(by=["m"], rates=[], delay="frozen")
    times = [0, 1, TRAIN_END - START, TRAIN_END - START + 1, 10 * DAY]
    log = [{**event(0), TIME: START + t} for t in times]
    np.testing.assert_allclose(np.expm1(walk(spec, log, 2)[:, 0]), [0, 1, 2, 3, 3], atol=1e-6)


@pytest.mark.parametrize("span", [{"window": "1h"}, {"half_life": "1h"}, {}])
def test_a_mean_over_values_of_very_different_size_stays_a_number(span: dict[str, Any]):
    """What a window takes away again must not leave a remainder that is divided by zero."""
    spec = Aggregate(by=["m"], rates=[], means=["num"], delay="none", **span)
    sizes = [1e8, 0.1, 1e-9, 3e7, 0.7, -1e8 / 3]
    log = [event(k / 8, num=x) for k, x in enumerate(sizes)]
    log += [event(100, num=None), event(200, num=None), event(200.1, num=5.0), event(200.2, num=5.0)]
    found = walk(spec, log, 3)[:, 0]
    expected = by_hand(spec, log)[:, 0]
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_what_leaves_a_window_leaves_nothing_behind():
    """Beside 1e30 a 0.1 has no digit left; both gone, the sum is that of the events that are there."""
    spec = Aggregate(by=["m"], rates=[], means=["num"], delay="none", window="1h")  # type: ignore[arg-type]
    log = [event(0, num=1e30), event(0, num=0.1), event(9, num=5.0), event(9.5)]
    np.testing.assert_allclose(walk(spec, log, 4)[-1, 0], 5.0, rtol=1e-6)


def test_a_number_beyond_float32_counts_as_missing():
    spec = Aggregate(by=["m"], rates=[], means=["num"], delay="none", window="2h")  # type: ignore[arg-type]
    log = [event(0, num=1e300), event(1, num=float("inf")), event(1.5, num=2.0), event(2, num=2.0)]
    found = walk(spec, [*log, event(9, num=4.0), event(9.5)], 2)[:, 0]
    np.testing.assert_allclose(found, [np.nan, np.nan, np.nan, 2.0, np.nan, 4.0])


def test_rates_stay_finite_with_one_class_and_tiny_priors():
    spec = Aggregate(by=["m"], prior_strength=1e-12, delay="none")
    log = [event(k / 100) for k in range(500)]
    assert np.isfinite(walk(spec, log, 100)).all()


def test_many_keys_and_many_days_in_one_go():
    """Growth of every array, and a window that closes over and over: the sums return to what is there."""
    rng = np.random.default_rng(0)
    n = 30_000
    times = np.sort(rng.integers(0, 60 * DAY, n)) + START
    frame = pl.DataFrame(
        {
            TIME: times,
            "m": rng.integers(0, 9_000, n).astype(str),
            "i": rng.integers(0, 50, n).astype(str),
            "label:y": rng.integers(0, 2, n).astype(np.float32),
            "label:z": np.full(n, np.nan, np.float32),
        }
    )
    spec = Aggregate(by=["i"], window="3d", distinct=["m"], delay="none")  # type: ignore[arg-type]
    state, meaning = new(spec), schema(aggregates=[spec])
    found = []
    for chunk in frame.iter_slices(4_000):
        state.absorb(Frame(chunk, meaning, {}))
        found.append(state.read(Frame(chunk, meaning, {})))
    last, at = np.concatenate(found)[-1], times[-1]
    inside = frame.filter(
        (pl.col(TIME) < at) & (pl.col(TIME) >= at - 3 * DAY) & (pl.col("i") == frame["i"][-1])
    )
    np.testing.assert_allclose(np.expm1(last[2]), len(inside), rtol=1e-5)
    np.testing.assert_allclose(np.expm1(last[3]), inside["m"].n_unique(), rtol=1e-5)


def test_saved_twice_it_is_the_same(tmp_path: Path):
    spec = Aggregate(by=["tags"], distinct=["i"], window="1d")  # type: ignore[arg-type]
    state = new(spec)
    walk(spec, [event(k, tags=["x", "y"]) for k in range(40)], 9, state)
    again = new(spec)
    again.load_arrays(state.to_arrays())
    for name, array in state.to_arrays().items():
        np.testing.assert_array_equal(array, again.to_arrays()[name])
