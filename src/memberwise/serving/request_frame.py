"""The rows of a request without a table: what is the same for all candidates is hashed once.

A `RequestFrame` stands in for a `Frame`, so that aggregates, histories and vectors are read by the code that
training and evaluation use.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from memberwise.data.frame import EntityTable, Frame, Ragged, to_numbers
from memberwise.data.hashing import U64, hash_lists, hash_text, hash_values
from memberwise.data.pending import NEVER
from memberwise.data.times import I64, YEAR_ONE, parse_time
from memberwise.schema import Schema

_LARGEST = float(np.finfo(np.float32).max)


def hash_value(value: Any) -> int:
    """Hash of one value, as `hash_values` has it for a column."""
    match value:
        case str():
            return hash_text(value) if value else 0
        case None:
            return 0
        case bool():
            return hash_text("true" if value else "false")
        case int():
            return hash_text(str(value))
        case _:
            return int(hash_values(pl.Series("value", [value]))[0])


class SharedRow(Frame):
    """One row: the member, the moment and the context of a request.

    Parameters
    ----------
    values
        Event columns by name, the member's id among them.
    moment
        Microseconds.
    """

    def __init__(
        self,
        values: Mapping[str, Any],
        moment: int,
        schema: Schema,
        tables: Mapping[str, EntityTable],
    ) -> None:
        super().__init__(pl.DataFrame(), schema, tables)
        self._given = values
        self._times = np.array([moment], np.int64)

    def __len__(self) -> int:
        return 1

    @property
    def times(self) -> I64:
        """Microseconds. Shape [1]."""
        return self._times

    def is_list(self, column: str) -> bool:
        """Whether a column holds lists."""
        return isinstance(self._given[column], list) if column in self._given else super().is_list(column)

    def values(self, column: str) -> U64:
        """Hashed value."""
        if column not in self._given:
            return super().values(column)
        if column not in self._values:
            self._values[column] = np.array([hash_value(self._given[column])], np.uint64)
        return self._values[column]

    def lists(self, column: str, max_values: int) -> Ragged:
        """Hashed values."""
        if column not in self._given:
            return super().lists(column, max_values)
        if (column, max_values) not in self._lists:
            value = self._given[column]
            series = pl.Series(column, [value]) if isinstance(value, list) and value else None
            if series is not None:
                found = hash_lists(series, max_values)
            else:
                flat = np.array([] if isinstance(value, list) else [hash_value(value)], np.uint64)
                flat = flat[flat != 0]
                found = flat, np.array([0, len(flat)], np.int64)
            self._lists[column, max_values] = found
        return self._lists[column, max_values]

    def numbers(self, column: str) -> npt.NDArray[np.float64]:
        """A number, NaN where missing."""
        if column not in self._given:
            return super().numbers(column)
        value = self._given[column]
        if isinstance(value, int | float) and not isinstance(value, bool):
            number = float(value)
            return np.array([number if abs(number) <= _LARGEST else np.nan])
        return to_numbers(pl.Series(column, [value]))

    def moments(self, column: str) -> I64:
        """A time in microseconds, `NEVER` where missing."""
        if column not in self._given:
            return super().moments(column)
        times = parse_time(pl.Series(column, [self._given[column]]), self.schema.events.time_unit, YEAR_ONE)
        return times.fill_null(NEVER).to_numpy()


class CandidateRows(Frame):
    """One row per candidate; what the candidates do not change comes from the shared row.

    Parameters
    ----------
    items : ndarray of uint64, [n]
        Hashed ids.
    shared
        The row of the request.
    """

    def __init__(self, items: U64, shared: SharedRow) -> None:
        super().__init__(pl.DataFrame(), shared.schema, shared.tables)
        self.items, self.shared = items, shared
        self.item_column = shared.schema.entities["item"].id

    def __len__(self) -> int:
        return len(self.items)

    @property
    def times(self) -> I64:
        """Microseconds. Shape [n]."""
        return np.full(len(self), self.shared.times[0])

    def table_rows(self) -> npt.NDArray[np.int32]:
        """Row of each item in its table, -1 where it has none."""
        return self._entity_rows("item")

    def _own(self, column: str) -> bool:
        return "item" in self.tables and column.startswith("item.")

    def is_list(self, column: str) -> bool:
        """Whether a column holds lists."""
        if column == self.item_column:
            return False
        return super().is_list(column) if self._own(column) else self.shared.is_list(column)

    def values(self, column: str) -> U64:
        """Hashed values of a single-valued column."""
        if column == self.item_column:
            return self.items
        if self._own(column):
            return super().values(column)
        return np.full(len(self), self.shared.values(column)[0])

    def lists(self, column: str, max_values: int) -> Ragged:
        """Hashed values of a list column."""
        if column == self.item_column:
            there = self.items != 0
            return self.items[there], np.concatenate([[0], np.cumsum(there)]).astype(np.int64)
        if self._own(column):
            return super().lists(column, max_values)
        flat, _ = self.shared.lists(column, max_values)
        return np.tile(flat, len(self)), np.arange(len(self) + 1) * len(flat)

    def numbers(self, column: str) -> npt.NDArray[np.float64]:
        """A numeric column, NaN where missing."""
        if self._own(column):
            return super().numbers(column)
        return np.full(len(self), self.shared.numbers(column)[0])

    def moments(self, column: str) -> I64:
        """A time column in microseconds, `NEVER` where missing."""
        if self._own(column):
            return super().moments(column)
        return np.full(len(self), self.shared.moments(column)[0])
