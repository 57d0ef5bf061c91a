"""A graph without some of its nodes and their edges."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from memberwise.graph.nodes import Nodes
from memberwise.graph.store import HeteroGraph
from memberwise.graph.tables import EdgeArrays


def without_nodes(graph: HeteroGraph, node_type: str, rows: npt.NDArray[np.int32]) -> HeteroGraph:
    """The graph as if some nodes had never been; the others of their type are numbered anew.

    Parameters
    ----------
    graph
        Before.
    node_type, rows
        Which nodes go.
    """
    kept = np.ones(graph.count(node_type), bool)
    kept[rows] = False
    number = np.cumsum(kept) - 1
    edges = []
    for edge_type, adjacency in graph.adjacency.items():
        found = adjacency.coo()
        source, target = found.source.astype(np.int64), found.target.astype(np.int64)
        there = np.ones(len(source), bool)
        if edge_type[0] == node_type:
            there &= kept[source]
        if edge_type[2] == node_type:
            there &= kept[target]
        source, target = source[there], target[there]
        edges.append(
            EdgeArrays(
                edge_type,
                number[source] if edge_type[0] == node_type else source,
                number[target] if edge_type[2] == node_type else target,
                None if found.time is None else found.time[there],
                None if found.weight is None else found.weight[there],
                reverse=False,  # the edges that lead back are among the others
                self_loops="keep",
            )
        )
    nodes = [_some(n, kept) if t == node_type else n for t, n in graph.nodes.items()]
    return HeteroGraph.from_arrays(nodes, edges)


def _some(nodes: Nodes, kept: npt.NDArray[np.bool_]) -> Nodes:
    features = {name: array[kept] for name, array in nodes.features.items()}
    content = None if nodes.content is None else nodes.content[kept]
    return Nodes(nodes.type, nodes.ids.filter(kept), features, content)
