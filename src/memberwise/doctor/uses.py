"""Which columns a project names, and under which key of the project file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from memberwise.data.events import is_entity_column, sql
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
