"""Checks of names alone, before any row is read: files, columns, and what must not be a feature."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from zoneinfo import available_timezones

from memberwise.data.entities import EntityEmbeddings
from memberwise.data.files import column_names
from memberwise.data.uses import Use, in_events, nearest, uses
from memberwise.doctor.findings import Finding
from memberwise.errors import MemberwiseError
from memberwise.schema import Clock, Schema, Vector


def refused(error: MemberwiseError, where: str) -> Finding:
    """What loading would refuse, as a finding."""
    at = error.where or where
    return Finding("error", "refused", error.what, at, error.fix or "mend it and run the doctor again")


def check_names(schema: Schema, base: Path) -> Iterator[Finding]:
    """Files that cannot be opened, columns that are not there, labels that are features."""
    try:
        named = uses(schema)
    except MemberwiseError as error:
        yield refused(error, "tasks")
        return
    yield from _missing_in_events(schema, base, named)
    yield from _missing_in_tables(schema, base, named)
    yield from _labels_as_features(named)
    yield from _vectors_and_zones(schema, base)


def _missing_in_events(schema: Schema, base: Path, named: list[Use]) -> Iterator[Finding]:
    try:
        have = column_names(schema.events.path, base)
    except MemberwiseError as error:
        yield refused(error, "events.path")
        return
    for use in named:
        if in_events(schema, use) and use.column not in have:
            yield _not_there(use, use.column, have, "the events")


def _missing_in_tables(schema: Schema, base: Path, named: list[Use]) -> Iterator[Finding]:
    for name, entity in schema.entities.items():
        if entity.path is None:
            continue
        try:
            have = column_names(entity.path, base)
        except MemberwiseError as error:
            yield refused(error, f"entities.{name}.path")
            continue
        if entity.table_key not in have:
            use = Use(f"entities.{name}.key", entity.table_key, "id")
            yield _not_there(use, entity.table_key, have, f"the table of entity '{name}'")
        for use in named:
            owner, _, column = use.column.partition(".")
            if not in_events(schema, use) and owner == name and column not in have:
                yield _not_there(use, column, have, f"the table of entity '{name}'")


def _not_there(use: Use, column: str, have: list[str], table: str) -> Finding:
    return Finding(
        "error", "missing column", f"{table} has no column {column!r}", use.where, nearest(column, have)
    )


def _labels_as_features(named: list[Use]) -> Iterator[Finding]:
    """A column of a label's own expression, read at the row's own time, is the answer."""
    labels = {use.column: use.task for use in named if use.role == "label"}
    for use in named:
        if use.role in ("feature", "key") and use.column in labels:
            yield Finding(
                "error",
                "label as feature",
                f"{use.column!r} is what the label of {labels[use.column]} is made of",
                use.where,
                "take it out: the ranker would read the answer. History and the rates of aggregates use the "
                "labels of earlier events without this",
            )


def _vectors_and_zones(schema: Schema, base: Path) -> Iterator[Finding]:
    """Files of vectors that cannot be read, and time zones that do not exist."""
    for i, f in enumerate(schema.features):
        if isinstance(f, Vector) and f.path is not None:
            try:
                vectors = EntityEmbeddings.read(base / f.path)
            except MemberwiseError as error:
                yield refused(error, f"features.{i}.path")
                continue
            if vectors.entity != f.entity:
                text = f"the vectors are of {vectors.entity!r}, not of {f.entity!r}"
                yield Finding(
                    "error", "refused", text, f"features.{i}.entity", "name the other entity or file"
                )
        if isinstance(f, Clock) and f.timezone not in available_timezones():
            close = difflib.get_close_matches(f.timezone, sorted(available_timezones()), n=1)
            hint = f"did you mean {close[0]!r}?" if close else "write it like Europe/Amsterdam"
            text = f"{f.timezone!r} is not a time zone"
            yield Finding("error", "refused", text, f"features.{i}.timezone", hint)
