"""What a table's columns hold: counted over the whole table, one piece at a time, with a sample beside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from memberwise.data.files import open_dataset, record_batches
from memberwise.errors import DataError

Kind = Literal["bool", "int", "float", "text", "list", "date", "time", "other"]

SAMPLE_ROWS = 200_000
HEAD_ROWS = 100_000
MOST_DISTINCT = 2_000_000
"""Distinct values are counted exactly up to here; more is only known to be more."""

PLACEHOLDERS = ("NA", "N/A", "NaN", "nan", "null", "NULL", "None", "none", "unknown", "Unknown", "?", "-")


@dataclass(frozen=True)
class Column:
    """One column, counted over all rows.

    Attributes
    ----------
    kind
        What it holds; floats that are all whole numbers are ``int``.
    rows, missing
        All rows, and those without a value (null, NaN, the empty text, the empty list).
    distinct
        Distinct values (of a list column: distinct elements), at most `MOST_DISTINCT`.
    low, high
        Smallest and largest number, None for other kinds.
    """

    name: str
    kind: Kind
    rows: int
    missing: int
    distinct: int
    low: float | None = None
    high: float | None = None

    @property
    def missing_share(self) -> float:
        """Share of rows without a value."""
        return self.missing / self.rows if self.rows else 0.0

    @property
    def constant(self) -> bool:
        """Whether it never says anything: at most one value, and no row without."""
        return self.distinct == 0 or (self.distinct == 1 and self.missing == 0)

    @property
    def binary(self) -> bool:
        """Whether it holds two values that read as yes and no."""
        if self.kind == "bool":
            return True
        return self.kind == "int" and self.distinct <= 2 and self.low is not None and self._zero_one

    @property
    def _zero_one(self) -> bool:
        return self.low in (0.0, 1.0) and self.high in (0.0, 1.0)

    def facts(self) -> str:
        """Cardinality and missing rate in words."""
        more = "more than " if self.distinct >= MOST_DISTINCT else ""
        what = "different elements" if self.kind == "list" else "values"
        missing = _percent(self.missing_share) if self.missing else "none"
        return f"{more}{self.distinct:,} {what}, {missing} missing"


@dataclass(frozen=True)
class Table:
    """A table: its files, its columns, and rows to look at.

    Attributes
    ----------
    files
        What is read.
    paths
        The same as the project file names it.
    sample : polars.DataFrame
        Rows spread evenly over the table, in its order.
    head : polars.DataFrame
        The first rows, one after the other: who is shown what together.
    """

    files: tuple[str, ...]
    paths: tuple[str, ...]
    rows: int
    columns: dict[str, Column]
    sample: pl.DataFrame
    head: pl.DataFrame

    @property
    def where(self) -> str:
        """The table's name in messages."""
        return self.paths[0] if len(self.paths) == 1 else f"{self.paths[0]} and {len(self.paths) - 1} more"


def read_columns(files: Sequence[str], paths: Sequence[str]) -> Table:
    """Count every column of a table in one pass; memory does not grow with the table.

    Parameters
    ----------
    files
        What to read.
    paths
        How the project file will name it.

    Raises
    ------
    DataError
        If there are no rows, or a file cannot be read.
    """
    text = _zero_padded(files)
    tallies: dict[str, _Tally] = {}
    sample, head, rows = Thinned(SAMPLE_ROWS), [], 0
    for batch in record_batches(list(files), None, None, text):
        for series in batch:
            tallies.setdefault(series.name, _Tally()).add(series)
        sample.add(batch)
        if rows < HEAD_ROWS:
            head.append(batch.head(HEAD_ROWS - rows))
        rows += len(batch)
    if not rows:
        raise DataError("the table is empty: it has no rows", where=paths[0])
    frame = sample.frame()
    columns = {name: tally.column(name, frame.schema[name], rows) for name, tally in tallies.items()}
    return Table(tuple(files), tuple(paths), rows, columns, frame, pl.concat(head, how="vertical_relaxed"))


