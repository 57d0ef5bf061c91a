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
