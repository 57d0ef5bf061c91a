"""Everything that the files say, put together: the columns' roles, the tasks, the features."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from memberwise.data.files import record_batches
from memberwise.data.times import parse_time
from memberwise.errors import DataError
from memberwise.schema import DAY, HOUR
from memberwise.starter import screen, words
from memberwise.starter.columns import Column, Table
from memberwise.starter.labels import Label, find_labels
from memberwise.starter.plan import Plan, Source, aggregates, feature, separator_of
from memberwise.starter.roles import Roles, find_roles
from memberwise.starter.signals import codes, determined
from memberwise.starter.tables import EntityFile, choose_log, match_entities, read_tables

_PAIR_ROWS = 1_000_000


@dataclass
class Findings:
    """What was found in the files.

    Attributes
    ----------
    sample : polars.DataFrame
        Rows of the log with a time, in time order.
    times : polars.Series
        Their microseconds.
    others
        Column of each entity beside member and item.
    """

    log: Table
    roles: Roles
    files: dict[str, EntityFile]
    labels: list[Label]
    sample: pl.DataFrame
    times: pl.Series
    others: dict[str, str] = field(default_factory=dict)
    plan: Plan = field(default_factory=Plan)
    notes: list[str] = field(default_factory=list)
    split: dict[str, Any] = field(default_factory=dict)
    split_comments: dict[str, str] = field(default_factory=dict)

    @property
    def negatives(self) -> bool:
        """Whether the log holds only positives."""
        return not self.labels

    @property
    def span(self) -> int:
        """Microseconds from the first event to the last."""
        return int(self.times[-1]) - int(self.times[0])

    @property
    def first(self) -> str:
        """Time of the first event."""
        return when(int(self.times[0]))

    @property
    def last(self) -> str:
        """Time of the last event."""
        return when(int(self.times[-1]))

    @property
    def delay(self) -> str:
        """The longest delay that leaves most of the log a past."""
        if self.span >= 14 * DAY:
            return "daily"
        return "hourly" if self.span >= 14 * HOUR else "none"

    @property
    def delay_reason(self) -> str:
        """Why this delay."""
        if self.delay == "daily":
            return (
                "'daily' is what a nightly job gives; 'hourly' or 'none' know more, if serving can keep up."
            )
        return (
            f"The log is short, so the delay is {self.delay!r}; with a longer log 'daily' is easier to serve."
        )


def when(us: int) -> str:
    """Microseconds as a date and time for people."""
    return str(dt.datetime(1970, 1, 1) + dt.timedelta(microseconds=us))[:16]


def find(
    files: str | Path | Sequence[str | Path],
    base: Path,
    given: Mapping[str, str | None],
    labels: Sequence[str],
) -> Findings:
    """Read the files and decide everything (see `memberwise.starter.propose`)."""
    notes: list[str] = []
    tables = read_tables(files, base)
    log = choose_log(tables, given)
    roles = find_roles(log, given)
    for name in labels:
        if name not in log.columns:
            raise DataError(
                f"there is no column {name!r} to be a label",
                where=log.where,
                fix=f"the table has: {', '.join(log.columns)}",
            )
    rest = [t for t in tables if t is not log]
    entity_files = match_entities(log, rest, {"member": roles.member, "item": roles.item}, notes)
    sample, times = _in_time_order(log, roles)
    taken = {roles.time, roles.member, roles.item, roles.request or ""}
    f = Findings(
        log,
        roles,
        {e.entity: e for e in entity_files},
        find_labels(log, taken, labels),
        sample,
        times,
        notes=notes,
    )
    f.others = {e.entity: e.column for e in entity_files if e.entity not in ("member", "item")}
    _plan(f)
    _split(f)
    _remark(f)
    return f


def _in_time_order(log: Table, roles: Roles) -> tuple[pl.DataFrame, pl.Series]:
    micros = parse_time(log.sample[roles.time], roles.unit).alias("__micros")
    ordered = log.sample.with_columns(micros).filter(pl.col("__micros").is_not_null())
    ordered = ordered.sort("__micros", maintain_order=True)
    return ordered.drop("__micros"), ordered["__micros"]


def _plan(f: Findings) -> None:
    sources = [*_event_sources(f), *_entity_sources(f)]
    features = _id_features(f)
    usable = []
    for source in sources:
        made = feature(source)
        if isinstance(made, str):
            f.plan.left_out.append((source.name, made))
            continue
        sign = separator_of(source)
        if sign is not None:
            f.notes.append(
                f"{source.name} looks like several values in one text, parted by {sign!r}: write them as "
                "a list column, then each is known by itself."
            )
        features.append((made[0], f"{made[1]}{_whose(source)}"))
        usable.append(source)
    features.append(_history(f))
    features.append(
        ({"kind": "clock"}, "hour of the day and day of the week, in UTC; set timezone if people share one")
    )
    f.plan.features = features
    keys = {c: f.log.columns[c].distinct for c in (f.roles.member, f.roles.item)}
    f.plan.aggregates = aggregates(
        f.roles.member, f.roles.item, usable, f.log.rows, keys, f.delay, _pairs_repeat(f)
    )


def _pairs_repeat(f: Findings) -> bool:
    """Whether members and items meet again, in at least a few in a hundred of the rows.

    All rows of some members are looked at: in every k-th row of the log such pairs would seem rare.
    """
    share = max(1, f.log.rows // _PAIR_ROWS)
    parts = []
    for batch in record_batches(list(f.log.files), [f.roles.member, f.roles.item]):
        parts.append(
            batch.filter(pl.col(f.roles.member).hash() % share == 0).select(pl.struct(pl.all()).hash())
        )
    pairs = pl.concat(parts).to_series()
    return pairs.n_unique() < 0.97 * len(pairs)


def _whose(source: Source) -> str:
    return (
        f"; follows from the {source.of}"
        if source.of in ("member", "item") and "." not in source.name
        else ""
    )


def _id_features(f: Findings) -> list[tuple[dict[str, Any], str]]:
    out = []
    for column in (f.roles.member, f.roles.item, *f.others.values()):
        c = f.log.columns[column]
        each = f.log.rows / max(1, c.distinct)
        entry: dict[str, Any] = {"kind": "categorical", "column": column}
        # Ids with a handful of rows are learned by heart: the aggregates know them better.
        least = 2 if each >= 50 else 5
        why = f"{c.facts()}, {each:,.0f} rows each on average; rarer ids are treated as unseen"
        if c.distinct > 1_000_000:
            entry |= {"encoding": "hash"}
            why = f"{c.facts()}; hashed, because there are so many"
        else:
            entry |= {"min_count": least}
        out.append((entry, why))
    return out


def _history(f: Findings) -> tuple[dict[str, Any], str]:
    entry: dict[str, Any] = {"kind": "history", "length": 20, "delay": f.delay}
    why = "the member's last events before the row, with what was done"
    if f.labels and max(label.share for label in f.labels) < 0.3:
        entry["where"] = " OR ".join(label.expression for label in f.labels)
        why = "the member's last positive events: most rows are not positive"
    return entry, why


def _event_sources(f: Findings) -> list[Source]:
    """Columns of the log that may become features; the others go to the list of those left out."""
    roles, out = f.roles, []
    taken = {roles.time, roles.member, roles.item, *f.others.values(), *(x.column for x in f.labels)}
    if roles.request is not None:
        taken.add(roles.request)
    y = {x.name: _label_values(f, x) for x in f.labels}
    items, members = codes(f.sample[roles.item]), codes(f.sample[roles.member])
    names = [n for n in f.log.columns if n not in taken]
    twins = screen.same_as(f.sample, [n for n in f.sample.columns if n != roles.time])
    for name in names:
        column, series = f.log.columns[name], f.sample[name]
        keys = None if column.kind == "other" else screen.keys_of(series, column)
        why = screen.useless(column)
        why = why or screen.follows_time(series, column, f.times)
        why = why or screen.after_the_event(series, column, y, f.times)
        if why is None and name in twins:
            why = f"it says the same as {twins[name]}"
        if why is None and f.negatives and keys is not None and screen.gives_away(keys, items):
            why = (
                "it varies with the item, and a drawn negative copies it from the event: it would give the "
                "answer away; if it describes the item, move it into a table of items"
            )
        if why is not None:
            f.plan.left_out.append((name, why))
            continue
        assert keys is not None
        of = "item" if determined(keys, items) else "member" if determined(keys, members) else "event"
        out.append(Source(name, of, column, series, f.log.rows))
    return out


def _label_values(f: Findings, label: Label) -> np.ndarray[Any, np.dtype[np.float64]]:
    value = f.sample.select(pl.sql_expr(label.expression).cast(pl.Float64).alias("y"))["y"]
    return value.fill_null(float("nan")).to_numpy()


def _entity_sources(f: Findings) -> list[Source]:
    """Columns of the entities' tables that may become features."""
    out = []
    for entity, file in f.files.items():
        for column in file.table.columns.values():
            if column.name == file.key:
                continue
            name = f"{entity}.{column.name}"
            why = _knows_the_future(column) or screen.useless(column)
            if why is not None:
                f.plan.left_out.append((name, why))
                continue
            out.append(Source(name, entity, column, file.table.sample[column.name], f.log.rows))
    return out


