"""Raw rows to checked events: times parsed, labels evaluated, unusable rows set aside with the reason.

A checked event has, beside the columns that the schema reads:

===================  =========================================================
``__time``           Int64, microseconds since 1970 in UTC
``__row``            Int64, its row in the source
``label:<task>``     Float32 in [0, 1]; NaN where the task's mask says undefined. Of a task
                     with a percentile the number itself, until the pipeline compares it
``weight:<task>``    Float32
``where:<history>``  Boolean, does the event enter that history
``__drawn``          Boolean, was the row drawn as a negative (only with sampling)
===================  =========================================================
"""

from __future__ import annotations

import time as clock
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from memberwise.data.hashing import hash_values
from memberwise.data.times import other_unit, parse_time
from memberwise.errors import ConfigError, DataError, percent
from memberwise.schema import SECOND, Categorical, History, Schema, Task, feature_columns

TIME, ROW, DRAWN = "__time", "__row", "__drawn"


def label_column(task: str) -> str:
    """Name of a task's label among the columns of a checked event."""
    return f"label:{task}"


def weight_column(task: str) -> str:
    """Name of a task's weight among the columns of a checked event."""
    return f"weight:{task}"


def where_column(history: str) -> str:
    """Name of the flag that says whether an event enters a history."""
    return f"where:{history}"


def sql(expression: str, where: str) -> pl.Expr:
    """Parse a SQL expression over columns; a `ConfigError` names the key if it cannot be parsed."""
    try:
        return pl.sql_expr(expression)
    except pl.exceptions.PolarsError as error:
        raise ConfigError(
            f"{expression!r} is not a SQL expression: {str(error).splitlines()[0]}",
            where=where,
            fix="write it like: rating >= 8 AND device = 'phone'",
        ) from error


@dataclass
class Rejects:
    """Rows that could not be used: how many, why, and the rows themselves."""

    counts: Counter[str] = field(default_factory=Counter)
    frames: list[pl.DataFrame] = field(default_factory=list)
    read: int = 0
    kept_rows: int = 100_000
    """At most so many rows are kept whole; all are counted."""

    @property
    def total(self) -> int:
        """Number of rows rejected."""
        return sum(self.counts.values())

    def add(self, rows: pl.DataFrame, reason: str) -> None:
        """Set rows aside (`rows` has a column `reason`)."""
        self.counts.update(dict(rows.group_by(reason).len().iter_rows()))
        room = self.kept_rows - sum(len(f) for f in self.frames)
        if room > 0:
            self.frames.append(rows.head(room))

    def table(self) -> pl.DataFrame | None:
        """The rejected rows as text, with ``source_row`` and ``reason``."""
        return pl.concat(self.frames, how="diagonal") if self.frames else None

    def check(self, limit: float, where: str) -> None:
        """Raise if more than the share `limit` of the rows was rejected.

        Raises
        ------
        DataError
            Names each reason with its count.
        """
        if self.read and self.total > limit * self.read:
            reasons = "; ".join(f"{n:,} x {r}" for r, n in self.counts.most_common())
            raise DataError(
                f"{self.total:,} of {self.read:,} rows ({percent(self.total / self.read)}) cannot be used, "
                f"more than the limit of {percent(limit)}: {reasons}",
                where=where,
                fix="mend the rows or the project, or raise events.max_rejected",
            )


