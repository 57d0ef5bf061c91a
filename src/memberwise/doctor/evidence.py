"""What the checks look at: counts over the whole log, in one pass, and a sample of its events."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from memberwise.data.events import TIME, EventChecker, Rejects, label_column
from memberwise.data.files import record_batches
from memberwise.data.frame import EntityTable, Frame, load_entity_tables
from memberwise.data.log import CHUNK_ROWS
from memberwise.data.percentile import PercentileLabels
from memberwise.data.prepare import split_bounds
from memberwise.data.times import parse_time
from memberwise.errors import DataError
from memberwise.schema import Categorical, Schema
from memberwise.starter.columns import Thinned
from memberwise.starter.signals import bins

I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]
_MOST_HASHES = 4_000_000
SPLITS = ("train", "valid", "test")


@dataclass
class Evidence:
    """A project's data, as far as the checks need it.

    Attributes
    ----------
    times, labels
        Of all usable rows, in the order of the source; labels by task.
    first_seen : dict of polars.DataFrame
        Per id column: ``hash``, first time and number of rows of every value.
    raw_times : polars.Series
        The time column as it stands in the source, of the first rows.
    disorder
        Rows that stand before an earlier row's time.
    repeats
        Share of rows that repeat the member, item and time of another.
    """

    schema: Schema
    rejects: Rejects
    times: I64
    labels: dict[str, F32]
    first_seen: dict[str, pl.DataFrame]
    raw_times: pl.Series
    disorder: int
    repeats: float
    events: pl.DataFrame
    tables: dict[str, EntityTable]
    split_error: DataError | None = None
    bounds: dict[str, tuple[int, int]] = field(default_factory=dict)

    @cached_property
    def order(self) -> I64:
        """Rows in time order."""
        return np.argsort(self.times, kind="stable")

    @cached_property
    def sorted_times(self) -> I64:
        """Times in order."""
        return self.times[self.order]

    @cached_property
    def frame(self) -> Frame:
        """The sampled events in time order, joined with the entities' tables."""
        return Frame(self.events, self.schema, self.tables)

    def label(self, task: str) -> F32:
        """Labels of the sampled events."""
        spec = next(t.percentile for t in self.schema.tasks if t.name == task)
        if spec is not None:  # by the rows of the sample: too few in small clusters, which then back off
            return PercentileLabels(task, spec).label(self.frame)
        return self.events[label_column(task)].to_numpy()

    def start_of(self, split: str) -> int:
        """Time of the first row of a split."""
        return int(self.sorted_times[self.bounds[split][0]])

    def part(self, split: str) -> npt.NDArray[np.bool_]:
        """Which sampled events belong to a split."""
        first, last = self.bounds[split]
        t = self.frame.times
        inside = t >= self.sorted_times[first]
        return inside if last >= len(self.times) else inside & (t < self.sorted_times[last])

    def is_number(self, column: str) -> bool:
        """Whether a column's type is a number's."""
        return self.dtype(column).is_numeric()

    def dtype(self, column: str) -> pl.DataType:
        """Type of a column of the events or of an entity's table."""
        return self.series(column).dtype

    def series(self, column: str) -> pl.Series:
        """A column as it stands in the sampled events, or in the whole of an entity's table."""
        entity, dot, name = column.partition(".")
        if dot and entity in self.tables:
            return self.tables[entity].table[name]
        return self.events[column]

    def codes(self, column: str) -> I64:
        """A categorical column of the sampled events as small integers; of a list, its first element."""
        if self.frame.is_list(column):
            flat, offsets = self.frame.lists(column, 1)
            values = np.zeros(len(self.frame), np.uint64)
            values[np.diff(offsets) > 0] = flat
        else:
            values = self.frame.values(column)
        return np.unique(values, return_inverse=True)[1].astype(np.int64)

    def ages(self, column: str) -> npt.NDArray[np.float64]:
        """Microseconds from a date column to each sampled event, NaN where missing."""
        since = self.frame.moments(column)
        return np.where(since < 0, np.nan, (self.frame.times - since).astype(np.float64))

    def number_bins(self, column: str) -> I64:
        """A numeric column of the sampled events in bins."""
        return bins(self.frame.numbers(column))


