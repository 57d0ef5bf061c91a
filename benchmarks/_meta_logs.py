"""The three logs of `meta_quality` as packed rows, and the views of them that each model may see."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from _harness import ROOT
from memberwise.data import datasets
from memberwise.data.pipeline import FeaturePipeline, key_column
from memberwise.data.vocabulary import FIRST, UNSEEN
from memberwise.meta.config import MetaTask, task_name
from memberwise.project import Project
from memberwise.recommender.fitting import prepared_rows
from memberwise.recommender.parts.meta_blocks import entity_columns
from memberwise.recommender.parts.meta_rows import EntityColumns

CACHE = ROOT / ".cache" / "meta_quality"
FEATURE, DIM = "meta(member)", 16
MEMBER = {"kind": "categorical", "min_count": 1}
RANKER = {
    "embedding_dim": 8,
    "blocks": [{"type": "cross", "layers": 2, "rank": 32}, {"type": "mlp", "hidden": [64, 32]}],
}

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Log:
    """One log, packed.

    Attributes
    ----------
    project
        Its meaning.
    arrays
        One row per event; the embedding is zero everywhere.
    splits
        Ranges of rows.
    rows
        Rows of each embedding table.
    columns
        What belongs to whose embedding is made, the meta features.
    own
        What belongs to the member.
    pair
        Dense columns that belong to a pair alone, if embeddings of pairs are made.
    delay
        How often everything is refreshed.
    feature
        Name of the embedding.
    """

    name: str
    project: Project
    arrays: Arrays
    splits: Mapping[str, tuple[int, int]]
    rows: Mapping[str, int]
    columns: EntityColumns
    layout: Any
    delay: Any
    own: EntityColumns
    pair: tuple[int, ...] = ()
    feature: str = FEATURE

    @property
    def keys(self) -> npt.NDArray[np.uint64]:
        """Member of each row."""
        return np.asarray(self.arrays[key_column(self.feature)])

    @property
    def times(self) -> npt.NDArray[np.int64]:
        """Microseconds."""
        return np.asarray(self.arrays["time"])

    def view(self, *shown: str) -> Arrays:
        """All rows without what is the member's own, except what is shown.

        Parameters
        ----------
        *shown
            Of ids, aggregates, history, pair ids, pair aggregates.
        """
        found = dict(self.arrays)
        found["ids"], found["dense"] = found["ids"].copy(), found["dense"].copy()
        for name, what in (("who", "ids"), ("pair", "pair ids")):
            for field in (f for f in self.layout.ids if f.name == name and what not in shown):
                found["ids"][:, field.start] = UNSEEN
        for columns, what in ((self.own.dense, "aggregates"), (self.pair, "pair aggregates")):
            if what not in shown:
                found["dense"][:, list(columns)] = 0.0
        if "history" not in shown:
            for name in self.own.histories:
                for part in ("items", "actions"):
                    found[f"{name}.{part}"] = np.full_like(found[f"{name}.{part}"], -1)
        return found


def load(name: str, quick: bool, pair: str | None = None) -> Log:
    """A log by name: movietweetings, movielens or completejourney.

    Parameters
    ----------
    pair
        A column: embeddings are made of member x column instead of members, and there are ids and counts of
        these pairs.
    """
    values = {
        "movietweetings": _movietweetings,
        "movielens": _movielens,
        "completejourney": _completejourney,
    }[name](quick)
    delay = values.pop("delay")
    member = values["entities"]["member"]["id"]
    task = MetaTask(by="member", dim=DIM)
    if pair is not None:
        task = MetaTask(by=[member, pair], dim=DIM)
        values["features"].insert(1, {"column": member, "name": "pair", **MEMBER})
        values["aggregates"].append({"by": [member, pair]})
    for feature in values["features"]:
        if feature["kind"] == "history":
            feature["delay"] = delay
    for aggregate in values["aggregates"]:
        aggregate["delay"] = delay
    values |= {
        "name": f"{name}{'-quick' if quick else ''}{'' if pair is None else f'-{pair}'}",
        "output": str(CACHE),
        "ranker": RANKER,
        "meta": {"tasks": [task.model_dump(mode="json")], "delay": delay},
    }
    project = Project.from_dict(values, CACHE)
    project.output.mkdir(parents=True, exist_ok=True)
    prepared = prepared_rows(project)
    pipeline, packed = prepared.pipeline, prepared.packed
    arrays = {k: np.asarray(a) for k, a in packed.arrays.items()}
    arrays[task_name(task)] = np.zeros((len(packed), DIM), np.float32)
    columns, own = (entity_columns(pipeline, t) for t in (task, MetaTask(by="member", dim=DIM)))
    rows = {n: v.rows for n, v in pipeline.vocabularies.items()}
    # Every member gets a row, those too that train has not seen: refreshed ids learn them when they come.
    arrays["ids"] = arrays["ids"].copy()
    keys = {"who": arrays["member"], "pair": arrays[key_column(task_name(task))]}
    for field in (f for f in pipeline.layout.ids if f.name in keys):
        known, place = np.unique(keys[field.name], return_inverse=True)
        arrays["ids"][:, field.start] = FIRST + place
        rows[field.table] = FIRST + len(known)
    counts = () if pair is None else _columns_of(pipeline, [member, pair])
    return Log(
        name, project, arrays, packed.splits, rows, columns, pipeline.layout, delay, own, counts,
        task_name(task),
    )  # fmt: skip


def _columns_of(pipeline: FeaturePipeline, by: list[str]) -> tuple[int, ...]:
    """Dense columns of the aggregates under a key."""
    made = {
        c
        for spec, a in zip(pipeline.schema.aggregates, pipeline.aggregates, strict=True)
        if list(spec.by) == by
        for c in a.columns
    }
    names = [c.name for c in pipeline.layout.dense]
    names += [c.name for c in pipeline.layout.dense if c.indicator]
    return tuple(i for i, name in enumerate(names) if name in made)


def _movietweetings(quick: bool) -> dict[str, Any]:
    files = datasets.movietweetings().files
    events = pl.read_parquet(files["ratings"])
    path = CACHE / f"ratings{'-quick' if quick else ''}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    (events.sort("timestamp").head(12_000) if quick else events).write_parquet(path)
    return {
        "events": {"path": str(path), "time": "timestamp"},
        "entities": {
            "member": {"id": "user_id"},
            "item": {"id": "movie_id", "path": str(files["movies"])},
        },
        "tasks": [{"name": "liked", "label": "rating >= 8"}],
        "features": [
            {"column": "user_id", "name": "who", **MEMBER},
            {"kind": "categorical", "column": "movie_id", "min_count": 3},
            {"kind": "categorical", "column": "item.genres", "max_values": 5},
            {"kind": "numeric", "column": "item.year", "transform": "quantile"},
            {"kind": "history", "length": 20},
            {"kind": "clock"},
        ],
        "aggregates": [
            {"by": "user_id", "recency": True},
            {"by": "user_id", "half_life": "14d"},
            {"by": "movie_id"},
            {"by": "item.year"},
            {"by": "item.genres"},
            {"by": "movie_id", "half_life": "7d"},
        ],
        "delay": "daily",
    }


def _movielens(quick: bool) -> dict[str, Any]:
    ratings, users, items = _recbole()
    path = CACHE / f"movielens{'-quick' if quick else ''}.parquet"
    (ratings.sort("timestamp").head(12_000) if quick else ratings).write_parquet(path)
    users.write_parquet(CACHE / "movielens-users.parquet")
    items.write_parquet(CACHE / "movielens-items.parquet")
    return {
        "events": {"path": str(path), "time": "timestamp"},
        "entities": {
            "member": {"id": "user_id", "path": str(CACHE / "movielens-users.parquet")},
            "item": {"id": "item_id", "path": str(CACHE / "movielens-items.parquet")},
        },
        "tasks": [{"name": "liked", "label": "rating >= 4"}],
        "features": [
            {"column": "user_id", "name": "who", **MEMBER},
            {"kind": "categorical", "column": "item_id", "min_count": 3},
            {"kind": "categorical", "column": "item.genres", "max_values": 5},
            {"kind": "categorical", "column": "member.occupation"},
            {"kind": "categorical", "column": "member.gender"},
            {"kind": "numeric", "column": "member.age"},
            {"kind": "numeric", "column": "item.year", "transform": "quantile"},
            {"kind": "history", "length": 20},
        ],
        "aggregates": [
            {"by": "user_id", "recency": True},
            {"by": "user_id", "half_life": "14d"},
            {"by": "item_id"},
            {"by": "item.genres"},
        ],
        # A member rates for minutes and is gone: what is a day old is of no use here.
        "delay": "none",
    }


def _recbole() -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """MovieLens-100k (GroupLens) as it lies in the wheel of recbole; downloaded once, never bundled."""
    wheel = CACHE / "recbole-1.2.1-py3-none-any.whl"
    if not wheel.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            command = [
                sys.executable,
                "-m",
                "pip",
                "download",
                "-qq",
                "--no-deps",
                "-d",
                folder,
                "recbole==1.2.1",
            ]
            subprocess.run(command, check=True, stdout=sys.stderr)
            found = next(Path(folder).glob("*.whl"))
            found.rename(wheel) if found.stat().st_dev == CACHE.stat().st_dev else wheel.write_bytes(
                found.read_bytes()
            )
    tables = []
    with zipfile.ZipFile(wheel) as archive:
        for kind in ("inter", "user", "item"):
            raw = archive.read(f"recbole/dataset_example/ml-100k/ml-100k.{kind}")
            table = pl.read_csv(raw, separator="\t", infer_schema=False, quote_char=None)
            tables.append(table.rename({c: c.split(":")[0] for c in table.columns}))
    inter, user, item = tables
    inter = inter.with_columns(
        pl.col("rating").cast(pl.Float64), pl.col("timestamp").cast(pl.Float64).cast(pl.Int64)
    )
    user = user.with_columns(pl.col("age").cast(pl.Float64, strict=False))
    item = item.select(
        "item_id",
        pl.col("release_year").cast(pl.Float64, strict=False).alias("year"),
        pl.col("class").str.split(" ").alias("genres"),
    )
    return inter, user, item


def _completejourney(quick: bool) -> dict[str, Any]:
    path = CACHE / f"completejourney{'-quick' if quick else ''}.parquet"
    if not path.exists():
        events = pl.read_parquet(datasets.completejourney("popularity").files["impressions"])
        # An eighth of the households, whole: the claims are about members, and five seeds take long.
        wanted = pl.col("household_id").cast(pl.Int64) % (40 if quick else 8) == 0
        events.filter(wanted).write_parquet(path)
    return {
        "events": {"path": str(path), "time": "timestamp", "request": "basket_id"},
        "entities": {"member": {"id": "household_id"}, "item": {"id": "product_id"}},
        "tasks": [{"name": "bought", "label": "label = 1"}],
        "features": [
            {"column": "household_id", "name": "who", **MEMBER},
            {"kind": "categorical", "column": "product_id", "min_count": 3},
            {"kind": "categorical", "column": "product_category"},
            {"kind": "categorical", "column": "department"},
            {"kind": "categorical", "column": "manufacturer", "min_count": 3},
            {"kind": "history", "length": 20, "where": "label = 1"},
        ],
        "aggregates": [
            {"by": "household_id", "recency": True},
            {"by": "household_id", "half_life": "14d"},
            {"by": "product_id"},
            {"by": "product_category"},
        ],
        "delay": "daily",
    }
