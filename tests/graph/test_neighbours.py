"""Neighbour samplers against a plain twin: what is drawn, from when, how often."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from memberwise.errors import ConfigError, DataError
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
    unique_nodes,
)
from memberwise.graph.nodes import numbered
from support.graph_twins import COUNTS, HAS, KNOWS, RATES, Edges, graphs

DRAWS = ("uniform", "weighted", "last")
WAYS = (RATES, reverse_of(RATES), KNOWS, reverse_of(KNOWS), HAS, reverse_of(HAS))


def twin(lists: dict, edge_type) -> tuple[Edges, bool]:
    """The list behind an edge type, and whether it is walked backwards."""
    return (lists[edge_type], False) if edge_type in lists else (lists[reverse_of(edge_type)], True)


def parents(batch, block):
    """Node and edge time of each row's parent."""
    if block.parent < 0:
        return batch.seeds.nodes, np.full(len(batch.seeds), TIMELESS)
    above = batch.blocks[block.parent]
    return above.nodes.ravel(), above.times.ravel()


def roots(batch, block):
    """The seed below which each row of a block hangs."""
    if block.parent < 0:
        return np.arange(len(batch.seeds))
    above = batch.blocks[block.parent]
    return np.repeat(roots(batch, above), above.nodes.shape[1])


sampling = st.builds(
    SamplingConfig,
    rule=st.builds(Rule, draw=st.sampled_from(DRAWS), window=st.sampled_from([None, "1s"])),
    clock=st.sampled_from(["seed", "edge"]),
)


@given(
    pair=st.one_of(graphs(), graphs(in_order=True)),
    config=sampling,
    times=st.lists(st.integers(0, 11), min_size=1, max_size=4),
    k=st.sampled_from([1, 3, 20]),
    seed=st.integers(0, 3),
    timed=st.booleans(),
)
def test_only_edges_of_the_past_and_exactly_as_many_as_there_are(pair, config, times, k, seed, timed):
    graph, lists = pair
    if config.rule.window is not None:  # microseconds of the test's times
        config = SamplingConfig(rule=config.rule.model_copy(update={"window": 3}), clock=config.clock)
    sampler = NeighbourSampler(graph, config)
    nodes = np.arange(len(times)) % COUNTS["member"]
    seeds = SeedBatch("member", nodes, np.array(times) if timed else None)
    batch = sampler.sample(SampleRequest(seeds, (k, 2), seed))
    assert {b.edge_type for b in batch.blocks if b.hop == 0} == set(graph.edge_types_from("member"))
    for block in batch.blocks:
        edges, backwards = twin(lists, block.edge_type)
        nodes, reached = parents(batch, block)
        roots_of = roots(batch, block)
        assert len(block.nodes) == len(nodes)
        for r, v in enumerate(nodes):
            got = block.edges[r, : block.count[r]].tolist()
            assert (block.edges[r, block.count[r] :] == -1).all()
            assert (block.nodes[r, block.count[r] :] == -1).all()
            if v < 0:
                assert got == []
                continue
            cut = times[roots_of[r]] if timed else None
            if config.clock == "edge" and reached[r] != TIMELESS:
                cut = reached[r]
            since = None if cut is None or config.rule.window is None else cut - config.rule.window
            there = edges.before(v, cut, backwards, since)
            assert len(set(got)) == len(got)
            assert set(got) <= set(there)
            width = block.nodes.shape[1]
            if config.rule.draw == "last":
                assert got == there[::-1][:width]
            elif config.rule.draw == "weighted" and edges.weight is not None:
                possible = [e for e in there if edges.weight[e] > 0]
                assert set(got) <= set(possible)
                assert len(got) == min(width, len(possible))
            else:
                assert len(got) == min(width, len(there))
            ends = edges.source if backwards else edges.target
            assert block.nodes[r, : len(got)].tolist() == [ends[e] for e in got]
            if edges.time is not None:
                assert block.times[r, : len(got)].tolist() == [edges.time[e] for e in got]
                assert timed is False or (block.times[r, : len(got)] < times[roots_of[r]]).all()
            weights = [1.0 if edges.weight is None else edges.weight[e] for e in got]
            assert block.weights[r, : len(got)].tolist() == weights


