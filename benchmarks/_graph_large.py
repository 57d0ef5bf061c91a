"""The measured side of the memory benchmark: a large graph is made, written, sampled and trained on."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

import _child
import _graph_random
from _graph_arms import known_ids
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
from memberwise.graph.config import EncoderConfig, GraphTrainingConfig
from memberwise.graph.encoder import GraphEncoder
from memberwise.graph.feed import LinkFeed
from memberwise.graph.fit import cold_nodes
from memberwise.graph.neighbourhood import Neighbourhood
from memberwise.graph.nodes import numbered
from memberwise.graph.records import Records
from memberwise.graph.training import GraphTrainer


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


def train(folder: str, batches: int) -> dict[str, int]:
    """Train the default encoder (ids, attention, two towers, temporal model) on the newest edges."""
    graph = HeteroGraph.open(folder)
    relation = ("member", "rates", "item")
    records = Records.of(graph, [relation])
    cut = int(records.times[int(0.9 * len(records))])
    config = EncoderConfig(ids={"min_count": 2})  # type: ignore[arg-type]
    around = Neighbourhood(fan_out=20)
    encoder = GraphEncoder.new(graph, (relation,), config, around, known_ids(graph, cut, 2))
    training = GraphTrainingConfig(epochs=1, batch_size=512, evaluations_per_epoch=1, evaluation_events=512)
    past, later = records.between(0, cut), records.between(cut, 2**62)
    newest = past.take(slice(max(0, len(past) - 512 * batches), len(past)))
    queries = encoder.queries(graph, training=True)
    with tempfile.TemporaryDirectory(dir=Path(folder).parent) as run:
        trainer = GraphTrainer(
            encoder.model,
            LinkFeed(queries, newest, 512, training.negatives),
            LinkFeed(queries, later.take(slice(0, 1024)), 512, training.negatives),
            training,
            around.fan_out,
            cold_nodes(graph, "member", "item", cut),
            Path(run),
        )
        trainer.fit()
    return {
        "batches": trainer.at.seen,
        "parameters": sum(t.numel() for t in encoder.model.state_dict().values()),
    }


if __name__ == "__main__":
    _child.serve({"make": make, "sample": sample, "train": train})
