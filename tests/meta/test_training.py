"""The outer loop: it finds what members have in common and what they do not, and resumes where it stood."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from memberwise import metrics
from memberwise.errors import ConfigError, DataError
from memberwise.meta import InnerConfig, InnerLoop, MetaBlock, MetaLearner, MetaTrainer, MetaTrainingConfig
from memberwise.meta.episodes import Tasks, find_tasks
from memberwise.meta.generate import chunks, fingerprint, generate
from memberwise.meta.rows import TensorRows, entity_features, segment
from memberwise.meta.training import score

MEMBERS, ROWS = 240, 24


class Bilinear(nn.Module):
    """``logit = a x + z B x``: enough for a latent preference."""

    def __init__(self, p: int = 4) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.a = nn.Parameter(torch.zeros(2))
        self.b = nn.Parameter(0.3 * torch.randn(p, 2, generator=generator))

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return (x @ self.a + ((z @ self.b) * x).sum(1)).unsqueeze(1)


def log(seed: int = 0) -> tuple[TensorRows, Any, Any, np.ndarray]:
    """Members with latent tastes u; ``P(y) = sigmoid(x_1 / 2 + u x)``."""
    rng = np.random.default_rng(seed)
    who = np.tile(np.arange(MEMBERS), ROWS)
    u = 3.0 * rng.normal(size=(MEMBERS, 2))
    x = rng.normal(size=(len(who), 2))
    probability = 1 / (1 + np.exp(-(x[:, 0] / 2 + (u[who] * x).sum(1))))
    y = (rng.random(len(who)) < probability).astype(np.float32)
    rows = TensorRows(torch.from_numpy(x).float(), torch.zeros(len(who), 1), torch.from_numpy(y).unsqueeze(1))
    return rows, who.astype(np.uint64) + 1, np.arange(len(who), dtype=np.int64), probability


def trainer(folder: Path, **settings: Any) -> tuple[MetaTrainer, Tasks, np.ndarray, Bilinear]:
    rows, who, times, probability = log()
    tasks = find_tasks(who, times, times, support=ROWS)
    owner = who[tasks.order[tasks.query[:, 0]]]
    known = tasks.pick(owner <= MEMBERS * 2 // 3)
    world = Bilinear()
    inner = InnerLoop(MetaBlock(1, [], 4), InnerConfig(steps=3, rate=1.0, clip_norm=10.0))
    values = {"epochs": 4, "tasks_per_step": 64, "lr": 0.01, "ranker_lr": 0.01, "rate_lr": 0.05} | settings
    valid = known.pick(np.arange(0, len(known), 7))
    made = MetaTrainer(
        MetaLearner(world, inner),
        rows,
        known,
        valid,
        MetaTrainingConfig(**values),
        dict(world.named_parameters()),
        folder,
        seed=3,
    )
    return made, tasks.pick(owner > MEMBERS * 2 // 3), probability, world


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[MetaTrainer, Tasks, np.ndarray, Bilinear]:
    made = trainer(tmp_path_factory.mktemp("run"))
    made[0].fit()
    return made


def test_it_closes_most_of_the_gap_to_who_knows_the_tastes(trained: Any):
    run, new_members, probability, world = trained
    for low, high, least in ((0, 0, -0.02), (20, 99, 0.75)):
        some = new_members.pick((new_members.support_sizes >= low) & (new_members.support_sizes <= high))
        labels, ours = score(run.learner, run.rows, some, generate(run.learner.inner, world, run.rows, some))
        _, plain = score(run.learner, run.rows, some, np.zeros((len(some), 4), np.float32))
        oracle = probability[some.order[some.query[:, 0]]]
        y = labels[:, 0]
        best, without = metrics.log_loss(y, oracle), metrics.log_loss(y, plain[:, 0])
        closed = (without - metrics.log_loss(y, ours[:, 0])) / (without - best)
        assert closed > least


def test_the_log_tells_what_adaptation_adds(trained: Any):
    run = trained[0]
    valid = [r for r in run.records if r["split"] == "valid"]
    assert valid[0]["step"] == 0
    assert valid[0]["moved"] == valid[0]["z_norm"]  # the unadapted embedding starts at zero
    learned = [r for r in valid if "stretch" not in r]
    assert learned[-1]["log_loss"] < learned[-1]["log_loss_unadapted"] - 0.1
    assert run.at.best == min(r["log_loss"] for r in valid)
    lines = run.run.log.read_text().splitlines()
    assert [json.loads(line) for line in lines] == run.records


def test_a_stop_changes_nothing(tmp_path: Path):
    settings = {"epochs": 2, "tasks_per_epoch": 640, "checkpoint_seconds": 0.0}
    whole = trainer(tmp_path / "whole", **settings)[0]
    whole.fit()

    class StopError(Exception):
        pass

    class Killer:
        def record(self, record: Any) -> None: ...

        def progress(self, step: int, steps: int, rows: int) -> None:
            if step == 13:
                raise StopError

    cut = trainer(tmp_path / "cut", **settings)[0]
    cut.run.watchers = [Killer()]
    with pytest.raises(StopError):
        cut.fit()
    again = trainer(tmp_path / "cut", **settings)[0]
    again.fit(resume=True)
    for name, value in whole.learner.inner.state_dict().items():
        assert torch.equal(value, again.learner.inner.state_dict()[name])
    assert [r["log_loss"] for r in whole.records if r["split"] == "valid"] == [
        r["log_loss"] for r in again.records if r["split"] == "valid"
    ]
    other = trainer(tmp_path / "cut", **settings | {"lr": 0.02})[0]
    with pytest.raises(ConfigError, match="other training settings"):
        other.fit(resume=True)


def test_what_does_not_help_is_not_kept(tmp_path: Path):
    run, new_members, _, world = trainer(tmp_path, epochs=1, tasks_per_epoch=64)
    before = {k: p.detach().clone() for k, p in world.named_parameters()}
    with torch.no_grad():
        run.learner.inner.log_rates.fill_(9.0)  # steps so wild that they can only harm
    run.fit()
    assert run.at.step == 1
    assert all(torch.equal(before[k], p) for k, p in world.named_parameters())
    assert not generate(run.learner.inner, world, run.rows, new_members).any()


def test_generation_in_pieces_is_generation_at_once(trained: Any):
    run, tasks, _, world = trained
    inner, tasks = run.learner.inner, tasks.pick(np.arange(0, len(tasks), 31))
    whole = inner(world, entity_features(run.rows, tasks), segment(run.rows, tasks, "support"), False)
    for size in (1, 50, 10**6):
        np.testing.assert_allclose(generate(inner, world, run.rows, tasks, size), whole.numpy(), atol=1e-5)
    assert all(p.requires_grad for p in world.parameters())


def test_pieces_cover_all_tasks_and_stay_small():
    sizes = np.array([0, 3, 0, 9, 2, 2, 1, 0, 0, 20, 1])
    found = list(chunks(sizes, 5))
    assert np.concatenate([np.arange(11)[s] for s in found]).tolist() == list(range(11))
    assert all(np.maximum(sizes[s], 1).sum() <= 5 or s.stop - s.start == 1 for s in found)


def test_a_fingerprint_names_every_weight():
    one, other = MetaBlock(3, [4], 2, seed=1), MetaBlock(3, [4], 2, seed=1)
    assert fingerprint(one.state_dict()) == fingerprint(other.state_dict())
    with torch.no_grad():
        other.biases[0][1] += 1e-6
    assert fingerprint(one.state_dict()) != fingerprint(other.state_dict())


def test_nothing_to_train_on_is_said(tmp_path: Path):
    run, *_ = trainer(tmp_path)
    nothing = run.train.pick(np.zeros(0, np.int64))
    with pytest.raises(DataError, match="0 tasks to train on"):
        MetaTrainer(run.learner, run.rows, nothing, run.valid, run.config, {}, tmp_path)
