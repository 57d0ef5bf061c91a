"""Vectors through time: nothing in them that is not past, and exactly what was touched."""

from __future__ import annotations

import numpy as np

from graph.test_inference import _encoder, _events, _last
from memberwise.graph import NeighbourSampler, SampleRequest, SeedBatch
from memberwise.graph.forgetting import without_nodes
from memberwise.graph.snapshots import Ends, moments, refreshed, timelines, unit
from memberwise.schema import DAY
from support.graphs import RATES, communities


def test_moments_of_refresh() -> None:
    assert moments(5, 20, 10).tolist() == [10, 20, 21]
    assert moments(10, 19, 10).tolist() == [20]


def test_ends_are_those_of_the_edges_in_between() -> None:
    graph = communities(members=9, items=8, events=60)
    ends, e = Ends.of(graph), graph.adjacency[RATES].coo()
    assert e.time is not None
    start, end = np.sort(e.time)[[20, 40]]
    there = (e.time >= start) & (e.time < end)
    found = ends.between(int(start), int(end))
    np.testing.assert_array_equal(found["member"], np.unique(e.source[there]))
    np.testing.assert_array_equal(found["item"], np.unique(e.target[there]))
    assert not len(found["genre"])


def test_a_row_sees_the_vector_of_its_last_refresh_and_only_what_was_before_it() -> None:
    graph = communities(members=9, items=8, events=120)
    encoder, last = _encoder(graph), _last(graph)
    start = last // 2
    lines = timelines(encoder, graph, start, last, 2 * DAY, "v")
    for node_type in ("member", "item"):
        line, keys = lines[node_type], graph.nodes[node_type].hashes
        assert (line.rows(keys, np.full(len(keys), start - 1)) == -1).all()
        for moment in (start, last):
            rows = line.rows(keys, np.full(len(keys), moment))
            assert (rows >= 0).all()
            for v in range(len(keys)):
                cutoff = int(line.cutoffs[rows[v]])
                alone = encoder.embed(graph, node_type, np.array([v], np.int32), cutoff)
                np.testing.assert_allclose(
                    line.gather(rows[v : v + 1]), unit(alone.vectors), rtol=1e-4, atol=1e-5
                )
                # No event of the node lies between the refresh that it shows and the last one due.
                due = moment // (2 * DAY) * 2 * DAY
                mine = graph.adjacency[RATES if node_type == "member" else ("item", "rev_rates", "member")]
                times = np.sort(_times(mine, v))
                assert not ((times >= cutoff) & (times < due)).any()


def _times(adjacency, node: int) -> np.ndarray:  # type: ignore[no-untyped-def]
    edges = adjacency.coo()
    return edges.time[edges.source == node]


def test_a_refresh_adds_only_what_was_touched() -> None:
    graph = communities(members=9, items=8, events=120)
    encoder = _encoder(graph)
    lines = timelines(encoder, graph, _last(graph) // 2, _last(graph), 2 * DAY, "v")
    newer, ends = graph.append([_events(graph, [(4, 7), ("new", 3)])])
    moment = _last(newer) + 1
    after = refreshed(lines, encoder, newer, ends, moment)
    for node_type, line in after.items():
        added = line.keys[line.cutoffs == moment]
        assert set(added) == set(newer.nodes[node_type].hashes[ends[node_type]])
        assert len(line) == len(lines[node_type]) + len(added)


def test_without_nodes_is_the_graph_that_never_had_them() -> None:
    graph = communities(members=9, items=8, events=120)
    less = without_nodes(graph, "member", np.array([2, 5], np.int32))
    assert less.count("member") == 7
    assert "2" not in less.nodes["member"].ids.to_list()
    moment = np.full(8, _last(graph) + 1)
    sampled = NeighbourSampler(less).sample(
        SampleRequest(SeedBatch("item", np.arange(8), moment), {("item", "rev_rates", "member"): (200,)})
    )
    e = graph.adjacency[RATES].coo()
    for item in range(8):
        block = sampled.blocks[0].nodes[item]
        found = sorted(less.nodes["member"].ids[block[block >= 0].astype(np.int64)].to_list())
        assert found == sorted(str(m) for m in e.source[e.target == item] if m not in (2, 5))
