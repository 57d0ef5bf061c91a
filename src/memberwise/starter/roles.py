"""Which column is the time, the member, the item, the request: by name first, then by what it holds."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import polars as pl

from memberwise.data.times import parse_time
from memberwise.errors import DataError
from memberwise.starter import words
from memberwise.starter.columns import Column, Table
from memberwise.starter.signals import codes, determined

Unit = Literal["s", "ms", "us", "ns"]
UNITS: tuple[Unit, ...] = ("s", "ms", "us", "ns")
_EARLIEST = dt.datetime(1990, 1, 1)


@dataclass(frozen=True)
class Roles:
    """The columns that a log cannot do without, and why they were chosen."""

    time: str
    unit: Unit
    member: str
    item: str
    request: str | None
    reasons: Mapping[str, str]


def guess_unit(values: pl.Series) -> Unit | None:
    """The unit in which numbers are times after 1990 and not in the future; None if there is none."""
    numbers = values.drop_nulls()
    for unit in UNITS:
        if len(numbers) and plausible(parse_time(numbers, unit)):
            return unit
    return None


def plausible(micros: pl.Series) -> bool:
    """Whether nearly all of these microseconds lie between 1990 and next year."""
    latest = dt.datetime.now() + dt.timedelta(days=366)
    low, high = (int((t - dt.datetime(1970, 1, 1)).total_seconds() * 1e6) for t in (_EARLIEST, latest))
    share = micros.is_between(low, high).fill_null(False).mean()
    return share is not None and float(share) >= 0.99  # type: ignore[arg-type]


def moments(table: Table, name: str, unit: Unit = "s") -> pl.Series:
    """A column of the sample as microseconds since 1970."""
    return parse_time(table.sample[name], unit)


def time_candidates(table: Table) -> dict[str, tuple[float, Unit]]:
    """Columns that could be the time of the event, with a score and a unit."""
    found: dict[str, tuple[float, Unit]] = {}
    for column in table.columns.values():
        unit: Unit | None = "s"
        if column.missing_share > 0.05 or column.kind not in ("time", "date", "text", "int", "float"):
            continue
        named = max((words.TIME.get(t, 0.0) for t in words.tokens(column.name)), default=0.0)
        if column.kind in ("int", "float"):
            # A number is a time only if its name says so: ids are large numbers too.
            unit = guess_unit(table.sample[column.name]) if named and not words.is_id(column.name) else None
        elif column.kind == "text":
            probe = table.sample[column.name].drop_nulls().head(1000)
            readable = not probe.cast(pl.Float64, strict=False).is_not_null().any()
            unit = "s" if readable and plausible(parse_time(probe, "s")) else None
        if unit is None:
            continue
        score = named + {"time": 3.0, "text": 2.0, "date": 1.5}.get(column.kind, 1.0)
        if words.NOT_TIME & set(words.tokens(column.name)):
            score -= 4.0
        score += 2.0 * bool(moments(table, column.name, unit).is_sorted()) * (column.distinct > 1)
        score += min(1.0, 2.0 * column.distinct / column.rows)
        found[column.name] = (score, unit)
    return found


def _can_be_id(column: Column) -> bool:
    return column.kind in ("int", "text") and column.missing_share < 0.5 and column.distinct > 0


def id_scores(table: Table, names: Mapping[str, float]) -> dict[str, float]:
    """Columns that the words call an id, best first."""
    scores = {c.name: words.called(c.name, dict(names)) for c in table.columns.values() if _can_be_id(c)}
    ordered = sorted((s, n) for n, s in scores.items() if s > 0)
    return {n: s for s, n in reversed(ordered)}


def find_roles(table: Table, given: Mapping[str, str | None]) -> Roles:
    """Choose the columns of a log.

    Parameters
    ----------
    given
        Columns that the caller names for ``time``, ``member``, ``item`` or ``request``.

    Raises
    ------
    DataError
        If the time, the member or the item cannot be found.
    """
    for role, name in given.items():
        if name is not None and name not in table.columns:
            raise DataError(
                f"there is no column {name!r} to be the {role}",
                where=table.where,
                fix=f"the table has: {', '.join(table.columns)}",
            )
    reasons: dict[str, str] = {}
    time, unit = _find_time(table, given.get("time"), reasons)
    taken = {time}
    item = given.get("item") or _best(table, words.ITEM, taken | {given.get("member") or ""})
    member = given.get("member") or _best(table, words.MEMBER, taken | {item or ""})
    # One of the two is known by name: the only other id-like column must be the other.
    if member is None or item is None:
        rest = [c.name for c in table.columns.values() if _can_be_id(c) and words.is_id(c.name)]
        rest = [n for n in rest if n not in {time, member, item}]
        rest = [
            n for n in rest if not words.called(n, words.REQUEST) and table.columns[n].distinct < table.rows
        ]
        if len(rest) == 1 and (member or item):
            reasons["member" if member is None else "item"] = "the only other column named like an id"
            member, item = member or rest[0], item or rest[0]
    for role, found in (("member", member), ("item", item)):
        if found is None:
            who = "whom to rank for" if role == "member" else "what is ranked"
            raise DataError(
                f"no column could be recognised as the {role}'s id ({who})",
                where=table.where,
                fix=f"say which with --{role} COLUMN (in Python: {role}=...); "
                f"the table has: {', '.join(table.columns)}",
            )
        reasons.setdefault(role, "named by you" if given.get(role) else "by its name")
    assert member is not None
    assert item is not None
    request = given.get("request") or _find_request(table, member, {time, member, item})
    return Roles(time, unit, member, item, request, reasons)


def _find_time(table: Table, given: str | None, reasons: dict[str, str]) -> tuple[str, Unit]:
    if given is not None:
        column = table.columns[given]
        numeric = column.kind in ("int", "float")
        unit = guess_unit(table.sample[given]) if numeric else "s"
        if unit is None or moments(table, given, unit).null_count() == len(table.sample):
            raise DataError(
                f"column {given!r} cannot be read as a time",
                where=table.where,
                fix="use a timestamp, ISO 8601 text, or seconds, milliseconds, ... since 1970",
            )
        reasons["time"] = "named by you"
        return given, unit
    candidates = time_candidates(table)
    if not candidates:
        raise DataError(
            "no column could be recognised as the time of the event",
            where=table.where,
            fix="memberwise learns from the past only, so each event needs a time: say which column it is "
            f"with --time COLUMN (in Python: time=...); the table has: {', '.join(table.columns)}",
        )
    name = max(candidates, key=lambda n: candidates[n][0])
    others = [n for n in candidates if n != name]
    reasons["time"] = f"chosen before {', '.join(others)}" if others else "the only time in the table"
    return name, candidates[name][1]


def _best(table: Table, names: Mapping[str, float], taken: set[str]) -> str | None:
    scores = {n: s for n, s in id_scores(table, names).items() if n not in taken}
    # Weak words (device, page) name an id only where they end like one or have an id's many values.
    scores = {n: s for n, s in scores.items() if s > 1.0 or table.columns[n].distinct >= 100}
    if not scores:
        return None
    top = max(scores.values())
    # Of equally good names the one with more values: "campaign_id" is not what "ad_id" is.
    return max((n for n, s in scores.items() if s == top), key=lambda n: table.columns[n].distinct)


def _find_request(table: Table, member: str, taken: set[str]) -> str | None:
    """A column named like a request whose rows belong to one member and stand together."""
    scores = {n: s for n, s in id_scores(table, words.REQUEST).items() if n not in taken}
    head = table.head
    for name in scores:
        rows_each = head.height / max(1, head[name].n_unique())
        if rows_each >= 1.2 and determined(codes(head[member]), codes(head[name])):
            return name
    return None
