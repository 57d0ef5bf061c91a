"""Twelve aggregates over a generated log, in one process. Serves ``write`` and ``walk``."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

import _child
from memberwise.data.aggregates import AggregateState
from memberwise.data.events import ROW, TIME
from memberwise.data.frame import Frame
from memberwise.schema import DAY, Aggregate, Entity, Events, Schema, Task

START, DAYS = 1_600_000_000_000_000, 60
AGGREGATES = [
    Aggregate(by=["member"], recency=True),
    Aggregate(by=["item"]),
    Aggregate(by=["store"]),
    Aggregate(by=["category"]),
    Aggregate(by=["member", "category"]),
    Aggregate(by=["member", "item"]),
    Aggregate(by=["item", "store"]),
    Aggregate(by=["tags"]),
    Aggregate(by=["member", "tags"]),
    Aggregate(by=["item"], window=7 * DAY, delay="hourly"),
    Aggregate(by=["item"], half_life=14 * DAY, delay="none"),
    Aggregate(by=["member"], rates=[], distinct=["item"], name="member: items"),
]


def schema() -> Schema:
    """The log's meaning."""
    return Schema(
        events=Events(path="generated", time="time"),
        entities={"member": Entity(id="member"), "item": Entity(id="item")},
        tasks=[Task(name="click", label="click")],
        aggregates=AGGREGATES,
    )


def chunk(first: int, rows: int, total: int, seed: int) -> pl.DataFrame:
    """Checked events `first` to `first + rows`, members and items by a power law, one to three tags."""
    rng = np.random.default_rng([seed, first])
    tags = rng.integers(0, 300, (rows, 3))
    width = rng.integers(1, 4, rows)
    flat = tags[np.arange(3) < width[:, None]]
    return pl.DataFrame(
        {
            TIME: START + np.arange(first, first + rows) * (DAYS * DAY // total),
            ROW: np.arange(first, first + rows),
            "member": (rng.pareto(0.7, rows) * 200).astype(np.int64) % 500_000,
            "item": (rng.pareto(0.8, rows) * 100).astype(np.int64) % 100_000,
            "store": rng.integers(0, 400, rows),
            "category": rng.integers(0, 40, rows),
            "tags": _lists(flat, width),
            "label:click": (rng.random(rows) < 0.1).astype(np.float32),
        }
    )


def _lists(flat: np.ndarray, width: np.ndarray) -> pl.Series:
    offsets = np.concatenate([[0], np.cumsum(width)]).astype(np.int64)
    return pl.Series("tags", pa.LargeListArray.from_arrays(offsets, pa.array(flat)))


class Session:
    """The generated chunks and what is counted."""

    def write(self, rows: int, size: int) -> int:
        """Make the log, in memory; rows."""
        self.chunks = [chunk(k, min(size, rows - k), rows, 0) for k in range(0, rows, size)]
        return sum(len(c) for c in self.chunks)

    def walk(self) -> dict[str, Any]:
        """Absorb and read every chunk; rows, columns, keys, and a checksum."""
        meaning = schema()
        states = [AggregateState(a, meaning.task_names) for a in AGGREGATES]
        rows, total = 0, 0.0
        for events in self.chunks:
            frame = Frame(events, meaning, {})
            for state in states:
                state.absorb(frame)
                total += float(np.nansum(state.read(frame)))
            rows += len(frame)
        columns = sum(len(s.columns) for s in states)
        return {"rows": rows, "columns": columns, "keys": sum(s.keys for s in states), "sum": total}


if __name__ == "__main__":
    session = Session()
    _child.serve({"write": session.write, "walk": session.walk})
