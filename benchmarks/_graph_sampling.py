"""The measured side of the sampler's benchmark: our graph and samplers in a process of one thread."""

from __future__ import annotations

import numpy as np

import _child
import _graph_random
from memberwise.graph import (
    HeteroGraph,
    NeighbourSampler,
    PPRConfig,
    PPRSampler,
    Rule,
    SampleRequest,
    SamplingConfig,
    SeedBatch,
    sample_subgraph,
)

_state: dict[str, HeteroGraph] = {}


def setup(nodes: int, edges: int) -> dict[str, int]:
    """Make the graph, compile every kernel, and let the tables grow to their size."""
    _state["graph"] = _graph_random.graph(nodes, edges)
    for kind in ("static", "before", "last", "weighted", "tree", "tree_last"):
        neighbours(kind, 1, 1024)
    for method in ("two_hop", "push"):
        ppr(method, 1, 16)
    return {"max_degree": int(_state["graph"].adjacency[_graph_random.EDGE].degrees().max())}


def _seeds(batch: int, size: int, timed: bool) -> SeedBatch:
    rng = np.random.default_rng(batch)
    graph = _state["graph"]
    times = rng.integers(_graph_random.SPAN // 2, _graph_random.SPAN, size) if timed else None
    return SeedBatch("n", rng.integers(0, graph.count("n"), size), times)


def neighbours(kind: str, batches: int, size: int, fan_outs: tuple[int, ...] = (15, 10)) -> dict[str, int]:
    """Sample batches; returns the number of edges and of distinct places."""
    draw = {"last": "last", "tree_last": "last", "weighted": "weighted"}.get(kind, "uniform")
    sampler = NeighbourSampler(_state["graph"], SamplingConfig(rule=Rule(draw=draw)))
    edges = places = 0
    for batch in range(batches):
        seeds = _seeds(batch, size, timed=kind in ("before", "last", "tree_last"))
        request = SampleRequest(seeds, tuple(fan_outs), batch)
        if kind.startswith("tree"):
            edges += sampler.sample(request).sampled
        else:
            found = sample_subgraph(sampler, request)
            edges += found.sampled
            places += sum(len(n) for n in found.nodes.values())
    return {"edges": edges, "places": places}


def ppr(method: str, batches: int, size: int) -> dict[str, int]:
    """The 50 most important nodes of batches of seeds under cut-offs."""
    sampler = PPRSampler(_state["graph"], PPRConfig(method=method))  # type: ignore[arg-type]
    found = 0
    for batch in range(batches):
        found += sampler.sample(SampleRequest(_seeds(batch, size, True), [50], batch)).sampled
    return {"seeds": batches * size, "found": found}


if __name__ == "__main__":
    _child.serve({"setup": setup, "neighbours": neighbours, "ppr": ppr})
