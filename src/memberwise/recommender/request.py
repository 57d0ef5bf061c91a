"""The rows of one request: a member, candidates, a moment and its context."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import polars as pl

from memberwise.data.events import TIME, is_entity_column
from memberwise.errors import DataError
from memberwise.schema import Schema, feature_columns


def candidates(items: Sequence[str | int]) -> pl.Series:
    """Ids to rank, as text.

    Raises
    ------
    DataError
        If there is nothing to rank, or an id is no id.
    """
    if len(items) == 0:
        raise DataError("no items are given to rank")
    if isinstance(items, str):
        raise DataError(f"items is one text, {items!r}", fix=f"pass a list: items=[{items!r}]")
    return pl.Series("item", [as_id(i, "items") for i in items])


def nothing() -> NoReturn:
    """Say that there is nothing to choose candidates from."""
    raise DataError(
        "no items are given, and the project has no item table",
        fix="pass items=[...]; on the command line: --item ID",
    )


def rows(
    schema: Schema, member: str | int, items: pl.Series, moment: int, context: dict[str, Any]
) -> pl.DataFrame:
    """One row per candidate, without labels.

    Parameters
    ----------
    schema
        The meaning of the columns.
    member, items
        Who, and what is ranked.
    moment
        Microseconds.
    context
        Other event columns that features read: one value, or one per item (a flat list for a list column is
        one value).

    Raises
    ------
    DataError
        If a column is missing or has the wrong number of values.
    """
    n = len(items)
    columns: dict[str, Any] = {TIME: np.full(n, moment, np.int64)}
    context[schema.entities["member"].id] = as_id(member, "member")
    context[schema.entities["item"].id] = items
    lists = {f.column for f in schema.features if f.kind == "categorical" and f.max_values > 1}
    for name in needed_columns(schema):
        if name not in context:
            raise DataError(
                f"a feature reads the event column {name!r}",
                where="context",
                fix=f"pass context={{{name!r}: ...}}; on the command line: --context '{{\"{name}\": ...}}'",
            )
        value = context[name]
        one = not isinstance(value, pl.Series | list | np.ndarray) or (name in lists and _flat(value))
        columns[name] = [value] * n if one else value
        if len(columns[name]) != n:
            raise DataError(
                f"{len(columns[name])} values of {name!r} for {n} items",
                where="context",
                fix="pass one value for all, or a list with one per item (of lists, for a list column)",
            )
    return pl.DataFrame(columns, strict=False)


def needed_columns(schema: Schema) -> list[str]:
    """Event columns that scoring reads (what only aggregates count is not among them)."""
    looked_up = {"member", "item", *(f.entity for f in schema.features if f.kind == "vector" and f.entity)}
    wanted = [e.id for n, e in schema.entities.items() if n in looked_up or e.path is not None]
    wanted += [c for f in schema.features for c in feature_columns(f) if f.kind != "history"]
    wanted += [c for a in schema.aggregates for c in a.by]
    return [c for c in dict.fromkeys(wanted) if not is_entity_column(schema, c)]


def _flat(value: Any) -> bool:
    """Whether a list holds plain values: one value of a list column, not one per item."""
    return isinstance(value, list) and not any(v is None or isinstance(v, list | tuple) for v in value)


def as_id(value: Any, where: str) -> str:
    """An id as text.

    Raises
    ------
    DataError
        If the value is no id.
    """
    whole = isinstance(value, float) and value.is_integer()
    text = "" if value is None or value != value else str(int(value) if whole else value)
    if not text or any("\ud800" <= letter <= "\udfff" for letter in text):
        raise DataError(
            f"{value!r} is not an id", where=where, fix="pass text that is not empty, or a number"
        )
    return text
