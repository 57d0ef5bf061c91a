"""Our sampler under PyG's own loaders, and graphs to HeteroData and back."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
import torch
from torch_geometric.data import HeteroData
from torch_geometric.loader import LinkLoader, NodeLoader
from torch_geometric.nn import SAGEConv, to_hetero
from torch_geometric.sampler import NegativeSampling

from memberwise.errors import ConfigError
from memberwise.graph import EdgeArrays, HeteroGraph, Nodes, Rule, SamplingConfig, reverse_of
from memberwise.graph.nodes import numbered
from memberwise.graph.pyg import PyGSampler, from_hetero_data, to_hetero_data
from support.graph_twins import KNOWS, RATES

MEMBERS, ITEMS, EDGES = 40, 60, 900


@pytest.fixture(scope="module")
def graph() -> HeteroGraph:
    rng = np.random.default_rng(0)
    items = numbered("item", ITEMS, features={"x": rng.normal(size=(ITEMS, 5)).astype(np.float32)})
    members = numbered("member", MEMBERS, features={"x": rng.normal(size=(MEMBERS, 3)).astype(np.float32)})
    rates = EdgeArrays(
        RATES,
        rng.integers(0, MEMBERS, EDGES),
        rng.integers(0, ITEMS, EDGES),
        rng.integers(0, 1_000, EDGES),
        rng.random(EDGES),
        rng.normal(size=(EDGES, 2)).astype(np.float32),
    )
    knows = EdgeArrays(KNOWS, rng.integers(0, MEMBERS, 100), rng.integers(0, MEMBERS, 100), self_loops="drop")
    return HeteroGraph.from_arrays([items, members], [rates, knows])


def check_batch(data: HeteroData, batch: HeteroData) -> int:
    """Every edge of a batch is that edge of the data, with its attributes. Returns how many there are."""
    edges = 0
    for edge_type in data.edge_types:
        whole, part = data[edge_type], batch[edge_type]
        ends = torch.stack(
            [batch[edge_type[0]].n_id[part.edge_index[0]], batch[edge_type[2]].n_id[part.edge_index[1]]]
        )
        assert torch.equal(ends, whole.edge_index[:, part.e_id])
        for name in ("time", "edge_weight", "edge_attr"):
            assert (name in whole) == (name in part)
            if name in whole:
                assert torch.equal(part[name], whole[name][part.e_id])
        edges += part.edge_index.shape[1]
    for node_type in data.node_types:
        assert torch.equal(batch[node_type].x, data[node_type].x[batch[node_type].n_id])
    return edges


def test_hetero_data_and_back(graph):
    data = to_hetero_data(graph)
    assert data.validate()
    assert set(data.edge_types) == set(graph.edge_types)
    again = from_hetero_data(data)
    assert again.edge_types == graph.edge_types
    for edge_type in graph.edge_types:
        for a, b in zip(graph.adjacency[edge_type].base, again.adjacency[edge_type].base, strict=True):
            np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(again.nodes["item"].features["x"], graph.nodes["item"].features["x"])
    np.testing.assert_array_equal(again.edge_features[RATES], graph.edge_features[RATES])


def test_content_goes_along_and_one_direction_stays_one():
    items = Nodes("item", pl.Series([5, 6]), content=np.eye(2, dtype=np.float32))
    table = EdgeArrays(RATES, np.array([0]), np.array([1]), reverse=False)
    one = HeteroGraph.from_arrays([items, numbered("member", 1)], [table])
    data = to_hetero_data(one)
    assert data.edge_types == [reverse_of(RATES)]  # messages flow from items to members
    back = from_hetero_data(data)
    assert back.edge_types == (RATES,)
    assert back.nodes["item"].content.tolist() == [[1, 0], [0, 1]]
    both = from_hetero_data(data, reverse=True)
    assert both.adjacency[reverse_of(RATES)].neighbours(1).tolist() == [0]


@pytest.mark.parametrize("timed", [False, True])
def test_node_loader_trains_a_network_on_our_sampler(graph, timed):
    data = to_hetero_data(graph)
    torch.manual_seed(0)
    times = torch.randint(100, 1_000, (MEMBERS,)) if timed else None
    sampler = PyGSampler(graph, [4, 3], SamplingConfig(rule=Rule(draw="last")))
    loader = NodeLoader(data, sampler, "member", times, batch_size=16, shuffle=True)

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = SAGEConv((-1, -1), 8), SAGEConv((-1, -1), 2)

        def forward(self, x, edge_index):
            return self.two(self.one(x, edge_index).relu(), edge_index)

    net = to_hetero(Net(), data.metadata())
    seen, edges = [], 0
    for batch in loader:
        edges += check_batch(data, batch)
        members = batch["member"]
        assert torch.equal(members.n_id[: members.batch_size], members.input_id)
        seen += members.input_id.tolist()
        if timed:
            for edge_type in (RATES, reverse_of(RATES)):
                whose = batch[edge_type[2]].batch[batch[edge_type].edge_index[1]]
                assert (batch[edge_type].time < members.seed_time[whose]).all()
                assert torch.equal(whose, batch[edge_type[0]].batch[batch[edge_type].edge_index[0]])
        out = net(batch.x_dict, batch.edge_index_dict)["member"][: members.batch_size]
        loss = torch.nn.functional.cross_entropy(out, members.input_id % 2)
        loss.backward()
        assert torch.isfinite(loss)
    assert sorted(seen) == list(range(MEMBERS))
    assert edges > 500
    grads = [p.grad for p in net.one.parameters() if p.grad is not None]
    assert any(bool(g.abs().sum() > 0) for g in grads)  # messages crossed both hops


def test_repeated_seeds_have_places_of_their_own(graph):
    data = to_hetero_data(graph)
    nodes = torch.tensor([3, 3, 5])
    batch = next(iter(NodeLoader(data, PyGSampler(graph, [2, 2]), ("member", nodes), batch_size=3)))
    assert batch["member"].n_id[:3].tolist() == [3, 3, 5]
    check_batch(data, batch)


@pytest.mark.parametrize("timed", [False, True])
@pytest.mark.parametrize("negatives", [None, NegativeSampling("binary", 1.0), NegativeSampling("triplet", 2)])
def test_link_loader_gives_both_ends_of_links(graph, timed, negatives):
    data = to_hetero_data(graph)
    links = data[RATES].edge_index[:, :50]
    times = data[RATES].time[:50] if timed else None
    torch.manual_seed(1)
    loader = LinkLoader(
        data,
        PyGSampler(graph, [3, 2]),
        (RATES, links),
        edge_label_time=times,
        neg_sampling=negatives,
        batch_size=20,
    )
    at = 0
    for batch in loader:
        assert check_batch(data, batch) > 0
        wanted = links[:, at : at + 20]
        if negatives is not None and negatives.is_triplet():
            source, target = batch["member"].src_index, batch["item"].dst_pos_index
            assert batch["item"].dst_neg_index.shape == (wanted.shape[1], 2)
        else:
            source, target = batch[RATES].edge_label_index[:, : wanted.shape[1]]
        assert torch.equal(batch["member"].n_id[source], wanted[0])
        assert torch.equal(batch["item"].n_id[target], wanted[1])
        if timed:
            whose = batch["member"].batch[batch[RATES].edge_index[0]]
            assert (batch[RATES].time < times[at : at + 20][whose]).all()
        at += wanted.shape[1]
    assert at == 50


def test_draws_follow_torchs_seed_and_fan_outs_may_differ_by_edge_type(graph):
    data = to_hetero_data(graph)
    sampler = PyGSampler(graph, {reverse_of(RATES): [5], reverse_of(KNOWS): [0]})

    def sample(seed: int) -> HeteroData:
        torch.manual_seed(seed)
        return next(iter(NodeLoader(data, sampler, "member", batch_size=MEMBERS)))

    first, again, other = sample(1), sample(1), sample(2)
    key = reverse_of(RATES)
    assert torch.equal(first[key].e_id, again[key].e_id)
    assert not torch.equal(first[key].e_id, other[key].e_id)
    assert first[reverse_of(KNOWS)].edge_index.shape[1] == 0
    assert first[KNOWS].edge_index.shape[1] == 0
    assert first[key].num_sampled_edges == [first[key].edge_index.shape[1]]
    with pytest.raises(ConfigError, match="item:has:genre"):
        PyGSampler(graph, {("item", "has", "genre"): [2]})
