"""To and from PyTorch Geometric: `HeteroData`, and our sampler under its loaders (extra ``pyg``).

PyG names an edge type in the direction of messages, and gathers for a node what points to it. Here an edge
says who looks at whom, and messages flow back. So the neighbours that this package follows along an edge type
are those that PyG gathers along `reverse_of` it: ``("member", "rates", "item")``, from members to the items
that they look at, is PyG's ``("item", "rev_rates", "member")``. A graph with edges both ways has the same
types on both sides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from memberwise.errors import ConfigError, DataError
from memberwise.graph.nodes import Nodes, numbered
from memberwise.graph.sampling.base import FanOuts, SampleRequest, SeedBatch
from memberwise.graph.sampling.neighbours import NeighbourSampler, SamplingConfig
from memberwise.graph.sampling.subgraph import sample_union
from memberwise.graph.store import HeteroGraph
from memberwise.graph.tables import EdgeArrays
from memberwise.graph.types import EdgeType, edge_name, reverse_of

try:
    from torch_geometric.data import HeteroData
    from torch_geometric.sampler import (
        BaseSampler,
        EdgeSamplerInput,
        HeteroSamplerOutput,
        NegativeSampling,
        NodeSamplerInput,
    )
    from torch_geometric.sampler.neighbor_sampler import edge_sample, node_sample
except ImportError as error:
    raise ConfigError(
        "torch-geometric is not installed", where="memberwise.graph.pyg", fix="pip install 'memberwise[pyg]'"
    ) from error


def to_hetero_data(graph: HeteroGraph) -> HeteroData:
    """The graph as PyG's `HeteroData`, edge types in the direction of messages.

    Nodes get ``num_nodes``, each of their features by name, and ``content``; edges get ``edge_index``, and
    ``time``, ``edge_weight`` and ``edge_attr`` where there are such. Edges stand in the order of their
    numbers. `HeteroData` has no place for ids: those stay in ``graph.nodes[type].ids``.
    """
    data = HeteroData()
    for node_type, nodes in graph.nodes.items():
        data[node_type].num_nodes = len(nodes)
        for name, array in nodes.features.items():
            data[node_type][name] = _tensor(array)
        if nodes.content is not None:
            data[node_type].content = _tensor(nodes.content)
    for edge_type, adjacency in graph.adjacency.items():
        edges = adjacency.coo()
        edges = edges.take(np.argsort(edges.edge))
        store = data[reverse_of(edge_type)]
        store.edge_index = _tensor(np.stack([edges.target, edges.source]).astype(np.int64))
        if edges.time is not None:
            store.time = _tensor(edges.time)
        if edges.weight is not None:
            store.edge_weight = _tensor(edges.weight)
        features = graph.edge_features.get(edge_type, graph.edge_features.get(reverse_of(edge_type)))
        if features is not None:
            store.edge_attr = _tensor(features)
    return data


def from_hetero_data(data: HeteroData, reverse: bool = False, **settings: Any) -> HeteroGraph:
    """A graph from PyG's `HeteroData`; ids are the numbers of the nodes.

    Parameters
    ----------
    data : HeteroData
        Edges may have ``time`` (integers, not negative), ``edge_weight`` and ``edge_attr``; every node
        attribute with one row per node becomes a feature, ``content`` the content.
    reverse
        Also follow edges against the direction of messages, where `data` does not have them already.
    settings
        Of `EdgeArrays`: what to do about duplicates and self loops.

    Raises
    ------
    DataError
        As `HeteroGraph.from_arrays`.
    """
    nodes = [_nodes(data, t) for t in data.node_types]
    tables = []
    for edge_type in data.edge_types:
        store = data[edge_type]
        message_source, message_target = store.edge_index.numpy()
        tables.append(
            EdgeArrays(
                reverse_of(edge_type),
                message_target,
                message_source,
                store.time.numpy() if "time" in store else None,
                store.edge_weight.numpy() if "edge_weight" in store else None,
                store.edge_attr.numpy() if "edge_attr" in store else None,
                reverse=reverse and reverse_of(edge_type) not in data.edge_types,
                **settings,
            )
        )
    return HeteroGraph.from_arrays(nodes, tables)


def _nodes(data: HeteroData, node_type: str) -> Nodes:
    store = data[node_type]
    count = store.num_nodes
    if count is None:
        raise DataError(f"the number of nodes of type {node_type!r} is not known", fix="set num_nodes")
    arrays = {
        name: value.numpy()
        for name, value in store.items()
        if isinstance(value, torch.Tensor) and value.dim() > 0 and len(value) == count
    }
    content = arrays.pop("content", None)
    return numbered(node_type, count, features=arrays, content=content)


def _tensor(array: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(array))  # a copy: what the graph maps must not be written to


class PyGSampler(BaseSampler):
    """Our sampler for PyG's `NodeLoader` and `LinkLoader`; needs neither pyg-lib nor torch-sparse.

    A seed's time is a strict cut-off: edges at that very moment are not seen (pyg-lib would show them). With
    times, neighbourhoods are kept apart and ``batch`` says whose they are. Draws follow torch's random
    numbers (`torch.manual_seed`), in every worker of a loader.

    Parameters
    ----------
    graph : HeteroGraph
        The loader's data is `to_hetero_data` of it, or what it was made from by `from_hetero_data`.
    num_neighbors
        Per hop: a list, or by PyG's edge type.
    config : SamplingConfig, optional
        Rules by this package's edge types.

    Raises
    ------
    ConfigError
        If `num_neighbors` names an edge type that cannot be sampled.

    Examples
    --------
    >>> from torch_geometric.loader import NodeLoader
    >>> from memberwise.graph.sampling.neighbours import Rule
    >>> rates = ("member", "rates", "item")
    >>> graph = HeteroGraph.from_arrays(
    ...     [numbered("member", 2), numbered("item", 3)],
    ...     [EdgeArrays(rates, np.array([0, 0, 1]), np.array([0, 1, 2]), time=np.array([10, 20, 30]))])
    >>> sampler = PyGSampler(graph, [2], SamplingConfig(rule=Rule(draw="last")))
    >>> loader = NodeLoader(
    ...     to_hetero_data(graph), sampler, "member", torch.tensor([20, 31]), batch_size=2)
    >>> next(iter(loader))["item"].n_id
    tensor([0, 2])
    """

    def __init__(
        self,
        graph: HeteroGraph,
        num_neighbors: Sequence[int] | Mapping[EdgeType, Sequence[int]],
        config: SamplingConfig | None = None,
    ) -> None:
        self.sampler = NeighbourSampler(graph, config)
        self.fan_outs: FanOuts
        if isinstance(num_neighbors, Mapping):
            self.fan_outs = {reverse_of(e): f for e, f in num_neighbors.items()}
            for edge_type in self.fan_outs:
                if edge_type not in graph.adjacency:
                    raise ConfigError(
                        f"the graph cannot follow {edge_name(reverse_of(edge_type))} against its messages",
                        where="num_neighbors",
                        fix=f"make the graph with edges {edge_name(edge_type)} (reverse)",
                    )
        else:
            self.fan_outs = list(num_neighbors)

    def sample_from_nodes(self, index: NodeSamplerInput, **kwargs: Any) -> HeteroSamplerOutput:
        """The subgraph around nodes."""
        return node_sample(index, self._sample)

    def sample_from_edges(
        self, index: EdgeSamplerInput, neg_sampling: NegativeSampling | None = None
    ) -> HeteroSamplerOutput:
        """The subgraph around both ends of edges, and of edges drawn as negatives."""
        counts = {t: self.sampler.graph.count(t) for t in self.sampler.graph.node_types}
        apart = index.time is not None
        return edge_sample(index, self._sample, counts, disjoint=apart, neg_sampling=neg_sampling)

    def _sample(
        self, seeds: dict[str, torch.Tensor], times: dict[str, torch.Tensor] | None
    ) -> HeteroSamplerOutput:
        batches = [
            SeedBatch(t, nodes.numpy(), None if times is None else times[t].numpy())
            for t, nodes in seeds.items()
        ]
        seed = int(torch.randint(2**62, ()))
        request = SampleRequest(batches[0], self.fan_outs, seed)
        # Loaders take the first places for the seeds, one for one.
        found, _ = sample_union(self.sampler, batches, request, merge_seeds=False)
        edges = {reverse_of(e): found.edges[e] for e in found.edges}
        apart = times is not None and found.roots is not None
        return HeteroSamplerOutput(
            node={t: _long(n) for t, n in found.nodes.items()},
            row={e: _long(s.target) for e, s in edges.items()},
            col={e: _long(s.source) for e, s in edges.items()},
            edge={e: _long(s.edge) for e, s in edges.items()},
            batch={t: _long(r) for t, r in found.roots.items()} if apart and found.roots else None,
            num_sampled_nodes={t: list(h) for t, h in found.node_hops.items()},
            num_sampled_edges={e: list(s.hops) for e, s in edges.items()},
        )


def _long(array: Any) -> torch.Tensor:
    return torch.from_numpy(array.astype(np.int64))
