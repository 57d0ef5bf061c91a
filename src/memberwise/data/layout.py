"""What a batch holds and where: the compiled form of a schema's features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memberwise.data.normalise import DenseColumn
from memberwise.data.vocabulary import HASH_PARTS
from memberwise.schema import (
    Age,
    Aggregate,
    Categorical,
    Clock,
    History,
    Numeric,
    Schema,
    Vector,
    feature_name,
)


@dataclass(frozen=True)
class Table:
    """An embedding table that one or several fields look up.

    Attributes
    ----------
    dim
        Width, None for the ranker's default.
    """

    name: str
    encoding: str = "vocabulary"
    min_count: int = 1
    remainders: int | None = None
    dim: int | None = None

    @property
    def parts(self) -> int:
        """Rows of the table that make up a value in a batch."""
        return HASH_PARTS if self.encoding == "hash" else 1


@dataclass(frozen=True)
class IdField:
    """A categorical feature: columns ``[start, start + width)`` of the batch's ids.

    A field of several values is padded with -1. Each value takes `parts` columns: one, or four where the
    table is hashed (`memberwise.data.vocabulary`).
    """

    name: str
    table: str
    start: int
    width: int
    parts: int = 1

    @property
    def values(self) -> int:
        """How many values it has at most."""
        return self.width // self.parts


@dataclass(frozen=True)
class HistoryField:
    """A history: items, actions and ages of the last `length` events; an item takes `parts` columns."""

    name: str
    length: int
    item_table: str
    action_table: str
    encoder: str
    parts: int = 1


@dataclass(frozen=True)
class VectorField:
    """A vector per entity; the batch carries the values.

    Attributes
    ----------
    by
        Columns whose values name the entity: one id column, or several for a combined key.
    made
        By the project itself: rows are looked up again when the vectors change.
    """

    name: str
    by: tuple[str, ...]
    made: bool = False


@dataclass(frozen=True)
class Layout:
    """All parts of a batch, in order."""

    tasks: tuple[str, ...]
    tables: tuple[Table, ...]
    ids: tuple[IdField, ...]
    dense: tuple[DenseColumn, ...]
    histories: tuple[HistoryField, ...]
    vectors: tuple[VectorField, ...]

    @property
    def id_columns(self) -> int:
        """Width of the batch's ids."""
        return sum(f.width for f in self.ids)

    def table(self, name: str) -> Table:
        """A table by name."""
        return next(t for t in self.tables if t.name == name)


def compile_layout(schema: Schema, aggregate_columns: Sequence[tuple[Aggregate, Sequence[str]]]) -> Layout:
    """Lay out the features of a schema.

    Parameters
    ----------
    schema
        The meaning of the log.
    aggregate_columns
        Each aggregate with the names of the dense columns it makes.
    """
    tables: dict[str, Table] = {}
    ids: list[IdField] = []
    dense: list[DenseColumn] = []
    histories: list[HistoryField] = []
    vectors: list[VectorField] = []

    def field(name: str, table: Table, width: int) -> None:
        tables.setdefault(table.name, table)
        ids.append(IdField(name, table.name, sum(f.width for f in ids), width * table.parts, table.parts))

    for f in schema.features:
        name = feature_name(f)
        match f:
            case Categorical():
                table = Table(f.table or name, f.encoding, f.min_count, f.remainders, f.dim)
                field(name, table, f.max_values)
            case Clock():
                field(f"{name}.hour", Table(f"{name}.hour"), 1)
                field(f"{name}.weekday", Table(f"{name}.weekday"), 1)
            case Numeric():
                dense.append(DenseColumn(name, f.transform, indicator=True))
            case Age():
                dense.append(DenseColumn(name, indicator=True))
            case Vector():
                by = tuple(f.by) if f.entity is None else (schema.entities[f.entity].id,)
                vectors.append(VectorField(name, by, made=f.made_by is not None))
            case History():
                item_table = _table_of_column(schema, f.item or schema.entities["item"].id) or Table(
                    f"{name}.item", min_count=2
                )
                tables.setdefault(item_table.name, item_table)
                action_table = Table(f"{name}.action")
                tables.setdefault(action_table.name, action_table)
                names = item_table.name, action_table.name
                histories.append(HistoryField(name, f.length, *names, f.encoder, item_table.parts))
    for aggregate, columns in aggregate_columns:
        # Only recency, and a mean before the first value, can be missing.
        for column in columns:
            missing = aggregate.recency and column.endswith("since last")
            dense.append(DenseColumn(column, indicator=missing))
    return Layout(
        schema.task_names, tuple(tables.values()), tuple(ids), tuple(dense), tuple(histories), tuple(vectors)
    )


def _table_of_column(schema: Schema, column: str) -> Table | None:
    """The table of the feature that looks up this column, so that a history shares its embeddings."""
    for f in schema.features:
        if isinstance(f, Categorical) and f.column == column:
            return Table(f.table or feature_name(f), f.encoding, f.min_count, f.remainders, f.dim)
    return None
