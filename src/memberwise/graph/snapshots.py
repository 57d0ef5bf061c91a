"""Vectors through time: all nodes once, then at every refresh those that events have touched since."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from memberwise.data.timeline import EmbeddingTimeline
from memberwise.graph.encoder import GraphEncoder
from memberwise.graph.inference import embed_all, touched
from memberwise.graph.store import HeteroGraph

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Ends:
    """The ends of all timed edges, in the order of time.

    Attributes
    ----------
    types : tuple of str
        Node types.
    times : ndarray of int64, [n]
    place : ndarray of int32, [n]
        Of the node's type in `types`.
    nodes : ndarray of int32, [n]
    """

    types: tuple[str, ...]
    times: I64
    place: I32
    nodes: I32

    @classmethod
    def of(cls, graph: HeteroGraph) -> Ends:
        """Read a graph."""
        types, parts = graph.node_types, []
        for edge_type, adjacency in graph.adjacency.items():
            edges = adjacency.coo()
            if edges.time is None:
                continue
            for name, ends in ((edge_type[0], edges.source), (edge_type[2], edges.target)):
                parts.append((edges.time, np.full(len(ends), types.index(name), np.int32), ends))
        if not parts:
            return cls(types, np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int32))
        times, place, nodes = (np.concatenate(c) for c in zip(*parts, strict=True))
        order = np.argsort(times, kind="stable")
        return cls(types, times[order], place[order], nodes[order])

    def between(self, start: int, end: int) -> dict[str, I32]:
        """Distinct ends of edges with ``start <= time < end``, by type."""
        first, last = (int(np.searchsorted(self.times, moment)) for moment in (start, end))
        place, nodes = self.place[first:last], self.nodes[first:last]
        return {t: np.unique(nodes[place == i]) for i, t in enumerate(self.types)}


def moments(start: int, end: int, every: int) -> I64:
    """Moments of refresh: multiples of `every` after `start`, up to `end`, and just after the last event."""
    return np.append(np.arange(start // every + 1, end // every + 1) * every, end + 1)


def timelines(
    encoder: GraphEncoder,
    graph: HeteroGraph,
    start: int,
    end: int,
    every: int,
    version: str,
    progress: Callable[[str, int, int], None] = lambda what, done, of: None,
) -> dict[str, EmbeddingTimeline]:
    """Vectors of members and items from `start` on.

    Parameters
    ----------
    encoder
        Trained on edges before `start`.
    graph
        The whole log.
    start, end : int
        Moment of the first snapshot, which holds everybody; time of the last event.
    every : int
        Microseconds between refreshes.
    version
        Names the encoder.
    progress
        Sees the refreshes go by.

    Returns
    -------
    dict of EmbeddingTimeline
        By node type. Vectors have unit length.
    """
    queries, ends = encoder.queries(graph), Ends.of(graph)
    first = embed_all(encoder, graph, start)
    keys = {t: graph.nodes[t].hashes for t in first}
    parts = {t: [(keys[t], np.full(len(keys[t]), start), unit(e.vectors))] for t, e in first.items()}
    refreshes = moments(start, end, every)
    before = start
    for i, moment in enumerate(refreshes):
        new = ends.between(before, int(moment))
        before = int(moment)
        for node_type, rows in touched(encoder, graph, new, before, queries).items():
            found = encoder.embed(graph, node_type, rows, before, queries)
            times = np.full(len(rows), before)
            parts[node_type].append((keys[node_type][rows], times, unit(found.vectors)))
        progress("vectors", i + 1, len(refreshes))
    out = {}
    for node_type, pieces in parts.items():
        columns = [np.concatenate(c) for c in zip(*pieces, strict=True)]
        out[node_type] = EmbeddingTimeline(node_type, version, *columns)
    return out


def refreshed(
    lines: Mapping[str, EmbeddingTimeline],
    encoder: GraphEncoder,
    graph: HeteroGraph,
    ends: Mapping[str, I32],
    moment: int,
) -> dict[str, EmbeddingTimeline]:
    """Timelines with the vectors of exactly the nodes that new edges touched, as of a moment."""
    queries = encoder.queries(graph)
    out = dict(lines)
    for node_type, rows in touched(encoder, graph, ends, moment, queries).items():
        if len(rows):
            found = encoder.embed(graph, node_type, rows, moment, queries)
            keys = graph.nodes[node_type].hashes[rows]
            out[node_type] = lines[node_type].append(keys, unit(found.vectors), moment)
    return out


def unit(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Vectors of length one."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
