"""A log and what is read of it, whole, and checked for what does not fit together."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Self

from pydantic import Field, PrivateAttr, model_validator

from memberwise.schema.aggregates import Aggregate, aggregate_name
from memberwise.schema.basics import Model
from memberwise.schema.features import Categorical, Feature, Vector, feature_columns, feature_name
from memberwise.schema.log import Entity, Events, Negatives, Split, Task

_BATCH_PARTS = ("ids", "dense", "labels", "weights", "time", "member", "item", "request", "scores")
_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_\-]*$")


class Schema(Model):
    """The meaning of a log, whole."""

    name: str = "project"
    events: Events
    entities: dict[str, Entity] = Field(description="'member' and 'item', and any other.")
    tasks: list[Task] = Field(min_length=1)
    features: list[Feature] = Field([])
    aggregates: list[Aggregate] = Field([])
    negatives: Negatives | None = None
    split: Split = Split()
    seed: int = Field(0, ge=0)
    _forgotten: frozenset[int] = PrivateAttr(frozenset())

    @property
    def forgotten(self) -> frozenset[int]:
        """Hashed ids of members whose events are left out wherever they are read."""
        return self._forgotten

    def leave_out(self, members: Iterable[int]) -> None:
        """Leave the events of these members out from now on; settings stay as they are."""
        self._forgotten = frozenset(int(m) for m in members)

    @model_validator(mode="after")
    def _check(self) -> Self:
        for needed in ("member", "item"):
            if needed not in self.entities:
                raise ValueError(f"entities: '{needed}' is missing; say which column holds its id")
        for entity in self.entities:
            if not _NAME.match(entity):
                raise ValueError(f"entities: {entity!r} is not a plain name (letters, digits, _)")
        if not self.name.strip(". ") or set(self.name) & set("/\\\0"):
            raise ValueError(f"name: {self.name!r} cannot be the name of a directory")
        _unique("tasks", [t.name for t in self.tasks])
        for task in self.tasks:
            if not _NAME.match(task.name):
                raise ValueError(f"tasks: {task.name!r} is not a plain name (letters, digits, _)")
            if task.percentile is not None and self.negatives is not None:
                raise ValueError(f"tasks: {task.name!r} has a percentile, and drawn negatives have no number")
        _unique("features", [feature_name(f) for f in self.features])
        _unique("aggregates", [aggregate_name(a) for a in self.aggregates])
        if not self.features and not self.aggregates:
            raise ValueError("no 'features' and no 'aggregates': a ranker needs something to look at")
        self._check_references()
        return self

    def _check_references(self) -> None:
        tasks = {t.name for t in self.tasks}
        for a in self.aggregates:
            for rate in a.rates or []:
                if rate not in tasks:
                    raise ValueError(f"aggregate {aggregate_name(a)}: 'rates' names {rate!r}, not a task")
        columns = [c for f in self.features for c in feature_columns(f)]
        columns += [c for a in self.aggregates for c in (*a.by, *a.means, *a.distinct)]
        columns += [c for t in self.tasks if t.percentile is not None for c in t.percentile.within]
        for column in columns:
            entity, dot, _ = column.partition(".")
            if dot and entity in self.entities and self.entities[entity].path is None:
                raise ValueError(f"column {column!r}: entity '{entity}' has no 'path' to a table")
        for f in self.features:
            if isinstance(f, Vector) and f.entity is not None and f.entity not in self.entities:
                raise ValueError(f"feature {feature_name(f)}: {f.entity!r} is not an entity")
            if isinstance(f, Vector) and f.name in _BATCH_PARTS:
                raise ValueError(f"feature {f.name}: every batch has a part of this name; choose another")
        tables: dict[str, tuple[Any, ...]] = {}
        for f in self.features:
            if isinstance(f, Categorical):
                table = f.table or feature_name(f)
                shape = (f.encoding, f.dim, f.min_count, f.remainders)
                if tables.setdefault(table, shape) != shape:
                    raise ValueError(
                        f"feature {feature_name(f)}: shares table {table!r} but differs in encoding, dim, "
                        "min_count or remainders"
                    )

    @property
    def task_names(self) -> tuple[str, ...]:
        """Names of the tasks, in order."""
        return tuple(t.name for t in self.tasks)


def _unique(what: str, names: list[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{what}: {name!r} stands twice; give one of them another 'name'")
        seen.add(name)
