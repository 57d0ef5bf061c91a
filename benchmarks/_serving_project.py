"""The project of `serving_latency`: a log like Criteo's with 39 fields, and a version to serve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import yaml

from memberwise.project import Project
from memberwise.recommender import Recommender

MEMBERS, ITEMS, ROWS = 20_000, 20_000, 60_000
MEMBER_FIELDS, ITEM_FIELDS = 12, 25  # with the two ids: 39 fields of width 16, 624 inputs
START = 1_600_000_000


def make(folder: Path, rows: int = ROWS, members: int = MEMBERS, items: int = ITEMS) -> Project:
    """Write the log and the project, fit, publish."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)

    def table(key: str, prefix: str, size: int, fields: int) -> pl.DataFrame:
        columns: dict[str, Any] = {key: [f"{prefix}{k}" for k in range(size)]}
        columns |= {f"f{j}": rng.zipf(1.4, size) % (50 * (j + 1)) for j in range(fields)}
        return pl.DataFrame(columns)

    table("member", "m", members, MEMBER_FIELDS).write_parquet(folder / "members.parquet")
    table("item", "i", items, ITEM_FIELDS).write_parquet(folder / "items.parquet")
    m, i = rng.integers(0, members, rows), rng.zipf(1.2, rows) % items
    liking = np.sin(m * 7.0) + np.cos(i * 5.0) + rng.normal(size=rows)
    pl.DataFrame(
        {
            "time": START + np.arange(rows) * 60,
            "member": [f"m{k}" for k in m],
            "item": [f"i{k}" for k in i],
            "click": (liking > 0).astype(np.int8),
        }
    ).write_parquet(folder / "log.parquet")
    values = {
        "name": "serving",
        "events": {"path": "log.parquet", "time": "time"},
        "entities": {
            "member": {"id": "member", "path": "members.parquet"},
            "item": {"id": "item", "path": "items.parquet"},
        },
        "tasks": [{"name": "click", "label": "click = 1"}],
        "features": [
            *({"kind": "categorical", "column": c, "min_count": 1} for c in ("member", "item")),
            *({"kind": "categorical", "column": f"member.f{j}"} for j in range(MEMBER_FIELDS)),
            *({"kind": "categorical", "column": f"item.f{j}"} for j in range(ITEM_FIELDS)),
        ],
        "ranker": {
            "embedding_dim": 16,
            "blocks": [
                {"type": "cross", "layers": 2, "rank": 64},
                {"type": "mlp", "hidden": [256, 128]},
            ],
        },
        "training": {"epochs": 1, "batch_size": 2048, "device": "cpu"},
    }
    path = folder / "project.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    project = Project.load(path)
    Recommender.fit(project).save()
    return project
