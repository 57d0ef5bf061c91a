"""The measured side of the memory benchmark: a large graph is made, written, and sampled from its files."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

import _child
import _graph_random
from memberwise.graph import (
    EdgeArrays,
    HeteroGraph,
    NeighbourSampler,
    Rule,
    SampleRequest,
    SamplingConfig,
    SeedBatch,
    sample_subgraph,
)
from memberwise.graph.nodes import numbered


def make(folder: str, nodes: int, edges: int) -> dict[str, int]:
    """Edges both ways, with times, to files."""
    source, target, time = _graph_random.ends(nodes, edges)
    table = EdgeArrays(("member", "rates", "item"), source, target.astype(np.int32), time)
    graph = HeteroGraph.from_arrays([numbered("member", nodes), numbered("item", nodes)], [table])
    graph.write(folder)
    return {"bytes": sum(p.stat().st_size for p in Path(folder).iterdir())}


def sample(folder: str, batches: int) -> dict[str, int]:
    """Trees and subgraphs of three hops before moments, and a batch of new edges appended."""
    graph = HeteroGraph.open(folder)
    sampler = NeighbourSampler(graph, SamplingConfig(rule=Rule(draw="last")))
    edges = 0
    for batch in range(batches):
        rng = np.random.default_rng(batch)
        seeds = SeedBatch(
            "member", rng.integers(0, graph.count("member"), 1024), np.full(1024, _graph_random.SPAN)
        )
        edges += sampler.sample(SampleRequest(seeds, (20, 10), batch)).sampled
        edges += sample_subgraph(sampler, SampleRequest(seeds, (15, 10, 5), batch)).sampled
    new = np.random.default_rng(0).integers(0, graph.count("item"), (2, 100_000))
    grown, touched = graph.append(
        [EdgeArrays(("member", "rates", "item"), *new, np.full(100_000, _graph_random.SPAN))]
    )
    with tempfile.TemporaryDirectory(dir=Path(folder).parent) as beside:
        grown.write(Path(beside) / "grown")
    return {"edges": edges, "touched": sum(len(t) for t in touched.values())}


if __name__ == "__main__":
    _child.serve({"make": make, "sample": sample})
