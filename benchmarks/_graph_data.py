"""Three logs as graphs, cut by time, with the held-out edges that everybody is asked about."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from memberwise.data import datasets
from memberwise.graph import EdgeTable, EdgeType, HeteroGraph
from memberwise.graph.nodes import Nodes
from memberwise.graph.records import Records

DATA = Path(os.environ.get("MEMBERWISE_BENCH_DATA", ".cache/data"))
"""Where ``temporal/wikipedia_edits.parquet`` is (columns user, page, seconds)."""

ASKED, SLICES = 10_000, 18
"""Held-out edges that are scored; how often items are embedded anew over their span."""


@dataclass(frozen=True)
class Log:
    """A log of edges as a graph.

    Attributes
    ----------
    relation
        What is predicted.
    repeats : bool
        Whether a member chooses an item again; otherwise what it chose before is no candidate.
    train_end, valid_end : int
        First moment of valid and of test.
    """

    name: str
    graph: HeteroGraph
    relation: EdgeType
    repeats: bool
    train_end: int
    valid_end: int

    @property
    def records(self) -> Records:
        """All edges to predict, in the order of time."""
        return Records.of(self.graph, [self.relation])

    def asked(self, part: str = "test") -> tuple[Records, npt.NDArray[np.int64]]:
        """Held-out edges spread over their time, and the moment of each slice of them."""
        ends = {"valid": (self.train_end, self.valid_end), "test": (self.valid_end, np.iinfo(np.int64).max)}
        held = self.records.between(*ends[part])
        rows = np.unique(np.linspace(0, len(held) - 1, ASKED).astype(int))
        asked = held.take(rows)
        slices = np.arange(len(rows)) * SLICES // len(rows)
        return asked, asked.times[np.searchsorted(slices, slices)]


def _log(name: str, graph: HeteroGraph, relation: EdgeType, repeats: bool) -> Log:
    times = np.sort(Records.of(graph, [relation]).times)
    return Log(
        name, graph, relation, repeats, int(times[int(0.8 * len(times))]), int(times[int(0.9 * len(times))])
    )


@cache
def movietweetings(limit: int | None = None) -> Log:
    """Who tweeted a rating of which film; films have a year and genres."""
    files = datasets.movietweetings().files
    ratings, films = (pl.read_parquet(files[name]) for name in ("ratings", "movies"))
    ratings = ratings.sort("timestamp").head(limit or len(ratings))
    genres = sorted(films["genres"].explode().drop_nulls().unique())
    content = np.array([[g in (row or []) for g in genres] for row in films["genres"].to_list()], np.float32)
    year = films["year"].cast(pl.Float32).fill_null(strategy="mean").to_numpy()
    content = np.hstack([content, np.exp(-((year[:, None] - np.arange(1930, 2020, 10)) ** 2) / 200)])
    items = Nodes("item", films["movie_id"], content=content.astype(np.float32))
    relation = ("member", "rates", "item")
    edges = EdgeTable(
        relation, ratings["user_id"], ratings["movie_id"], time=ratings["timestamp"], unknown_ids="add"
    )
    return _log("MovieTweetings", HeteroGraph.from_tables([items], [edges]), relation, repeats=False)


@cache
def wikipedia(limit: int | None = None) -> Log:
    """Who edited which page."""
    edits = pl.read_parquet(DATA / "temporal" / "wikipedia_edits.parquet").sort("seconds")
    edits = edits.head(limit or len(edits))
    relation = ("member", "edits", "item")
    time = (edits["seconds"] * 1_000_000).to_numpy()
    edges = EdgeTable(relation, edits["user"], edits["page"], time=time, unknown_ids="add")
    return _log("Wikipedia edits", HeteroGraph.from_tables([], [edges]), relation, repeats=True)


@cache
def completejourney(limit: int | None = None) -> Log:
    """Which household bought which promoted product; products have a department, category and brand."""
    bought = pl.read_parquet(datasets.completejourney().files["impressions"]).filter(pl.col("label") == 1)
    bought = bought.sort("timestamp").head(limit or len(bought))
    columns = ["department", "product_category", "brand"]
    products = bought.unique("product_id", maintain_order=True)
    codes = [products[c].cast(pl.Categorical).to_physical().to_numpy() for c in columns]
    # A category as a fixed random direction: equal ones are near each other, others far.
    rng = np.random.default_rng(0)
    content = np.hstack(
        [rng.normal(size=(int(c.max()) + 1, 16))[c] * w for c, w in zip(codes, (0.5, 1.0, 0.3), strict=True)]
    )
    items = Nodes("item", products["product_id"].cast(pl.String), content=content.astype(np.float32))
    relation = ("member", "buys", "item")
    time = (bought["timestamp"] * 1_000_000).to_numpy()
    edges = [
        EdgeTable(relation, bought["household_id"], bought["product_id"], time=time, unknown_ids="add"),
        EdgeTable(
            ("item", "is", "category"),
            products["product_id"],
            products["product_category"],
            unknown_ids="add",
        ),
    ]
    return _log("Complete Journey", HeteroGraph.from_tables([items], edges), relation, repeats=True)


LOGS = {"movietweetings": movietweetings, "wikipedia": wikipedia, "completejourney": completejourney}
