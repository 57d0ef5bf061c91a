"""The graph on which samplers are compared: every node looks at some 20 others, few of them at much of it."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from memberwise.graph import EdgeArrays, HeteroGraph
from memberwise.graph.nodes import numbered

EDGE = ("n", "to", "n")
SPAN = 10**9


def ends(
    nodes: int, edges: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Who looks (uniform), at whom (Pareto with exponent 1, wrapped), and when (uniform)."""
    rng = np.random.default_rng(0)
    source = rng.integers(0, nodes, edges).astype(np.int32)
    target = (rng.pareto(1.0, edges) * nodes / 70).astype(np.int64) % nodes
    return source, target, rng.integers(0, SPAN, edges)


def graph(nodes: int, edges: int, weighted: bool = True) -> HeteroGraph:
    """The graph, in one direction."""
    source, target, time = ends(nodes, edges)
    weight = np.random.default_rng(1).random(edges).astype(np.float32) + 0.1 if weighted else None
    table = EdgeArrays(EDGE, source, target, time, weight, reverse=False, self_loops="drop")
    return HeteroGraph.from_arrays([numbered("n", nodes)], [table])
