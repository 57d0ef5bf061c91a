"""Times of every kind are the same moment, and a cut-off is never after its row."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memberwise.data.times import YEAR_ONE, cutoffs, other_unit, parse_time
from support.twins import cutoff

MOMENT = 1_378_029_600_000_000  # 2013-09-01 10:00 UTC


def parsed(values: list[Any], unit: str = "s", dtype: Any = None, first: int = 0) -> list[int | None]:
    return parse_time(pl.Series("t", values, dtype=dtype), unit, first).to_list()


@pytest.mark.parametrize(
    ("value", "unit", "dtype"),
    [
        (dt.datetime(2013, 9, 1, 10), "s", pl.Datetime("ms")),
        (dt.datetime(2013, 9, 1, 10), "ns", pl.Datetime("us")),
        (dt.datetime(2013, 9, 1, 10), "s", pl.Datetime("ns")),
        (dt.datetime(2013, 9, 1, 10, tzinfo=dt.UTC), "s", pl.Datetime("us", "UTC")),
        (dt.datetime(2013, 9, 1, 10, tzinfo=dt.UTC), "s", pl.Datetime("ms", "America/New_York")),
        (1_378_029_600, "s", pl.Int64),
        (1_378_029_600, "s", pl.Int32),
        (1_378_029_600, "s", pl.UInt32),
        (1_378_029_600_000, "ms", pl.Int64),
        (1_378_029_600_000, "ms", pl.UInt64),
        (MOMENT, "us", pl.Int64),
        (MOMENT * 1000, "ns", pl.Int64),
        (1_378_029_600.0, "s", pl.Float64),
        (1_378_029_600_000.0, "ms", pl.Float64),
        ("1378029600", "s", pl.String),
        ("1378029600000", "ms", pl.String),
        ("2013-09-01T10:00:00", "s", pl.String),
        ("2013-09-01 10:00:00", "ns", pl.String),
        ("2013-09-01 10:00", "s", pl.String),
        ("2013-09-01T10:00:00Z", "s", pl.String),
        ("2013-09-01 10:00:00 z", "s", pl.String),
        (" 2013-09-01T12:00:00+02:00 ", "s", pl.String),
        ("2013-09-01T12:00:00+0200", "s", pl.String),
        ("2013-09-01 12:00:00+02", "s", pl.String),
        ("2013-09-01 12:00:00 +02:00", "s", pl.String),
        ("2013-09-01T15:30:00.000+05:30", "s", pl.String),
        ("2013-09-01T03:00:00-07", "s", pl.String),
        ("2013-09-01T10:00:00.000000000", "s", pl.String),
        ("2013-09-01T12:00+02:00", "s", pl.String),
    ],
)
def test_one_moment_written_in_many_ways(value: Any, unit: str, dtype: Any):
    assert parsed([value], unit, dtype) == [MOMENT]


def test_offsets_may_be_mixed_within_a_column():
    column = [
        "2013-09-01T10:00:00",
        "2013-09-01T12:00:00+02:00",
        "2013-09-01T10:00:00Z",
        "2013-09-01T05:00:00-0500",
    ]
    assert parsed(column) == [MOMENT] * 4


def test_days_begin_at_midnight_utc():
    assert parsed([dt.date(1970, 1, 2)]) == parsed(["1970-01-02"]) == [86_400_000_000]


def test_fractions_are_kept_to_the_microsecond():
    assert parsed(["2013-09-01T10:00:00.123456"]) == [MOMENT + 123_456]
    assert parsed(["2013-09-01T10:00:00.5+00:00"]) == [MOMENT + 500_000]
    assert parsed([1_378_029_600.25]) == [MOMENT + 250_000]
    assert parsed([MOMENT * 1000 + 999], "ns") == [MOMENT]


@pytest.mark.parametrize(
    "value", ["garbage", "", "2013-13-01", "2013-09-01T25:00:00", "10:00", "2013-09-01T10:00:00+2:0", None]
)
def test_garbage_beside_times_is_null(value: str | None):
    assert parsed([value, "2013-09-01T10:00:00"]) == [None, MOMENT]
    assert parsed([value], dtype=pl.String) == [None]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 1e300, None])
def test_numbers_that_are_no_time_are_null(value: float | None):
    assert parsed([value, 1.0], dtype=pl.Float64) == [None, 1_000_000]


@pytest.mark.parametrize("value", [-1, 2**63 - 1, 1_378_029_600_000])
def test_integers_out_of_range_are_null(value: int):
    """Milliseconds read as seconds lie in the year 45,000: that is a mistake, not a time."""
    assert parsed([value, 1]) == [None, 1_000_000]


@pytest.mark.parametrize("column", [[True], [[1]], [None], [b"x"], [dt.timedelta(1)], [dt.time(1)]])
def test_a_column_of_another_kind_is_null(column: list[Any]):
    assert parsed(column) == [None]


def test_a_date_of_birth_may_lie_before_1970():
    assert parsed(["1931-05-30"], first=YEAR_ONE) == [-1_217_894_400_000_000]
    assert parsed([dt.date(1931, 5, 30)], first=YEAR_ONE) == [-1_217_894_400_000_000]
    assert parsed(["1931-05-30"]) == [None]


@given(st.datetimes(dt.datetime(1970, 1, 1), dt.datetime(9999, 12, 31)), st.sampled_from("T "))
def test_what_is_written_is_read(when: dt.datetime, between: str):
    us = (when - dt.datetime(1970, 1, 1)) // dt.timedelta(microseconds=1)
    assert parsed([when.isoformat(between)]) == [us]
    assert parsed([when], dtype=pl.Datetime("us")) == [us]


@given(
    st.lists(st.integers(0, 4 * 10**15), min_size=1),
    st.sampled_from(["none", "hourly", "daily", "frozen"]),
    st.none() | st.integers(0, 4 * 10**15),
)
def test_a_cutoff_is_never_after_its_row_and_never_goes_back(
    times: list[int], delay: Any, train_end: int | None
):
    rows = np.sort(np.array(times, np.int64))
    limits = cutoffs(rows, delay, train_end)
    assert (limits <= rows).all()
    assert (np.diff(limits) >= 0).all()
    assert limits.tolist() == [cutoff(t, delay, train_end) for t in rows.tolist()]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("right", ["s", "ms", "us", "ns"])
def test_numbers_in_another_unit_are_told(unit: str, right: str):
    now = 1_790_000_000_000_000
    per = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[right]
    times = pl.Series([n * per for n in (1_370_000_000, 1_380_000_000, 1_390_000_000)])
    assert other_unit(times, unit, now) == (None if unit == right else right)
    assert other_unit(times.cast(pl.String), unit, now) is None
