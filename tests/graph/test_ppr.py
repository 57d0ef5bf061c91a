"""Personalised PageRank against power iteration on the whole matrix, under cut-offs and weights."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memberwise.errors import ConfigError
from memberwise.graph import (
    EdgeArrays,
    HeteroGraph,
    PPRConfig,
    PPRSampler,
    SampleRequest,
    SeedBatch,
    edge_name,
    reverse_of,
)
from memberwise.graph.nodes import numbered
from support.graph_twins import COUNTS, HAS, KNOWS, RATES, graphs

TYPES = sorted(COUNTS)
OFFSET = dict(zip(TYPES, np.cumsum([0, *(COUNTS[t] for t in TYPES)]).tolist(), strict=False))
NODES = sum(COUNTS.values())


def transitions(lists, edge_types, cut, weighted: bool, since=None) -> np.ndarray:
    """Step of a walk over all edge types before a moment; where there is no edge it stays. [N, N]"""
    matrix = np.zeros((NODES, NODES))
    for edge_type in edge_types:
        backwards = edge_type not in lists
        twin = lists[reverse_of(edge_type) if backwards else edge_type]
        for v in range(COUNTS[edge_type[0]]):
            for e in twin.before(v, cut, backwards, since):
                u = (twin.source if backwards else twin.target)[e]
                weight = twin.weight[e] if weighted and twin.weight is not None else 1.0
                matrix[OFFSET[edge_type[0]] + v, OFFSET[edge_type[2]] + u] += weight
    mass = matrix.sum(1, keepdims=True)
    return np.where(mass > 0, matrix / np.where(mass > 0, mass, 1), np.eye(NODES))


def power_iteration(step: np.ndarray, seed: int, alpha: float, hops: int) -> np.ndarray:
    """Where walks from a node end, if they end after `hops` steps at the latest."""
    here, ended = np.eye(NODES)[seed], np.zeros(NODES)
    for _ in range(hops):
        ended += alpha * here
        here = (1 - alpha) * here @ step
    return ended + here


def scores_of(block, row: int) -> dict[int, float]:
    nodes = block.nodes[row, : block.count[row]]
    assert (block.nodes[row, block.count[row] :] == -1).all()
    return dict(zip(nodes.tolist(), block.weights[row].tolist(), strict=False))


@given(
    pair=st.one_of(graphs(), graphs(in_order=True)),
    cut=st.one_of(st.none(), st.integers(0, 10)),
    weighted=st.booleans(),
    alpha=st.sampled_from([0.15, 0.5, 0.85]),
    kind=st.sampled_from(["member", "item", "genre"]),
    window=st.sampled_from([None, 3]),
)
@settings(max_examples=60)
def test_two_hops_are_the_truncated_series(pair, cut, weighted, alpha, kind, window):
    graph, lists = pair
    config = PPRConfig(alpha=alpha, weighted=weighted).model_copy(update={"window": window})
    nodes = np.arange(COUNTS[kind])
    times = None if cut is None else np.full(len(nodes), cut)
    batch = PPRSampler(graph, config).sample(SampleRequest(SeedBatch(kind, nodes, times), [10]))
    since = None if cut is None or window is None else cut - window
    step = transitions(lists, graph.edge_types, cut, weighted, since)
    assert [b.edge_type for b in batch.blocks] == [(kind, "ppr", t) for t in TYPES]
    for block in batch.blocks:
        target = block.edge_type[2]
        for row in nodes:
            expected = power_iteration(step, OFFSET[kind] + row, alpha, 2)
            expected = expected[OFFSET[target] : OFFSET[target] + COUNTS[target]]
            found = scores_of(block, row)
            assert list(found.values()) == sorted(found.values(), reverse=True)
            wanted = {v: p for v, p in enumerate(expected) if p > 0 and (target, v) != (kind, row)}
            assert found.keys() == wanted.keys()
            for v, p in wanted.items():
                assert found[v] == pytest.approx(p, rel=1e-5)


@given(pair=st.one_of(graphs(), graphs(in_order=True)), cut=st.integers(0, 10), weighted=st.booleans())
@settings(max_examples=30)
def test_the_push_comes_as_close_to_power_iteration_as_eps_says(pair, cut, weighted):
    graph, lists = pair
    step = transitions(lists, graph.edge_types, cut, weighted)
    nodes = np.arange(COUNTS["member"])
    seeds = SeedBatch("member", nodes, np.full(len(nodes), cut))
    exact = [power_iteration(step, OFFSET["member"] + v, 0.3, 200) for v in nodes]
    for eps, error in ((1e-9, 1e-6), (1e-2, 0.5)):
        config = PPRConfig(method="push", alpha=0.3, eps=eps, weighted=weighted)
        for block in PPRSampler(graph, config).sample(SampleRequest(seeds, [10])).blocks:
            target = block.edge_type[2]
            for row in nodes:
                expected = exact[row][OFFSET[target] : OFFSET[target] + COUNTS[target]]
                found = scores_of(block, row)
                for v, p in enumerate(expected):
                    if (target, v) != ("member", row):
                        assert found.get(v, 0.0) <= p * (1 + 1e-5) + 1e-7
                        assert found.get(v, 0.0) == pytest.approx(p, abs=error)


def random_graph(nodes: int = 300, edges: int = 3_000) -> HeteroGraph:
    rng = np.random.default_rng(5)
    table = EdgeArrays(("n", "to", "n"), *rng.integers(0, nodes, (2, edges)), self_loops="drop")
    return HeteroGraph.from_arrays([numbered("n", nodes)], [table])


def test_two_hops_find_most_of_what_all_hops_find_if_walks_are_short():
    graph = random_graph()
    request = SampleRequest(SeedBatch("n", np.arange(300)), [10])

    def top(**settings) -> list[set[int]]:
        config = PPRConfig(edges=["n:to:n"], **settings)
        return [set(row) for row in PPRSampler(graph, config).sample(request).blocks[0].nodes.tolist()]

    def overlap(alpha: float) -> float:
        two, every = top(alpha=alpha), top(alpha=alpha, method="push", eps=1e-8)
        return float(np.mean([len(a & b) / 10 for a, b in zip(two, every, strict=True)]))

    assert overlap(0.5) > 0.85
    assert overlap(0.15) < overlap(0.5)


def test_a_cap_keeps_the_newest_edges():
    table = EdgeArrays(RATES, np.zeros(6, int), np.arange(6), time=np.arange(6), reverse=False)
    graph = HeteroGraph.from_arrays([numbered("member", 1), numbered("item", 6)], [table])
    sampler = PPRSampler(graph, PPRConfig(max_neighbours=2))
    block = sampler.sample(SampleRequest(SeedBatch("member", np.zeros(1), np.array([5])), [6])).blocks[0]
    assert sorted(scores_of(block, 0)) == [3, 4]


def test_edges_targets_and_fan_outs_can_be_chosen():
    rng = np.random.default_rng(0)
    nodes = [numbered(t, n) for t, n in COUNTS.items()]
    tables = [
        EdgeArrays(RATES, rng.integers(0, 4, 20), rng.integers(0, 5, 20), rng.integers(0, 9, 20)),
        EdgeArrays(HAS, np.arange(5), np.arange(5) % 2),
    ]
    graph = HeteroGraph.from_arrays(nodes, tables)
    seeds = SeedBatch("member", np.arange(4))
    walks = [edge_name(RATES), edge_name(reverse_of(RATES))]
    only = PPRSampler(graph, PPRConfig(edges=walks, targets=["item"])).sample(SampleRequest(seeds, [3]))
    assert [b.edge_type for b in only.blocks] == [("member", "ppr", "item")]
    fan_outs = {("member", "ppr", "item"): [2], ("member", "ppr", "member"): [1]}
    some = PPRSampler(graph).sample(SampleRequest(seeds, fan_outs))
    assert [(b.edge_type[2], b.nodes.shape) for b in some.blocks] == [("item", (4, 2)), ("member", (4, 1))]
    with pytest.raises(ConfigError, match="2 hops are asked for"):
        PPRSampler(graph).sample(SampleRequest(seeds, [2, 2]))
    with pytest.raises(ConfigError, match=edge_name(KNOWS)):
        PPRSampler(graph, PPRConfig(edges=[edge_name(KNOWS)]))
    with pytest.raises(ConfigError, match="no nodes of type 'film'"):
        PPRSampler(graph, PPRConfig(targets=["film"]))
    with pytest.raises(ConfigError, match="needs edges"):
        PPRSampler(graph, PPRConfig(edges=[]))
