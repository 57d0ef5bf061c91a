"""Batches: nothing newer than a label, groups at their earliest time, and the same whatever comes later."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memberwise.errors import ConfigError
from memberwise.graph import EdgeArrays, HeteroGraph, SeedBatch
from memberwise.graph.config import EncoderConfig, TemporalConfig
from memberwise.graph.degrees import WINDOWS, crowds, degrees
from memberwise.graph.feed import BatchRequest
from memberwise.graph.link_batch import LinkBatch
from memberwise.graph.queries import NodeNumbers, ages, distinct
from memberwise.graph.records import Records, grouped
from memberwise.graph.types import TIMELESS
from memberwise.schema import DAY
from support.graphs import IS, LIKES, RATES, communities, small, world


def _later(graph: HeteroGraph, moment: int, seed: int = 1) -> HeteroGraph:
    """The graph with other events from a moment on."""
    rng = np.random.default_rng(seed)
    edges = []
    for edge_type in (RATES, LIKES):
        e = graph.adjacency[edge_type].coo()
        assert e.time is not None
        late = e.time >= moment
        target = np.where(late, rng.integers(0, graph.count("item"), len(late)), e.target)
        time = np.where(late, moment + rng.integers(0, 10**9, len(late)), e.time)
        edges.append(EdgeArrays(edge_type, e.source, target, time=time))
    attributes = graph.adjacency[IS].coo()
    edges.append(EdgeArrays(IS, attributes.source, attributes.target))
    return HeteroGraph.from_arrays([graph.nodes[t] for t in graph.node_types], edges)


@settings(max_examples=15, deadline=None)
@given(
    st.integers(1, 150),
    st.integers(1, 5),
    st.sampled_from(["last", "uniform"]),
    st.sampled_from([1, 2]),
    st.integers(0, 4),
)
def test_what_happens_later_changes_nothing(
    row: int, group_size: int, draw: str, layers: int, fan_out: int
) -> None:
    graph = communities(members=6, items=8, events=160, likes=True)
    config = small(layers=layers, destination_neighbours=3)
    one = world(graph, config, draw=draw)
    index = row // 16
    moment = int(one.records.times[index * 16])  # even of the batch's own events only the first is past
    other = world(_later(graph, moment), config, draw=draw)
    request = BatchRequest(index, fan_out, 1, 7)
    records = one.records
    a = one.feed(16, records=records).queries
    seeds = grouped(records.take(slice(index * 16, index * 16 + 16)), group_size)
    source = SeedBatch("member", seeds.members, np.full(len(seeds.members), moment))
    items = SeedBatch("item", np.arange(8), np.full(8, moment))
    first = a.arrays(source, items, fan_out, request.seed)
    second = other.queries.arrays(source, items, fan_out, request.seed)
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def test_every_query_is_asked_at_a_time_its_labels_allow() -> None:
    w = world(communities(likes=True))
    asked: list[tuple[SeedBatch, SeedBatch]] = []
    real = w.queries.arrays

    def watched(source, destination, fan_out, seed):  # type: ignore[no-untyped-def]
        asked.append((source, destination))
        return real(source, destination, fan_out, seed)

    w.queries.arrays = watched  # type: ignore[method-assign]
    feed = w.feed(50)
    for index in range(feed.batches):
        arrays = feed.batch(BatchRequest(index, 3, 4, 0))
        records = w.records.take(slice(index * 50, index * 50 + 50))
        source, destination = asked[-1]
        assert source.times is not None
        assert destination.times is not None
        assert (source.times[arrays["group"]] <= records.times).all()
        assert (destination.times <= records.times.min()).all()
        np.testing.assert_array_equal(source.nodes[arrays["group"]], records.sources)
        np.testing.assert_array_equal(destination.nodes[arrays["column"]], records.destinations)
        for part in ("source.0", "destination.0"):
            assert (arrays[f"{part}.ages"][arrays[f"{part}.neighbours"] >= 0] >= 0).all()
        assert (arrays["source.activities.ages"] >= 0).all()


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(1, 6))
def test_groups_hold_consecutive_records_of_one_source(sources: list[int], size: int) -> None:
    n = len(sources)
    zeros = np.zeros(n, np.int32)
    records = Records(
        (RATES,), np.array(sources, np.int32), zeros, zeros, np.ones(n, np.float32), np.arange(n) * 10
    )
    groups = grouped(records, size)
    for g in range(len(groups.members)):
        mine = np.flatnonzero(groups.group == g)
        assert 1 <= len(mine) <= size
        assert set(records.sources[mine]) == {groups.members[g]}
        assert groups.times[g] == records.times[mine].min()
        assert groups.place[mine].tolist() == list(range(len(mine)))
    for s in set(sources):
        mine = groups.group[np.array(sources) == s]
        assert (np.diff(mine) >= 0).all()
        assert len(np.unique(mine)) == -(-len(mine) // size)


def test_groups_of_one_give_the_embeddings_of_ungrouped_queries() -> None:
    w = world(communities())
    feed, model = w.feed(40), w.model.eval()
    arrays = feed.batch(BatchRequest(9, 5, 1, 0))
    batch = LinkBatch.from_arrays(arrays, w.table.numbers.types)
    together = model.sources(model.states(batch.nodes), batch.source)
    records = w.records.take(slice(360, 400))
    for i in (0, 13, 39):
        alone = SeedBatch("member", records.sources[i : i + 1], records.times[i : i + 1])
        single = LinkBatch.from_arrays(
            arrays | w.queries.arrays(alone, SeedBatch("item", [0], [0]), 5, 0), w.table.numbers.types
        )  # type: ignore[arg-type]
        z = model.sources(model.states(single.nodes), single.source)
        torch.testing.assert_close(z[0], together[batch.group[i]])


@pytest.mark.parametrize("layers", [1, 2])
def test_the_tree_is_what_the_graph_says(layers: int) -> None:
    """Every neighbour of every node in every level, found again by asking the graph for it."""
    graph = communities(members=6, items=8, events=60, likes=True)
    w = world(graph, small(layers=layers, temporal=None))
    moment = int(w.records.times[40])
    members = SeedBatch("member", np.arange(6), np.full(6, moment))
    arrays = w.queries.arrays(members, None, 300, 0)
    numbers = w.table.numbers
    met = np.unique(_met(graph, numbers, moment, layers))
    assert arrays["counts"].sum() == len(met)
    own, neighbours = arrays["source.0.own"], arrays["source.0.neighbours"]
    for i in range(len(own)):
        node = int(met[own[i]])
        expected = sorted(_neighbours(graph, numbers, node, moment))
        assert sorted(met[neighbours[i][neighbours[i] >= 0]].tolist()) == expected


def _neighbours(graph: HeteroGraph, numbers: NodeNumbers, node: int, moment: int) -> list[int]:
    place = int(numbers.types_of(np.array([node]))[0])
    out: list[int] = []
    for edge_type in graph.edge_types_from(numbers.types[place]):
        row = node - numbers.offsets[place]
        before = graph.adjacency[edge_type].neighbours(row, moment)
        out += [int(v) + numbers.start(edge_type[2]) for v in before]
    return out


def _met(graph: HeteroGraph, numbers: NodeNumbers, moment: int, layers: int) -> list[int]:
    level = list(range(numbers.start("member"), numbers.start("member") + 6))
    met = list(level)
    for _ in range(layers):
        level = [u for v in level for u in _neighbours(graph, numbers, v, moment)]
        met += level
    return met


@given(st.integers(0, 40))
def test_degrees_by_counting(event: int) -> None:
    graph = communities(members=4, items=6, events=40, likes=True)
    numbers = NodeNumbers.of({t: graph.count(t) for t in graph.node_types})
    times = graph.adjacency[RATES].coo().time
    assert times is not None
    moment = int(np.sort(times)[min(event, 39)])
    nodes = np.arange(numbers.total)
    found = np.expm1(degrees(graph, numbers, nodes, np.full(len(nodes), moment)))
    expected = np.zeros_like(found)
    for i, name in enumerate(numbers.types):
        for edge_type in graph.edge_types_from(name):
            e = graph.adjacency[edge_type].coo()
            for k, source in enumerate(e.source):
                if e.time is None:
                    expected[numbers.offsets[i] + source, 0] += 1
                elif e.time[k] < moment:
                    age = moment - e.time[k]
                    expected[numbers.offsets[i] + source] += [True, *(age <= w for w in WINDOWS)]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_crowds_by_counting() -> None:
    graph = communities(members=5, items=6, events=90, likes=True)
    new = EdgeArrays(RATES, np.array([0, 1]), np.array([2, 2]), time=np.array([50 * DAY, 51 * DAY]))
    graph, _ = graph.append([new])
    numbers = NodeNumbers.of({t: graph.count(t) for t in graph.node_types})
    edges = [graph.adjacency[e].coo() for e in (RATES, LIKES)]
    target, time = (np.concatenate([getattr(e, name) for e in edges]) for name in ("target", "time"))
    rng = np.random.default_rng(0)
    item, then = rng.integers(0, 6, 40), rng.choice(time, 40)
    now = np.maximum(rng.choice(time, 40), then)  # ends are left out on both sides
    found = crowds(graph, numbers, item + numbers.start("item"), then, now)
    expected = [
        np.sum((target == d) & (time > a) & (time < b)) for d, a, b in zip(item, then, now, strict=True)
    ]
    np.testing.assert_allclose(np.expm1(found[:, 0]), expected, atol=1e-4)
    nodes = item + numbers.start("item")
    np.testing.assert_array_equal(found[:, 1:], degrees(graph, numbers, nodes, now))


def test_log_q_and_accidental_hits() -> None:
    w = world(communities(members=4, items=6, events=200), small(temporal=None))
    feed = w.feed(30, negatives=4)
    arrays = feed.batch(BatchRequest(3, 2, 4, 0))
    records = w.records.take(slice(90, 120))
    own = np.unique(records.destinations)
    for i in range(30):
        chosen = set(records.destinations[records.sources == records.sources[i]])
        assert set(own[arrays["forbidden"][arrays["row"][i], : len(own)]]) == chosen
        assert not arrays["forbidden"][arrays["row"][i], len(own) :].any()
    assert (~arrays["uniform"]).sum() == len(own)
    share = np.full(len(own), 1 / 6)
    for window, strength in ((30 * DAY, 6), (7 * DAY, 50), (2 * DAY, 50), (DAY // 2, 50)):
        first = records.times[0]
        there = (w.records.times < first) & (w.records.times >= first - window)
        count = np.bincount(w.records.destinations[there], minlength=6)[own]
        share = (count + strength * share) / (there.sum() + strength)
    expected = np.log(1 - np.exp(-(30 * share + 4 / 6)))
    np.testing.assert_allclose(arrays["log_q"][: len(own)], expected, atol=1e-4)


@pytest.mark.parametrize(("recurrence", "group_size"), [(3, 1), (3, 4), (100, 4)])
def test_what_a_model_remembers_is_no_accidental_hit(recurrence: int, group_size: int) -> None:
    temporal = TemporalConfig(length=6, heads=2, prefix=2, recurrence=recurrence, long_term=None)
    w = world(communities(members=8, items=30, events=100), small(temporal=temporal))
    arrays = w.feed(30, negatives=9).batch(BatchRequest(1, 2, group_size, 0))
    records = w.records.take(slice(30, 60))
    groups = grouped(records, group_size)
    own = np.unique(records.destinations)
    some = 0
    for i, source in enumerate(records.sources):
        before = (w.records.sources == source) & (w.records.times < groups.times[groups.group[i]])
        past = set(w.records.destinations[before][-recurrence:])
        chosen = set(records.destinations[records.sources == source])
        found = set(own[arrays["forbidden"][arrays["row"][i], : len(own)]])
        assert found == chosen - past
        assert not arrays["forbidden"][arrays["row"][i], len(own) :].any()
        some += len(chosen & past)
    assert some


def test_small_things() -> None:
    numbers = np.array([5, 2, 2, 9])
    for total in (10, 10_000):
        found, rows = distinct(numbers, total)
        assert found.tolist() == [2, 5, 9]
        assert rows.tolist() == [1, 0, 0, 2]
    assert ages(np.array([3 * DAY, 5]), np.array([DAY, TIMELESS])).tolist() == [2.0, 0.0]


def test_records_refuse_what_cannot_be_predicted() -> None:
    graph = communities(likes=True)
    assert len(Records.of(graph, [RATES, LIKES])) == 800
    assert Records.of(graph, [RATES, LIKES], [1.0, 2.5]).weights.max() == 2.5
    with pytest.raises(ConfigError, match="no such edges"):
        Records.of(graph, [("member", "buys", "item")])
    with pytest.raises(ConfigError, match="without times"):
        Records.of(graph, [IS])
    with pytest.raises(ConfigError, match="same two types"):
        Records.of(graph, [RATES, ("item", "rev_rates", "member")])


def test_two_layers_of_wide_settings_build() -> None:
    config = EncoderConfig(dim=32, layers=2, aggregator="mean", dual=False, ids=None, temporal=None)
    w = world(communities(), config)
    batch = LinkBatch.from_arrays(w.feed().batch(BatchRequest(2, 4, 4, 0)), w.table.numbers.types)
    assert w.model.destination is w.model.source
    states = w.model.states(batch.nodes)
    assert w.model.destinations(states, batch.destination).shape[1] == 32
