"""A world in which members differ by latent tastes alone: how much of an oracle's advantage can be learned.

``P(y) = sigmoid(x_1 / 2 + u_i x)``, ``u_i ~ N(0, 9 I)``, two features. The oracle knows u_i; the Bayes rule
knows its distribution and the support, and nobody can do better than that.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor, nn

from memberwise import metrics
from memberwise.meta import InnerConfig, InnerLoop, MetaBlock, MetaLearner, MetaTrainer, MetaTrainingConfig
from memberwise.meta.episodes import find_tasks
from memberwise.meta.generate import generate
from memberwise.meta.rows import TensorRows
from memberwise.meta.training import score

SCALE, ROWS = 3.0, 24


class World(nn.Module):
    """The global block: an MLP on ``[z, x]``."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return self.net(torch.cat([z, x], 1))


def run(quick: bool, seed: int = 0) -> dict[int, dict[str, float]]:
    """Log-losses by size of the support, on members that were not trained on.

    Parameters
    ----------
    seed
        Of the world and of the networks.
    """
    members = 200 if quick else 3000
    rng = np.random.default_rng(seed)
    who = np.tile(np.arange(members), ROWS)
    u = SCALE * rng.normal(size=(members, 2))
    x = rng.normal(size=(len(who), 2))
    truth = expit(x[:, 0] / 2 + (u[who] * x).sum(1))
    y = (rng.random(len(who)) < truth).astype(np.float32)
    rows = TensorRows(torch.from_numpy(x).float(), torch.zeros(len(who), 1), torch.from_numpy(y).unsqueeze(1))
    times = np.arange(len(who), dtype=np.int64)
    keys = who.astype(np.uint64) + 1
    tasks = find_tasks(keys, times, times, support=ROWS)
    owner = who[tasks.order[tasks.query[:, 0]]]
    known = owner < members * 6 // 10
    torch.manual_seed(seed)
    world = World()
    inner = InnerLoop(MetaBlock(1, [], 8, seed=seed), InnerConfig(steps=5, clip_norm=10.0))
    learner = MetaLearner(world, inner)
    folder = Path(tempfile.mkdtemp())
    settings = MetaTrainingConfig(
        epochs=2 if quick else 14,
        tasks_per_step=128,
        tasks_per_epoch=12_800,
        lr=3e-3,
        ranker_lr=3e-3,
        patience=9,
    )
    train, new = tasks.pick(known), tasks.pick(~known)
    valid = train.pick(np.arange(0, len(train), max(1, len(train) // 1000)))
    MetaTrainer(learner, rows, train, valid, settings, dict(world.named_parameters()), folder, seed).fit()
    shutil.rmtree(folder)
    found = {}
    rate = np.full(len(who), y[keys <= members * 6 // 10].mean())
    for size in (0, 1, 2, 5, 10, 20):
        some = new.pick(new.support_sizes == size)
        labels, ours = score(learner, rows, some, generate(inner, world, rows, some))
        asked = some.order[some.query[:, 0]]
        _, plain = score(learner, rows, some, np.zeros((len(some), 8), np.float32))
        posterior = [_bayes(x[s], y[s], x[q]) for s, q in zip(_supports(some), asked, strict=True)]
        losses = {
            "global": min(metrics.log_loss(y[asked], plain[:, 0]), metrics.log_loss(y[asked], rate[asked])),
            "ours": metrics.log_loss(labels[:, 0], ours[:, 0]),
            "oracle": metrics.log_loss(y[asked], truth[asked]),
        }
        gap = losses["global"] - losses["oracle"]
        closed = (losses["global"] - losses["ours"]) / gap
        best = (losses["global"] - metrics.log_loss(y[asked], np.array(posterior))) / gap
        found[size] = losses | {"closed": closed, "bayes": best}
    return found


def _supports(tasks: object) -> list[np.ndarray]:
    return [tasks.order[a:b] for a, b in tasks.support]  # type: ignore[attr-defined]


_TASTES = SCALE * np.random.default_rng(1).normal(size=(4000, 2)) + np.array([0.5, 0.0])


def _bayes(x: np.ndarray, y: np.ndarray, query: np.ndarray) -> float:
    """Posterior mean of the probability, over draws from the prior weighted by their likelihood."""
    signs = np.where(y > 0.5, 1.0, -1.0)
    weight = np.exp(-np.logaddexp(0.0, -signs[:, None] * (x @ _TASTES.T)).sum(0))
    return float((weight * expit(_TASTES @ query)).sum() / weight.sum())
