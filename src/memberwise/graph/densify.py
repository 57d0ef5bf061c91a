"""Densification: nodes with few edges get edges to well-connected nodes that resemble them in content.

For a node type at a moment, with d(v) the number of v's edges strictly before it::

    cold = {v : d(v) <= percentile(d, low)},   hot = {u : d(u) >= percentile(d, high)}
    v -> u  for the k most similar u in hot,  weight = cos(content(v), content(u))

among nodes that have content. The edges have a type of their own, which samplers and aggregators can treat
unlike others, and lead from cold to hot only: messages flow from the well known to the unknown. An edge
carries the moment before which its degrees were counted, so that nothing earlier sees it: a graph is
densified at several moments, and a node gets its edges at the first of them at which it is cold.

Source: LiGNN (KDD 2024), graph densification. There one snapshot serves; the moments, and the cap on how
many cold nodes lean on one hot node, are ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit
from usearch.index import Index, MetricKind, search

from memberwise.errors import ConfigError
from memberwise.graph.config import DensifyConfig
from memberwise.graph.store import HeteroGraph
from memberwise.graph.tables import EdgeArrays
from memberwise.graph.types import RESEMBLES, EdgeType

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]

_EXACT = 20_000
"""Up to so many hot nodes are compared one by one; more go into an index."""


@dataclass(frozen=True)
class Densified:
    """What densification did to one node type.

    Attributes
    ----------
    edge_type
        Of the new edges.
    cold, hot
        Number of nodes that got edges, and of those to which they lead.
    edges
        Number of new edges.
    """

    edge_type: EdgeType
    cold: int
    hot: int
    edges: int


def densify(
    graph: HeteroGraph, config: DensifyConfig | None = None, before: int | None = None
) -> tuple[HeteroGraph, list[Densified]]:
    """The graph with artificial edges of the type ``(type, "resembles", type)``.

    Parameters
    ----------
    graph : HeteroGraph
        With content vectors for at least one node type.
    config : DensifyConfig, optional
        The settings.
    before : int, optional
        Microseconds: no edge at or after this moment is looked at; default: all edges.

    Returns
    -------
    graph : HeteroGraph
        Shares everything that was there.
    done : list of Densified
        By node type.

    Raises
    ------
    ConfigError
        If a node type is not there or has no content, or no edge has a time.
    """
    config = config if config is not None else DensifyConfig()
    types = config.node_types
    if types is None:
        types = [t for t in graph.node_types if graph.nodes[t].content is not None]
    if not types:
        raise ConfigError(
            "no node type has content vectors",
            where="densify",
            fix="declare a vector feature of an entity, by path or column, or leave densification out",
        )
    tables, done = [], []
    for node_type in types:
        table = _edges(graph, node_type, config, before)
        tables.append(table)
        ends = (len(np.unique(table.source)), len(np.unique(table.target)))
        done.append(Densified(table.edge_type, *ends, len(table.source)))
    return HeteroGraph.from_arrays(graph.nodes.values(), tables, base=graph), done


def _edges(graph: HeteroGraph, node_type: str, config: DensifyConfig, before: int | None) -> EdgeArrays:
    if node_type not in graph.nodes:
        raise ConfigError(f"there are no nodes of type {node_type!r}", where="densify")
    content = graph.nodes[node_type].content
    if content is None:
        raise ConfigError(f"nodes of type {node_type!r} have no content vectors", where="densify")
    length = np.linalg.norm(content, axis=1)
    known = length > 0
    unit = np.ascontiguousarray(content / np.where(known, length, 1.0)[:, None], np.float32)
    open_ = known.copy()  # nodes that have no artificial edges yet
    parts: list[tuple[I64, I64, I64, F32]] = []
    for moment in _moments(graph, node_type, config.moments, before):
        degree = _degrees(graph, node_type, moment)
        linked = degree[degree > 0]
        if not len(linked):
            continue
        low, high = np.percentile(linked, [config.low, config.high])
        cold = np.flatnonzero(open_ & (degree <= low))
        hot = np.flatnonzero(known & (degree >= high) & (degree > low))
        if not len(cold) or not len(hot):
            continue
        # Twice as many as wanted: some of them will be full.
        found, similarity = _nearest(unit[hot], unit[cold], min(2 * config.k, len(hot)))
        row, rank = np.nonzero((found >= 0) & (similarity > config.min_similarity))
        order = np.argsort(-similarity[row, rank], kind="stable")
        row, rank = row[order], rank[order]
        target = found[row, rank]
        kept = _within_caps(row, target, len(cold), len(hot), config.k, config.max_in_degree)
        kept = kept[::-1]  # edges of one moment keep their order: samplers of the newest take the most alike
        row, target, weight = row[kept], target[kept], similarity[row, rank][kept]
        parts.append((cold[row], hot[target], np.full(len(row), moment - 1), weight))
        open_[cold[row]] = False
    none = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    source, target, time, weight = (np.concatenate(c) for c in zip(none, *parts, strict=True))
    return EdgeArrays((node_type, RESEMBLES, node_type), source, target, time, weight, reverse=False)


def _moments(graph: HeteroGraph, node_type: str, count: int, before: int | None) -> I64:
    """Moments that part a node type's edges into equal shares, and the end of them."""
    times = [graph.adjacency[e].coo().time for e in graph.observed_types_from(node_type)]
    timed = np.concatenate([np.zeros(0, np.int64), *(t for t in times if t is not None)])
    if before is not None:
        timed = timed[timed < before]
    if not len(timed):
        raise ConfigError(
            f"no edge from {node_type!r} has a time: which nodes are cold is not known", where="densify"
        )
    timed.sort()
    shares = np.linspace(0, len(timed) - 1, count + 1).astype(int)[1:-1]
    last = timed[-1] + 1 if before is None else before
    return np.unique(np.append(timed[shares], last))


def _degrees(graph: HeteroGraph, node_type: str, before: int) -> I64:
    """Edges with a time, of all types together, before a moment."""
    out = np.zeros(graph.count(node_type), np.int64)
    for edge_type in graph.observed_types_from(node_type):
        if graph.adjacency[edge_type].timed:
            out += graph.adjacency[edge_type].degrees(before)
    return out


def _nearest(stored: F32, asked: F32, count: int) -> tuple[I64, F32]:
    """The `count` most similar rows of `stored` for each row of `asked`, and their cosines; -1 for none."""
    if len(stored) <= _EXACT:
        found = search(stored, asked, count, MetricKind.Cos, exact=True, threads=1)
    else:
        index = Index(ndim=stored.shape[1], metric=MetricKind.Cos, dtype="f32")
        index.add(np.arange(len(stored)), stored, threads=1)
        found = index.search(asked, count, threads=1)
    keys = np.asarray(found.keys).reshape(len(asked), -1).astype(np.int64)
    similarity = 1.0 - np.asarray(found.distances, np.float32).reshape(len(asked), -1)
    return np.where((keys >= 0) & (keys < len(stored)), keys, -1), similarity


@njit(cache=True, nogil=True)
def _within_caps(source: I64, target: I64, sources: int, targets: int, most_out: int, most_in: int) -> I64:
    """Of pairs in falling order of preference, those that fit under both caps."""
    out, into = np.zeros(sources, np.int64), np.zeros(targets, np.int64)
    kept = np.empty(len(source), np.int64)
    size = 0
    for i in range(len(source)):
        if out[source[i]] < most_out and into[target[i]] < most_in:
            out[source[i]] += 1
            into[target[i]] += 1
            kept[size] = i
            size += 1
    return kept[:size].copy()