class EventChecker:
    """Turns pieces of the raw table into checked events.

    Parameters
    ----------
    schema
        What the columns mean.
    labelled
        Whether labels are needed; without them only features are read.
    """

    def __init__(self, schema: Schema, labelled: bool = True) -> None:
        self.schema = schema
        self.labelled = labelled
        self._flags = {
            f.name: sql(f.where, f"features.{f.name}.where")
            for f in schema.features
            if isinstance(f, History) and f.where is not None
        }
        self._tasks = {t.name: _task_expressions(t) for t in schema.tasks} if labelled else {}
        self._numbers = {t.name for t in schema.tasks if t.percentile is not None}
        self.ids = {name: e.id for name, e in schema.entities.items()}
        self.kept = self._kept_columns()
        self._tried = False
        self._gone = np.array(sorted(schema.forgotten), np.uint64)
        made = [TIME, ROW, DRAWN, *(where_column(n) for n in self._flags)]
        made += [f(t) for t in self._tasks for f in (label_column, weight_column)]
        if taken := sorted(set(made) & set(self.kept)):
            raise ConfigError(
                f"the column name {taken[0]!r} is reserved", where="events", fix="rename the column"
            )

    def _kept_columns(self) -> list[str]:
        schema = self.schema
        columns = list(self.ids.values())
        if schema.events.request:
            columns.append(schema.events.request)
        wanted = [c for f in schema.features for c in feature_columns(f)]
        wanted += [c for a in schema.aggregates for c in (*a.by, *a.means, *a.distinct)]
        wanted += [c for t in schema.tasks if t.percentile is not None for c in t.percentile.within]
        if schema.negatives:
            wanted += schema.negatives.within
        columns += [c for c in wanted if not is_entity_column(schema, c)]
        return list(dict.fromkeys(columns))

    @property
    def columns(self) -> list[str]:
        """Columns of the raw table that are read."""
        expressions = list(self._flags.values())
        for parts in self._tasks.values():
            expressions += [e for e in parts if e is not None]
        roots = [c for e in expressions for c in e.meta.root_names()]
        return list(dict.fromkeys([self.schema.events.time, *self.kept, *roots]))

    @property
    def text_columns(self) -> list[str]:
        """Columns that a CSV must not turn into numbers."""
        names = list(self.ids.values())
        names += [f.column for f in self.schema.features if isinstance(f, Categorical)]
        names += [c for a in self.schema.aggregates for c in a.by]
        names += [c for t in self.schema.tasks if t.percentile is not None for c in t.percentile.within]
        return [c for c in dict.fromkeys(names) if not is_entity_column(self.schema, c)]

    def _unread(self, raw: pl.DataFrame, times: pl.Series) -> str:
        """Why times cannot be read: perhaps they are numbers in another unit."""
        events = self.schema.events
        unread = raw[events.time].filter(times.is_null()).drop_nulls()
        unit = other_unit(unread, events.time_unit, int(clock.time() * SECOND)) if len(unread) else None
        said = "time cannot be read"
        return f"{said} in {events.time_unit}, but in {unit} (events.time_unit)" if unit else said

    def _try_by_row(self, raw: pl.DataFrame) -> None:
        """Refuse expressions whose value in a row depends on other rows: these may be its future."""
        named = [(f"features.{n}.where", e) for n, e in self._flags.items()]
        for task, parts in self._tasks.items():
            keys = (f"tasks.{task}.{part}" for part in ("label", "weight", "mask"))
            named += [(key, e) for key, e in zip(keys, parts, strict=True) if e is not None]
        for where, expression in named:
            refuse_other_rows(raw, expression, where)
        self._tried = True

    def check(self, raw: pl.DataFrame, first_row: int, rejects: Rejects) -> pl.DataFrame:
        """Checked events of a piece; unusable rows go to `rejects`.

        Parameters
        ----------
        raw
            Columns as `columns` names them.
        first_row
            Row number of the first row in the source.
        """
        rejects.read += len(raw)
        if not self._tried and len(raw) > 1:
            self._try_by_row(raw)
        # Labels and conditions read the raw columns, the time column among them: the results are
        # collected first and joined with the kept columns at the end.
        derived: dict[str, pl.Series] = {
            ROW: pl.Series(ROW, range(first_row, first_row + len(raw)), dtype=pl.Int64),
            TIME: parse_time(raw[self.schema.events.time], self.schema.events.time_unit),
        }
        unread = pl.lit(self._unread(raw, derived[TIME]))
        reasons: list[pl.Expr] = [pl.when(pl.col(TIME).is_null()).then(unread)]
        for entity, column in self.ids.items():
            text = _id_text(raw[column])
            if entity in ("member", "item"):
                derived[f"__missing:{entity}"] = (text.is_null() | (text == "")).fill_null(True)
                reasons.append(pl.when(pl.col(f"__missing:{entity}")).then(pl.lit(f"{entity} id is missing")))
        for task, expressions in self._tasks.items():
            label, weight, bad = _labels(raw, task, expressions, any_number=task in self._numbers)
            derived[label_column(task)], derived[weight_column(task)] = label, weight
            derived[f"__bad:{task}"] = bad
            reasons.append(pl.when(pl.col(f"__bad:{task}").is_not_null()).then(pl.col(f"__bad:{task}")))
        for name, expression in self._flags.items():
            where = f"features.{name}.where"
            flag = broadcast(evaluate(raw, expression, where), len(raw))
            derived[where_column(name)] = _cast(flag, pl.Boolean, where).fill_null(False)
        extra = pl.DataFrame({k: v.alias(k) for k, v in derived.items()})
        reason = extra.select(pl.coalesce(*reasons).alias("reason"))["reason"]
        good = reason.is_null()
        if len(self._gone):
            # Neither kept nor rejected: rejected rows stay on disk as they came.
            there = pl.Series(~np.isin(hash_values(_id_text(raw[self.ids["member"]])), self._gone))
            raw, extra, reason, good = (
                raw.filter(there),
                extra.filter(there),
                reason.filter(there),
                good.filter(there),
            )
            derived[ROW] = extra[ROW]
        if not bool(good.all()):
            bad_rows = raw.select(pl.all().cast(pl.String, strict=False)) if _flat(raw) else _as_text(raw)
            bad_rows = bad_rows.with_columns(source_row=derived[ROW], reason=reason).filter(~good)
            rejects.add(bad_rows, "reason")
        extra = extra.drop([c for c in extra.columns if c.startswith(("__missing:", "__bad:"))])
        kept = raw.select(_plain(raw[c]) for c in self.kept)
        return pl.concat([extra, kept], how="horizontal").filter(good)


