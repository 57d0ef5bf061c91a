"""Checks of the entities' tables and of requests: do the ids meet?"""

from __future__ import annotations

from collections.abc import Iterator

import polars as pl

from memberwise.doctor.evidence import Evidence
from memberwise.doctor.findings import Finding
from memberwise.errors import percent

UNKNOWN = 0.01
MOST_UNKNOWN = 0.5


def check_tables(e: Evidence) -> Iterator[Finding]:
    """Ids that stand twice in a table, and ids of the events that it does not know."""
    for name, table in e.tables.items():
        where = f"entities.{name}.path"
        if table.duplicates:
            text = f"{table.duplicates:,} rows of the table repeat an id; the last row of each counts"
            yield Finding("warning", "duplicate ids", text, where, "keep one row per id")
        if table.missing_ids:
            text = f"{table.missing_ids:,} rows of the table have no id and are never used"
            yield Finding("note", "missing ids", text, where)
        unknown = float((table.rows(e.frame.ids(name)) < 0).mean())
        if unknown > UNKNOWN:
            most = unknown > MOST_UNKNOWN
            examples = e.frame.events[e.schema.entities[name].id].filter(
                pl.Series(table.rows(e.frame.ids(name)) < 0)
            )
            told = ", ".join(repr(str(v)) for v in examples.unique(maintain_order=True).head(3))
            yield Finding(
                "error" if unknown == 1.0 else "warning",
                "unknown ids",
                f"the {name} of {percent(unknown)} of the events has no row in the table, such as {told}",
                where,
                "are the ids written alike (leading zeros, prefixes), and is 'key' the right column?"
                if most
                else "their columns count as missing; add the rows if they exist",
            )


def check_requests(e: Evidence) -> Iterator[Finding]:
    """Requests of one row each, or of several members."""
    request = e.schema.events.request
    if request is None or request not in e.events.columns:
        return
    head = e.events.head(50_000)
    member = e.schema.entities["member"].id
    groups = head.group_by(request).agg(pl.len().alias("rows"), pl.col(member).n_unique().alias("members"))
    if len(head) == len(e.times) and float((groups["rows"] == 1).mean() or 0.0) > 0.9:  # type: ignore[arg-type]
        text = f"{request!r} groups hardly any rows: nine in ten requests have one row"
        yield Finding("warning", "requests", text, "events.request", "name the id of what was shown together")
    mixed = float((groups["members"] > 1).mean() or 0.0)  # type: ignore[arg-type]
    if request != member and mixed > 0.01:
        text = f"{mixed:.0%} of the requests have rows of several members"
        yield Finding("warning", "requests", text, "events.request", "a request belongs to one member")
