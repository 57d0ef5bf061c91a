"""Checks of train, valid and test: their sizes, their label rates, the ids that are new in them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from memberwise.doctor.evidence import SPLITS, Evidence, hashes, id_columns
from memberwise.doctor.findings import Finding
from memberwise.doctor.naming import refused
from memberwise.errors import percent
from memberwise.schema import Categorical

FEW_ROWS, FEW_OF_A_CLASS = 1000, 50
DRIFT, DRIFT_ERRORS = 0.2, 5.0
NEW_IDS = 0.5
HEAVY_MEMBER = 0.02


def check_split(e: Evidence) -> Iterator[Finding]:
    """A split that is empty or too small to say anything."""
    if e.split_error is not None:
        yield refused(e.split_error, "split")
        return
    for name, (first, last) in e.bounds.items():
        if last - first < FEW_ROWS:
            yield Finding(
                "warning",
                "small split",
                f"{name} has {last - first:,} rows: its metrics, and choices made by them, are mostly chance",
                "split",
                "give more data or another split",
            )


def check_labels(e: Evidence) -> Iterator[Finding]:
    """Label rates of each split: one class only, few of one class, drift."""
    if not e.bounds:
        return
    for i, (task, spec) in enumerate((t.name, t.percentile) for t in e.schema.tasks):
        where = f"tasks.{i}.label"
        y = {}
        for name, (first, last) in e.bounds.items():
            # Whether a number is high for its kind is told of the sampled rows alone.
            of_sample = spec is not None
            values = e.label(task)[e.part(name)] if of_sample else e.labels[task][e.order[first:last]]
            y[name] = values[np.isfinite(values)]
        if e.schema.negatives is not None:
            yield from _positives_only(task, y["train"], where)
            continue
        yield from _classes(task, y, where)
        yield from _drift(task, y, where)


def _positives_only(
    task: str, y: np.ndarray[tuple[int], np.dtype[np.float32]], where: str
) -> Iterator[Finding]:
    if len(y) and (y < 0.5).any():
        yield Finding(
            "error",
            "negatives",
            f"{task} is negative in {percent((y < 0.5).mean())} of the rows, but negatives are drawn as well",
            where,
            "for a log that knows what was not chosen, take out 'negatives'; else keep only the positives",
        )


def _classes(
    task: str, y: dict[str, np.ndarray[tuple[int], np.dtype[np.float32]]], where: str
) -> Iterator[Finding]:
    for name, values in y.items():
        positives = float(values.sum())
        least = min(positives, len(values) - positives)
        if len(values) == 0:
            text = f"{task} is defined for no row of {name}"
        elif least == 0:
            text = f"every label of {task} in {name} is {values[0]:g}"
        elif least < FEW_OF_A_CLASS:
            text = (
                f"{name} has only {least:.0f} {'positives' if positives <= least else 'negatives'} of {task}"
            )
        else:
            continue
        severe = name == "train" and (len(values) == 0 or least == 0)
        fix = "check the label's expression; for a log that holds only positives, ask for 'negatives'"
        small = "give more data, or another split: the metrics of this part are mostly chance or not defined"
        yield Finding("error" if severe else "warning", "classes", text, where, fix if severe else small)


def _drift(
    task: str, y: dict[str, np.ndarray[tuple[int], np.dtype[np.float32]]], where: str
) -> Iterator[Finding]:
    rates = {n: float(v.mean()) for n, v in y.items() if len(v)}
    if len(rates) < 3:
        return
    told = ", ".join(f"{n} {percent(r)}" for n, r in rates.items())
    for name in ("valid", "test"):
        base, rate, n = rates["train"], rates[name], len(y[name])
        error = np.sqrt(max(base * (1 - base), 1e-12) / n)
        if abs(rate - base) > DRIFT * max(base, 1e-9) and abs(rate - base) > DRIFT_ERRORS * error:
            yield Finding(
                "warning",
                "drift",
                f"the rate of {task} moves: {told}",
                where,
                "did the product or the label's definition change? Then start the log after the change",
            )
            return
    yield Finding("note", "label rates", f"rate of {task}: {told}", where)


def check_unseen(e: Evidence) -> Iterator[Finding]:
    """Ids of valid and test that train does not know."""
    if not e.bounds:
        return
    roles = {entity.id: name for name, entity in e.schema.entities.items()}
    start = e.start_of("valid")
    for column in id_columns(e.schema):
        seen = e.first_seen[column]
        if e.events[column].dtype.is_nested():
            continue
        known = hashes(e.events[column]).to_frame().join(seen, on="hash", how="left", maintain_order="left")
        new = known["first"].to_numpy() >= start
        shares = {s: float(new[e.part(s)].mean()) for s in SPLITS[1:] if e.part(s).any()}
        told = ", ".join(f"{percent(share)} of the rows of {s}" for s, share in shares.items())
        where = _where(e, column)
        if shares.get("test", 0.0) > NEW_IDS and roles.get(column) not in ("member", "item"):
            yield Finding(
                "warning",
                "unseen ids",
                f"{column!r} is new in {told}: what is learned about its values is hardly ever used",
                where,
                "leave it out, or use a coarser column",
            )
        elif column in roles:
            yield Finding("note", "unseen ids", f"{roles[column]} {column!r} is new in {told}", where)


def _where(e: Evidence, column: str) -> str:
    for i, f in enumerate(e.schema.features):
        if isinstance(f, Categorical) and f.column == column:
            return f"features.{i}.column"
    return next((f"entities.{n}.id" for n, x in e.schema.entities.items() if x.id == column), column)


def check_heavy_members(e: Evidence) -> Iterator[Finding]:
    """One member with an extreme share of the rows: a robot or a placeholder."""
    rows = e.first_seen[e.schema.entities["member"].id]["rows"].to_numpy()
    if len(rows) == 1:
        yield Finding(
            "warning", "one member", "the log has only one member", "entities.member.id", "is it the id?"
        )
        return
    share = rows.max() / rows.sum()
    if len(rows) >= 50 and share > HEAVY_MEMBER and rows.max() > 50 * np.median(rows):
        ids = e.events[e.schema.entities["member"].id].cast(str)
        name = ids.value_counts(sort=True)[ids.name][0]
        yield Finding(
            "warning",
            "heavy member",
            f"member {name!r} has {percent(share)} of all rows, {rows.max() / np.median(rows):,.0f} medians",
            "entities.member.id",
            "a robot, a test account or a placeholder for no id? Take its rows out of the log",
        )
