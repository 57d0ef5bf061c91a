"""Densification: cold nodes lean on hot ones that resemble them, and nothing looks ahead."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memberwise.cli import main
from memberwise.errors import ConfigError
from memberwise.graph import EdgeArrays, HeteroGraph, SampleRequest, SeedBatch
from memberwise.graph.config import DensifyConfig, EncoderConfig
from memberwise.graph.densify import _nearest, densify
from memberwise.graph.encoder import GraphEncoder
from memberwise.graph.inference import embed_all
from memberwise.graph.neighbourhood import Neighbourhood
from memberwise.graph.node_input import IdRows
from memberwise.graph.node_table import typed_hashes
from memberwise.graph.nodes import numbered
from support.graph_twins import RATES
from support.logs import impressions
from support.projects import make as make_project

EDGE = ("item", "resembles", "item")


def make(degrees: list[int], content: np.ndarray | None, late: int = 0) -> HeteroGraph:
    """Items with so many ratings, one after another; the last `late` items are rated after all others."""
    items = np.repeat(np.arange(len(degrees)), degrees)
    rng = np.random.default_rng(0)
    early = rng.permutation(items[items < len(degrees) - late])
    items = np.concatenate([early, items[items >= len(degrees) - late]])
    rates = EdgeArrays(RATES, np.arange(len(items)) % 7, items, np.arange(10, 10 + len(items)))
    nodes = [numbered("member", 7), numbered("item", len(degrees), content=content)]
    return HeteroGraph.from_arrays(nodes, [rates])


def edges(graph: HeteroGraph) -> dict[tuple[int, int], float]:
    coo = graph.adjacency[EDGE].coo()
    return dict(
        zip(zip(coo.source.tolist(), coo.target.tolist(), strict=True), coo.weight.tolist(), strict=True)
    )


def angles(degrees: list[float]) -> np.ndarray:
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32) * 3


def test_cold_nodes_lean_on_the_hot_nodes_most_like_them():
    # Items 0 and 1 are cold, 8 and 9 hot; 1 has no content, 2 is nearest of all but lukewarm.
    degrees = [0, 1, 5, 5, 5, 5, 5, 5, 40, 50]
    content = angles([0, 10, 1, 2, 3, 4, 5, 6, 30, 80])
    content[1] = 0
    wanted = DensifyConfig(low=10, high=80, k=1, moments=1)
    graph, done = densify(make(degrees, content), wanted)
    assert edges(graph) == {(0, 8): pytest.approx(np.cos(np.deg2rad(30)), abs=1e-5)}
    assert done[0] == type(done[0])(EDGE, 1, 1, 1)
    two, _ = densify(make(degrees, content), wanted.model_copy(update={"k": 2}))
    assert set(edges(two)) == {(0, 8), (0, 9)}
    near, _ = densify(make(degrees, content), wanted.model_copy(update={"k": 2, "min_similarity": 0.5}))
    assert set(edges(near)) == {(0, 8)}
    assert ("item", "rev_resembles", "item") not in graph.edge_types


def test_a_hot_node_takes_only_so_many_and_the_most_similar_first():
    degrees = [1, 1, 1, 9, 9, 9, 9, 9, 9, 30, 31]
    content = angles([0, 10, 20, 99, 99, 99, 99, 99, 99, 25, 60])
    wanted = DensifyConfig(low=25, high=95, k=1, max_in_degree=2, moments=1)
    graph, _ = densify(make(degrees, content), wanted)
    # Above the 95th percentile there is only 10; with both hot, 9 takes the two that are nearest.
    both, _ = densify(make(degrees, content), wanted.model_copy(update={"high": 85.0}))
    assert set(edges(graph)) == {(2, 10), (1, 10)}
    assert set(edges(both)) == {(2, 9), (1, 9), (0, 10)}


def test_no_edge_is_visible_before_its_degrees_were_and_none_looks_behind():
    rng = np.random.default_rng(1)
    degrees = [1] * 30 + [8] * 60 + [60] * 10
    content = rng.normal(size=(100, 6)).astype(np.float32)
    whole = make(degrees, content)
    wanted = DensifyConfig(k=5, moments=4)
    graph, _ = densify(whole, wanted)
    coo = graph.adjacency[EDGE].coo()
    moments = np.unique(coo.time) + 1
    assert len(moments) > 1
    for source, target, time in zip(coo.source, coo.target, coo.time, strict=True):
        degree = whole.adjacency["item", "rev_rates", "member"].degrees(int(time) + 1)
        linked = degree[degree > 0]
        assert degree[source] <= np.percentile(linked, 30)
        assert degree[target] >= np.percentile(linked, 90)
    counts = np.bincount(coo.source, minlength=100)
    assert counts.max() <= 5
    assert all(len(np.unique(coo.time[coo.source == v])) <= 1 for v in range(100))  # once each
    # Without what happens later, the edges up to then are the same.
    for moment in moments[:-1].tolist():
        rates = whole.adjacency[RATES].coo()
        early = rates.time < moment
        table = EdgeArrays(RATES, rates.source[early], rates.target[early], rates.time[early])
        known = HeteroGraph.from_arrays(whole.nodes.values(), [table])
        one, _ = densify(known, wanted.model_copy(update={"moments": 1}))
        same, _ = densify(whole, wanted.model_copy(update={"moments": 1}), before=moment)
        assert edges(one) == edges(same)


def test_the_newest_artificial_edges_are_the_most_alike_and_a_window_spares_them():
    content = angles([0, 99, 99, 99, 99, 99, 99, 10, 60, 40])
    graph, _ = densify(
        make([1, 5, 5, 5, 5, 5, 5, 30, 31, 32], content), DensifyConfig(high=70, k=3, moments=1)
    )
    assert graph.adjacency[EDGE].neighbours(0).tolist() == [8, 9, 7]
    sampler = Neighbourhood(window="1s", fan_out=2).sampler(graph, training=False)
    late = SeedBatch("item", np.array([0], np.int32), np.array([10_000_000]))
    blocks = {b.edge_type: b.nodes[0] for b in sampler.sample(SampleRequest(late, (2,))).blocks}
    assert set(blocks[EDGE].tolist()) == {9, 7}
    assert (blocks["item", "rev_rates", "member"] == -1).all()


@given(
    seed=st.integers(0, 10_000), cut=st.floats(0.3, 0.95), learn=st.floats(0.3, 0.8), layers=st.integers(1, 2)
)
@settings(max_examples=25, deadline=None)
def test_nothing_from_a_moment_on_reaches_an_embedding_as_of_it(seed, cut, learn, layers):
    """Other edges at and after the moment, before and after what was learned from: the same vectors."""
    rng = np.random.default_rng(seed)
    n, items = 300, 24
    time = np.sort(rng.integers(0, 200, n)) * 3_600_000_000
    skew = rng.dirichlet(np.full(items, 0.4))
    source, target = rng.integers(0, 12, n), rng.choice(items, n, p=skew)
    moment, learned = (int(np.quantile(time, q)) for q in (cut, learn))
    later = time >= moment
    other = (
        np.where(later, rng.integers(0, 12, n), source),
        np.where(later, rng.integers(0, items, n), target),
    )
    nodes = [
        numbered("member", 12),
        numbered("item", items, content=rng.normal(0.5, 1, (items, 4)).astype(np.float32)),
    ]
    one, two = (
        densify(
            HeteroGraph.from_arrays(nodes, [EdgeArrays(RATES, *ends, time)]), DensifyConfig(k=3), learned
        )[0]
        for ends in ((source, target), other)
    )
    config = EncoderConfig(
        dim=16, heads=2, layers=layers, temporal={"length": 4, "heads": 2, "long_term": None}
    )
    ids = IdRows(2, 16, 2, typed_hashes(one.nodes["item"]))
    encoder = GraphEncoder.new(one, (RATES,), config, Neighbourhood(fan_out=4), ids, seed)
    with torch.no_grad():  # gates, ages and activity start at nothing: let them count
        for weight in encoder.model.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.1)
    vectors = [embed_all(encoder, graph, moment) for graph in (one, two)]
    for node_type in ("member", "item"):
        np.testing.assert_array_equal(vectors[0][node_type].vectors, vectors[1][node_type].vectors)
    assert all(int(g.adjacency[EDGE].last_time or 0) < learned for g in (one, two))


def test_what_cannot_be_densified_says_why():
    content = np.ones((3, 2), np.float32)
    with pytest.raises(ConfigError, match="no node type has content"):
        densify(make([1, 2, 3], None))
    with pytest.raises(ConfigError, match="'member' have no content"):
        densify(make([1, 2, 3], content), DensifyConfig(node_types=["member"]))
    with pytest.raises(ConfigError, match="no nodes of type 'film'"):
        densify(make([1, 2, 3], content), DensifyConfig(node_types=["film"]))
    with pytest.raises(ConfigError, match="no edge from 'item' has a time"):
        densify(make([1, 2, 3], content), before=10)
    with pytest.raises(ValueError, match="low 90 must be below high 30"):
        DensifyConfig(low=90, high=30)
    same, done = densify(make([2, 2, 2], content), DensifyConfig(moments=1))  # all alike: nobody is hot
    assert done[0].edges == 0
    assert same.adjacency[EDGE].edges == 0


def test_the_index_finds_nearly_what_comparing_all_finds(monkeypatch):
    rng = np.random.default_rng(2)
    stored, asked = (rng.normal(size=(n, 16)).astype(np.float32) for n in (1_000, 50))
    cosine = (asked @ stored.T) / np.linalg.norm(asked, axis=1)[:, None] / np.linalg.norm(stored, axis=1)
    best = np.argsort(-cosine, axis=1)[:, :10]
    exact, similarity = _nearest(stored, asked, 10)
    np.testing.assert_array_equal(exact, best)
    np.testing.assert_allclose(similarity, np.take_along_axis(cosine, best, 1), atol=1e-5)
    monkeypatch.setattr("memberwise.graph.densify._EXACT", 10)
    quick, _ = _nearest(stored, asked, 10)
    assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(quick, best, strict=True)]) > 0.9


def test_the_command_writes_a_graph_that_opens(tmp_path, monkeypatch, capsys):
    project = make_project(tmp_path, impressions(400))
    (tmp_path / "project.yaml").write_text(json.dumps(project.to_dict()))

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["memberwise", "graph", "densify", str(tmp_path), *arguments])
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    output = tmp_path / "dense"
    assert run("--output", str(output), "--k", "2", "--before", "2020-09-20") == 0
    graph = HeteroGraph.open(output)
    assert graph.last_time is not None
    assert graph.last_time < 1_600_560_000_000_000  # 2020-09-20
    coo = graph.adjacency[EDGE].coo()
    assert 0 < np.bincount(coo.source).max() <= 2
    assert "new edges" in capsys.readouterr().out
    assert run("--output", str(output)) == 2  # it is there already
    assert run("--output", str(tmp_path / "no"), "--low", "95") == 2