def _plain(values: pl.Series) -> pl.Series:
    """Categories as text: their codes differ from piece to piece."""
    dtype = values.dtype
    if isinstance(dtype, pl.Categorical | pl.Enum):
        return values.cast(pl.String)
    if isinstance(dtype, pl.List | pl.Array) and isinstance(dtype.inner, pl.Categorical | pl.Enum):
        return values.cast(pl.List(pl.String))
    return values


def refuse_other_rows(raw: pl.DataFrame, expression: pl.Expr, where: str) -> None:
    """Raise a `ConfigError` if the value of an expression in a row depends on other rows of `raw`."""
    if not expression.meta.root_names():
        return  # a constant
    half = len(raw) // 2
    whole, halves = (
        pl.concat([evaluate(rows, expression, where) for rows in pieces])
        for pieces in ([raw], [raw[:half], raw[half:]])
    )
    if not whole.equals(halves):
        raise ConfigError(
            "the expression reads other rows than its own, and these may be its future",
            where=where,
            fix="compare with a constant or with a column of the same row",
        )


def is_entity_column(schema: Schema, column: str) -> bool:
    """Whether ``entity.column`` addresses the table of an entity."""
    entity, dot, _ = column.partition(".")
    return bool(dot) and entity in schema.entities


def _task_expressions(task: Task) -> tuple[pl.Expr, pl.Expr | None, pl.Expr | None]:
    where = f"tasks.{task.name}"
    label = sql(task.label, f"{where}.label")
    mask = sql(task.mask, f"{where}.mask") if task.mask is not None else None
    weight = sql(task.weight, f"{where}.weight") if isinstance(task.weight, str) else pl.lit(task.weight)
    return label, weight, mask


