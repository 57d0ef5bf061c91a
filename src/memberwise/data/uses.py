"""Which columns a project names, and under which key of the project file."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from memberwise.data.events import is_entity_column, sql
from memberwise.errors import DataError
from memberwise.schema import Age, Categorical, Clock, History, Numeric, Schema, Vector

Role = Literal["time", "id", "request", "label", "mask", "weight", "feature", "key", "past", "within"]
"""``feature`` and ``key`` are read at the row's own time; ``past`` only from earlier events."""


@dataclass(frozen=True)
class Use:
    """One place in a project that names a column.

    Attributes
    ----------
    where
        Key of the project file.
    column
        As named there.
    task
        The task whose expression it is, for labels, masks and weights.
    """

    where: str
    column: str
    role: Role
    task: str = ""


def uses(schema: Schema) -> list[Use]:
    """All places that name a column, in the order of the file.

    Raises
    ------
    ConfigError
        If an expression is not SQL.
    """
    return [*_roles(schema), *_tasks(schema), *_features(schema), *_aggregates(schema)]


def _roles(schema: Schema) -> Iterator[Use]:
    yield Use("events.time", schema.events.time, "time")
    if schema.events.request is not None:
        yield Use("events.request", schema.events.request, "request")
    for name, entity in schema.entities.items():
        yield Use(f"entities.{name}.id", entity.id, "id")
    for i, column in enumerate(schema.negatives.within if schema.negatives else []):
        yield Use(f"negatives.within.{i}", column, "within")


def _tasks(schema: Schema) -> Iterator[Use]:
    for i, task in enumerate(schema.tasks):
        parts: list[tuple[Role, str | float | None]] = [
            ("label", task.label),
            ("mask", task.mask),
            ("weight", task.weight),
        ]
        for role, expression in parts:
            if isinstance(expression, str):
                where = f"tasks.{i}.{role}"
                for column in dict.fromkeys(sql(expression, where).meta.root_names()):
                    yield Use(where, column, role, task.name)
        for column in task.percentile.within if task.percentile is not None else []:
            yield Use(f"tasks.{i}.percentile.within", column, "within")


def _features(schema: Schema) -> Iterator[Use]:
    for i, f in enumerate(schema.features):
        where = f"features.{i}"
        match f:
            case Categorical() | Numeric():
                yield Use(f"{where}.column", f.column, "feature")
            case Age():
                yield Use(f"{where}.since", f.since, "feature")
            case Vector():
                if f.column is not None:
                    yield Use(f"{where}.column", f"{f.entity}.{f.column}", "feature")
            case History():
                for key, column in (("item", f.item), ("action", f.action)):
                    if column is not None:
                        yield Use(f"{where}.{key}", column, "past")
                if f.where is not None:
                    for column in dict.fromkeys(sql(f.where, f"{where}.where").meta.root_names()):
                        yield Use(f"{where}.where", column, "past")
            case Clock():
                pass


def _aggregates(schema: Schema) -> Iterator[Use]:
    for i, a in enumerate(schema.aggregates):
        for column in a.by:
            yield Use(f"aggregates.{i}.by", column, "key")
        for column in a.means:
            yield Use(f"aggregates.{i}.means", column, "past")
        for column in a.distinct:
            yield Use(f"aggregates.{i}.distinct", column, "past")


def in_events(schema: Schema, use: Use) -> bool:
    """Whether the column stands in the event log, not in an entity's table."""
    return use.role in ("time", "id", "request", "label", "mask", "weight", "within") or not is_entity_column(
        schema, use.column
    )


def nearest(column: str, have: Sequence[str]) -> str:
    """What to do about a column that is not there: the name that may be meant, else all there are."""
    close = difflib.get_close_matches(column, have, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"the table has: {', '.join(have)}"


def need_event_columns(
    schema: Schema, wanted: Iterable[str], have: Sequence[str], table: str, *, own: bool
) -> None:
    """Refuse events that lack columns which the project reads.

    Parameters
    ----------
    schema
        Whose keys name the columns.
    wanted, have
        Columns that are read, and those that are there.
    table
        What the events are called in the message.
    own
        Whether these are the project's own events: then a key of the project is wrong, else the table is.

    Raises
    ------
    DataError
        Names the first column, the key of the project file that asks for it, and the nearest there is.
    """
    missing = [c for c in dict.fromkeys(wanted) if c not in have]
    if not missing:
        return
    named = [use for use in uses(schema) if use.column in missing]
    first, key = (named[0].column, named[0].where) if named else (missing[0], "events.path")
    others = [repr(c) for c in missing if c != first]
    what = f"column {first!r} missing in {table}" + (f", and {', '.join(others)}" if others else "")
    if own:
        raise DataError(what, where=key, fix=nearest(first, have))
    raise DataError(f"{what}: the project reads it ({key})", fix=nearest(first, have))


def need_table_columns(schema: Schema, entity: str, key: str, have: Sequence[str]) -> None:
    """Refuse an entity's table that lacks its id or a column which the project reads.

    Raises
    ------
    DataError
        As `need_event_columns`.
    """
    wanted = [Use(f"entities.{entity}.{'key' if schema.entities[entity].key else 'id'}", key, "id")]
    for use in uses(schema):
        owner, _, column = use.column.partition(".")
        if owner == entity and not in_events(schema, use):
            wanted.append(Use(use.where, column, use.role))
    for use in wanted:
        if use.column not in have:
            raise DataError(
                f"column {use.column!r} missing in the table of entity {entity!r}",
                where=use.where,
                fix=nearest(use.column, have),
            )
