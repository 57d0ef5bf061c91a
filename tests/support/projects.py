"""Projects in a directory, small enough to be fitted in a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from memberwise.project import Project
from support.logs import project_values


def make(folder: Path, raw: pl.DataFrame, **settings: Any) -> Project:
    """A project over a log, in a directory."""
    folder.mkdir(parents=True, exist_ok=True)
    raw.write_parquet(folder / "log.parquet")
    rng = np.random.default_rng(0)
    table = {"i": [f"i{k}" for k in range(15)], "v": [rng.normal(size=2).tolist() for _ in range(15)]}
    pl.DataFrame(table).write_parquet(folder / "items.parquet")
    values = project_values("log.parquet") | {
        "entities": {"member": {"id": "m"}, "item": {"id": "i", "path": "items.parquet"}},
        "tasks": [
            {"name": "y", "label": "y = 1"},
            {"name": "z", "label": "num > 0", "mask": "num is not null"},
        ],
        "events": {"path": "log.parquet", "time": "t", "max_rejected": 0.2},
    }
    values["features"] = [*values["features"], {"kind": "vector", "entity": "item", "column": "v"}]
    return Project.from_dict(values | settings, folder)


SMALL_GRAPH: dict[str, Any] = {
    "encoder": {"dim": 16, "heads": 2, "temporal": {"length": 4, "heads": 2, "prefix": 2, "long_term": None}},
    "training": {"epochs": 1, "batch_size": 64, "negatives": 8, "workers": 0},
    "neighbourhood": {"fan_out": 4},
    "retrieval": {"candidates": 8},
}
SMALL_META: dict[str, Any] = {
    "tasks": [{"by": "member", "dim": 4, "hidden": [8]}],
    "support": 6,
    "inner": {"steps": 2, "rate": 2.0, "shrinkage": 1.0},
    "training": {"epochs": 1, "tasks_per_step": 32, "lr": 0.01, "ranker_lr": 0.001, "patience": 9},
}


def personal(folder: Path, raw: pl.DataFrame, items: int = 40, **settings: Any) -> Project:
    """A project with embeddings from a graph and from meta learning, and many items."""
    project = make(folder, raw)
    vectors = np.random.default_rng(0).normal(size=(items, 2)).tolist()
    pl.DataFrame({"i": [f"i{k}" for k in range(items)], "v": vectors}).write_parquet(folder / "items.parquet")
    return Project.from_dict(
        project.to_dict() | {"graph": SMALL_GRAPH, "meta": SMALL_META} | settings, folder
    )