def star(weights: list[float] | None, n: int = 6, appended: int = 0) -> HeteroGraph:
    """One member with n items, the last `appended` of them in the tail."""
    table = [
        EdgeArrays(
            RATES,
            np.zeros(stop - start, np.int64),
            np.arange(start, stop),
            time=np.arange(start, stop),
            weight=None if weights is None else np.array(weights[start:stop]),
        )
        for start, stop in ((0, n - appended), (n - appended, n))
    ]
    graph = HeteroGraph.from_arrays([numbered("member", 1), numbered("item", n)], table[:1])
    return graph.append(table[1:])[0] if appended else graph


def drawn(graph: HeteroGraph, draw: str, k: int, rows: int, before: int | None = None) -> np.ndarray:
    """Sampled items of many independent rows. [rows, k]"""
    sampler = NeighbourSampler(graph, SamplingConfig(rule=Rule(draw=draw)))
    times = None if before is None else np.full(rows, before)
    return sampler.sample(SampleRequest(SeedBatch("member", np.zeros(rows), times), [k])).blocks[0].nodes


@pytest.mark.parametrize("appended", [0, 2])
def test_uniform_draws_every_subset_alike(appended):
    rows = 20_000
    found = np.sort(drawn(star(None, 6, appended), "uniform", 3, rows), axis=1)
    _, counts = np.unique(found, axis=0, return_counts=True)
    assert len(counts) == 20  # 6 choose 3
    assert chisquare(counts).pvalue > 1e-4


def test_uniform_before_a_moment_draws_every_earlier_subset_alike():
    found = np.sort(drawn(star(None, 6, 2), "uniform", 2, 20_000, before=5), axis=1)
    _, counts = np.unique(found, axis=0, return_counts=True)
    assert len(counts) == 10  # 5 choose 2
    assert chisquare(counts).pvalue > 1e-4


def test_large_uniform_draws_use_each_neighbour_alike():
    found = drawn(star(None, 100), "uniform", 40, 5_000)
    assert all(len(set(row)) == 40 for row in found[:200].tolist())
    assert chisquare(np.bincount(found.ravel(), minlength=100)).pvalue > 1e-4


def successive(weights: np.ndarray, k: int) -> dict[tuple[int, ...], float]:
    """Probability of every ordered outcome of k draws without replacement in proportion to weights."""
    outcomes = {(): 1.0}
    for _ in range(k):
        longer = {}
        for picks, p in outcomes.items():
            left = [j for j in range(len(weights)) if j not in picks and weights[j] > 0]
            total = sum(weights[j] for j in left)
            for j in left:
                longer[(*picks, j)] = p * weights[j] / total
        outcomes = longer
    return outcomes


@pytest.mark.parametrize("weights", [[1, 2, 3, 0, 4, 2], [1e6, 1, 2, 0, 3, 1e6]])
@pytest.mark.parametrize("appended", [0, 3])
def test_weighted_draws_are_proportional_without_replacement(weights, appended):
    # The second case cannot be settled by repeated draws: two edges carry nearly all of the weight.
    rows = 20_000
    found = drawn(star(weights, 6, appended), "weighted", 3, rows)
    expected = successive(np.array(weights, float), 3)
    counts = dict.fromkeys(expected, 0)
    for row in found.tolist():
        counts[tuple(row)] += 1
    large = [o for o, p in expected.items() if p * rows > 5]
    observed = np.array([counts[o] for o in large] + [sum(counts[o] for o in expected if o not in large)])
    wanted = np.array([expected[o] for o in large])
    wanted = np.append(wanted, max(1 - wanted.sum(), 1e-12)) * rows
    assert (
        chisquare(observed[wanted > 1e-6], wanted[wanted > 1e-6] * observed.sum() / wanted.sum()).pvalue
        > 1e-4
    )


def test_weights_of_the_future_do_not_count():
    found = drawn(star([1, 1, 1, 1e9, 1e9, 1e9]), "weighted", 2, 6_000, before=3)
    assert chisquare(np.bincount(found.ravel(), minlength=3)).pvalue > 1e-4


