"""A project's log becomes a graph: the right edges, the right strengths, nothing from later."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from memberwise.data.entities import EntityEmbeddings
from memberwise.errors import ConfigError, DataError
from memberwise.graph import HeteroGraph, reverse_of
from memberwise.graph.edges import Affinity, Attribute, Engagement, Social
from memberwise.graph.salton import salton_weights
from memberwise.project import Project
from support.logs import impressions, project_values

ENGAGES = ("member", "engages", "item")
DAY = 86_400_000_000


@pytest.fixture
def raw() -> pl.DataFrame:
    return impressions(300, seed=4).with_columns(
        director=pl.col("i").str.slice(1, 1), num=pl.col("num").fill_nan(None)
    )


@pytest.fixture
def project(tmp_path: Path, raw: pl.DataFrame) -> Project:
    raw.sample(fraction=1.0, shuffle=True, seed=1).write_parquet(tmp_path / "log.parquet")
    items = pl.DataFrame(
        {
            "i": [f"i{k}" for k in range(16)],
            "genres": [["war", "love"][: k % 3] for k in range(16)],
            "year": [None if k == 3 else 1990.0 + k for k in range(16)],
            "v": [[float(k), 1.0] for k in range(16)],
        }
    )
    items.write_parquet(tmp_path / "items.parquet")
    follows = pl.DataFrame(
        {
            "who": ["m1", "m2", "m1", "m0"],
            "whom": ["m2", "m3", "m3", "m1"],
            "at": [1, 2, 3, None],
            "s": [1.0, 2, 3, 4],
        }
    )
    follows.write_parquet(tmp_path / "follows.parquet")
    values = project_values("log.parquet")
    values["entities"]["item"]["path"] = "items.parquet"
    values["features"] = [
        {"kind": "categorical", "column": "item.genres", "max_values": 3},
        {"kind": "numeric", "column": "item.year"},
        {"kind": "vector", "entity": "item", "column": "v"},
    ]
    return Project.from_dict(values, tmp_path)


def expected(rows: pl.DataFrame, target: str) -> list[tuple[str, str, int]]:
    """(member, target, microsecond) of rows, sorted."""
    return sorted(zip(rows["m"], rows[target], rows["t"].to_physical(), strict=True))


def found(graph: HeteroGraph, edge_type, weight: bool = False) -> list[tuple]:
    coo = graph.adjacency[edge_type].coo()
    columns = [
        graph.nodes[edge_type[0]].ids[coo.source.astype(np.int64)],
        graph.nodes[edge_type[2]].ids[coo.target.astype(np.int64)],
        coo.time if coo.time is not None else [None] * len(coo.source),
    ]
    return sorted(zip(*columns, *([coo.weight.tolist()] if weight else []), strict=True))


def test_every_positive_event_is_an_edge_and_every_category_a_node(project, raw):
    graph = HeteroGraph.from_project(project)
    assert found(graph, ENGAGES) == expected(raw.filter(pl.col("y") == 1), "i")
    assert graph.count("member") == raw["m"].n_unique()  # also those without a positive
    assert graph.count("item") == 16  # also the one that nobody saw
    has = ("item", "has", "item.genres")
    assert graph.edge_types == tuple(sorted((ENGAGES, reverse_of(ENGAGES), has, reverse_of(has))))
    assert graph.neighbours("i5", has) == ["war", "love"]
    assert graph.neighbours("i3", has) == []
    assert not graph.adjacency[has].timed


@pytest.mark.parametrize("share", [0.0, 0.3, 0.77])
def test_a_graph_as_of_a_moment_knows_nothing_of_that_moment_or_later(project, raw, share):
    times = raw["t"].to_physical()
    before = int(times[int(share * len(times))])
    early = raw.filter(pl.col("t").to_physical() < before)
    graph = HeteroGraph.from_project(project, before=before)
    assert found(graph, ENGAGES) == expected(early.filter(pl.col("y") == 1), "i")
    assert set(graph.nodes["member"].ids) == set(early["m"])
    # The same as of a log that ends there, down to the number of each node.
    if len(early):
        alone = HeteroGraph.from_project(project, source=early)
        assert graph.nodes["member"].hashes.shape == alone.nodes["member"].hashes.shape
        assert found(alone, ENGAGES) == found(graph, ENGAGES)


def test_conditions_and_strengths_read_columns_and_tasks(project, raw):
    edges = [
        Engagement(name="likes", where="num > 0 and y > 0", weight="1 + 2 * y"),
        Engagement(name="sees", where="true", weight=0.5, reverse=False),
    ]
    graph = HeteroGraph.from_project(project, edges)
    liked = raw.filter((pl.col("num") > 0) & (pl.col("y") == 1))
    likes = ("member", "likes", "item")
    assert found(graph, likes, weight=True) == [(*e, 3.0) for e in expected(liked, "i")]
    sees = ("member", "sees", "item")
    assert found(graph, sees, weight=True) == [(*e, 0.5) for e in expected(raw, "i")]
    assert reverse_of(sees) not in graph.edge_types


def test_affinity_leads_to_every_value_of_a_column(project, raw):
    edges = [
        Affinity(name="likes", column="director"),
        Affinity(name="tagged", column="tags"),
        Affinity(name="watches", column="item.genres"),
    ]
    graph = HeteroGraph.from_project(project, edges)
    positive = raw.filter(pl.col("y") == 1)
    assert found(graph, ("member", "likes", "director")) == expected(positive, "director")
    tags = positive.with_columns(pl.col("tags").list.unique()).explode("tags")
    assert found(graph, ("member", "tagged", "tags")) == expected(tags, "tags")
    genres = {f"i{k}": ["war", "love"][: k % 3] for k in range(16)}
    watched = positive.with_columns(
        g=pl.Series([genres[i] for i in positive["i"]], dtype=pl.List(pl.String))
    ).explode("g")
    assert found(graph, ("member", "watches", "item.genres")) == expected(watched.drop_nulls("g"), "g")


def test_social_edges_come_from_their_table(project):
    knows = ("member", "follows", "member")
    edge = {"path": "follows.parquet", "source": "who", "target": "whom"}
    plain = HeteroGraph.from_project(project, [Social(**edge, weight="s", reverse=True)])
    assert found(plain, knows, weight=True) == [
        ("m0", "m1", None, 4.0),
        ("m1", "m2", None, 1.0),
        ("m1", "m3", None, 3.0),
        ("m2", "m3", None, 2.0),
    ]
    with pytest.raises(DataError, match="1 edges have no time"):
        HeteroGraph.from_project(project, [Social(**edge, time="at")])
    salton = HeteroGraph.from_project(project, [Social(**edge, weight="salton")])
    strengths = {e[:2]: e[3] for e in found(salton, knows, weight=True)}
    # N(m0) = {m1}; N(m1) = {m0, m2, m3}; N(m2) = {m1, m3}; N(m3) = {m1, m2}
    assert strengths["m1", "m2"] == pytest.approx(1 / math.sqrt(6))
    assert strengths["m2", "m3"] == pytest.approx(1 / 2)
    assert strengths["m0", "m1"] == 0
    with pytest.raises(ConfigError, match="later edges into earlier ones"):
        HeteroGraph.from_project(project, [Social(**edge, weight="salton", time="at")])


def test_social_times_obey_the_cut_off(project, tmp_path):
    follows = pl.DataFrame({"who": ["m1", "m2"], "whom": ["m2", "m3"], "at": [100, 200]})
    follows.write_parquet(tmp_path / "follows.parquet")
    edge = Social(path="follows.parquet", source="who", target="whom", time="at")
    graph = HeteroGraph.from_project(project, [edge], before=200_000_000)
    assert found(graph, ("member", "follows", "member")) == [("m1", "m2", 100_000_000)]


def test_numbers_and_vectors_of_the_table_become_features_and_content(project):
    graph = HeteroGraph.from_project(project)
    items = graph.nodes["item"]
    numeric = items.features["numeric"]
    assert numeric.shape == (16, 2)
    years = np.array([1990.0 + k for k in range(16) if k != 3])
    rows = items.find(pl.Series([f"i{k}" for k in range(16) if k != 3]))
    np.testing.assert_allclose(numeric[rows, 0], (years - years.mean()) / years.std(), rtol=1e-5)
    assert numeric[items.find(pl.Series(["i3"]))[0]].tolist() == [0, 1]
    np.testing.assert_array_equal(items.content[items.find(pl.Series(["i7"]))[0]], [7, 1])


def test_vectors_that_know_more_than_the_graph_are_refused(project, tmp_path, raw):
    first, last = int(raw["t"].to_physical().min()), int(raw["t"].to_physical().max())
    made = EntityEmbeddings("item", pl.Series(["i1"]), np.ones((1, 2), np.float32), "v1", last)
    made.write(tmp_path / "v.arrow")
    values = project.to_dict()
    values["features"] = [{"kind": "vector", "entity": "item", "path": "v.arrow"}]
    reading = Project.from_dict({k: v for k, v in values.items() if k != "ranker"}, tmp_path)
    graph = HeteroGraph.from_project(reading, before=last)
    assert graph.nodes["item"].content[graph.nodes["item"].find(pl.Series(["i1", "i2"]))].tolist() == [
        [1, 1],
        [0, 0],
    ]
    with pytest.raises(DataError, match="have seen events that the graph must not know"):
        HeteroGraph.from_project(reading, before=first)


@pytest.mark.parametrize(
    ("edge", "error", "message"),
    [
        (Engagement(target="film"), ConfigError, r"graph.edges\[0\].target: 'film' is not an entity"),
        (Engagement(where="y >"), ConfigError, r"graph.edges\[0\].where"),
        (Engagement(where="nowhere > 1"), DataError, "nowhere"),
        (Engagement(where="num > avg(num)"), ConfigError, "reads other rows than its own"),
        (Engagement(weight="num - 100"), DataError, "weights are not numbers >= 0"),
        (Attribute(column="genres"), ConfigError, "not a column of an entity's table"),
        (Attribute(column="item.length"), DataError, "length"),
        (Attribute(column="member.age"), ConfigError, "entity 'member' has no table"),
        (Affinity(column="nowhere"), DataError, "nowhere"),
        (Social(path="follows.parquet", source="who", target="x"), DataError, "x"),
    ],
)
def test_edges_that_cannot_be_say_why(project, edge, error, message):
    with pytest.raises(error, match=message):
        HeteroGraph.from_project(project, [edge])


def test_salton_weights_are_the_cosine_of_neighbourhoods():
    rng = np.random.default_rng(3)
    source, target = rng.integers(0, 12, (2, 40)).astype(np.int32)
    source, target = source[source != target], target[source != target]
    matrix = np.zeros((12, 12))
    matrix[source, target] = matrix[target, source] = 1
    degree = matrix.sum(1)
    expected = (matrix @ matrix)[source, target] / np.sqrt(degree[source] * degree[target])
    np.testing.assert_allclose(salton_weights(source, target, 12), expected, rtol=1e-6)
