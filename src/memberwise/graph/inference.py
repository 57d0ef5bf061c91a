"""Vectors of all nodes at one moment, layer by layer, and of exactly those that new events touch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from memberwise.graph.encoder import Embedded, GraphEncoder, chunks, joined
from memberwise.graph.feed import QueryMaker
from memberwise.graph.link_batch import narrow, nodes_of, query_of
from memberwise.graph.queries import distinct
from memberwise.graph.sage import SageEncoder
from memberwise.graph.sampling.base import SeedBatch
from memberwise.graph.store import HeteroGraph
from memberwise.graph.types import reverse_of

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]


def embed_all(encoder: GraphEncoder, graph: HeteroGraph, moment: int) -> dict[str, Embedded]:
    """Vectors of all members and items from the graph strictly before a moment.

    Every layer is computed once for every node and then read by the next one: its cost grows with the
    number of layers, not with the size of a neighbourhood to the power of it. The result is that of
    `GraphEncoder.embed`.

    Parameters
    ----------
    encoder
        Trained.
    graph
        It may hold later edges.
    moment
        Microseconds.

    Returns
    -------
    dict of Embedded
        By node type: that of sources and that of destinations.

    Raises
    ------
    ConfigError
        If a member's vector depends on the candidate.
    """
    queries = encoder.queries(graph)
    towers = {encoder.source_type: encoder.model.source, encoder.destination_type: encoder.model.destination}
    for node_type in towers:
        encoder.check(node_type)
    encoder.model.eval()
    with torch.inference_mode():
        first = _first_states(encoder, queries)
        return {t: _tower(encoder, queries, t, sage, first, moment) for t, sage in towers.items()}


def _first_states(encoder: GraphEncoder, queries: QueryMaker) -> Tensor:
    numbers = np.arange(queries.table.numbers.total, dtype=np.int32)
    types = queries.table.numbers.types
    parts = [
        encoder.model.states(nodes_of(narrow(queries.table.gather(part.astype(np.int64))), types))
        for part in chunks(numbers)
    ]
    return torch.cat(parts)


def _tower(
    encoder: GraphEncoder, queries: QueryMaker, node_type: str, sage: SageEncoder, first: Tensor, moment: int
) -> Embedded:
    states = first
    for layer in range(len(sage.layers) - 1):
        below, states = states, torch.empty(len(first), encoder.dim)
        for name in queries.table.numbers.types:
            for nodes in chunks(np.arange(queries.graph.count(name), dtype=np.int32)):
                out, _ = _layer(encoder, queries, sage, layer, name, nodes, below, moment)
                start = queries.table.numbers.start(name)
                states[start + nodes[0] : start + nodes[-1] + 1] = out
    found = []
    for nodes in chunks(np.arange(queries.graph.count(node_type), dtype=np.int32)):
        last = len(sage.layers) - 1
        out, recent = _layer(encoder, queries, sage, last, node_type, nodes, states, moment)
        found.append(_finished(encoder, queries, node_type, nodes, out, recent, first, moment))
    return joined(found, encoder.dim)


def _layer(
    encoder: GraphEncoder,
    queries: QueryMaker,
    sage: SageEncoder,
    layer: int,
    node_type: str,
    nodes: I32,
    below: Tensor,
    moment: int,
) -> tuple[Tensor, Tensor]:
    """One layer for some nodes: their new states and their degrees."""
    seeds = SeedBatch(node_type, nodes, np.full(len(nodes), moment))
    tree = queries.tree(seeds, encoder.neighbourhood.fan_out, 0, 1)
    found, rows = distinct(np.concatenate([level.nodes for level in tree]), queries.table.numbers.total)
    (arrays,) = queries.blocks(tree, seeds, rows)
    flat = {f"_.0.{name}": array for name, array in arrays.items()} | {"_.seeds": rows[: len(nodes)]}
    (block,) = query_of(narrow(flat), "_").blocks
    return sage.layers[layer](below[torch.from_numpy(found)], block), block.degrees


def _finished(
    encoder: GraphEncoder,
    queries: QueryMaker,
    node_type: str,
    nodes: I32,
    sage: Tensor,
    recent: Tensor,
    first: Tensor,
    moment: int,
) -> Embedded:
    """What the towers do above their SAGE layers, on the first states of all nodes."""
    seeds = SeedBatch(node_type, nodes, np.full(len(nodes), moment))
    own = {"_.seeds": nodes.astype(np.int64) + queries.table.numbers.start(node_type)}
    if node_type == encoder.destination_type:
        query = query_of(narrow(own), "_")
        z = encoder.model.joined_destinations(first, query, sage)
        return encoder.finished(queries, seeds, query, z, recent)
    if encoder.model.temporal is not None:
        activities, extra = queries.activities(seeds)
        own |= {"_.activities.nodes": activities}
        own |= {name.replace("source", "_", 1): array for name, array in extra.items()}
    query = query_of(narrow(own), "_")
    z = encoder.model.joined_sources(first, query, sage)
    return encoder.finished(queries, seeds, query, z, recent)


def touched(
    encoder: GraphEncoder,
    graph: HeteroGraph,
    ends: Mapping[str, I32],
    moment: int,
    queries: QueryMaker | None = None,
) -> dict[str, I32]:
    """Members and items whose vectors change with new edges: no more and no fewer.

    The vector of v changes if v is an end of a new edge, or if one of the neighbours that it hears from has
    changed one layer below. With ppr it may be more, but no fewer: an edge two hops away moves scores. (Time
    passes for all: what was not touched keeps the ages of its last refresh.)

    Parameters
    ----------
    encoder
        Trained.
    graph
        With the new edges.
    ends : mapping of str to ndarray
        By node type, as `HeteroGraph.append` returns them.
    moment
        Of the refresh: the new edges lie strictly before it.
    queries
        Of this graph, if the caller has them.

    Returns
    -------
    dict of ndarray of int32
        By node type, sorted.
    """
    queries = queries or encoder.queries(graph)
    numbers = queries.table.numbers
    changed = np.unique(
        np.concatenate([np.zeros(0, np.int64), *(ends[t].astype(np.int64) + numbers.start(t) for t in ends)])
    )
    for _ in range(encoder.model.config.layers - 1 + encoder.neighbourhood.reach - 1):
        changed = np.union1d(changed, _hearing(encoder, queries, changed, moment))
    out = {}
    for node_type in (encoder.source_type, encoder.destination_type):
        part = numbers.slice(node_type)
        mine = changed[(changed >= part.start) & (changed < part.stop)] - part.start
        out[node_type] = mine.astype(np.int32)
    return out


def _hearing(encoder: GraphEncoder, queries: QueryMaker, changed: I64, moment: int) -> I64:
    """Nodes that have one of the changed nodes among the neighbours that they hear from."""
    graph, numbers = queries.graph, queries.table.numbers
    candidates: dict[str, list[I32]] = {t: [] for t in numbers.types}
    for edge_type in graph.edge_types:  # from a candidate to a changed node
        part = numbers.slice(edge_type[2])
        rows = (changed[(changed >= part.start) & (changed < part.stop)] - part.start).astype(np.int32)
        if not len(rows):
            continue
        back = graph.adjacency.get(reverse_of(edge_type))
        if back is not None:
            candidates[edge_type[0]] += [back.neighbours(int(v), moment) for v in rows]
        else:
            edges = graph.adjacency[edge_type].coo()
            candidates[edge_type[0]].append(edges.source[np.isin(edges.target, rows)])
    found = [np.zeros(0, np.int64)]
    for node_type, parts in candidates.items():
        if not parts:
            continue
        for nodes in chunks(np.unique(np.concatenate(parts))):
            if encoder.neighbourhood.reach == 1:
                seeds = SeedBatch(node_type, nodes, np.full(len(nodes), moment))
                tree = queries.tree(seeds, encoder.neighbourhood.fan_out, 0, 1)
                nodes = nodes[np.unique(tree[1].seeds[np.isin(tree[1].nodes, changed)])]
            found.append(nodes.astype(np.int64) + numbers.start(node_type))
    return np.unique(np.concatenate(found))
