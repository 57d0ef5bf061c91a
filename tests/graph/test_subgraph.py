"""Subgraphs against the edges that they claim: real ones, early enough, each place expanded once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memberwise.errors import DataError
from memberwise.graph import (
    TIMELESS,
    EdgeArrays,
    HeteroGraph,
    NeighbourSampler,
    Rule,
    SampleRequest,
    SamplingConfig,
    SeedBatch,
    reverse_of,
    sample_subgraph,
)
from memberwise.graph.nodes import numbered
from support.graph_twins import COUNTS, graphs


@given(
    pair=st.one_of(graphs(), graphs(in_order=True)),
    draw=st.sampled_from(["uniform", "weighted", "last"]),
    clock=st.sampled_from(["seed", "edge"]),
    times=st.lists(st.integers(0, 11), min_size=1, max_size=4),
    timed=st.booleans(),
    k=st.sampled_from([1, 3, 20]),
)
def test_every_sampled_edge_exists_and_is_of_the_past(pair, draw, clock, times, timed, k):
    graph, lists = pair
    sampler = NeighbourSampler(graph, SamplingConfig(rule=Rule(draw=draw), clock=clock))
    seeds = SeedBatch("member", np.arange(len(times)) % COUNTS["member"], np.array(times) if timed else None)
    found = sample_subgraph(sampler, SampleRequest(seeds, (k, k), seed=1))
    apart = timed or clock == "edge"
    np.testing.assert_array_equal(found.nodes["member"][found.seed_places], seeds.nodes)
    for t in graph.node_types:
        assert sum(found.node_hops[t]) == len(found.nodes[t])
        keys = [found.nodes[t]]
        if apart:
            keys += [found.roots[t], found.cuts[t]]
        assert len({*zip(*(key.tolist() for key in keys), strict=True)}) == len(found.nodes[t])
    for edge_type, edges in found.edges.items():
        assert sum(edges.hops) == len(edges.edge)
        backwards = edge_type not in lists
        twin = lists[reverse_of(edge_type)] if backwards else lists[edge_type]
        expanded = []
        for s, t, e, time, weight in zip(
            edges.source, edges.target, edges.edge, edges.time, edges.weight, strict=True
        ):
            ends = (twin.source[e], twin.target[e])
            assert (found.nodes[edge_type[0]][s], found.nodes[edge_type[2]][t]) == (
                ends[::-1] if backwards else ends
            )
            assert time == (TIMELESS if twin.time is None else twin.time[e])
            assert weight == (1 if twin.weight is None else twin.weight[e])
            expanded.append((s, e))
            if not apart:
                continue
            root = found.roots[edge_type[0]][s]
            assert found.roots[edge_type[2]][t] == root
            cut = found.cuts[edge_type[0]][s]
            assert time < cut
            if timed:
                assert time < times[root]
                assert cut <= times[root]
            below = time if clock == "edge" and time != TIMELESS else cut
            assert found.cuts[edge_type[2]][t] == below
        assert len(set(expanded)) == len(expanded)
        # All places of the seeds and of the first hop were expanded, as far as there was anything.
        places = range(sum(found.node_hops[edge_type[0]][:2]))
        for s in places:
            cut = int(found.cuts[edge_type[0]][s]) if apart else None
            there = twin.before(found.nodes[edge_type[0]][s], cut, backwards)
            if draw == "weighted" and twin.weight is not None:
                there = [e for e in there if twin.weight[e] > 0]
            mine = [e for place, e in expanded if place == s]
            assert len(mine) == min(k, len(there))
            if draw == "last":
                times_of = [twin.before(found.nodes[edge_type[0]][s], cut, backwards)[::-1][:k]]
                assert mine == times_of[0]


def random_graph(nodes: int = 300, edges: int = 6_000) -> HeteroGraph:
    rng = np.random.default_rng(0)
    ends = rng.integers(0, nodes, (2, edges))
    table = EdgeArrays(
        ("n", "to", "n"), *ends, rng.integers(0, 1_000, edges), self_loops="drop", reverse=False
    )
    return HeteroGraph.from_arrays([numbered("n", nodes)], [table])


def test_a_large_batch_grows_its_tables_and_reuses_them():
    # Larger than what tables start with; the second kind of batch meets tables of the first.
    sampler = NeighbourSampler(random_graph(20_000, 400_000))
    for seed, timed in enumerate([False, True, False, True]):
        rng = np.random.default_rng(seed)
        nodes = rng.integers(0, 20_000, 500)
        seeds = SeedBatch("n", nodes, rng.integers(0, 1_000, 500) if timed else None)
        found = sample_subgraph(sampler, SampleRequest(seeds, (10, 5), seed))
        places = (
            found.nodes["n"] if not timed else found.nodes["n"] + 20_000 * found.roots["n"].astype(np.int64)
        )
        assert len(np.unique(places)) == len(places)
        edges = found.edges["n", "to", "n"]
        coo = sampler.graph.adjacency["n", "to", "n"].coo()
        by_edge = np.argsort(coo.edge)
        np.testing.assert_array_equal(coo.source[by_edge][edges.edge], found.nodes["n"][edges.source])
        np.testing.assert_array_equal(coo.target[by_edge][edges.edge], found.nodes["n"][edges.target])


def test_threads_find_what_one_thread_finds():
    sampler = NeighbourSampler(random_graph())
    requests = [
        SampleRequest(SeedBatch("n", np.arange(50), np.full(50, 500) if i % 2 else None), (5, 5), i)
        for i in range(24)
    ]
    alone = [sample_subgraph(sampler, r) for r in requests]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda r: sample_subgraph(sampler, r), requests))
    for a, b in zip(alone, together, strict=True):
        np.testing.assert_array_equal(a.nodes["n"], b.nodes["n"])
        np.testing.assert_array_equal(a.edges["n", "to", "n"].position, b.edges["n", "to", "n"].position)


def test_equal_seeds_share_a_place_only_without_cut_offs():
    sampler = NeighbourSampler(random_graph())
    nodes = np.array([4, 4, 7])
    assert sample_subgraph(sampler, SampleRequest(SeedBatch("n", nodes), [2])).seed_places.tolist() == [
        0,
        0,
        1,
    ]
    timed = sample_subgraph(sampler, SampleRequest(SeedBatch("n", nodes, np.full(3, 900)), [2]))
    assert timed.seed_places.tolist() == [0, 1, 2]


def test_seeds_that_are_no_nodes_are_refused():
    with pytest.raises(DataError, match="not one of the 300 nodes"):
        sample_subgraph(NeighbourSampler(random_graph()), SampleRequest(SeedBatch("n", np.array([300])), [2]))