class Thinned:
    """Every k-th row of a stream, with k doubled whenever the rows kept become too many.

    Parameters
    ----------
    limit
        At least half as many rows are kept, as soon as the stream has them, and at most so many.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.every, self._seen, self._kept = limit, 1, 0, 0
        self._parts: list[pl.DataFrame] = []

    def add(self, batch: pl.DataFrame) -> None:
        """The next rows of the stream."""
        part = batch.gather_every(self.every, offset=-self._seen % self.every)
        self._seen += len(batch)
        self._parts.append(part)
        self._kept += len(part)
        while self._kept > self.limit:
            whole = pl.concat(self._parts, how="vertical_relaxed").gather_every(2)
            self._parts, self._kept, self.every = [whole], len(whole), 2 * self.every

    def frame(self) -> pl.DataFrame:
        """The rows kept, in the order of the stream."""
        return pl.concat(self._parts, how="vertical_relaxed") if self._parts else pl.DataFrame()


class _Tally:
    """Counts of one column, batch after batch."""

    def __init__(self) -> None:
        self.missing = 0
        self.low, self.high = np.inf, -np.inf
        self.whole = True
        self._known: npt.NDArray[np.uint64] = np.zeros(0, np.uint64)
        self._new: list[npt.NDArray[np.uint64]] = []

    def add(self, series: pl.Series) -> None:
        values = _present(series)
        if isinstance(series.dtype, pl.List | pl.Array):
            self.missing += int((series.list.len().fill_null(0) == 0).sum())
        else:
            self.missing += len(series) - len(values)
        if not len(values) or len(self._known) >= MOST_DISTINCT or values.dtype.is_nested():
            return
        self._new.append(values.hash().unique().to_numpy())
        if sum(map(len, self._new)) > len(self._known) + 100_000:
            self._merge()
        if values.dtype.is_numeric():
            low, high = _extremes(values)
            self.low, self.high = min(self.low, low), max(self.high, high)
            if values.dtype.is_float():
                self.whole = self.whole and bool((values == values.round()).all()) and abs(high) < 2**53

    def _merge(self) -> None:
        self._known = np.unique(np.concatenate([self._known, *self._new]))
        self._new = []

    def column(self, name: str, dtype: pl.DataType, rows: int) -> Column:
        self._merge()
        kind = _kind(dtype)
        if kind == "float" and self.whole and len(self._known):
            kind = "int"
        numeric = self.low <= self.high
        return Column(
            name,
            kind,
            rows,
            self.missing,
            min(len(self._known), MOST_DISTINCT),
            self.low if numeric else None,
            self.high if numeric else None,
        )


def _present(series: pl.Series) -> pl.Series:
    """The values that are there; the elements of a list column."""
    if isinstance(series.dtype, pl.Array):
        series = series.cast(pl.List(series.dtype.inner))
    if isinstance(series.dtype, pl.List):
        series = series.explode()
    values = series.drop_nulls()
    if values.dtype.is_float():
        return values.filter(values.is_finite())
    if values.dtype == pl.String:
        return values.filter(values != "")
    return values


def _extremes(values: pl.Series) -> tuple[float, float]:
    low: Any = values.min()
    high: Any = values.max()
    return float(low), float(high)


def _kind(dtype: pl.DataType) -> Kind:
    if dtype == pl.Boolean:
        return "bool"
    if dtype.is_integer():
        return "int"
    if dtype.is_float() or dtype.is_decimal():
        return "float"
    if isinstance(dtype, pl.String | pl.Categorical | pl.Enum):
        return "text"
    if isinstance(dtype, pl.List | pl.Array):
        return "other" if dtype.inner is None or dtype.inner.is_nested() else "list"
    if dtype == pl.Date:
        return "date"
    return "time" if isinstance(dtype, pl.Datetime) else "other"


def _zero_padded(files: Sequence[str]) -> list[str]:
    """Columns of a CSV with values such as 0816692, which reading as numbers would change."""
    if not files[0].lower().endswith(".csv"):
        return []
    names = open_dataset(files[0]).schema.names
    first = next(_batches(files[0], names), None)
    if first is None:
        return []
    padded = first.select(pl.all().str.contains(r"^0\d+$").any())
    return [name for name in names if padded[name][0]]


def _batches(file: str, text: Sequence[str]) -> Iterator[pl.DataFrame]:
    return record_batches(file, None, None, text)


def _percent(share: float) -> str:
    return "under 0.1%" if share < 0.001 else f"{share:.1%}"