def gather(schema: Schema, base: Path, sample_rows: int) -> Evidence:
    """Read the whole log once, check every row, and keep what the checks need.

    Kept of all rows: time and labels (12 bytes and more), and of every id its first time. Everything else is
    looked at on a sample of every k-th row.

    Raises
    ------
    DataError, ConfigError
        If the log cannot be read at all, or has no usable row.
    """
    checker, rejects = EventChecker(schema), Rejects(kept_rows=0)
    tally, sample = _Tally(schema), Thinned(sample_rows)
    raw_times: pl.Series | None = None
    row = 0
    for raw in record_batches(schema.events.path, checker.columns, base, checker.text_columns, CHUNK_ROWS):
        if raw_times is None:
            raw_times = raw[schema.events.time].head(10_000)
        tally.see_order(parse_time(raw[schema.events.time], schema.events.time_unit))
        events = checker.check(raw, row, rejects)
        row += len(raw)
        tally.add(events)
        sample.add(events)
    if raw_times is None:
        raise DataError("the log is empty: it has no rows", where=str(schema.events.path))
    if rejects.total == rejects.read:
        rejects.check(0.0, str(schema.events.path))
    times = np.concatenate(tally.times)
    evidence = Evidence(
        schema,
        rejects,
        times,
        {t: np.concatenate(parts) for t, parts in tally.labels.items()},
        {c: _together(parts) for c, parts in tally.ids.items()},
        raw_times,
        tally.disorder,
        tally.repeats(),
        sample.frame().sort(TIME, maintain_order=True),
        load_entity_tables(schema, base),
    )
    try:
        evidence.bounds = split_bounds(evidence.sorted_times, schema)
    except DataError as error:
        evidence.split_error = error  # reported as a finding
    return evidence


def id_columns(schema: Schema) -> list[str]:
    """Event columns with one id: the entities', and those of categorical features."""
    columns = [e.id for e in schema.entities.values()]
    columns += [
        f.column
        for f in schema.features
        if isinstance(f, Categorical)
        and f.max_values == 1
        and f.column.partition(".")[0] not in schema.entities
    ]
    return list(dict.fromkeys(columns))


class _Tally:
    """Counts over all rows, piece by piece."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema
        self.times: list[I64] = []
        self.labels: dict[str, list[F32]] = {t: [] for t in schema.task_names}
        self.ids: dict[str, list[pl.DataFrame]] = {c: [] for c in id_columns(schema)}
        self.disorder = 0
        self._latest = np.iinfo(np.int64).min
        self._hashes: list[npt.NDArray[np.uint64]] = []
        self._every = np.uint64(1)

    def see_order(self, micros: pl.Series) -> None:
        """Count the rows that stand behind a later one."""
        t = micros.drop_nulls().to_numpy()
        if len(t):
            latest = np.maximum.accumulate(np.concatenate([[self._latest], t]))
            self.disorder += int((t < latest[:-1]).sum())
            self._latest = int(latest[-1])

    def add(self, events: pl.DataFrame) -> None:
        """Checked events."""
        self.times.append(events[TIME].to_numpy())
        for task, parts in self.labels.items():
            parts.append(events[label_column(task)].to_numpy())
        for column, seen in self.ids.items():
            if not events[column].dtype.is_nested():
                frame = events.select(pl.col(column).cast(pl.String).hash().alias("hash"), TIME)
                seen.append(
                    frame.group_by("hash").agg(first=pl.col(TIME).min(), rows=pl.len().cast(pl.Int64))
                )
                if len(seen) > 16:
                    self.ids[column] = [_together(seen)]
        self._add_hashes(events)

    def _add_hashes(self, events: pl.DataFrame) -> None:
        """Hashes of member, item and time; of a long log only those that a power of two divides."""
        schema = self.schema
        who = [schema.entities["member"].id, schema.entities["item"].id, TIME]
        hashes = events.select(pl.struct(list(dict.fromkeys(who))).hash().alias("h"))["h"].to_numpy()
        self._hashes.append(hashes[hashes % self._every == 0])
        while sum(map(len, self._hashes)) > _MOST_HASHES:
            self._every *= np.uint64(2)
            self._hashes = [h[h % self._every == 0] for h in self._hashes]

    def repeats(self) -> float:
        """Share of rows that repeat another."""
        every = np.concatenate(self._hashes) if self._hashes else np.zeros(0, np.uint64)
        return 1.0 - len(np.unique(every)) / len(every) if len(every) else 0.0


def _together(parts: list[pl.DataFrame]) -> pl.DataFrame:
    if not parts:
        return pl.DataFrame(schema={"hash": pl.UInt64, "first": pl.Int64, "rows": pl.Int64})
    return pl.concat(parts).group_by("hash").agg(pl.col("first").min(), pl.col("rows").sum())


def hashes(values: pl.Series) -> pl.Series:
    """Hashes as in `Evidence.first_seen`."""
    return values.cast(pl.String).hash().alias("hash")


def when(us: Any) -> str:
    """Microseconds as a date and time for people."""
    return str(pl.Series([int(us)]).cast(pl.Datetime("us"))[0])[:19] + " UTC"
