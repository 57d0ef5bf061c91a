"""The native sampler of kumo-relational-engine on the same graph: neighbourhoods kept apart, by CSC.

Loaded by itself: its package asks for much that the sampler does not use.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np

import _child
import _graph_random

_state: dict[str, Any] = {}


def setup(library: str, nodes: int, edges: int) -> dict[str, int]:
    """Load the library from a file and give it the graph."""
    spec = importlib.util.spec_from_file_location("kumo_relational_engine.relationallib", library)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    adjacency = _graph_random.graph(nodes, edges, weighted=False).adjacency[_graph_random.EDGE]
    name = "__".join(_graph_random.EDGE)
    # The library keeps no hold of the arrays that it is given.
    _state["nodes"], _state["colptr"] = nodes, {name: adjacency.base.indptr.copy()}
    _state["row"] = {name: adjacency.base.target.astype(np.int64)}
    _state["sampler"] = module.NeighborSampler(
        ["n"],
        [_graph_random.EDGE],
        _state["colptr"],
        _state["row"],
        {},
    )
    return {"edges": neighbours(1, 64)["edges"]}


def neighbours(batches: int, size: int, fan_outs: tuple[int, ...] = (15, 10)) -> dict[str, int]:
    """Sample batches; returns the number of edges."""
    edges = 0
    name = "__".join(_graph_random.EDGE)
    for batch in range(batches):
        seeds = np.random.default_rng(batch).integers(0, _state["nodes"], size)
        rows, *_ = _state["sampler"].sample(
            {name: list(fan_outs)}, {}, "n", seeds, np.full(size, _graph_random.SPAN)
        )
        edges += len(rows[name])
    return {"edges": edges}


if __name__ == "__main__":
    _child.serve({"setup": setup, "neighbours": neighbours})
