"""Small logs: as hypothesis strategies, as checked events, and as files of a project."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import polars as pl
from hypothesis import strategies as st

from memberwise.data.events import ROW, TIME, EventChecker, Rejects
from memberwise.data.frame import Frame
from memberwise.schema import DAY, Aggregate, Entity, Events, Numeric, Schema, Task

START = 1_600_000_000_000_000 // DAY * DAY
"""A midnight in 2020."""
STEP = 20 * 60 * 1_000_000
"""Times stand on a grid of 20 minutes, so that many are equal and many lie on an hour or a day."""

Event = dict[str, Any]
COLUMNS: dict[str, Any] = {
    TIME: pl.Int64,
    "m": pl.String,
    "i": pl.String,
    "cat": pl.String,
    "tags": pl.List(pl.String),
    "num": pl.Float64,
    "label:y": pl.Float32,
    "label:z": pl.Float32,
    "where:past": pl.Boolean,
}


def schema(**settings: Any) -> Schema:
    """A schema over the columns of `events`; the task z is undefined on some rows."""
    values: dict[str, Any] = {
        "events": Events(path="unused.parquet", time="t"),
        "entities": {"member": Entity(id="m"), "item": Entity(id="i")},
        "tasks": [Task(name="y", label="y"), Task(name="z", label="z", mask="z is not null")],
        "features": [Numeric(column="num")],
    }
    return Schema(**(values | settings))


def events(max_size: int = 20, days: int = 3) -> st.SearchStrategy[list[Event]]:
    """Logs in time order with many equal times, missing values and few distinct ids."""
    event = st.fixed_dictionaries(
        {
            TIME: st.integers(0, days * 72).map(lambda k: START + k * STEP),
            "m": st.sampled_from(["a", "b", "c"]),
            "i": st.sampled_from(["p", "q", "r", "s"]),
            "cat": st.sampled_from(["u", "v", None]),
            "tags": st.one_of(
                st.none(), st.lists(st.sampled_from(["x", "y", "z", None, ""]), min_size=0, max_size=4)
            ),
            "num": st.sampled_from([None, float("nan"), 0.0, 1.5, -2.25, 7.1, 1e6]),
            "label:y": st.sampled_from([0.0, 1.0, 1.0, 0.3]),
            "label:z": st.sampled_from([float("nan"), 0.0, 1.0]),
            "where:past": st.booleans(),
        }
    )
    # A time is often that of the event before it.
    return st.lists(event, min_size=1, max_size=max_size).map(lambda log: sorted(log, key=lambda e: e[TIME]))


def table(log: Sequence[Event]) -> pl.DataFrame:
    """The log as checked events."""
    frame = pl.DataFrame({c: [e[c] for e in log] for c in COLUMNS}, schema=COLUMNS)
    return frame.with_columns(pl.int_range(pl.len()).alias(ROW))


def cut(log: Sequence[Event], size: int, meaning: Schema) -> Iterator[Frame]:
    """Frames of at most `size` events, which may part the events of one moment."""
    whole = table(log)
    for first in range(0, len(log), size):
        yield Frame(whole[first : first + size], meaning, {})


def aggregate_schema(spec: Aggregate) -> Schema:
    """A schema with one aggregate."""
    return schema(aggregates=[spec])


def check(raw: pl.DataFrame, meaning: Schema) -> tuple[pl.DataFrame, Rejects]:
    """Checked events of a raw table, and what was set aside."""
    rejects = Rejects()
    checker = EventChecker(meaning)
    return checker.check(raw.select(checker.columns), 0, rejects), rejects


def impressions(
    rows: int = 400,
    seed: int = 0,
    members: int = 12,
    items: int = 15,
    start: int = START,
    span: int = 10 * DAY,
) -> pl.DataFrame:
    """A raw log: ``t, m, i, cat, tags, num, y``; some members like some items. Many times are equal."""
    rng = np.random.default_rng(seed)
    ticks = np.sort(rng.integers(0, span // STEP, rows)) * STEP + start
    member, item = rng.integers(0, members, rows), rng.integers(0, items, rows)
    liking = np.sin(member * 7.0) + np.cos(item * 5.0)
    return pl.DataFrame(
        {
            "t": pl.Series(ticks).cast(pl.Datetime("us")),
            "m": [f"m{k}" for k in member],
            "i": [f"i{k}" for k in item],
            "cat": [("u", "v", "w")[k] for k in item % 3],
            "tags": [[f"g{k % 4}", f"g{k % 3}"] for k in item],
            "num": np.where(rng.random(rows) < 0.1, np.nan, rng.normal(size=rows)),
            "y": (liking + rng.normal(size=rows) > 0).astype(np.int64),
        }
    )


def project_values(path: str, **settings: Any) -> dict[str, Any]:
    """A project over `impressions` that trains in a second."""
    values: dict[str, Any] = {
        "name": "tiny",
        "events": {"path": path, "time": "t"},
        "entities": {"member": {"id": "m"}, "item": {"id": "i"}},
        "tasks": [{"name": "y", "label": "y = 1"}],
        "features": [
            {"kind": "categorical", "column": "m"},
            {"kind": "categorical", "column": "i"},
            {"kind": "categorical", "column": "tags", "max_values": 3},
            {"kind": "numeric", "column": "num"},
            {"kind": "history", "length": 4, "delay": "none"},
            {"kind": "clock"},
        ],
        "aggregates": [
            {"by": "m", "delay": "none", "recency": True},
            {"by": "i", "delay": "hourly", "distinct": ["m"], "means": ["num"]},
            {"by": ["m", "tags"]},
            {"by": "i", "window": "2d", "delay": "none"},
            {"by": "cat", "half_life": "1d"},
        ],
        "ranker": {
            "embedding_dim": 4,
            "blocks": [{"type": "mlp", "hidden": [8]}],
        },
        "training": {"epochs": 1, "batch_size": 64, "device": "cpu"},
    }
    return values | settings
