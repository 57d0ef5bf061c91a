"""Checks for answers among the features: columns that say too much, or are known only afterwards."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.stats import spearmanr

from memberwise.data.events import is_entity_column
from memberwise.data.uses import Use, uses
from memberwise.doctor.evidence import Evidence
from memberwise.doctor.findings import Finding
from memberwise.schema import Age, Numeric
from memberwise.starter import words
from memberwise.starter.signals import bins, codes, dependence, held_out_auc, tells_missing

TOO_GOOD = 0.95
JUMP_FROM, JUMP = 0.8, 2.0
TELLS = 0.98
SAME_ORDER = 0.95
VARIES_WITH_ITEM = 0.05
_ENOUGH = 50

Keys = npt.NDArray[np.int64]


def _columns(e: Evidence) -> dict[str, tuple[Use, Keys, npt.NDArray[np.bool_]]]:
    """Columns read at the row's own time: where, as codes, and where missing. Labels' own are left out."""
    named = uses(e.schema)
    labels = {u.column for u in named if u.role == "label"}
    numeric = {f.column for f in e.schema.features if isinstance(f, Numeric)}
    ages = {f.since for f in e.schema.features if isinstance(f, Age)}
    out: dict[str, tuple[Use, Keys, npt.NDArray[np.bool_]]] = {}
    for use in named:
        column = use.column
        if use.role not in ("feature", "key") or column in out or column in labels:
            continue
        if column in ages:
            from_then = e.ages(column)
            keys, missing = bins(from_then), np.isnan(from_then)
        elif column in numeric:
            if e.dtype(column).is_nested():
                continue  # reported by its type
            keys, missing = e.number_bins(column), np.isnan(e.frame.numbers(column))
        elif isinstance(e.dtype(column), pl.Struct):
            continue
        else:
            keys = e.codes(column)
            missing = _missing(e, column)
        out[column] = (use, keys, missing)
    return out


def _missing(e: Evidence, column: str) -> npt.NDArray[np.bool_]:
    if e.frame.is_list(column):
        return np.diff(e.frame.lists(column, 1)[1]) == 0
    return e.frame.values(column) == 0


def check_leaks(e: Evidence) -> Iterator[Finding]:
    """Columns that predict a label too well on rows they were not fitted on, within train."""
    if e.schema.negatives is not None or not e.bounds:
        return
    train = e.part("train")
    columns = _columns(e)
    people = {e.schema.entities[n].id for n in ("member", "item")}
    for task in e.schema.task_names:
        y = e.label(task)[train].astype(np.float64)
        aucs = {c: held_out_auc(keys[train], y) for c, (_, keys, _) in columns.items()}
        defined = {c: a for c, a in aucs.items() if np.isfinite(a)}
        told: set[str] = set()
        for column, (use, _, missing) in columns.items():
            if tells_missing(missing[train], y) > TELLS:
                told.add(column)
                yield Finding(
                    "error",
                    "known after",
                    f"{column!r} has a value only where {task} is decided: it is known only after the event",
                    use.where,
                    "take it out: when the ranker is asked, it is never there",
                )
        for column, score in defined.items():
            if column not in told and score >= TOO_GOOD:
                told.add(column)
                yield _too_good(columns[column][0], column, task, score)
        yield from _jump({c: a for c, a in defined.items() if c not in told}, columns, people, task)
        yield from _constant_in_positives(columns, told, y, train, task)


def _too_good(use: Use, column: str, task: str, score: float) -> Finding:
    return Finding(
        "error",
        "leak",
        f"{column!r} alone predicts {task} with AUC {score:.3f} on later rows: it looks like the outcome",
        use.where,
        "take it out, unless it is truly known before the event",
    )


def _jump(
    aucs: dict[str, float],
    columns: dict[str, tuple[Use, Keys, npt.NDArray[np.bool_]]],
    people: set[str],
    task: str,
) -> Iterator[Finding]:
    """A column far above all others; the ids themselves may be."""
    ranked = sorted(aucs, key=lambda c: aucs[c], reverse=True)
    if len(ranked) < 2 or ranked[0] in people:
        return
    best, second = aucs[ranked[0]], aucs[ranked[1]]
    if best >= JUMP_FROM and best - 0.5 > JUMP * max(second - 0.5, 0.0):
        yield Finding(
            "warning",
            "leak",
            f"{ranked[0]!r} alone predicts {task} with AUC {best:.3f}, far above the next column "
            f"({ranked[1]!r}, {second:.3f})",
            columns[ranked[0]][0].where,
            "make sure that it is known before the event",
        )


def _constant_in_positives(
    columns: dict[str, tuple[Use, Keys, npt.NDArray[np.bool_]]],
    told: set[str],
    y: npt.NDArray[np.float64],
    train: npt.NDArray[np.bool_],
    task: str,
) -> Iterator[Finding]:
    positive = y > 0.5
    if positive.sum() < _ENOUGH or (~positive).sum() < _ENOUGH:
        return
    for column, (use, keys, _) in columns.items():
        values, others = keys[train][positive], keys[train][~positive]
        if column in told or values.min() != values.max():
            continue
        different = float((others != values[0]).mean())
        if different > 0.05:
            yield Finding(
                "warning",
                "constant in positives",
                f"{column!r} has one value in all positives of {task}, others in {different:.0%} of the rest",
                use.where,
                f"is it written when {task} happens? Then take it out",
            )


def check_negatives(e: Evidence) -> Iterator[Finding]:
    """Event columns that vary with the item, where negatives are drawn: a drawn row copies them."""
    if e.schema.negatives is None:
        return
    items = codes(e.events[e.schema.entities["item"].id])
    people = {x.id for n, x in e.schema.entities.items() if n in ("member", "item")}
    within = set(e.schema.negatives.within)
    for column, (use, keys, _) in _columns(e).items():
        if is_entity_column(e.schema, column) or column in people or column in within:
            continue
        known = dependence(keys, items)
        if known > VARIES_WITH_ITEM:
            yield Finding(
                "error",
                "gives the answer away",
                f"{column!r} varies with the item, and a drawn negative copies it from the event",
                use.where,
                "if it describes the item, move it into the item's table; if it must agree, name it in "
                "negatives.within; else take it out",
            )


def check_totals(e: Evidence) -> Iterator[Finding]:
    """Columns of entity tables that look like counts of outcomes over the whole log."""
    for use in uses(e.schema):
        entity, _, name = use.column.partition(".")
        if use.role != "feature" or not is_entity_column(e.schema, use.column) or entity not in e.tables:
            continue
        if not e.is_number(use.column):
            continue
        measured = _like_the_log(e, entity, name)
        stems = words.stems(name)
        named = bool(stems & words.TOTALS and stems & words.COUNTED) or bool(
            stems & {"popularity", "ctr", "cvr"}
        )
        if measured is not None:
            yield Finding(
                "error",
                "knows the future",
                f"{use.column!r} goes with the {measured} of each {entity} in this log: it was counted over "
                "all of it, the test rows included",
                use.where,
                "take it out and declare an aggregate, which counts only what came before each row",
            )
        elif named:
            yield Finding(
                "warning",
                "knows the future",
                f"{use.column!r} is named like a count of outcomes",
                use.where,
                "if it was counted after the events of this log, declare an aggregate instead",
            )


def _like_the_log(e: Evidence, entity: str, name: str) -> str | None:
    """What of the log a table's column follows: the rank correlation over ids is nearly one."""
    rows = e.tables[entity].rows(e.frame.ids(entity))
    known = rows >= 0
    size = len(e.tables[entity])
    count = np.bincount(rows[known], minlength=size).astype(np.float64)
    values = e.tables[entity].table[name].cast(pl.Float64, strict=False).fill_null(float("nan")).to_numpy()
    usable = (count >= 5) & np.isfinite(values)
    if usable.sum() < _ENOUGH or len(np.unique(values[usable])) < 5:
        return None
    against = {"number of events": count}
    for task in e.schema.task_names:
        y = np.nan_to_num(e.label(task).astype(np.float64))
        positives = np.bincount(rows[known], y[known], size).astype(np.float64)
        against[f"positives of {task}"] = positives
        against[f"rate of {task}"] = positives / np.maximum(count, 1)
    for what, numbers in against.items():
        if len(np.unique(numbers[usable])) < 5:
            continue
        if abs(float(spearmanr(values[usable], numbers[usable]).statistic)) > SAME_ORDER:
            return what
    return None
