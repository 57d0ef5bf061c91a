"""Vectors out: layer by layer, one by one, for new nodes, and again for exactly what was touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from memberwise.errors import BundleError, ConfigError
from memberwise.graph import EdgeTable, HeteroGraph, SeedBatch
from memberwise.graph.encoder import GraphEncoder
from memberwise.graph.inference import embed_all, touched
from memberwise.graph.link_batch import LinkBatch
from memberwise.graph.linking import link_scores
from memberwise.graph.neighbourhood import Neighbourhood
from memberwise.graph.node_input import IdRows
from memberwise.graph.node_table import typed_hashes
from memberwise.nn.checkpoint import load_tensors, save_tensors
from memberwise.schema import DAY
from support.graphs import RATES, communities, small

SETTINGS: list[dict[str, Any]] = [
    {},
    {"temporal": None, "aggregator": "mean", "dual": False},
    {"layers": 2},
    {"layers": 3, "aggregator": "mean"},
]


def _encoder(graph: HeteroGraph, fan_out: int = 3, **settings: Any) -> GraphEncoder:
    hashes = np.concatenate([typed_hashes(graph.nodes[t])[::2] for t in graph.node_types])
    ids = IdRows(len(graph.node_types), 100, 2, hashes)
    around = Neighbourhood(fan_out=fan_out)
    encoder = GraphEncoder.new(graph, (RATES,), small(**settings), around, ids, seed=1)
    for p in encoder.model.parameters():  # no weight may be zero and hide what it multiplies
        torch.nn.init.normal_(p, std=0.3)
    return encoder


def _last(graph: HeteroGraph) -> int:
    assert graph.last_time is not None
    return graph.last_time


@pytest.mark.parametrize("settings", SETTINGS)
def test_layer_by_layer_is_one_by_one(settings: dict[str, Any]) -> None:
    graph = communities(members=9, items=8, events=120, features={"x": np.arange(8)})
    encoder, moment = _encoder(graph, **settings), _last(graph) - 2 * DAY
    whole = embed_all(encoder, graph, moment)
    for node_type in ("member", "item"):
        alone = encoder.embed(graph, node_type, np.arange(graph.count(node_type), dtype=np.int32), moment)
        np.testing.assert_allclose(whole[node_type].vectors, alone.vectors, rtol=1e-4, atol=1e-5)
        assert alone.keys is not None
        np.testing.assert_allclose(whole[node_type].keys, alone.keys, rtol=1e-4, atol=1e-4)


def test_later_edges_are_not_seen() -> None:
    graph = communities(members=9, items=8, events=120)
    encoder, moment = _encoder(graph), _last(graph) // 2
    early = embed_all(encoder, graph, moment)
    later, _ = graph.append([_events(graph, [(0, 1), (3, 3)])])
    for node_type, found in embed_all(encoder, later, moment).items():
        np.testing.assert_array_equal(found.vectors, early[node_type].vectors)


def _events(graph: HeteroGraph, pairs: list[tuple[object, object]]) -> EdgeTable:
    """New ratings by id, a day after the last; unknown ids become nodes."""
    who, what = zip(*pairs, strict=True)
    time = np.arange(len(pairs)) + _last(graph) + DAY
    text = [pl.Series([str(x) for x in column]) for column in (who, what)]
    return EdgeTable(RATES, *text, time=time, unknown_ids="add")


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("fan_out", [1, 3])
def test_a_refresh_touches_what_changes_and_nothing_else(settings: dict[str, Any], fan_out: int) -> None:
    graph = communities(members=30, items=26, events=150, seed=2)
    encoder = _encoder(graph, fan_out, **settings)
    pairs: list[tuple[object, object]] = [(4, 7), (11, 7), ("new", 3), (5, "fresh")]
    newer, ends = graph.append([_events(graph, pairs)])
    moment = _last(newer) + 1
    found = touched(encoder, newer, ends, moment)
    before, after = embed_all(encoder, graph, moment), embed_all(encoder, newer, moment)
    for node_type in ("member", "item"):
        old, now = before[node_type].vectors, after[node_type].vectors
        moved = np.abs(now[: len(old)] - old).max(1) > 1e-6
        new = np.arange(len(old), len(now))
        assert set(found[node_type]) == {*np.flatnonzero(moved), *new}
        refreshed = encoder.embed(newer, node_type, found[node_type], moment)
        np.testing.assert_allclose(refreshed.vectors, now[found[node_type]], rtol=1e-4, atol=1e-5)
    assert len(found["member"]) < 30 + 1


def test_with_ppr_a_refresh_misses_nothing() -> None:
    graph = communities(members=30, items=26, events=150, seed=2)
    hashes = np.concatenate([typed_hashes(graph.nodes[t]) for t in graph.node_types])
    around = Neighbourhood(fan_out=3, draw="ppr")
    encoder = GraphEncoder.new(graph, (RATES,), small(), around, IdRows(3, 100, 2, hashes), seed=1)
    newer, ends = graph.append([_events(graph, [(4, 7), ("new", 3)])])
    moment = _last(newer) + 1
    found = touched(encoder, newer, ends, moment)
    before, after = embed_all(encoder, graph, moment), embed_all(encoder, newer, moment)
    for node_type in ("member", "item"):
        old, now = before[node_type].vectors, after[node_type].vectors
        moved = np.flatnonzero(np.abs(now[: len(old)] - old).max(1) > 1e-5)
        assert len(moved)
        assert set(moved) <= set(found[node_type])
        alone = encoder.embed(newer, node_type, found[node_type], moment)
        np.testing.assert_allclose(alone.vectors, now[found[node_type]], rtol=1e-4, atol=1e-5)
    with pytest.raises(ConfigError, match="reaches two hops"):
        GraphEncoder.new(graph, (RATES,), small(layers=2), around, encoder.ids)


def test_a_new_node_is_embedded_from_what_it_did() -> None:
    graph = communities()
    encoder = _encoder(graph)
    graph, ends = graph.append([_events(graph, [("new", 3), ("new", 5), ("newer", 4)])])
    moment = _last(graph) + 1
    both = ends["member"]
    vectors = encoder.embed(graph, "member", both, moment).vectors
    assert np.isfinite(vectors).all()
    assert not np.allclose(vectors[0], vectors[1])


def test_a_key_product_is_the_decoders_score() -> None:
    graph = communities()
    encoder, moment = _encoder(graph), _last(graph)
    found = embed_all(encoder, graph, moment)
    member, item = found["member"], found["item"]
    assert member.keys is not None
    assert item.keys is not None
    z = member.vectors * encoder.model.decoder.relation[0].detach().numpy()
    cosine = z @ item.vectors.T / np.linalg.norm(z, axis=1)[:, None] / np.linalg.norm(item.vectors, axis=1)
    decoder: Any = encoder.model.decoder
    rest = member.keys @ item.keys.T - cosine / float(decoder.temperature.detach())
    np.testing.assert_allclose(
        rest, np.broadcast_to(rest[:1], rest.shape), atol=1e-4
    )  # popularity of the item


def test_the_scores_are_those_of_training() -> None:
    """Popularity of the item and what the member chose before included."""
    graph = communities()
    encoder, moment = _encoder(graph), _last(graph)
    found = embed_all(encoder, graph, moment)
    scores = found["member"].scores(found["item"])
    queries = encoder.queries(graph)
    members, items = (np.arange(graph.count(t), dtype=np.int32) for t in ("member", "item"))
    at = [SeedBatch(t, n, np.full(len(n), moment)) for t, n in (("member", members), ("item", items))]
    arrays = queries.arrays(*at, encoder.neighbourhood.fan_out, 0)
    records = np.arange(len(members))
    zeros = np.zeros(len(members), np.float32)
    arrays |= {
        "group": records,
        "column": records,
        "relation": records * 0,
        "place": records,
        "row": records,
        "first": records,
        "weights": zeros,
    }
    arrays |= {"log_q": zeros, "forbidden": zeros > 0, "uniform": zeros > 0}
    batch = LinkBatch.from_arrays(arrays, queries.table.numbers.types)
    with torch.inference_mode():
        expected = link_scores(encoder.model.eval(), encoder.model.states(batch.nodes), batch)
    np.testing.assert_allclose(scores, expected.numpy(), rtol=1e-4, atol=1e-4)
    assert found["member"].bonus is not None


def test_written_and_read_it_gives_the_same_vectors(tmp_path: Path) -> None:
    graph = communities()
    encoder, moment = _encoder(graph), _last(graph)
    encoder.write(tmp_path)
    again = embed_all(GraphEncoder.read(tmp_path), graph, moment)
    for node_type, found in embed_all(encoder, graph, moment).items():
        np.testing.assert_array_equal(found.vectors, again[node_type].vectors)
    (tmp_path / "encoder.safetensors").write_bytes(b"no")
    with pytest.raises(BundleError):
        GraphEncoder.read(tmp_path)


def test_what_cannot_be_embedded_is_refused() -> None:
    graph = communities()
    nobody = np.zeros(1, np.int32)
    with pytest.raises(ConfigError, match="never embedded"):
        _encoder(graph).embed(graph, "genre", nobody, 10)
    facing = _encoder(graph, destination_neighbours=2)
    with pytest.raises(ConfigError, match="another vector for every candidate"):
        facing.embed(graph, "member", nobody, 10)
    with pytest.raises(ConfigError, match="another vector for every candidate"):
        embed_all(facing, graph, 10)
    assert facing.embed(graph, "item", nobody, 10).keys is None
    with pytest.raises(ConfigError, match="other types"):
        _encoder(graph).queries(communities(likes=True))


def test_an_encoder_of_another_format_is_refused(tmp_path: Path) -> None:
    _encoder(communities()).write(tmp_path)
    file = tmp_path / "encoder.safetensors"
    tensors, about = load_tensors(file)
    newer = {**about, "format": about["format"] + 1}
    older = {k: v for k, v in about.items() if k != "format"}  # as before the scale of recurrence changed
    for state, says in ((older, "fit again"), (newer, "install a newer memberwise")):
        save_tensors(file, tensors, state)
        with pytest.raises(BundleError, match="has format") as found:
            GraphEncoder.read(tmp_path)
        assert found.value.where == str(file)
        assert says in str(found.value)