def test_the_seed_decides_and_rows_do_not_depend_on_each_other():
    sampler = NeighbourSampler(star(None, 50))

    def sample(seed, rows):
        return sampler.sample(SampleRequest(SeedBatch("member", np.zeros(rows)), [5, 2], seed)).blocks

    same, again, other = sample(7, 30), sample(7, 30), sample(8, 30)
    for a, b in zip(same, again, strict=True):
        np.testing.assert_array_equal(a.edges, b.edges)
    assert (same[0].edges != other[0].edges).any()
    np.testing.assert_array_equal(sample(7, 10)[0].edges, same[0].edges[:10])
    assert len(np.unique(same[0].edges, axis=0)) > 25  # equal seeds in one batch draw independently


def test_rules_and_fan_outs_by_edge_type():
    nodes = [numbered(t, n) for t, n in COUNTS.items()]
    table = EdgeArrays(RATES, np.zeros(5, int), np.arange(5), time=np.arange(5))
    known = EdgeArrays(KNOWS, np.zeros(3, int), np.arange(1, 4))
    graph = HeteroGraph.from_arrays(nodes, [table, known])
    config = SamplingConfig(
        rules={"member:rates:item": Rule(draw="last"), "member:rev_knows:member": Rule(follow=False)}
    )
    sampler = NeighbourSampler(graph, config)
    seeds = SeedBatch("member", np.zeros(1))
    batch = sampler.sample(SampleRequest(seeds, {RATES: [2], KNOWS: [3, 1]}))
    assert [(b.edge_type, b.parent, b.nodes.shape) for b in batch.blocks] == [
        (KNOWS, -1, (1, 3)),
        (RATES, -1, (1, 2)),
        (KNOWS, 0, (3, 1)),
    ]
    assert batch.blocks[1].nodes.tolist() == [[4, 3]]
    assert batch.children(-1) == (0, 1)
    assert batch.sampled == 5
    alike = sampler.sample(SampleRequest(seeds, [2]))
    assert {b.edge_type for b in alike.blocks} == {RATES, KNOWS}


def test_unique_nodes_give_every_place_its_node():
    rng = np.random.default_rng(0)
    rows = 400
    table = EdgeArrays(RATES, rng.integers(0, 30, rows), rng.integers(0, 40, rows), time=np.arange(rows))
    graph = HeteroGraph.from_arrays([numbered("member", 30), numbered("item", 40)], [table])
    seeds = SeedBatch("member", np.array([3, 3, 9, 0]), np.array([300, 100, 50, 0]))
    batch = NeighbourSampler(graph).sample(SampleRequest(seeds, [4, 3, 2]))
    found = unique_nodes(batch)
    assert all(len(np.unique(n)) == len(n) for n in found.nodes.values())
    np.testing.assert_array_equal(found.nodes["member"][found.seeds], seeds.nodes)
    for block, position in zip(batch.blocks, found.positions, strict=True):
        nodes = found.nodes[block.edge_type[2]]
        np.testing.assert_array_equal(nodes[position][block.mask], block.nodes[block.mask])
        assert (position[~block.mask] == 0).all()
    nothing = unique_nodes(
        NeighbourSampler(graph).sample(SampleRequest(SeedBatch("member", np.zeros(2), np.zeros(2)), [2]))
    )
    assert len(nothing.nodes["item"]) == 1  # a place to read from, though no mask lets it through


def test_what_the_graph_does_not_have_is_refused():
    graph = star(None)
    sampler = NeighbourSampler(graph)
    with pytest.raises(ConfigError, match="no nodes of type 'film'"):
        sampler.sample(SampleRequest(SeedBatch("film", np.zeros(1)), [2]))
    with pytest.raises(DataError, match="not one of the 1 nodes"):
        sampler.sample(SampleRequest(SeedBatch("member", np.array([1])), [2]))
    with pytest.raises(DataError, match="not one of the 1 nodes"):
        sampler.sample(SampleRequest(SeedBatch("member", np.array([-1])), [2]))
    with pytest.raises(ConfigError, match="member:buys:item"):
        NeighbourSampler(graph, SamplingConfig(rules={"member:buys:item": Rule()}))
    with pytest.raises(ConfigError, match="2 seeds but 1 times"):
        SeedBatch("member", np.zeros(2), np.zeros(1))