def evaluate(raw: pl.DataFrame, expression: pl.Expr, where: str) -> pl.Series:
    """The values of an expression over the columns of `raw`; a `ConfigError` if it cannot be evaluated."""
    try:
        return raw.select(expression.alias("value"))["value"]
    except pl.exceptions.ColumnNotFoundError as error:
        raise ConfigError(
            f"names a column that is not there: {str(error).splitlines()[0]}",
            where=where,
            fix=f"the events have: {', '.join(raw.columns)}",
        ) from error
    except pl.exceptions.PolarsError as error:
        raise ConfigError(f"cannot be evaluated: {str(error).splitlines()[0]}", where=where) from error


def _cast(values: pl.Series, dtype: type[pl.DataType], where: str) -> pl.Series:
    """Another type; what does not fit becomes null."""
    try:
        return values.cast(dtype, strict=False)
    except pl.exceptions.PolarsError as error:
        raise ConfigError(f"gives {values.dtype}, {dtype} is expected", where=where) from error


def _id_text(ids: pl.Series) -> pl.Series:
    """Ids as text, null where there is none."""
    if ids.dtype.is_float():
        ids = ids.fill_nan(None)
    try:
        if not ids.dtype.is_nested():
            return ids.cast(pl.String, strict=False)
    except pl.exceptions.PolarsError:  # bytes that are no text
        pass
    raise DataError(f"holds {ids.dtype}, an id is expected", where=f"column {ids.name!r}")


def _labels(
    raw: pl.DataFrame,
    task: str,
    expressions: tuple[pl.Expr, pl.Expr | None, pl.Expr | None],
    any_number: bool,
) -> tuple[pl.Series, pl.Series, pl.Series]:
    """Label, weight, and the reason where a row is unusable (else null)."""
    label_expr, weight_expr, mask_expr = expressions
    n = len(raw)
    where = f"tasks.{task}"
    label = broadcast(evaluate(raw, label_expr, f"{where}.label"), n)
    label = _cast(label, pl.Float32, f"{where}.label")
    weight = pl.Series([1.0] * n, dtype=pl.Float32)
    if weight_expr is not None:
        weight = broadcast(evaluate(raw, weight_expr, f"{where}.weight"), n)
        weight = _cast(weight, pl.Float32, f"{where}.weight")
    defined = pl.Series([True] * n)
    if mask_expr is not None:
        defined = broadcast(evaluate(raw, mask_expr, f"{where}.mask"), n)
        defined = _cast(defined, pl.Boolean, f"{where}.mask").fill_null(False)
    frame = pl.DataFrame({"y": label, "w": weight, "d": defined})
    usable = pl.col("y").is_finite()
    if not any_number:
        usable = usable & pl.col("y").is_between(0, 1)
    checked = frame.select(
        y=pl.when("d").then(pl.col("y")).otherwise(float("nan")),
        w=pl.col("w"),
        bad=pl.when(pl.col("d") & pl.col("y").is_null())
        .then(pl.lit(f"label of {task} is missing"))
        .when(pl.col("d") & ~usable)
        .then(pl.lit(f"label of {task} is not {'finite' if any_number else 'in [0, 1]'}"))
        .when(~(pl.col("w").is_finite() & (pl.col("w") >= 0)).fill_null(False))
        .then(pl.lit(f"weight of {task} is not a number >= 0")),
    )
    return checked["y"].fill_null(float("nan")), checked["w"], checked["bad"]


def broadcast(values: pl.Series, n: int) -> pl.Series:
    """A constant expression gives one value for all rows."""
    return values.new_from_index(0, n) if len(values) == 1 and n != 1 else values


def _flat(raw: pl.DataFrame) -> bool:
    return not any(dtype.is_nested() for dtype in raw.dtypes)


def _as_text(raw: pl.DataFrame) -> pl.DataFrame:
    """Nested columns as JSON-like text, the others as plain text."""
    return pl.DataFrame(
        [
            pl.Series(c.name, [None if v is None else str(v) for v in c.to_list()], dtype=pl.String)
            if c.dtype.is_nested()
            else c.cast(pl.String, strict=False)
            for c in raw
        ]
    )
