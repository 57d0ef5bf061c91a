"""Checks of rows: rejected, repeated, out of order, at odd times."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import polars as pl

from memberwise.data.times import PLAUSIBLE, other_unit
from memberwise.doctor.evidence import Evidence, when
from memberwise.doctor.findings import Finding
from memberwise.errors import percent
from memberwise.schema import DAY, HOUR, SECOND, Clock, format_duration

REPEATED = 0.001
SAME_MOMENT = 0.05
GAP = 0.2


def check_rejects(e: Evidence) -> Iterator[Finding]:
    """Rows that cannot be used, by reason."""
    limit, total, read = e.schema.events.max_rejected, e.rejects.total, e.rejects.read
    if not total:
        return
    reasons = "; ".join(f"{n:,} x {r}" for r, n in e.rejects.counts.most_common())
    over = total > limit * read
    yield Finding(
        "error" if over else "warning",
        "rejects",
        f"{total:,} of {read:,} rows ({percent(total / read)}) cannot be used: {reasons}",
        "events",
        f"this is more than max_rejected ({percent(limit)}): mend the rows, or raise it"
        if over
        else "they are set aside; look whether they are of one kind",
    )


def check_repeats(e: Evidence) -> Iterator[Finding]:
    """The same member, item and time again."""
    if e.repeats > REPEATED:
        yield Finding(
            "warning",
            "duplicate rows",
            f"{percent(e.repeats)} of the rows repeat the member, item and time of another row",
            "events.path",
            "if a row was logged twice, remove the copies: each counts again in the rates and in the tests",
        )


def check_order(e: Evidence) -> Iterator[Finding]:
    """Files that are not in time order."""
    if e.disorder:
        share = e.disorder / len(e.times)
        yield Finding(
            "note",
            "time order",
            f"{percent(share)} of the rows stand behind a row of a later time; they are sorted before use",
            "events.time",
        )


def check_moments(e: Evidence) -> Iterator[Finding]:
    """Events in the future, in the wrong unit, all at one moment, or with a long silence between."""
    t = e.sorted_times
    now = int(time.time() * SECOND)
    yield from _unit(e, now)
    future = len(t) - int(np.searchsorted(t, now + DAY))
    if 0 < future < len(t):
        yield Finding(
            "warning",
            "future",
            f"{future:,} events lie in the future, the last at {when(t[-1])}",
            "events.time",
            "a wrong clock or a default date; they are put into test as if they were the newest",
        )
    moments, counts = np.unique(t, return_counts=True)
    if counts.max() > max(20, SAME_MOMENT * len(t)):
        moment = when(moments[counts.argmax()])
        yield Finding(
            "warning",
            "equal times",
            f"{percent(counts.max() / len(t))} of the events share the time {moment}",
            "events.time",
            "the time of an import, not of the events? Events of one moment know nothing of each other",
        )
    yield from _gap(t)
    yield from _days_only(e)


def _unit(e: Evidence, now: int) -> Iterator[Finding]:
    middle = int(e.sorted_times[len(e.times) // 2])
    if PLAUSIBLE <= middle <= now + 365 * DAY:
        return
    unit = other_unit(e.raw_times, e.schema.events.time_unit, now)
    fix = f"set time_unit: {unit}" if unit else "is this the time of the event?"
    yield Finding(
        "error", "time unit", f"half of the events lie around {when(middle)}", "events.time_unit", fix
    )


def _gap(t: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Iterator[Finding]:
    span = int(t[-1] - t[0])
    if len(t) < 100 or span == 0:
        return
    gaps = np.diff(t)
    widest = int(gaps.argmax())
    if gaps[widest] > max(GAP * span, HOUR):
        wide = int(gaps[widest])
        length = f"{wide / DAY:.0f} days" if wide >= 2 * DAY else f"{wide / HOUR:.0f} hours"
        yield Finding(
            "warning",
            "gap",
            f"no event for {length} from {when(t[widest])}: {gaps[widest] / span:.0%} of the whole span",
            "events.time",
            "is a file missing, or are a few times wrong? Windows, ages and the split all stretch over it",
        )


def _days_only(e: Evidence) -> Iterator[Finding]:
    if bool((e.sorted_times % DAY == 0).all()):
        short = [a for a in e.schema.aggregates if a.delay in ("none", "hourly")]
        hint = "; the delays 'none' and 'hourly' then mean 'daily'" if short else ""
        if any(isinstance(f, Clock) for f in e.schema.features):
            hint += "; the clock's hour says nothing"
        text = f"all times are midnight: only the day is known{hint}"
        yield Finding("note", "days only", text, "events.time")


def check_zones(e: Evidence) -> Iterator[Finding]:
    """Texts with and without an offset mixed; times without a zone."""
    raw = e.raw_times.drop_nulls()
    if raw.dtype == pl.String:
        text = raw.str.strip_chars()
        zoned = float(text.str.contains(r"(Z|z|[+-]\d{2}:?\d{2})$").mean() or 0.0)  # type: ignore[arg-type]
        dated = float(text.str.contains(r"^\d{4}-\d{2}-\d{2}.\d{2}:\d{2}").mean() or 0.0)  # type: ignore[arg-type]
        if dated > 0 and 0 < zoned < 1:
            yield Finding(
                "warning",
                "time zone",
                f"{zoned:.0%} of the times name a zone and the others do not (they are read as UTC)",
                "events.time",
                "write all of them with an offset, or all in UTC",
            )
            return
        naive = zoned == 0 and dated > 0
    else:
        naive = isinstance(raw.dtype, pl.Datetime) and raw.dtype.time_zone is None
    if naive:
        yield Finding("note", "time zone", "the times name no zone and are read as UTC", "events.time")


def check_span(e: Evidence) -> Iterator[Finding]:
    """Delays and windows that do not fit the length of the log."""
    span = int(e.sorted_times[-1] - e.sorted_times[0])
    for i, a in enumerate(e.schema.aggregates):
        needed = {"daily": 3 * DAY, "hourly": 3 * HOUR}.get(a.delay, 0)
        if span < needed:
            yield Finding(
                "warning",
                "short log",
                f"with the delay {a.delay!r}, a log of {span / HOUR:.1f} hours gives most rows no past",
                f"aggregates.{i}.delay",
                "give more days, or a shorter delay",
            )
        if a.window is not None and a.window > span:
            text = f"the window {format_duration(a.window)} is longer than the log ({span / DAY:.1f} days)"
            yield Finding("note", "long window", text, f"aggregates.{i}.window")
