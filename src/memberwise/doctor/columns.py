"""Checks of single columns: empty, constant, of the wrong type, with too many values."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl

from memberwise.data.uses import Use, uses
from memberwise.doctor.evidence import Evidence
from memberwise.doctor.findings import Finding
from memberwise.errors import percent
from memberwise.schema import Age, Categorical, Numeric

MOSTLY_MISSING = 0.95
MANY_VALUES = 0.3
HASH_ABOVE = 1_000_000
UNREADABLE = 0.01
CUT_LISTS = 0.05


def check_values(e: Evidence) -> Iterator[Finding]:
    """Columns without a value, or with one value only."""
    for use in _read(e):
        series = e.series(use.column)
        if len(series) == 0:
            continue
        present = series.drop_nulls()
        if present.dtype == pl.String:
            present = present.filter(present != "")
        missing = 1 - len(present) / len(series)
        if len(present) == 0:
            text, fix = f"{use.column!r} has no value in any row", "take it out"
            yield Finding("warning", "all missing", text, use.where, fix)
        elif present.n_unique() == 1 and missing == 0:
            text = f"{use.column!r} has the same value in every row: {present[0]!r}"
            yield Finding(
                "warning", "constant", text, use.where, "take it out: it cannot tell anything apart"
            )
        elif missing > MOSTLY_MISSING:
            text = f"{use.column!r} has a value in {percent(1 - missing)} of the rows only"
            yield Finding("note", "mostly missing", text, use.where)


def _read(e: Evidence) -> list[Use]:
    """Each column that features and keys read, once."""
    found = {u.column: u for u in reversed(uses(e.schema)) if u.role in ("feature", "key")}
    ids = {x.id for x in e.schema.entities.values()}
    return [u for u in found.values() if u.column not in ids][::-1]


def check_types(e: Evidence) -> Iterator[Finding]:
    """Lists where one value is expected, texts where numbers or dates are, lists that are cut."""
    for i, f in enumerate(e.schema.features):
        where = f"features.{i}"
        match f:
            case Categorical():
                yield from _categorical(e, f, where)
            case Numeric():
                yield from _numeric(e, f, where)
            case Age():
                yield from _age(e, f, where)
            case _:
                pass


def _categorical(e: Evidence, f: Categorical, where: str) -> Iterator[Finding]:
    series = e.series(f.column)
    if not isinstance(series.dtype, pl.List | pl.Array):
        if f.max_values > 1:
            text = f"{f.column!r} holds one value, and max_values asks for {f.max_values}"
            yield Finding(
                "note", "single value", text, f"{where}.max_values", "write its values as a list column"
            )
        return
    if f.max_values == 1:
        text = f"{f.column!r} holds lists, and max_values is 1"
        yield Finding(
            "error", "list", text, f"{where}.max_values", "set max_values to how many values to keep"
        )
        return
    lists = series.cast(pl.List(series.dtype.inner)) if isinstance(series.dtype, pl.Array) else series
    long = float((lists.list.len() > f.max_values).mean() or 0.0)  # type: ignore[arg-type]
    if long > CUT_LISTS:
        text = f"{long:.0%} of the lists in {f.column!r} are longer than {f.max_values}; the rest is cut off"
        yield Finding("note", "cut lists", text, f"{where}.max_values", "raise max_values")


def _numeric(e: Evidence, f: Numeric, where: str) -> Iterator[Finding]:
    series = e.series(f.column)
    if series.dtype.is_nested():
        text = f"{f.column!r} holds {series.dtype}, a number is expected"
        yield Finding("error", "no number", text, f"{where}.column", "use a categorical or a vector feature")
        return
    present = series.drop_nulls()
    unread = float(present.cast(pl.Float64, strict=False).is_null().mean() or 0.0)  # type: ignore[arg-type]
    if unread > UNREADABLE:
        text = f"{unread:.0%} of the values of {f.column!r} are no numbers and would count as missing"
        fix = "make it a categorical feature, or mend the values"
        yield Finding("error" if unread > 0.5 else "warning", "no number", text, f"{where}.column", fix)


def _age(e: Evidence, f: Age, where: str) -> Iterator[Finding]:
    ages = e.ages(f.since)
    given = ~np.isnan(ages)
    raw = e.frame.moments(f.since)
    if not given.any():
        text = f"no value of {f.since!r} can be read as a date"
        yield Finding(
            "error", "no date", text, f"{where}.since", "write dates as timestamps or as 2024-01-31"
        )
        return
    present = float(e.series(f.since).is_not_null().mean() or 0.0)  # type: ignore[arg-type]
    if given.mean() < 0.9 * present and len(raw) == len(e.series(f.since)):
        text = f"only {given.mean() / present:.0%} of the values of {f.since!r} can be read as dates"
        yield Finding(
            "warning", "no date", text, f"{where}.since", "write dates as timestamps or as 2024-01-31"
        )
    late = float((ages[given] < 0).mean())
    if late > 0.01:
        yield Finding(
            "warning",
            "later date",
            f"{f.since!r} lies after the event in {late:.0%} of the rows: it was not known then",
            f"{where}.since",
            "take it out, or use a date that is known before the event",
        )


def check_cardinality(e: Evidence) -> Iterator[Finding]:
    """Categorical columns with so many values that hardly one returns, or that the table grows huge."""
    people = {e.schema.entities[n].id for n in ("member", "item")}
    for i, f in enumerate(e.schema.features):
        if not isinstance(f, Categorical) or f.encoding == "hash":
            continue
        if f.column in e.first_seen and len(e.first_seen[f.column]):
            counts, rows = e.first_seen[f.column]["rows"], len(e.times)
        elif f.max_values == 1 and not e.frame.is_list(f.column):
            counts, rows = pl.Series(np.bincount(e.codes(f.column))), len(e.frame)
        else:
            continue
        distinct, kept = len(counts), int((counts >= f.min_count).sum())
        if kept > HASH_ABOVE:
            text = f"{f.column!r} has {distinct:,} values, {kept:,} of them with an embedding of their own"
            fix = "set remainders: 1000 (two rows in place of one), or encoding: hash, or a higher min_count"
            yield Finding("note", "huge table", text, f"features.{i}", fix)
        if distinct > MANY_VALUES * rows and distinct > 100 and f.column not in people:
            text = f"{f.column!r} has {distinct:,} values in {rows:,} rows: hardly one returns"
            fix = "take it out, raise min_count, or set encoding: hash"
            yield Finding("warning", "too many values", text, f"features.{i}.column", fix)


def check_histories(e: Evidence) -> Iterator[Finding]:
    """Histories that no event enters."""
    for i, f in enumerate(e.schema.features):
        if f.kind == "history" and f.where is not None:
            flags = e.events[f"where:{f.name}"]
            if not flags.any():
                text = f"no event fulfils {f.where!r}: the history is always empty"
                yield Finding("warning", "empty history", text, f"features.{i}.where", "check the condition")
