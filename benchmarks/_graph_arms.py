"""The encoder with its parts added one by one, trained alike and asked the same questions."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from _graph_data import Log
from _graph_ranks import Scores, cold
from memberwise.graph import HeteroGraph
from memberwise.graph.config import EncoderConfig, GraphTrainingConfig
from memberwise.graph.densify import densify
from memberwise.graph.encoder import GraphEncoder
from memberwise.graph.feed import LinkFeed
from memberwise.graph.neighbourhood import Neighbourhood
from memberwise.graph.node_input import IdRows, frequent
from memberwise.graph.node_table import typed_hashes
from memberwise.graph.training import GraphTrainer


@dataclass(frozen=True)
class Arm:
    """One configuration of the encoder.

    Attributes
    ----------
    encoder, around
        Settings that differ from the plain ones.
    densify
        Whether cold nodes get edges to warm ones like them.
    """

    name: str
    encoder: dict[str, Any] = field(default_factory=dict)
    around: dict[str, Any] = field(default_factory=dict)
    densify: bool = False


PLAIN: dict[str, Any] = {
    "dim": 32,
    "heads": 4,
    "layers": 1,
    "aggregator": "mean",
    "dual": False,
    "ids": None,
    "temporal": None,
}
IDS: dict[str, Any] = {"ids": {"min_count": 5, "dropout": 0.2}}
ATTENTION = IDS | {"aggregator": "attention"}
DUAL = ATTENTION | {"dual": True}
_TEMPORAL: dict[str, Any] = {"length": 20, "prefix": 4, "heads": 4, "dropout": 0.1, "long_term": None}
TEMPORAL = DUAL | {"temporal": _TEMPORAL}
LONG = DUAL | {"temporal": _TEMPORAL | {"long_term": {"future": 5, "weight": 0.1}}}

ARMS = (
    Arm("static SAGE, mean", {}),
    Arm("+ ids", IDS),
    Arm("+ attention", ATTENTION),
    Arm("+ dual encoder", DUAL),
    Arm("dual + PPR", DUAL, {"draw": "ppr"}),
    Arm("dual + densification", DUAL, densify=True),
    Arm("dual + temporal", TEMPORAL),
    Arm("all: + long-term loss", LONG),
)
TRAINED = 150_000
"""Newest records of train that the encoders learn from: all of them, in these logs."""

TRAINING: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 512,
    "group_size": 1,
    "negatives": 512,
    "lr": 3e-3,
    "embedding_lr": 0.02,
    "adaptive": None,
    "evaluations_per_epoch": 1,
    "evaluation_events": 1000,
    "patience": 2,
    "workers": 0,
    "checkpoint_seconds": 1e9,
}


def known_ids(graph: HeteroGraph, before: int, min_count: int) -> IdRows:
    """The ids that have enough edges before a moment."""
    found = []
    for node_type in graph.node_types:
        degrees = sum(graph.adjacency[e].degrees(before) for e in graph.edge_types_from(node_type))
        found.append(frequent(typed_hashes(graph.nodes[node_type]), np.asarray(degrees), min_count))
    known = np.concatenate(found)
    return IdRows(len(graph.node_types), max(16, 2 * len(known)), 2, known)


def fitted(
    log: Log, arm: Arm, seed: int, epochs: int | None = None
) -> tuple[GraphEncoder, HeteroGraph, list[dict[str, Any]]]:
    """Train an arm on the log's train part; also the graph that it reads, and the training's log."""
    graph = log.graph
    if arm.densify:
        graph, _ = densify(graph, before=log.train_end)
    config = EncoderConfig(**(PLAIN | arm.encoder))
    training = GraphTrainingConfig(**(TRAINING | ({"epochs": epochs} if epochs else {})))
    min_count = config.ids.min_count if config.ids is not None else 1
    ids = known_ids(log.graph, log.valid_end, min_count)
    then = known_ids(log.graph, log.train_end, min_count).known.keys
    around = Neighbourhood(**({"fan_out": 20} | arm.around))
    encoder = GraphEncoder.new(graph, (log.relation,), config, around, ids, seed)
    queries = encoder.queries(graph, training=True)
    strangers = queries.knowing(ids.only(then))
    train, valid = log.records.between(0, log.train_end), log.records.between(log.train_end, log.valid_end)
    train = train.take(slice(max(0, len(train) - TRAINED), len(train)))
    feeds, newest = (
        [LinkFeed(q, r, training.batch_size, training.negatives) for r in (train, valid)]
        for q in (strangers, queries)
    )
    with tempfile.TemporaryDirectory() as run:
        trainer = GraphTrainer(
            encoder.model,
            *feeds,
            training,
            around.fan_out,
            cold(log),
            Path(run),
            seed=seed,
            newest=newest[1],
        )
        trainer.fit()
    return encoder, graph, trainer.records


def scores_of(encoder: GraphEncoder, graph: HeteroGraph, log: Log) -> Scores:
    """Members at the moment of each question, items as of the start of the question's slice."""
    asked, moments = log.asked()
    everything = np.arange(graph.count("item"), dtype=np.int32)
    items = {int(m): encoder.embed(graph, "item", everything, int(m)) for m in np.unique(moments)}

    def scores(rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        out = np.empty((len(rows), len(everything)), np.float32)
        for moment in np.unique(moments[rows]):
            mine = np.flatnonzero(moments[rows] == moment)
            who, when = asked.sources[rows[mine]], asked.times[rows[mine]]
            out[mine] = encoder.embed(graph, "member", who, when).scores(items[int(moment)])
        return out

    return scores
