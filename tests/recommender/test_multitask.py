"""Two and four tasks derived from film ratings, end to end: heads, masks, percentiles, utility, curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from memberwise.data.datasets import movietweetings
from memberwise.project import Project
from memberwise.recommender import Recommender

WATCH = {"name": "watch", "label": "rating >= 6", "utility": 1.0}
LIKE = {"name": "like", "label": "rating >= 8", "utility": 3.0}
LOVE = {"name": "love", "label": "rating >= 9", "mask": "rating >= 8", "utility": 2.0}
HIGH = {
    "name": "high",
    "label": "rating",
    "percentile": {"share": 0.7, "within": ["item.year"], "period": "7d", "min_rows": 30},
    "utility": 0.0,
}
TOWER = [{"type": "cross", "layers": 2, "rank": 8}, {"type": "mlp", "hidden": [16]}]
"""The design of ads and jobs: a cross network and a perceptron of the group's own."""


def project(folder: Path, tasks: list[dict[str, Any]], ranker: dict[str, Any]) -> Project:
    """The latest 8,000 ratings."""
    files = movietweetings().files
    pl.read_parquet(files["ratings"]).sort("timestamp").tail(8_000).write_parquet(folder / "ratings.parquet")
    values = {
        "name": "films",
        "events": {"path": "ratings.parquet", "time": "timestamp"},
        "entities": {"member": {"id": "user_id"}, "item": {"id": "movie_id", "path": str(files["movies"])}},
        "tasks": tasks,
        "features": [
            {"kind": "categorical", "column": "user_id"},
            {"kind": "categorical", "column": "movie_id", "encoding": "hash", "remainders": 65_536},
            {"kind": "categorical", "column": "item.genres", "max_values": 3, "remainders": 4},
            {"kind": "history", "length": 5, "encoder": "transformer"},
        ],
        "aggregates": [{"by": "user_id", "delay": "none"}, {"by": "movie_id", "delay": "none"}],
        "ranker": {"calibration": {}, **ranker},
        "training": {"epochs": 2, "batch_size": 256},
    }
    return Project.from_dict(values, folder)


CASES = {
    "two tasks": ([WATCH, LIKE], {"heads": {"type": "mmoe", "experts": 3, "hidden": [16], "top_k": 2}}),
    "four tasks": (
        [WATCH, LIKE, LOVE, HIGH],
        {
            "blocks": [{"type": "residual_cross", "rank": 16}, {"type": "gated_mlp", "hidden": [32]}],
            "heads": {"type": "grouped", "groups": [["watch"], ["like", "love"], ["high"]], "blocks": TOWER},
        },
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_end_to_end(case: str, tmp_path: Path) -> None:
    tasks, ranker = CASES[case]
    names = [t["name"] for t in tasks]
    rec = Recommender.fit(project(tmp_path, tasks, ranker))
    report = rec.evaluate(baselines=["label rate"], draws=50)
    assert set(report.metrics) == {
        "memberwise",
        "memberwise, without its curve",
        "memberwise, isotonic on valid",
        "label rate",
    }
    assert report.baseline == "label rate"  # what is itself, otherwise calibrated, is no baseline
    for name in names:
        assert report.metrics["memberwise"][name]["auc"]["value"] > 0.6, name
    ranked = rec.rank("1", k=20)
    utilities = [t["utility"] for t in tasks]
    np.testing.assert_allclose(ranked["score"], ranked.select(names).to_numpy() @ utilities, rtol=1e-5)
    path = rec.save(tmp_path / "bundles")
    assert Recommender.load(path).rank("1", k=20).equals(ranked)
    labels = np.asarray(rec._prepared().packed.rows("test")["labels"])
    if "love" in names:
        love, like = names.index("love"), names.index("like")
        # Chargeability: the head is trained and judged only where its label is defined.
        np.testing.assert_array_equal(np.isnan(labels[:, love]), labels[:, like] == 0)
        high = labels[:, names.index("high")]
        assert 0.05 < np.nanmean(high) < 0.45
        assert np.isin(high[~np.isnan(high)], [0, 1]).all()
