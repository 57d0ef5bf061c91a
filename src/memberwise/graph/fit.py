"""From a graph and its settings to a trained encoder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from memberwise.graph.config import IdConfig
from memberwise.graph.encoder import GraphEncoder
from memberwise.graph.evaluation import ColdNodes
from memberwise.graph.feed import LinkFeed
from memberwise.graph.node_input import IdRows, frequent
from memberwise.graph.node_table import typed_hashes
from memberwise.graph.records import Records
from memberwise.graph.section import GraphConfig
from memberwise.graph.store import HeteroGraph
from memberwise.graph.training import GraphTrainer
from memberwise.graph.types import parse_edge
from memberwise.nn.run_folder import Watcher

VALID = 0.1
"""Share of the records, the newest, that decide when training stops."""


def fit_encoder(
    graph: HeteroGraph,
    config: GraphConfig,
    before: int,
    run: str | Path,
    *,
    seed: int = 0,
    resume: bool = False,
    watchers: Sequence[Watcher] = (),
) -> tuple[GraphEncoder, str]:
    """Train an encoder on the edges strictly before a moment, the last tenth of them to validate.

    Parameters
    ----------
    graph
        It may hold later edges; they are not seen.
    config
        The section ``graph``.
    before : int
        Microseconds.
    run : path
        Folder for the log and the checkpoints.
    seed
        Of weights, order, sampling and dropout.
    resume
        Go on from an interrupted training.
    watchers
        See the training go by.

    Returns
    -------
    encoder : GraphEncoder
    version : str
        Names its weights.
    """
    relations = tuple(parse_edge(name) for name in config.predict)
    past = Records.of(graph, relations, list(config.predict.values())).between(0, before)
    cut = len(past) - max(1, round(VALID * len(past)))
    # What happened at one moment stays on one side.
    cut = int(np.searchsorted(past.times, past.times[min(cut, len(past) - 1)])) if len(past) else 0
    train, valid = past.take(slice(0, cut)), past.take(slice(cut, len(past)))
    learned = int(past.times[cut]) if len(past) else before
    weights, order = (int(s.generate_state(1)[0]) for s in np.random.SeedSequence(seed).spawn(2))
    final = config.training.final_passes > 0
    ids = known_ids(graph, before if final else learned, config)
    encoder = GraphEncoder.new(graph, relations, config.encoder, config.neighbourhood, ids, weights)
    queries = encoder.queries(graph, training=True)
    # Ids that became known in valid are strangers there, as those of the future will be.
    then = queries.knowing(ids.only(hashes_of(graph, learned, config.encoder.ids)))
    size, negatives = config.training.batch_size, config.training.negatives
    trainer = GraphTrainer(
        encoder.model,
        LinkFeed(then, train, size, negatives),
        LinkFeed(then, valid, size, negatives),
        config.training,
        config.neighbourhood.fan_out,
        cold_nodes(graph, relations[0][0], relations[0][2], learned),
        Path(run),
        seed=order,
        identity=f"{graph!r} before {before}",
        watchers=watchers,
        newest=LinkFeed(queries, valid, size, negatives) if final else None,
    )
    trainer.fit(resume)
    encoder.model.to("cpu").eval()
    return encoder, weights_version(encoder.model)


def known_ids(graph: HeteroGraph, before: int, config: GraphConfig) -> IdRows:
    """The ids with enough edges before a moment."""
    ids = config.encoder.ids
    known = hashes_of(graph, before, ids)
    buckets = (ids.buckets if ids is not None else None) or max(16, 2 * len(known))
    return IdRows(len(graph.node_types), buckets, ids.hashes if ids is not None else 1, known)


def hashes_of(graph: HeteroGraph, before: int, ids: IdConfig | None) -> npt.NDArray[np.uint64]:
    """Hashed ids of the nodes with enough edges before a moment; none if ids have no embeddings."""
    found = [np.zeros(0, np.uint64)]
    if ids is not None:
        for node_type in graph.node_types:
            degrees = total_degrees(graph, node_type, before)
            found.append(frequent(typed_hashes(graph.nodes[node_type]), degrees, ids.min_count))
    return np.concatenate(found)


def total_degrees(graph: HeteroGraph, node_type: str, before: int) -> npt.NDArray[np.int32]:
    """Edges of every node of a type before a moment, over all edge types but those of densification."""
    total = np.zeros(graph.count(node_type), np.int32)
    for edge_type in graph.observed_types_from(node_type):
        total += graph.adjacency[edge_type].degrees(before)
    return total


def cold_nodes(graph: HeteroGraph, source: str, destination: str, before: int) -> ColdNodes:
    """Which sources and destinations had few edges before a moment."""
    return ColdNodes.of(total_degrees(graph, source, before), total_degrees(graph, destination, before))


def weights_version(model: torch.nn.Module) -> str:
    """Name of a model's weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
