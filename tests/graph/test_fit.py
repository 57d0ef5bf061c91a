"""From a graph to an encoder: what is known when, and what it has learned from in the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from memberwise.graph import EdgeArrays, HeteroGraph, fit
from memberwise.graph.feed import BatchRequest
from memberwise.graph.node_table import typed_hashes
from memberwise.graph.nodes import numbered
from memberwise.graph.section import GraphConfig
from memberwise.graph.training import GraphTrainer
from memberwise.schema import HOUR
from support.graphs import RATES

EVENTS, LAST = 400, 19


def _late_item() -> HeteroGraph:
    """Item 19 is chosen in the last tenth alone."""
    rng = np.random.default_rng(0)
    who, what = rng.integers(0, 24, EVENTS), rng.integers(0, LAST, EVENTS)
    what[-30::2] = LAST
    edges = EdgeArrays(RATES, who, what, time=np.arange(1, EVENTS + 1) * HOUR)
    return HeteroGraph.from_arrays([numbered("member", 24), numbered("item", 20)], [edges])


def _config(**training: Any) -> GraphConfig:
    small = {"epochs": 1, "batch_size": 32, "negatives": 8, "workers": 0}
    return GraphConfig(
        predict={"member:rates:item": 1.0},
        encoder={"dim": 16, "heads": 2, "temporal": None},  # type: ignore[arg-type]
        training=small | training,  # type: ignore[arg-type]
    )


@pytest.fixture
def trainers(monkeypatch: pytest.MonkeyPatch) -> list[GraphTrainer]:
    made: list[GraphTrainer] = []

    class Seen(GraphTrainer):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(fit, "GraphTrainer", Seen)
    return made


def test_ids_of_valid_are_strangers_until_the_end(tmp_path: Path, trainers: list[GraphTrainer]) -> None:
    graph = _late_item()
    encoder, _ = fit.fit_encoder(graph, _config(), before=10**15, run=tmp_path)
    (trainer,) = trainers
    late = trainer.feed.queries.table.numbers.start("item") + LAST
    unknown = [1 + graph.node_types.index("item"), 0]
    assert encoder.ids.known.find(typed_hashes(graph.nodes["item"])[LAST:]) >= 0
    for feed in (trainer.feed, trainer.valid):
        assert feed.queries.table.ids[late].tolist() == unknown
    assert trainer.newest is not None
    assert trainer.newest.queries.table.ids[late].tolist() != unknown
    assert trainer.newest.records is trainer.valid.records
    request = BatchRequest(0, 2, 1, 0)  # but for the ids they are the same batches
    shown, then = trainer.newest.batch(request), trainer.valid.batch(request)
    assert [k for k in shown if not np.array_equal(shown[k], then[k])] == ["ids"]


def test_without_final_passes_ids_of_valid_stay_strangers(
    tmp_path: Path, trainers: list[GraphTrainer]
) -> None:
    graph = _late_item()
    encoder, _ = fit.fit_encoder(graph, _config(final_passes=0), before=10**15, run=tmp_path)
    assert encoder.ids.known.find(typed_hashes(graph.nodes["item"])[LAST:]) == -1
    assert trainers[0].newest is None


def test_nothing_at_or_after_the_moment_is_learned(tmp_path: Path) -> None:
    before = 300 * HOUR
    graph = _late_item()
    e = graph.adjacency[RATES].coo()
    assert e.time is not None
    past = e.time < before
    other = e.target.copy()
    other[~past] = np.random.default_rng(1).integers(0, 20, int((~past).sum()))
    changed = HeteroGraph.from_arrays(
        [numbered("member", 24), numbered("item", 20)], [EdgeArrays(RATES, e.source, other, time=e.time)]
    )
    one, two = (
        fit.fit_encoder(g, _config(), before=before, run=tmp_path / str(i))[0].model.state_dict()
        for i, g in enumerate((graph, changed))
    )
    assert all(torch.equal(one[k], two[k]) for k in one)
