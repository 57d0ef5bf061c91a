"""A chunk of events joined with the entities' tables: any column by name, hashed or as numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from memberwise.data.events import TIME
from memberwise.data.files import need_columns, read_table
from memberwise.data.hashing import U64, HashIndex, hash_lists, hash_values
from memberwise.data.pending import NEVER
from memberwise.data.times import I64, YEAR_ONE, parse_time
from memberwise.data.uses import need_table_columns
from memberwise.errors import DataError
from memberwise.schema import Schema

F32 = npt.NDArray[np.float32]
Ragged = tuple[U64, I64]
"""Flat hashes and offsets [n + 1]."""


class EntityTable:
    """The table of one entity, each column hashed or parsed once and then gathered by row.

    Parameters
    ----------
    name
        The entity.
    table : polars.DataFrame
        One row per id. Of two rows with the same id, the last counts.
    key
        Id column.
    """

    def __init__(self, name: str, table: pl.DataFrame, key: str) -> None:
        need_columns(table.columns, [key], where=f"the table of entity '{name}'")
        self.name = name
        hashed = hash_values(table[key])
        self.missing_ids = int((hashed == 0).sum())
        last = pl.DataFrame({"h": hashed, "row": np.arange(len(hashed))}).filter(pl.col("h") != 0)
        last = last.unique("h", keep="last", maintain_order=True)
        self.duplicates = len(hashed) - self.missing_ids - len(last)
        self.table = table[last["row"].to_numpy()]
        self.ids = self.table[key]
        self._index = HashIndex(last["h"].to_numpy())
        self._lists: dict[tuple[str, int], Ragged] = {}
        self._numbers: dict[str, npt.NDArray[np.float64]] = {}
        self._values: dict[str, U64] = {}
        self._times: dict[str, I64] = {}

    def __len__(self) -> int:
        return len(self.table)

    def rows(self, ids: U64) -> npt.NDArray[np.int32]:
        """Row of each id, -1 where the table does not know it."""
        return self._index.find(ids)

    def _column(self, column: str) -> pl.Series:
        need_columns(self.table.columns, [column], where=f"the table of entity '{self.name}'")
        return self.table[column]

    def values(self, column: str, rows: npt.NDArray[np.int32]) -> U64:
        """Hashes of a single-valued column."""
        if column not in self._values:
            self._values[column] = np.append(hash_values(self._column(column)), np.uint64(0))
        return self._values[column][rows]  # row -1 is the appended missing value

    def lists(self, column: str, rows: npt.NDArray[np.int32], max_values: int) -> Ragged:
        """Hashes of a list column."""
        if (column, max_values) not in self._lists:
            self._lists[column, max_values] = hash_lists(self._column(column), max_values)
        flat, offsets = self._lists[column, max_values]
        lengths = np.append(np.diff(offsets), 0)[rows]
        out_offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        start = np.append(offsets[:-1], 0)[rows]
        source = np.repeat(start - out_offsets[:-1], lengths) + np.arange(out_offsets[-1])
        return flat[source], out_offsets

    def numbers(self, column: str, rows: npt.NDArray[np.int32]) -> npt.NDArray[np.float64]:
        """A numeric column, NaN where missing."""
        if column not in self._numbers:
            self._numbers[column] = np.append(to_numbers(self._column(column)), np.nan)
        return self._numbers[column][rows]

    def times(self, column: str, rows: npt.NDArray[np.int32], unit: str) -> I64:
        """A date or time column in microseconds, `NEVER` where missing."""
        if column not in self._times:
            us = parse_time(self._column(column), unit, YEAR_ONE).fill_null(NEVER).to_numpy()
            self._times[column] = np.append(us, NEVER)
        return self._times[column][rows]


def to_numbers(column: pl.Series) -> npt.NDArray[np.float64]:
    """A column as float64; null, NaN, unreadable text, and what float32 cannot hold are NaN."""
    if column.dtype.is_nested():
        raise DataError(f"holds {column.dtype}, a number is expected", where=f"column {column.name!r}")
    numbers = column.cast(pl.Float64, strict=False).fill_null(float("nan")).to_numpy()
    return np.where(np.abs(numbers) <= np.finfo(np.float32).max, numbers, np.nan)


def load_entity_tables(schema: Schema, base: Path | None = None) -> dict[str, EntityTable]:
    """Read the tables of all entities that have one."""
    tables = {}
    for name, entity in schema.entities.items():
        if entity.path is not None:
            table = read_table(entity.path, base, text=[entity.table_key])
            need_table_columns(schema, name, entity.table_key, table.columns)
            tables[name] = EntityTable(name, table, entity.table_key)
    return tables


class Frame:
    """Checked events with every column of the schema at hand, each computed at most once.

    Parameters
    ----------
    events : polars.DataFrame
        Checked events (`memberwise.data.events`), or rows to be scored with ``__time`` and the ids.
    tables
        Entity tables by entity name.
    """

    def __init__(self, events: pl.DataFrame, schema: Schema, tables: Mapping[str, EntityTable]) -> None:
        self.events, self.schema, self.tables = events, schema, tables
        self._ids: dict[str, U64] = {}
        self._rows: dict[str, npt.NDArray[np.int32]] = {}
        self._values: dict[str, U64] = {}
        self._lists: dict[tuple[str, int], Ragged] = {}

    def __len__(self) -> int:
        return len(self.events)

    @property
    def times(self) -> I64:
        """Microseconds. Shape [n]."""
        return self.events[TIME].to_numpy()

    def ids(self, entity: str) -> U64:
        """Hashed ids of an entity."""
        if entity not in self._ids:
            self._ids[entity] = self.values(self.schema.entities[entity].id)
        return self._ids[entity]

    def _entity_rows(self, entity: str) -> npt.NDArray[np.int32]:
        if entity not in self._rows:
            self._rows[entity] = self.tables[entity].rows(self.ids(entity))
        return self._rows[entity]

    def _split(self, column: str) -> tuple[EntityTable | None, str]:
        entity, dot, rest = column.partition(".")
        if dot and entity in self.tables:
            return self.tables[entity], rest
        need_columns(self.events.columns, [column], where="the events")
        return None, column

    def is_list(self, column: str) -> bool:
        """Whether a column holds lists."""
        table, name = self._split(column)
        return isinstance((self.events if table is None else table.table).schema[name], pl.List | pl.Array)

    def values(self, column: str) -> U64:
        """Hashed values of a single-valued column."""
        if column not in self._values:
            table, name = self._split(column)
            if table is None:
                self._values[column] = hash_values(self.events[name])
            else:
                self._values[column] = table.values(name, self._entity_rows(table.name))
        return self._values[column]

    def lists(self, column: str, max_values: int) -> Ragged:
        """Hashed values of a list column, or of a single-valued one as lists of at most one."""
        if (column, max_values) not in self._lists:
            table, name = self._split(column)
            if table is None:
                self._lists[column, max_values] = hash_lists(self.events[name], max_values)
            else:
                rows = self._entity_rows(table.name)
                self._lists[column, max_values] = table.lists(name, rows, max_values)
        return self._lists[column, max_values]

    def numbers(self, column: str) -> npt.NDArray[np.float64]:
        """A numeric column, NaN where missing."""
        table, name = self._split(column)
        if table is None:
            return to_numbers(self.events[name])
        return table.numbers(name, self._entity_rows(table.name))

    def moments(self, column: str) -> I64:
        """A date or time column in microseconds, `NEVER` where missing."""
        unit = self.schema.events.time_unit
        table, name = self._split(column)
        if table is None:
            return parse_time(self.events[name], unit, YEAR_ONE).fill_null(NEVER).to_numpy()
        return table.times(name, self._entity_rows(table.name), unit)