def _knows_the_future(column: Column) -> str | None:
    if column.kind not in ("int", "float"):
        return None
    named = words.stems(column.name)
    outcome = words.TOTALS | words.BINARY_OUTCOME
    if (named & outcome and named & words.COUNTED) or named & {"popularity", "ctr", "cvr"}:
        return (
            "it looks like a count of outcomes: made over the whole log, it knows the future; see aggregates"
        )
    return None


def _split(f: Findings) -> None:
    """Shares of the rows; where many rows share few moments, dates."""
    times = f.times.to_numpy()
    moments = np.unique(times)
    if len(moments) < 3:
        raise DataError(
            f"the events have {len(moments)} different time{'s' if len(moments) > 1 else ''} in all",
            where=f"{f.log.where}, column {f.roles.time!r}",
            fix="a log is split by time into train, valid and test: at least three moments are needed",
        )
    n = len(times)
    cuts = [int(times[min(round(n * share), n - 1)]) for share in (0.8, 0.9)]
    if times[0] < cuts[0] < cuts[1]:
        f.split = {"train": 0.8, "valid": 0.1}
        f.split_comments = {"train": f"up to about {when(cuts[0])}", "valid": f"up to about {when(cuts[1])}"}
        return
    # So many rows share a moment that the shares meet in it: cut between the last moments instead.
    last = [int(m) for m in moments[-2:]]
    f.split = {"valid_from": when(last[0]) + ":00", "test_from": when(last[1]) + ":00"}
    f.split_comments = {"valid_from": "dates, because so many rows share one time"}


def _remark(f: Findings) -> None:
    missing = f.log.sample.height - f.sample.height
    if missing:
        f.notes.append(f"{missing:,} sampled rows have no readable {f.roles.time}: they will be set aside.")
    for entity, column in (("member", f.roles.member), ("item", f.roles.item)):
        c = f.log.columns[column]
        if c.missing:
            f.notes.append(f"{c.missing:,} rows have no {column}: they will be set aside.")
        if c.distinct == 1:
            f.notes.append(f"There is only one {entity} in the log.")
    if f.negatives:
        f.notes.append(
            "No column says what was not chosen: negatives are drawn, see the section 'negatives'."
        )
    else:
        f.notes.append("Check the tasks: " + "; ".join(f"{x.name} = {x.expression}" for x in f.labels) + ".")
    if f.plan.left_out:
        n = len(f.plan.left_out)
        f.notes.append(f"{n} column{'s are' if n > 1 else ' is'} left out; the file says why.")
    if {"session", "cookie", "device"} & words.stems(f.roles.member):
        f.notes.append(
            f"{f.roles.member} stands for the member: who comes back under another one is not known."
        )
