"""Small graphs for tests of the encoder, and all that it takes to make batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from memberwise.graph import EdgeArrays, EdgeType, HeteroGraph, NeighbourSampler, Rule, SamplingConfig
from memberwise.graph.config import EncoderConfig, TemporalConfig
from memberwise.graph.degrees import WIDTH
from memberwise.graph.feed import LinkFeed, QueryMaker
from memberwise.graph.model import GraphModel, GraphShape
from memberwise.graph.node_input import IdRows
from memberwise.graph.node_table import NodeTable, typed_hashes
from memberwise.graph.nodes import numbered
from memberwise.graph.records import Records
from memberwise.schema import HOUR

RATES: EdgeType = ("member", "rates", "item")
LIKES: EdgeType = ("member", "likes", "item")
IS: EdgeType = ("item", "is", "genre")


def communities(
    members: int = 24, items: int = 20, events: int = 600, seed: int = 0, likes: bool = False, **nodes: Any
) -> HeteroGraph:
    """Even members rate even items and odd ones odd items; half of the genre nodes belong to each side."""
    rng = np.random.default_rng(seed)
    who = rng.integers(0, members, events)
    what = rng.integers(0, items // 2, events) * 2 + who % 2
    when = np.sort(rng.integers(1, 40 * events, events)) * (HOUR // 20)
    edges = [EdgeArrays(RATES, who, what, time=when)]
    if likes:
        edges.append(EdgeArrays(LIKES, who[::3], what[::3], time=when[::3]))
    item = np.arange(items)
    edges.append(EdgeArrays(IS, item, item % 4))
    types = [numbered("member", members), numbered("item", items, **nodes), numbered("genre", 4)]
    return HeteroGraph.from_arrays(types, edges)


@dataclass
class World:
    """A graph and a model over it."""

    graph: HeteroGraph
    ids: IdRows
    table: NodeTable
    queries: QueryMaker
    model: GraphModel
    records: Records

    def feed(self, batch_size: int = 64, negatives: int = 8, records: Records | None = None) -> LinkFeed:
        """Batches of the records."""
        return LinkFeed(self.queries, records or self.records, batch_size, negatives)


def world(
    graph: HeteroGraph,
    config: EncoderConfig | None = None,
    relations: Sequence[EdgeType] = (RATES,),
    known: bool = True,
    draw: str = "last",
) -> World:
    """A model of a graph, with random weights."""
    config = config or small()
    hashes = [typed_hashes(graph.nodes[t]) for t in graph.node_types]
    ids = IdRows(len(hashes), 500, 2, np.concatenate(hashes) if known else np.zeros(0, np.uint64))
    table = NodeTable.of(graph, ids)
    kinds = {e: i for i, e in enumerate(graph.edge_types)}
    sampler = NeighbourSampler(graph, SamplingConfig(rule=Rule(draw=draw)))  # type: ignore[arg-type]
    acts = tuple(e for e in graph.edge_types if e[0] == "member")
    queries = QueryMaker(graph, sampler, table, config, kinds, acts)
    model = GraphModel(GraphShape(table.widths, len(kinds), WIDTH, len(relations)), config, ids)
    return World(graph, ids, table, queries, model, Records.of(graph, relations))


def small(**settings: Any) -> EncoderConfig:
    """An encoder of few numbers."""
    temporal = TemporalConfig(length=6, heads=2, prefix=2, dropout=0.0, long_term=None)
    return EncoderConfig(**({"dim": 16, "heads": 2, "temporal": temporal} | settings))
