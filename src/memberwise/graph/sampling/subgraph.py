"""Multi-hop sampling into one subgraph: every node once, expanded once, edges between numbered places.

The tree of `memberwise.graph.sampling.base` repeats a node wherever it was reached. Here a node that was
reached before is the same place again: fewer neighbours are drawn and projected, edges are pairs of places.
This is what message passing by edge index reads (PyG), and what samplers are compared by.

With cut-offs the neighbourhoods of the seeds are kept apart, and a place belongs to one seed: what one seed
may see, another may not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from memberwise.graph.adjacency import Adjacency
from memberwise.graph.sampling.base import SampleRequest, SeedBatch
from memberwise.graph.sampling.neighbours import NeighbourSampler, check_seeds, mix_seed
from memberwise.graph.sampling.places import Drawn, places_of
from memberwise.graph.types import NEVER, TIMELESS, EdgeType

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]


_NONE = np.zeros(0, np.int32)


@dataclass(frozen=True)
class SubgraphEdges:
    """Sampled edges of one type; `source` and `target` are places, the source is the one that looks.

    Attributes
    ----------
    source, target : ndarray of int32, shape [e]
        Places among the nodes of either type.
    position : ndarray of int32, shape [e]
        Where the edges lie in the adjacency, base before tail.
    hops : tuple of int
        How many each hop added.
    adjacency : Adjacency
    """

    source: I32
    target: I32
    position: I32
    hops: tuple[int, ...]
    adjacency: Adjacency

    @property
    def edge(self) -> I32:
        """Numbers of the edges in the graph. Shape [e]"""
        return self.adjacency.at(self.position, "edge")

    @property
    def time(self) -> I64:
        """Times of the edges, `TIMELESS` where they have none. Shape [e]"""
        return self.adjacency.at(self.position, "time", TIMELESS)

    @property
    def weight(self) -> npt.NDArray[np.float32]:
        """Weights of the edges. Shape [e]"""
        return self.adjacency.at(self.position, "weight", np.float32(1.0))


@dataclass(frozen=True)
class Subgraph:
    """The union of the sampled neighbourhoods of a batch.

    Attributes
    ----------
    seeds : SeedBatch
    seed_places : ndarray of int32, shape [B]
        Place of each seed among the nodes of its type; equal seeds share one unless they have cut-offs.
    nodes : mapping of str to ndarray of int32, shape [U]
        Node of every place, in the order in which they were reached.
    roots : mapping of str to ndarray of int32, shape [U], optional
        Seed to whose neighbourhood every place belongs; None without cut-offs.
    cuts : mapping of str to ndarray of int64, shape [U], optional
        Cut-off of every place: edges strictly before it were seen; None without cut-offs.
    edges : mapping of EdgeType to SubgraphEdges
    node_hops : mapping of str to tuple of int
        How many places the seeds and then each hop added.
    """

    seeds: SeedBatch
    seed_places: I32
    nodes: Mapping[str, I32]
    roots: Mapping[str, I32] | None
    cuts: Mapping[str, I64] | None
    edges: Mapping[EdgeType, SubgraphEdges]
    node_hops: Mapping[str, tuple[int, ...]]

    @property
    def sampled(self) -> int:
        """Number of sampled edges."""
        return sum(len(e.position) for e in self.edges.values())


def sample_subgraph(
    sampler: NeighbourSampler, request: SampleRequest, mixed: tuple[int, ...] = ()
) -> Subgraph:
    """The neighbourhoods of the seeds by the rules of a sampler, each place expanded once.

    Raises
    ------
    ConfigError, DataError
        As `Sampler.sample`.
    """
    return sample_union(sampler, [request.seeds], request, mixed)[0]


def sample_union(
    sampler: NeighbourSampler,
    seeds: list[SeedBatch],
    request: SampleRequest,
    mixed: tuple[int, ...] = (),
    merge_seeds: bool = True,
) -> tuple[Subgraph, list[I32]]:
    """One subgraph around seeds of several types (the two ends of links); and the places of each batch.

    Without `merge_seeds` every seed has a place of its own, even if it is there already.
    """
    graph = sampler.graph
    for batch in seeds:
        check_seeds(graph, batch)
    by_edge = sampler.config.clock == "edge"
    apart = by_edge or any(batch.times is not None for batch in seeds)
    counts = {t: graph.count(t) for t in graph.node_types}
    with places_of(counts, sum(len(b) for b in seeds), apart) as places:
        found, root = [], 0
        for batch in seeds:
            cuts = np.full(len(batch), NEVER) if batch.times is None else batch.times.copy()
            roots = np.arange(root, root + len(batch), dtype=np.int32)
            found.append(places[batch.type].add(batch.nodes.copy(), roots, cuts, merge_seeds))
            root += len(batch)
        node_hops = {t: [p.size] for t, p in places.items()}
        edges: dict[EdgeType, list[Drawn]] = {e: [] for e in graph.edge_types}
        for hop in range(request.hops):
            first = {t: sum(h[:-1]) for t, h in node_hops.items()}
            last = {t: p.size for t, p in places.items()}
            for number, (edge_type, drawn) in enumerate(edges.items()):
                k, rule = request.fan_out(edge_type, hop), sampler.rules[edge_type]
                source, target = places[edge_type[0]], places[edge_type[2]]
                bounds = (first[edge_type[0]], last[edge_type[0]])
                if k < 1 or not rule.follow or bounds[0] == bounds[1]:
                    drawn.append((_NONE, _NONE, _NONE))
                    continue
                seed = mix_seed((request.seed, *mixed, hop, number))
                drawn.append(
                    target.reach(graph.adjacency[edge_type], source, *bounds, k, rule, seed, by_edge)
                )
            for t, p in places.items():
                node_hops[t].append(p.size - last[t])
        subgraph = Subgraph(
            seeds[0],
            found[0],
            {t: p.nodes[: p.size].copy() for t, p in places.items()},
            {t: p.roots[: p.size].copy() for t, p in places.items()} if apart else None,
            {t: p.cuts[: p.size].copy() for t, p in places.items()} if apart else None,
            {e: _joined(graph.adjacency[e], parts) for e, parts in edges.items()},
            {t: tuple(h) for t, h in node_hops.items()},
        )
    return subgraph, found


def _joined(adjacency: Adjacency, parts: list[Drawn]) -> SubgraphEdges:
    source, target, position = (np.concatenate(c) for c in zip((_NONE, _NONE, _NONE), *parts, strict=True))
    return SubgraphEdges(source, target, position, tuple(len(p[0]) for p in parts), adjacency)
