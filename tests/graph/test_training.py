"""Training of the encoder: it learns, it resumes exactly, and each saving leaves the mathematics alone."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from memberwise.errors import ConfigError, DataError
from memberwise.graph.config import GraphTrainingConfig, LongTermConfig, TemporalConfig
from memberwise.graph.evaluation import ColdNodes, link_metrics
from memberwise.graph.feed import BatchRequest
from memberwise.graph.link_batch import LinkBatch
from memberwise.graph.linking import link_loss
from memberwise.graph.optimizer import GraphOptimizer
from memberwise.graph.parallel import Team
from memberwise.graph.precision import half_precision
from memberwise.graph.schedule import AdaptiveFanOut
from memberwise.graph.training import GraphTrainer
from support.graphs import LIKES, RATES, World, communities, small, world


def _settings(**changes: Any) -> GraphTrainingConfig:
    values: dict[str, Any] = {
        "epochs": 3,
        "metric": "auc",
        "batch_size": 32,
        "negatives": 8,
        "lr": 0.01,
        "embedding_lr": 0.05,
        "workers": 0,
        "adaptive": AdaptiveFanOut(start=1, stride=2),
        "evaluation_events": 200,
        "mixed_precision": "off",  # these numbers must not depend on the machine
    }
    return GraphTrainingConfig(**(values | changes))


def _trainer(run: Path, w: World | None = None, final: bool = False, **changes: Any) -> GraphTrainer:
    w = w or world(communities(), small())
    cut, n = int(w.records.times[400]), len(w.records)
    train, valid = w.records.take(slice(0, 400)), w.records.take(slice(400, n))
    degrees = [w.graph.adjacency[e].degrees(cut) for e in (RATES, ("item", "rev_rates", "member"))]
    config = _settings(**changes)
    feeds = [w.feed(config.batch_size, config.negatives, r) for r in (train, valid)]
    newest = feeds[1] if final else None
    return GraphTrainer(w.model, *feeds, config, 5, ColdNodes.of(*degrees), run, seed=3, newest=newest)


def _weights(trainer: GraphTrainer) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in trainer.model.state_dict().items()}


VARIANTS: dict[str, dict[str, Any]] = {
    "all": {},
    "plain": {"aggregator": "mean", "temporal": None, "dual": False},
    "mlp": {"decoder": "mlp"},
    "destination neighbours": {"destination_neighbours": 3},
    "two hops, long term": {
        "layers": 2,
        "temporal": TemporalConfig(length=6, heads=2, long_term=LongTermConfig(future=2)),
    },
}


def _learned(run: Path, settings: dict[str, Any], metric: str = "auc", seed: int = 0) -> GraphTrainer:
    w = world(communities(seed=seed), small(**settings))
    # A network that scores pairs does not bear the rate that suits a product of two embeddings.
    changes = {"epochs": 8, "lr": 0.001} if settings.get("decoder") == "mlp" else {"epochs": 4}
    trainer = _trainer(run, w, patience=99, metric=metric, **changes)
    trainer.fit()
    return trainer


@pytest.mark.parametrize("name", VARIANTS)
def test_it_learns_who_belongs_to_whom(tmp_path: Path, name: str) -> None:
    # Half of the uniform candidates lie on the member's own side and cannot be told from the positive. One
    # world alone is mostly chance: 200 events tell .05 of AUC.
    ends = [_learned(tmp_path / str(i), VARIANTS[name], seed=i).records[-1]["auc"] for i in range(4)]
    assert np.mean(ends) > 0.72


@pytest.mark.parametrize(("name", "metric"), [*((name, "auc") for name in VARIANTS), ("all", "mrr")])
def test_a_fit_ends_with_its_best_weights(tmp_path: Path, name: str, metric: str) -> None:
    trainer = _learned(tmp_path, VARIANTS[name], metric=metric)
    best = max(r[metric] for r in trainer.records)
    assert max(r["auc"] for r in trainer.records) > 0.7
    again = link_metrics(trainer.model, trainer.valid, trainer.evaluated, 5, trainer.cold, 3)
    assert again[metric] == best


def test_several_relations_are_learned_together(tmp_path: Path) -> None:
    ends = []
    for seed in range(4):
        w = world(communities(likes=True, seed=seed), small(), [RATES, LIKES])
        trainer = _trainer(tmp_path / str(seed), w, epochs=4)
        trainer.fit()
        ends.append(trainer.records[-1]["auc"])
        relation = trainer.model.decoder.relation
        assert not torch.allclose(relation[0], relation[1])
    assert np.mean(ends) > 0.72


class _StopError(Exception):
    pass


class _StopAfter:
    def __init__(self, batches: int) -> None:
        self.batches = batches

    def record(self, record: Any) -> None:
        pass

    def progress(self, step: int, steps: int, rows: int) -> None:
        if step == self.batches:
            raise _StopError


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"accumulate": 3, "mlp_init": 1.5},
        {"gradient_steps": 2},
        {"final": True},
        {"final": True, "epochs": 2, "accumulate": 3},
    ],
)
def test_a_stop_and_a_resume_change_nothing(tmp_path: Path, changes: dict[str, Any]) -> None:
    config = {"checkpoint_seconds": 0.0, "patience": 20, **changes}
    whole = _trainer(tmp_path / "whole", **config)
    whole.fit()
    for stop in (8, 21, 44):
        part = _trainer(tmp_path / "part", **config)
        if stop > part.total_batches + part.final_batches:
            continue
        part.run.watchers.append(_StopAfter(stop))
        with pytest.raises(_StopError):
            part.fit(resume=True)
    rest = _trainer(tmp_path / "part", **config)
    rest.fit(resume=True)
    for name, value in _weights(whole).items():
        assert torch.equal(value, rest.model.state_dict()[name]), name
    told = [[r.get("auc", r["train_loss"]) for r in t.records] for t in (whole, rest)]
    assert told[0] == told[1]
    log = [json.loads(line) for line in (tmp_path / "part" / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in log] == [r["step"] for r in whole.records]


def test_in_the_end_the_best_weights_learn_the_newest_events(tmp_path: Path) -> None:
    without, with_them = _trainer(tmp_path / "0"), _trainer(tmp_path / "1", final=True, final_passes=2)
    seen: list[tuple[int, int]] = []
    assert with_them.newest is not None
    real = with_them.newest.batch
    validating: list[int] = []
    with_them.newest = copy.copy(with_them.newest)
    with_them.newest.batch = lambda r: seen.append((r.index, r.fan_out)) or real(r)  # type: ignore[method-assign, func-returns-value]
    real_valid = with_them.valid.batch
    with_them.valid.batch = lambda r: validating.append(len(seen)) or real_valid(r)  # type: ignore[method-assign, func-returns-value]
    for trainer in (without, with_them):
        trainer.fit()
    batches = with_them.valid.batches
    assert [sorted(seen[i * batches : (i + 1) * batches]) for i in (0, 1)] == [
        [(i, 5) for i in range(batches)]
    ] * 2
    assert not any(validating)  # nothing that was learned from is validated on afterwards
    assert [r["final_pass"] for r in with_them.records if "final_pass" in r] == [1, 2]
    assert without.run.best_weights().keys() == with_them.run.best_weights().keys()
    best = with_them.run.best_weights()
    for name, value in _weights(without).items():
        assert torch.equal(value, best[name]), name  # until then nothing is different
    ends = [
        np.mean([link_loss(t.model.eval(), _batch(without, i), t.config).item() for i in range(batches)])
        for t in (without, with_them)
    ]
    assert ends[1] < ends[0]


def _batch(trainer: GraphTrainer, index: int) -> LinkBatch:
    arrays = trainer.valid.batch(BatchRequest(index, 5, 1, 0))
    return LinkBatch.from_arrays(arrays, trainer.feed.queries.table.numbers.types)


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    _trainer(tmp_path, epochs=1).fit()
    with pytest.raises(ConfigError, match="other training settings"):
        _trainer(tmp_path, epochs=1, lr=0.5).fit(resume=True)


def test_threads_that_work_ahead_change_nothing(tmp_path: Path) -> None:
    one, two = _trainer(tmp_path / "1", epochs=1), _trainer(tmp_path / "2", epochs=1, workers=3)
    one.fit()
    two.fit()
    for name, value in _weights(one).items():
        assert torch.equal(value, two.model.state_dict()[name]), name


def test_gathered_gradients_are_those_of_one_large_batch() -> None:
    """Mean of the gradients of four batches = gradient of the mean of their losses, to 1e-6."""
    gathered, large = world(communities(), small()), world(communities(), small())
    config = _settings(accumulate=4)
    optimizers = [GraphOptimizer(w.model.eval(), config, 10, Team()) for w in (gathered, large)]
    for w in (gathered, large):
        w.model.input.train()
        w.model.input.id_dropout = 0.0
    batches = [gathered.feed(32).batch(BatchRequest(i, 3, 4, 0)) for i in range(4, 8)]
    types = gathered.table.numbers.types
    for arrays in batches:
        assert not optimizers[0].ready
        optimizers[0].add(link_loss(gathered.model, LinkBatch.from_arrays(arrays, types), config))
    losses = [link_loss(large.model, LinkBatch.from_arrays(a, types), config) for a in batches]
    torch.stack(losses).sum().div(4).backward()
    for p, q in zip(gathered.model.parameters(), large.model.parameters(), strict=True):
        if q.grad is not None:
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-5, atol=1e-6)
    assert optimizers[0].ready
    for optimizer in optimizers:
        optimizer.step(0)
    tables = [w.model.sparse_tables[0].weight for w in (gathered, large)]
    torch.testing.assert_close(*tables, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("epochs", [0.5, 1, 1.25])
def test_the_first_batches_of_mlp_init_make_no_query(tmp_path: Path, epochs: float) -> None:
    trainer = _trainer(tmp_path, epochs=1, mlp_init=epochs)
    fan_outs: list[int] = []
    real = trainer.feed.queries.tree
    trainer.feed.queries.tree = lambda s, f, *rest: fan_outs.append(f) or real(s, f, *rest)  # type: ignore[method-assign, func-returns-value]
    position = trainer.fit()
    batches, alone = trainer.feed.batches, round(epochs * trainer.feed.batches)
    assert fan_outs[: 2 * alone] == [0] * (2 * alone)  # both towers
    assert min(fan_outs[2 * alone :]) >= 1
    assert position.seen == trainer.total_batches == alone + batches


def test_validation_always_samples_the_same_number(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path, epochs=2)
    seen: list[int] = []
    real = trainer.valid.batch
    trainer.valid.batch = lambda request: seen.append(request.fan_out) or real(request)  # type: ignore[method-assign, func-returns-value]
    trainer.fit()
    assert set(seen) == {5}
    assert trainer.records[0]["fan_out"] == 1


def test_a_loss_that_is_no_number_stops(tmp_path: Path) -> None:
    trainer = _trainer(tmp_path, epochs=1)
    with torch.no_grad():
        trainer.model.decoder.relation.fill_(float("nan"))
    with pytest.raises(DataError, match="the loss became nan"):
        trainer.fit()


def test_too_few_edges_are_refused(tmp_path: Path) -> None:
    w = world(communities(events=401))
    with pytest.raises(DataError, match="too few edges"):
        _trainer(tmp_path, w)


def test_cold_is_the_bottom_of_those_that_have_any() -> None:
    degrees = np.array([0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9], np.int32)
    cold = ColdNodes.of(degrees, np.zeros(3, np.int32))
    assert cold.sources.tolist() == [True] * 4 + [False] * 7
    assert cold.destinations.all()


def test_half_precision_is_used_only_where_it_is_faster() -> None:
    a, b = (torch.ones(256, 256, dtype=t) for t in (torch.float32, torch.bfloat16))
    import time

    def best(x: torch.Tensor) -> float:
        times = []
        for _ in range(3):
            started = time.thread_time()
            (x @ x).sum().item()
            times.append(time.thread_time() - started)
        return min(times)

    ratio = best(b) / best(a)
    if ratio > 3:  # this machine's CPU has no such instructions
        assert half_precision("cpu") is None
