"""Columns that must not become features, with the reason: they say nothing, or they say too much."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from memberwise.data.times import parse_time
from memberwise.starter import words
from memberwise.starter.columns import Column
from memberwise.starter.signals import bins, codes, dependence, held_out_auc, tells_missing

TOO_GOOD = 0.95
_TELLS = 0.98


def useless(column: Column) -> str | None:
    """Why a column has nothing to say at all."""
    if column.missing == column.rows or column.distinct == 0:
        return "it has no value in any row"
    if column.constant:
        return "it has the same value in every row"
    if column.kind == "other":
        return "its type (nested) cannot be read as values"
    if column.rows > 20 and column.distinct >= 0.999 * column.rows and _names_rows(column):
        return "every row has its own value: a row id or free text"
    return None


def _names_rows(column: Column) -> bool:
    """Whether values of which no two rows share one are names; other numbers may measure something."""
    if column.kind == "text":
        return True
    if column.kind != "int" or column.low is None or column.high is None:
        return False
    dense = column.high - column.low < 1.01 * column.rows
    return dense or words.is_id(column.name) or column.high > 2**40


def keys_of(series: pl.Series, column: Column) -> npt.NDArray[np.int64]:
    """A column as codes: numbers of many values and dates in bins, everything else by value."""
    if column.kind in ("date", "time"):
        micros = parse_time(series, "s").cast(pl.Float64).fill_null(float("nan"))
        return bins(micros.to_numpy())
    if column.kind in ("int", "float") and column.distinct > 50 and not words.is_id(column.name):
        return bins(series.cast(pl.Float64, strict=False).fill_null(float("nan")).to_numpy())
    if column.kind == "list":
        return codes(series.list.first())
    return codes(series)


def after_the_event(
    series: pl.Series, column: Column, labels: Mapping[str, npt.NDArray[np.float64]], times: pl.Series
) -> str | None:
    """Why a column looks as if it were known only after the event.

    Parameters
    ----------
    series, times
        The column and the microseconds, in time order.
    labels
        By task, in the same order.
    """
    named = words.stems(column.name)
    if named & words.SHOWN:
        return "the ranker decides it, so it is not known when the ranker is asked"
    numeric = column.kind in ("int", "float") or _reads_as_numbers(series)
    if numeric and named & (words.AMOUNT_OUTCOME | words.GRADED_OUTCOME):
        return "its name says that it is an outcome of the event itself"
    if column.binary and named & words.BINARY_OUTCOME:
        return "its name says that it is an outcome of the event itself"
    if column.kind in ("date", "time"):
        late = (parse_time(series, "s") > times).mean()
        if late is not None and float(late) > 0.5:  # type: ignore[arg-type]
            return "it lies after the event in most rows"
    missing = series.is_null().to_numpy()
    keys = keys_of(series, column)
    for task, y in labels.items():
        if tells_missing(missing, y) > _TELLS:
            return f"it has a value only where {task} is decided: it is known only after the event"
        score = held_out_auc(keys, y)
        if score >= TOO_GOOD:
            return f"alone it predicts {task} with AUC {score:.3f}: it looks like the outcome"
    return None


def _reads_as_numbers(series: pl.Series) -> bool:
    """Whether nearly all texts are numbers: one cell that is none makes a CSV's column text."""
    if series.dtype != pl.String:
        return False
    there = series.drop_nulls()
    there = there.filter(there != "")
    numbers = int(there.cast(pl.Float64, strict=False).is_not_null().sum())
    return numbers > 0 and numbers >= 0.9 * len(there)


def follows_time(series: pl.Series, column: Column, times: pl.Series, unit: str = "s") -> str | None:
    """Why a column is only another way to write the time.

    Parameters
    ----------
    series, times
        The column and the microseconds, in time order.
    """
    if column.kind not in ("int", "text", "date", "time") or column.distinct > 0.5 * column.rows:
        return None
    if column.kind in ("date", "time"):
        own = parse_time(series, unit)
        if bool(((own - times).abs() <= 2 * 86_400_000_000).fill_null(False).all()):
            return "it is the time of the event again"
        return None
    moments = times.cast(pl.Datetime("us"))
    if column.kind == "int":
        for what, part in (
            ("hour of the day", moments.dt.hour()),
            ("day of the week", moments.dt.weekday()),
            ("month", moments.dt.month()),
            ("year", moments.dt.year()),
        ):
            if part.n_unique() > 1 and _one_to_one(series, part):
                return f"it is the {what} of the time; the clock feature covers that"
    values = codes(series)
    changes = int((np.diff(values) != 0).sum())
    if 2 < column.distinct < 0.05 * len(values) and changes <= 1.5 * (column.distinct - 1):
        return "its values follow one another in time: those of test are hardly seen in train"
    return None


def _one_to_one(series: pl.Series, part: pl.Series) -> bool:
    """Whether each value goes with one part of the time and the other way round, in nearly all rows."""
    pairs = pl.DataFrame({"v": codes(series), "p": part}).group_by("v", "p").len()
    straight = pairs.group_by("v").agg(pl.col("len").max())["len"].sum()
    back = pairs.group_by("p").agg(pl.col("len").max())["len"].sum()
    return min(int(straight), int(back)) >= 0.98 * len(series)


def gives_away(keys: npt.NDArray[np.int64], items: npt.NDArray[np.int64]) -> bool:
    """Whether a column varies with the item: drawn negatives, which copy it, would be told apart by it."""
    return dependence(keys, items) > 0.05


def same_as(frame: pl.DataFrame, names: Sequence[str]) -> dict[str, str]:
    """Columns that hold the same information as an earlier one: value by value the other's renaming."""
    twins: dict[str, str] = {}
    # A date or an amount that is unique to each id still says more than the id.
    plain = [n for n in names if not (frame[n].dtype.is_nested() or frame[n].dtype.is_temporal())]
    coded = {n: codes(frame[n]) for n in plain if not frame[n].dtype.is_float()}
    sizes = {n: int(c.max()) + 1 for n, c in coded.items() if len(c)}
    kept: list[str] = []
    for name, size in sizes.items():
        for other in kept:
            if sizes[other] == size and size > 2:
                pairs = np.unique(coded[other] * np.int64(size) + coded[name])
                if len(pairs) == size:
                    twins[name] = other
                    break
        else:
            kept.append(name)
    return twins
