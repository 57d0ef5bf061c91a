"""The two logs on which rankers are compared, as projects, at a given freshness."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from memberwise.data.datasets import completejourney, movietweetings
from memberwise.data.prepare import Prepared
from memberwise.project import Project
from memberwise.recommender.fitting import prepared_rows

LOGS = ("movietweetings", "completejourney", "completejourney-popularity")
"""Ratings of films; promoted products, against uniform and against popularity-weighted negatives."""

_HOUSEHOLD = ("age", "income", "home_ownership", "marital_status", "household_size", "household_comp")
_KEYS: tuple[list[str], ...] = (
    ["household_id"],
    ["product_id"],
    ["store_id"],
    ["product_category"],
    ["manufacturer"],
    ["household_id", "product_id"],
    ["household_id", "product_category"],
    ["household_id", "department"],
    ["household_id", "manufacturer"],
    ["product_id", "store_id"],
    ["product_id", "display_location"],
    ["product_id", "mailer_location"],
)


def project(log: str, delay: str, folder: Path, sample: float = 1.0) -> Project:
    """The project of a log; every aggregate and history has the same delay.

    Parameters
    ----------
    log : {"movietweetings", "completejourney", "completejourney-popularity"}
    delay : {"none", "hourly", "daily", "frozen"}
    folder
        Keeps what is prepared.
    sample
        Share of the log's rows, the latest; for smoke runs.
    """
    values = _films() if log == "movietweetings" else _groceries(log)
    values["name"], values["output"] = f"{log}-{delay}", str(folder)
    if sample < 1.0:
        _cut(values, sample, folder)
    for part in values["aggregates"]:
        part["delay"] = delay
    for feature in values["features"]:
        if feature["kind"] == "history":
            feature["delay"] = delay
    return Project.from_dict(values)


def prepared(log: str, delay: str, folder: Path, sample: float = 1.0) -> tuple[Project, Prepared]:
    """The project and its packed rows: made once, found again."""
    found = project(log, delay, folder, sample)
    return found, prepared_rows(found)


def _films() -> dict[str, Any]:
    """Will this member like this film? The rows of the demo, without what it learns beside the ranker."""
    files = movietweetings().files
    return {
        "events": {"path": str(files["ratings"]), "time": "timestamp"},
        "entities": {"member": {"id": "user_id"}, "item": {"id": "movie_id", "path": str(files["movies"])}},
        "tasks": [{"name": "liked", "label": "rating >= 8"}],
        "features": [
            {"kind": "categorical", "column": "user_id", "min_count": 3},
            {"kind": "categorical", "column": "movie_id", "min_count": 3},
            {"kind": "categorical", "column": "item.genres", "max_values": 5},
            {"kind": "numeric", "column": "item.year", "transform": "quantile"},
            {"kind": "history", "length": 20},
            {"kind": "clock"},
        ],
        "aggregates": [
            {"by": "user_id", "recency": True},
            {"by": "movie_id"},
            {"by": "item.year"},
            {"by": "item.genres"},
            {"by": ["user_id", "item.genres"]},
            {"by": "movie_id", "half_life": "7d"},
        ],
        "split": {"train": 0.8, "valid": 0.1},
    }


def _groceries(log: str) -> dict[str, Any]:
    """Was this promoted product bought? Baskets are requests; the split is the one of the data set."""
    path = completejourney("popularity" if log.endswith("popularity") else "uniform").files["impressions"]
    starts = pl.scan_parquet(path).group_by("split").agg(pl.from_epoch(pl.col("timestamp").min())).collect()
    start = dict(starts.iter_rows())
    ids = ("store_id", "display_location", "mailer_location", "department", "product_category", "brand")
    return {
        "events": {"path": str(path), "time": "timestamp", "request": "basket_id"},
        "entities": {"member": {"id": "household_id"}, "item": {"id": "product_id"}},
        "tasks": [{"name": "bought", "label": "label"}],
        "features": [
            {"kind": "categorical", "column": "household_id", "min_count": 3},
            {"kind": "categorical", "column": "product_id", "min_count": 3},
            *(
                {"kind": "categorical", "column": c}
                for c in (*ids, "manufacturer", *_HOUSEHOLD, "kids_count")
            ),
            {"kind": "history", "length": 20, "where": "label = 1"},
            {"kind": "clock"},
        ],
        "aggregates": [{"by": list(key)} for key in _KEYS],
        "split": {"valid_from": start["valid"].isoformat(), "test_from": start["test"].isoformat()},
        "training": {"batch_size": 2048},
    }


def _cut(values: dict[str, Any], share: float, folder: Path) -> None:
    """Leave the earliest rows out, and split what is left by shares."""
    path, time = values["events"]["path"], values["events"]["time"]
    table = pl.read_parquet(path).sort(time)
    folder.mkdir(parents=True, exist_ok=True)
    smaller = folder / f"{values['name'].replace('/', '-')}-{share:g}.parquet"
    if not smaller.is_file():
        table.tail(round(share * table.height)).write_parquet(smaller)
    values["events"]["path"] = str(smaller)
    values["split"] = {"train": 0.8, "valid": 0.1}
