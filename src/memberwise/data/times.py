"""Times as microseconds since 1970 in UTC, and what counts as the past of a row."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

from memberwise.schema import DAY, HOUR, Delay

I64 = npt.NDArray[np.int64]

_PER_UNIT = {"s": 1_000_000, "ms": 1_000, "us": 1}
YEAR_ONE, _LAST = -62_135_596_800_000_000, 253_402_300_800_000_000  # the years 1 and 10,000


PLAUSIBLE = 20 * 365 * DAY
"""Times before it (1990) are taken for those of another unit."""


def other_unit(column: pl.Series, unit: str, now: int) -> str | None:
    """The unit in which half of these numbers are plausible times, where they are not in `unit`.

    Parameters
    ----------
    column
        Times as they came; only numbers have a unit.
    unit
        As the project has it.
    now
        Microseconds; a year after it is the last plausible time.
    """
    if not column.dtype.is_numeric():
        return None
    for other in (unit, "s", "ms", "us", "ns"):
        middle = parse_time(column, other).fill_null(0).median()
        if isinstance(middle, int | float) and PLAUSIBLE <= middle <= now + 365 * DAY:
            return other if other != unit else None
    return None


def parse_time(column: pl.Series, unit: str, first: int = 0) -> pl.Series:
    """Microseconds since 1970 in UTC (Int64); null where a value is no time, or one before `first`.

    Numbers are read in `unit`; a time without a zone is UTC; texts may carry different offsets.
    """
    dtype = column.dtype
    if isinstance(dtype, pl.Datetime):
        us = column.dt.cast_time_unit("us").to_physical()
    elif dtype == pl.Date:
        us = column.cast(pl.Datetime("us")).to_physical()
    elif dtype.is_integer():
        number = column.cast(pl.Int64, strict=False)
        if unit == "ns":
            us = number // 1000
        else:
            # Wide integers: an absurd time must become null, not wrap around.
            scale_up = pl.Series([_PER_UNIT[unit]], dtype=pl.Int128)
            us = (number.cast(pl.Int128) * scale_up).cast(pl.Int64, strict=False)
    elif dtype.is_float() or dtype.is_decimal():
        scale = 1e-3 if unit == "ns" else float(_PER_UNIT[unit])
        seconds = column.cast(pl.Float64)
        us = (
            (seconds.set(~seconds.is_finite().fill_null(False), None) * scale)
            .round()
            .cast(pl.Int64, strict=False)
        )
    elif dtype == pl.String:
        us = _parse_text(column, unit)
    else:
        us = pl.Series(column.name, [None] * len(column), dtype=pl.Int64)
    return us.set((us < first).fill_null(False) | (us >= _LAST).fill_null(False), None)


def _parse_text(column: pl.Series, unit: str) -> pl.Series:
    """Texts: with an offset, without one, or a number written as text."""
    text = column.str.strip_chars().str.replace(r"\s*[zZ]$", "+00:00")
    # "2013-09-01 12:00:00 +02" is the same as "2013-09-01T12:00:00+02:00"
    text = text.str.replace(r"(\d:\d\S*)\s+([+-])", "${1}${2}").str.replace(r"(:\d\S*[+-]\d\d)$", "${1}:00")
    text = text.str.replace(" ", "T", literal=True)
    formats = [f"%Y-%m-%dT%H:%M{s}{z}" for z in ("%:z", "%z", "") for s in (":%S%.f", ":%S", "")]
    frame = pl.DataFrame({"t": text})
    zoned = [
        pl.col("t").str.to_datetime(f, time_unit="us", time_zone="UTC", strict=False).to_physical()
        for f in formats
        if f.endswith("z")
    ]
    plain = [
        pl.col("t").str.to_datetime(f, time_unit="us", strict=False).to_physical()
        for f in formats
        if not f.endswith("z")
    ]
    day = pl.col("t").str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us")).to_physical()
    parsed = frame.select(pl.coalesce(*zoned, *plain, day))["t"]
    if parsed.null_count() == len(parsed):
        number = column.cast(pl.Float64, strict=False)
        if number.null_count() < len(number):
            return parse_time(number, unit, YEAR_ONE)
    return parsed


def cutoffs(times: I64, delay: Delay, train_end: int | None = None) -> I64:
    """The moment before which an event counts as past, for rows at the given times.

    ==========  =================================================================
    none        the row's own time: equal timestamps are not the past
    hourly      the start of its hour in UTC
    daily       the start of its day in UTC
    frozen      its own time in train; just after the end of train for later rows
    ==========  =================================================================

    Parameters
    ----------
    times : ndarray of int64, shape [n]
        Microseconds.
    delay
        One of the four words.
    train_end : int, optional
        Last moment of train, for ``frozen``.

    Returns
    -------
    ndarray of int64, shape [n]
        An event at t' is past for row i if ``t' < cutoffs[i]``. Monotone in `times`.
    """
    match delay:
        case "none":
            return times
        case "hourly":
            return times - times % HOUR
        case "daily":
            return times - times % DAY
        case "frozen":
            return times if train_end is None else np.minimum(times, train_end + 1)
