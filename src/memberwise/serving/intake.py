"""Events that clients send: checked like a log, given a time, and written to the journal."""

from __future__ import annotations

import difflib
import time
from collections.abc import Sequence
from typing import Any

import polars as pl

from memberwise.data.events import EventChecker, Rejects
from memberwise.data.times import parse_time
from memberwise.errors import DataError, MemberwiseError
from memberwise.schema import Schema
from memberwise.serving.messages import Problem, Refused
from memberwise.serving.settings import ServingSettings

Event = dict[str, Any]
_NAMED = 20
"""Keys that nothing reads are named up to so many."""


def table(events: Sequence[Event], columns: Sequence[str], time_column: str) -> pl.DataFrame:
    """Events as a table with the columns of a log; one that an event does not have is null.

    Raises
    ------
    DataError
        If the values of a column are of kinds that do not fit together.
    """
    parts: dict[str, pl.Series] = {}
    for name in columns:
        values = [e.get(name) for e in events]
        if name == time_column:
            parts[name] = pl.Series(name, [None if v is None else str(v) for v in values], dtype=pl.String)
            continue
        try:
            parts[name] = pl.Series(name, values, strict=True)
        except (TypeError, pl.exceptions.PolarsError, OverflowError):
            if any(isinstance(v, list | dict) for v in values):
                raise DataError("values of different kinds", where=f"column {name!r}") from None
            texts = [None if v is None else str(v) for v in values]
            parts[name] = pl.Series(name, texts, dtype=pl.String)
    return pl.DataFrame(parts)


class Intake:
    """Checks events of clients before they are written.

    Parameters
    ----------
    schema
        The meaning of the log.
    settings
        Limits.
    """

    def __init__(self, schema: Schema, settings: ServingSettings) -> None:
        self.schema, self.settings = schema, settings
        self.checker = EventChecker(schema)
        self.time = schema.events.time

    def check(self, events: Sequence[Event]) -> list[Event]:
        """The events with a time each, as text with a zone; all are usable, or none is taken.

        Raises
        ------
        Refused
            422 names the first event that cannot be used, and why.
        """
        if not events:
            raise Refused(422, Problem("no events are given"))
        if len(events) > self.settings.max_events:
            raise Refused(422, Problem(f"{len(events):,} events, at most {self.settings.max_events:,}"))
        now = time.time_ns() // 1000
        timed = [{**e, self.time: self._stamp(e.get(self.time), i, now)} for i, e in enumerate(events)]
        try:
            rejects = Rejects()
            self.checker.check(table(timed, self.checker.columns, self.time), 0, rejects)
        except MemberwiseError as error:
            raise Refused(422, Problem.of(error)) from error
        if rejects.total and (bad := rejects.table()) is not None:
            row, reason = int(bad["source_row"][0]), bad["reason"][0]
            fix = f"none of the events was stored{self._expected(events[row])}"
            raise Refused(422, Problem(reason, where=f"event {row}", fix=fix))
        return timed

    def unread(self, events: Sequence[Event]) -> dict[str, str]:
        """Keys of events that nothing of the project reads, each with what may have been meant."""
        known = dict.fromkeys([*self.checker.columns, self.time])
        found: dict[str, str] = {}
        for event in events:
            for key in event:
                if key not in known and key not in found and len(found) < _NAMED:
                    near = difflib.get_close_matches(key, [k for k in known if k not in event], 1)
                    found[key] = f"did you mean {near[0]!r}?" if near else "not read by this project"
        return found

    def _expected(self, event: Event) -> str:
        """What an event that cannot be used lacks, and which of its keys may be meant by it."""
        missing = [c for c in self.checker.columns if event.get(c) is None and c != self.time]
        guesses = [f"{key!r}: {said}" for key, said in self.unread([event]).items() if "mean" in said]
        said = f". It has no {', '.join(map(repr, missing))}" if missing else ""
        return f"{said}; {'; '.join(guesses)}" if guesses else said

    def _no_time(self, i: int) -> Problem:
        unit = self.schema.events.time_unit
        fix = f"give {self.time!r} as a number in {unit} (events.time_unit) or as text: 2026-01-31T12:00:00Z"
        return Problem("time cannot be read", where=f"event {i}", fix=fix)

    def _stamp(self, value: Any, i: int, now: int) -> str:
        """The event's own time, or now, as text that every reader takes for the same moment."""
        us: int | None = now
        if value is None and self.settings.clock == "log":
            # Stamped by the wall clock, one event would carry a log of the past into the present.
            raise Refused(
                422,
                Problem(
                    "the event has no time, and the server runs on the clock of the log",
                    where=f"event {i}",
                    fix=f"give it the column {self.time!r}, or serve with --clock wall",
                ),
            )
        if value is not None:
            if isinstance(value, list | dict | bool):
                raise Refused(422, self._no_time(i))
            try:
                us = parse_time(pl.Series([value]), self.schema.events.time_unit)[0]
            except (OverflowError, TypeError, pl.exceptions.PolarsError):
                us = None
        if us is None:
            raise Refused(422, self._no_time(i))
        if us > now + self.settings.future * 1e6:
            raise Refused(422, Problem("the time lies in the future", where=f"event {i}"))
        return pl.Series([us]).cast(pl.Datetime("us")).dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ")[0]
