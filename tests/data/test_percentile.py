"""Labels by the percentile of a cluster: exact answers, a plain twin, nothing of the same period or later."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memberwise.data.events import TIME, label_column
from memberwise.data.frame import Frame
from memberwise.data.percentile import PercentileLabels, cluster_quantiles
from memberwise.errors import DataError
from memberwise.schema import DAY, Percentile, Schema, Task
from support.logs import START, Event, check, cut, events, schema, table

Labels = npt.NDArray[np.float32]
SPECS = [
    Percentile(share=0.5, within=["cat"], min_rows=1),
    Percentile(share=0.75, within=["cat", "i"], min_rows=3),
    Percentile(share=0.9, min_rows=2, period="6h"),
]


def meaning(spec: Percentile) -> Schema:
    return schema(tasks=[Task(name="y", label="num", percentile=spec)])


def walk(log: Sequence[Event], spec: Percentile, size: int = 1000) -> Labels:
    state = PercentileLabels("y", spec)
    frames = cut(log, size, meaning(spec))
    return np.concatenate([state.label(f) for f in frames])


def numbers(log: Sequence[Event]) -> list[Event]:
    """The same log, whose label is its number."""
    return [e | {"label:y": float("nan") if e["num"] is None else e["num"]} for e in log]


def twin(log: Sequence[Event], spec: Percentile) -> list[float]:
    """One row at a time, from the definition."""
    out = []
    for e in log:
        label = math.nan
        if not math.isnan(e["label:y"]):
            before = [o for o in log if o[TIME] // spec.period == e[TIME] // spec.period - 1]
            for used in range(len(spec.within), -1, -1):
                columns = spec.within[:used]
                if any(e[c] is None for c in columns):
                    continue
                mates = [o for o in before if all(o[c] == e[c] for c in columns)]
                values = sorted(o["label:y"] for o in mates if not math.isnan(o["label:y"]))
                if len(values) >= spec.min_rows:
                    label = float(
                        np.float32(e["label:y"]) > np.float32(values[math.ceil(spec.share * len(values)) - 1])
                    )
                    break
        out.append(label)
    return out


@pytest.mark.parametrize("spec", SPECS)
@given(log=events(max_size=30), size=st.integers(1, 31))
def test_equals_a_plain_twin_however_the_log_is_cut(spec: Percentile, log: list[Event], size: int) -> None:
    log = numbers(log)
    np.testing.assert_array_equal(walk(log, spec, size), np.array(twin(log, spec), np.float32))


@pytest.mark.parametrize("spec", SPECS)
@given(log=events(max_size=30), other=events(max_size=10), seed=st.integers(0, 99))
def test_nothing_of_the_same_period_or_later_changes_a_label(
    spec: Percentile, log: list[Event], other: list[Event], seed: int
) -> None:
    log = numbers(log)
    row = seed % len(log)
    start = log[row][TIME] // spec.period * spec.period
    past = [e for e in log if e[TIME] < start]
    rest = [e for e in numbers(other) if e[TIME] >= start]
    changed = sorted([*past, log[row], *rest], key=lambda e: e[TIME])
    place = next(k for k, e in enumerate(changed) if e is log[row])
    np.testing.assert_equal(walk(changed, spec)[place], walk(log, spec)[row])


def test_the_label_by_hand() -> None:
    day = [{"t": START + k, "cat": "u", "v": float(k)} for k in range(1, 11)]
    next_day = [{"t": START + DAY, "cat": c, "v": v} for c, v in (("u", 9.0), ("u", 9.5), ("w", 9.5))]
    rows = table([_event(**r) for r in day + next_day])
    state = PercentileLabels("y", Percentile(share=0.9, within=["cat"], min_rows=10))
    labels = state.label(Frame(rows, meaning(state.spec), {}))
    # The 90th percentile of 1 .. 10 is 9, which is not above itself; the cluster w backs off to all rows.
    np.testing.assert_array_equal(labels, [np.nan] * 10 + [0.0, 1.0, 1.0])


def _event(t: int, cat: str, v: float) -> Event:
    base = {"m": "a", "i": "p", "tags": None, "num": v, "label:z": float("nan"), "where:past": True}
    return base | {TIME: t, "cat": cat, "label:y": v}


def test_saved_and_loaded_it_goes_on_as_if_nothing_had_been() -> None:
    rng = np.random.default_rng(0)
    log = [_event(START + k * DAY // 40, "uv"[k % 2], float(rng.exponential())) for k in range(200)]
    whole = walk(log, SPECS[0])
    first = PercentileLabels("y", SPECS[0])
    frames = list(cut(log, 90, meaning(SPECS[0])))
    first.label(frames[0])
    second = PercentileLabels("y", SPECS[0])
    second.load_arrays(first.to_arrays())
    rest = np.concatenate([second.label(f) for f in frames[1:]])
    np.testing.assert_array_equal(rest, whole[90:])
    assert len(second.to_arrays()["values"]) <= 80  # two days of forty


def test_clusters_of_one_kind_have_the_share_of_positives_that_was_asked_for() -> None:
    rng = np.random.default_rng(1)
    scale = {"u": 1.0, "v": 50.0}
    log = []
    for k in range(4000):
        kind = "uv"[rng.integers(2)]
        log.append(_event(START + k * DAY // 1000, kind, float(rng.exponential(scale[kind]))))
    labels = walk(log, Percentile(share=0.9, within=["cat"]))
    long = np.array([e["cat"] == "v" for e in log])
    later = ~np.isnan(labels)
    # A fixed threshold would make nearly all positives of the kind with the long dwell.
    for kind in (long, ~long):
        assert labels[kind & later].mean() == pytest.approx(0.1, abs=0.03)


def test_older_events_are_refused() -> None:
    state = PercentileLabels("y", SPECS[0])
    rows = [table([_event(START + k * DAY, "u", 1.0)]) for k in (1, 0)]
    frames = [Frame(r, meaning(SPECS[0]), {}) for r in rows]
    state.label(frames[0])
    with pytest.raises(DataError, match="older"):
        state.label(frames[1])


def test_a_number_may_be_any_but_not_infinite() -> None:
    raw = pl.DataFrame({"t": [1, 2, 3], "m": "a", "i": "b", "num": [7.5, -3.0, float("inf")], "cat": "u"})
    checked, rejects = check(raw, meaning(SPECS[0]))
    assert checked[label_column("y")].to_list() == [7.5, -3.0]
    assert dict(rejects.counts) == {"label of y is not finite": 1}


def test_quantiles_leave_out_small_clusters_and_rows_of_none() -> None:
    keys = np.array([5, 0, 5, 9, 5, 5], np.uint64)
    clusters, quantiles = cluster_quantiles(keys, np.array([4, 9, 1, 2, 3, 2], np.float32), 0.5, 2)
    assert (clusters.tolist(), quantiles.tolist()) == ([5], [2.0])
