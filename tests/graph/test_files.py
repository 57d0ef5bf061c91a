"""A graph on disk: the same when it comes back, shared when it grows, refused when it is damaged."""

from __future__ import annotations

import json
import os

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings

from memberwise.errors import BundleError
from memberwise.graph import EdgeTable, HeteroGraph, NeighbourSampler, Nodes, SampleRequest, SeedBatch
from support.graph_twins import RATES, graphs


def small() -> HeteroGraph:
    """Two edge types, features, content, one appended edge."""
    items = Nodes("item", pl.Series([7, 8]), {"size": np.ones((2, 1))}, np.ones((2, 3), np.float32))
    ratings = EdgeTable(
        RATES,
        pl.Series(["a", "b", "a"]),
        pl.Series([7, 7, 8]),
        time=pl.Series([30, 20, 10]),
        weight=np.array([1, 2, 3]),
        features=np.arange(3.0),
        unknown_ids="add",
    )
    has = EdgeTable(("item", "has", "genre"), pl.Series([7]), pl.Series(["war"]), unknown_ids="add")
    return HeteroGraph.from_tables([items], [ratings, has])


def newer(time: int) -> EdgeTable:
    return EdgeTable(
        RATES,
        pl.Series(["c"]),
        pl.Series([8]),
        time=pl.Series([time]),
        features=np.array([1.0]),
        unknown_ids="add",
    )


def same(a: HeteroGraph, b: HeteroGraph) -> None:
    assert a.node_types == b.node_types
    assert a.edge_types == b.edge_types
    for t in a.node_types:
        assert a.nodes[t].ids.equals(b.nodes[t].ids)
        assert set(a.nodes[t].features) == set(b.nodes[t].features)
        for name in a.nodes[t].features:
            np.testing.assert_array_equal(a.nodes[t].features[name], b.nodes[t].features[name])
        assert (a.nodes[t].content is None) == (b.nodes[t].content is None)
        if a.nodes[t].content is not None:
            np.testing.assert_array_equal(a.nodes[t].content, b.nodes[t].content)
    for e in a.edge_types:
        for x, y in ((a.adjacency[e].base, b.adjacency[e].base), (a.adjacency[e].tail, b.adjacency[e].tail)):
            for left, right in zip(x, y, strict=True):
                assert left.dtype == right.dtype
                np.testing.assert_array_equal(left, right)
    assert set(a.edge_features) == set(b.edge_features)
    for e, array in a.edge_features.items():
        np.testing.assert_array_equal(array, b.edge_features[e])


@given(pair=graphs(in_order=True))
@settings(max_examples=15)
def test_what_is_written_comes_back(pair, tmp_path_factory):
    folder = tmp_path_factory.mktemp("graph") / "g"
    pair[0].write(folder)
    same(pair[0], HeteroGraph.open(folder))


def test_features_and_content_come_back_and_samples_agree(tmp_path):
    graph = small()
    graph.write(tmp_path / "g")
    opened = HeteroGraph.open(tmp_path / "g")
    same(graph, opened)
    request = SampleRequest(SeedBatch("member", np.array([0, 1]), np.array([31, 31])), [2, 2], seed=5)
    for a, b in zip(*(NeighbourSampler(g).sample(request).blocks for g in (graph, opened)), strict=True):
        np.testing.assert_array_equal(a.nodes, b.nodes)


def test_a_grown_graph_links_what_did_not_change(tmp_path):
    small().write(tmp_path / "1")
    grown, _ = HeteroGraph.open(tmp_path / "1").append([newer(40)])
    grown.write(tmp_path / "2")
    same(grown, HeteroGraph.open(tmp_path / "2"))
    linked = {p.name for p in (tmp_path / "2").iterdir() if p.stat().st_nlink == 2}
    base = {p.name for p in (tmp_path / "1").glob("edges.*.base.*.npy")}
    # The new member lengthened the bounds of the rows of members, and nothing else.
    assert {name.split(".")[-2] for name in base - linked} == {"indptr"}
    assert len(base - linked) == 1
    whole = HeteroGraph.open(tmp_path / "2").compacted()
    whole.write(tmp_path / "3")
    same(whole, HeteroGraph.open(tmp_path / "3"))
    again, _ = HeteroGraph.open(tmp_path / "3").append([newer(50)])
    assert again.neighbours("c", RATES) == ["8", "8"]


def test_a_damaged_graph_is_refused_by_name(tmp_path):
    small().write(tmp_path / "g")
    victim = tmp_path / "g" / "edges.0.base.target.npy"
    whole = victim.read_bytes()
    victim.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(BundleError, match=r"(?s)edges.0.base.target.npy.*checksum"):
        HeteroGraph.open(tmp_path / "g")
    HeteroGraph.open(tmp_path / "g", verify=False)  # sizes agree, and nobody looked inside
    victim.write_bytes(whole[:-1])
    with pytest.raises(BundleError, match=r"(?s)edges.0.base.target.npy.*bytes instead of"):
        HeteroGraph.open(tmp_path / "g", verify=False)
    victim.unlink()
    with pytest.raises(BundleError, match=r"(?s)edges.0.base.target.npy.*missing"):
        HeteroGraph.open(tmp_path / "g")
    with pytest.raises(BundleError, match="cannot be read"):
        HeteroGraph.open(tmp_path / "nowhere")
    (tmp_path / "g" / "graph.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(BundleError, match="has format 99"):
        HeteroGraph.open(tmp_path / "g")


def test_a_graph_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    small().write(tmp_path / "g")
    with pytest.raises(BundleError, match="is there already"):
        small().write(tmp_path / "g")
    calls = {"left": 9}

    def failing(handle):
        calls["left"] -= 1
        if calls["left"] < 0:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(OSError, match="No space"):
        small().write(tmp_path / "h")
    assert [p.name for p in tmp_path.iterdir()] == ["g"]
