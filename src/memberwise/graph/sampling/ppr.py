"""Neighbours by importance: the nodes at which walks from the seed end most often."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import Field

from memberwise.errors import ConfigError
from memberwise.graph.sampling.base import Block, SampledBatch, Sampler, SampleRequest
from memberwise.graph.sampling.neighbours import check_seeds
from memberwise.graph.sampling.ppr_kernels import push, two_hop, walk_on
from memberwise.graph.store import HeteroGraph
from memberwise.graph.types import NEVER, TIMELESS, edge_name, parse_edge
from memberwise.schema import Duration, Model

RELATION = "ppr"
"""Relation of the virtual edges from a seed to its most important nodes."""


class PPRConfig(Model):
    """How importance is computed."""

    method: Literal["two_hop", "push"] = Field(
        "two_hop", description="two_hop: walks of at most two steps, exactly. push: of any length, to eps."
    )
    alpha: float = Field(
        0.5, gt=0, lt=1, description="Probability that a walk stops; two hops are enough if it is about 0.5."
    )
    eps: float = Field(1e-4, gt=0, lt=1, description="push: what may be left at a node, per edge.")
    weighted: bool = Field(False, description="Follow edges in proportion to their weights.")
    window: Duration | None = Field(None, description="Only edges this recent before the cut-off: 30d.")
    edges: list[str] | None = Field(None, description="Edge types that a walk may follow; default: all.")
    targets: list[str] | None = Field(None, description="Node types to return; default: all reached.")
    max_neighbours: int = Field(
        200, ge=1, description="A node's newest edges of each type that a walk may follow."
    )


class PPRSampler(Sampler):
    """The k most important nodes of every type for each seed, under its cut-off.

    One block a node type, of the virtual edge type ``(seed type, "ppr", node type)``: nodes in falling order
    of their score, which is the block's weight; the seed is not among them. There is one hop: what two hops
    reach is a direct neighbour here. Nothing is drawn, so the request's seed does not matter. See
    `memberwise.graph.sampling.ppr_kernels` for the equations.

    Parameters
    ----------
    graph : HeteroGraph
        What to walk on.
    config : PPRConfig, optional
        The settings.

    Raises
    ------
    ConfigError
        If the settings name an edge type or a node type that is not there, or a request has several hops.

    Examples
    --------
    >>> from memberwise.graph import EdgeArrays, PPRSampler, SeedBatch
    >>> from memberwise.graph.nodes import numbered
    >>> knows = ("member", "knows", "member")
    >>> graph = HeteroGraph.from_arrays(
    ...     [numbered("member", 4)],
    ...     [EdgeArrays(knows, np.array([0, 0, 1, 1]), np.array([1, 2, 2, 3]), reverse=False)])
    >>> block = PPRSampler(graph).sample(SampleRequest(SeedBatch("member", np.array([0])), [3])).blocks[0]
    >>> block.nodes, block.weights
    (array([[2, 1, 3]], dtype=int32), array([[0.3125, 0.125 , 0.0625]], dtype=float32))
    """

    def __init__(self, graph: HeteroGraph, config: PPRConfig | None = None) -> None:
        self.graph = graph
        self.config = config if config is not None else PPRConfig()
        chosen = self.config.edges
        edge_types = graph.edge_types if chosen is None else tuple(parse_edge(e) for e in chosen)
        for edge_type in edge_types:
            if edge_type not in graph.adjacency:
                known = ", ".join(edge_name(e) for e in graph.edge_types)
                raise ConfigError(
                    f"the graph has no edge type {edge_name(edge_type)}", where="edges", fix=f"it has {known}"
                )
        for target in self.config.targets or ():
            if target not in graph.nodes:
                raise ConfigError(f"there are no nodes of type {target!r}", where="targets")
        if not edge_types:
            raise ConfigError("a walk needs edges to follow", where="edges")
        self._types = graph.node_types
        number = {t: i for i, t in enumerate(self._types)}
        self._segments = [
            (e, s)
            for e in edge_types
            for s in (graph.adjacency[e].base, graph.adjacency[e].tail)
            if len(s.indptr) > 1
        ]
        self._walk = walk_on(
            [s for _, s in self._segments],
            [number[e[0]] for e, _ in self._segments],
            [number[e[2]] for e, _ in self._segments],
            [graph.count(t) for t in self._types],
        )
        reached = {e[2] for e in edge_types}
        self._targets = [
            i
            for i, t in enumerate(self._types)
            if (t in reached if self.config.targets is None else t in self.config.targets)
        ]

    def with_graph(self, graph: HeteroGraph) -> PPRSampler:
        """The same settings on another graph (one with newer events)."""
        return PPRSampler(graph, self.config)

    def sample(self, request: SampleRequest) -> SampledBatch:
        """The most important nodes for the seeds (see `Sampler.sample`)."""
        seeds, config = request.seeds, self.config
        check_seeds(self.graph, seeds)
        if request.hops > 1:
            raise ConfigError(
                f"{request.hops} hops are asked for; important nodes are one hop away",
                where="fan_outs",
                fix="give one number",
            )
        k = {i: request.fan_out((seeds.type, RELATION, self._types[i]), 0) for i in self._targets}
        most = max(k.values(), default=0)
        if most < 1:
            return SampledBatch(seeds, ())
        start = seeds.nodes.astype(np.int64) + self._walk.offset[self._types.index(seeds.type)]
        cuts = np.full(len(seeds), NEVER) if seeds.times is None else seeds.times.copy()
        shape = (len(seeds), len(self._types), most)
        nodes, scores = np.empty(shape, np.int32), np.empty(shape, np.float32)
        window, cap, weighted = config.window or 0, config.max_neighbours, config.weighted
        if config.method == "two_hop":
            two_hop(self._walk, start, cuts, window, cap, weighted, config.alpha, nodes, scores)
        else:
            push(self._walk, start, cuts, window, cap, weighted, config.alpha, config.eps, nodes, scores)
        blocks = [
            self._block(seeds.type, i, nodes[:, i, : k[i]], scores[:, i, : k[i]]) for i in k if k[i] > 0
        ]
        return SampledBatch(seeds, tuple(blocks))

    def _block(self, source: str, target: int, nodes: np.ndarray, scores: np.ndarray) -> Block:
        return Block(
            (source, RELATION, self._types[target]),
            -1,
            0,
            np.ascontiguousarray(nodes),
            (nodes >= 0).sum(axis=1, dtype=np.int32),
            np.full(nodes.shape, TIMELESS),
            np.ascontiguousarray(scores),
            np.full(nodes.shape, -1, np.int32),
        )
