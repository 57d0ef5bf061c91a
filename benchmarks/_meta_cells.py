"""The models of `meta_quality`: each gives probabilities for the test rows of a log, for one seed."""

from __future__ import annotations

import copy
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from _meta_logs import DIM, Log
from memberwise import metrics
from memberwise.data.batch import Batch
from memberwise.data.loader import Loader
from memberwise.data.times import cutoffs
from memberwise.meta import InnerConfig, InnerLoop, MetaBlock, MetaLearner, MetaTrainer, MetaTrainingConfig
from memberwise.meta.episodes import Tasks, find_tasks
from memberwise.meta.generate import generate
from memberwise.meta.training import score
from memberwise.nn.sparse import RowwiseAdagrad
from memberwise.ranking.config import TrainingConfig
from memberwise.ranking.loss import multitask_loss
from memberwise.ranking.ranker import Ranker
from memberwise.ranking.trainer import Trainer
from memberwise.recommender.parts.meta_rows import RankerBlock, RankerRows, entity_dim
from memberwise.schema import DAY

SUPPORT, STEPS, HIDDEN = 32, 2, [32]
AGES = (0, 1, 3, 7)
REFRESH_RATES = (0.0005, 0.002, 0.005, 0.01, 0.02)
VALID_TASKS, RATES = 2_000, (0.3, 1.0, 3.0, 10.0)
Probabilities = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Budget:
    """How long things train."""

    epochs: int = 8
    meta_epochs: int = 2
    tasks: int = 8_192


class Rows(RankerRows):
    """Rows whose global features are those of a view, and whose meta features are all of the member's."""

    def __init__(self, block: RankerBlock, view: Mapping[str, Any], log: Log) -> None:
        super().__init__(block, view, log.columns)
        self._all = RankerRows(block, log.arrays, log.columns)

    def entity(self, rows: npt.NDArray[np.int64]) -> Tensor:
        """From the whole log."""
        return self._all.entity(rows)


def train_ranker(log: Log, seed: int, budget: Budget, *shown: str) -> tuple[Ranker, Mapping[str, Any]]:
    """A ranker that sees a view."""
    view = log.view(*shown)
    config = log.project.config
    ranker = Ranker(log.layout, log.rows, {log.feature: DIM}, config.ranker, seed=seed)

    def loader(split: str, size: int, shuffle: bool) -> Loader:
        first, last = log.splits[split]
        part = {k: a[first:last] for k, a in view.items()}
        return Loader(part, log.layout, size, seed, shuffle=shuffle)

    folder = Path(tempfile.mkdtemp())
    settings = TrainingConfig(epochs=budget.epochs, batch_size=512, patience=3, device="cpu")
    Trainer(
        ranker, loader("train", 512, True), loader("valid", 8192, False), settings, [1.0], folder, seed=seed
    ).fit()
    shutil.rmtree(folder)
    return ranker.eval(), view


def plain(log: Log, ranker: Ranker, view: Mapping[str, Any], split: str = "test") -> Probabilities:
    """Probabilities of a split with embeddings of zero."""
    first, last = log.splits[split]
    rows = RankerRows(RankerBlock(ranker, log.feature), view, log.columns)
    parts = []
    with torch.inference_mode():
        for start in range(first, last, 8192):
            parts.append(torch.sigmoid(ranker(rows.batch(np.arange(start, min(start + 8192, last))))))
    return torch.cat(parts).numpy()[:, 0]


def refreshed_ids(
    log: Log, ranker: Ranker, view: Mapping[str, Any], rate: float, split: str
) -> Probabilities:
    """Score day after day (or block after block), and let the member's rows learn each when it is over.

    The rest of the ranker is frozen, as it is for adapted embeddings. With delay ``none`` a block is a 200th
    of the rows: fresher would be a pass of the optimiser per row.
    """
    first, last = (log.splits["valid"][0], log.splits[split][1])
    times = log.times[first:last]
    if log.delay == "none":
        edges = np.unique(np.linspace(first, last, 201).astype(int))
    else:
        edges = first + np.append(np.unique(times // DAY, return_index=True)[1], last - first)
    model = copy.deepcopy(ranker)
    rows = RankerRows(RankerBlock(model, log.feature), view, log.columns)
    field = next(f for f in log.layout.ids if f.name == "who")
    tables = [model.wide, model.embeddings[str(model.config.embedding_dim)]]
    optimiser = RowwiseAdagrad(tables, rate)  # type: ignore[arg-type]
    out = np.empty(last - first, np.float32)
    for start, stop in pairwise(edges):
        batch = rows.batch(np.arange(start, stop))
        model.eval()
        with torch.inference_mode():
            out[start - first : stop - first] = torch.sigmoid(model(batch)).numpy()[:, 0]
        _learn(model, rows, np.arange(start, stop), field.start, optimiser)
    return out[log.splits[split][0] - first :]


def _learn(
    model: Ranker, rows: RankerRows, numbers: npt.NDArray[np.int64], column: int, optimiser: RowwiseAdagrad
) -> None:
    """One pass over new rows for the member's embedding and wide weight alone."""
    model.eval()
    for table in (t for t in optimiser.tables if hasattr(t, "training")):
        table.train()  # a table collects gradients in training mode; all else stays in evaluation mode
    for start in range(0, len(numbers), 512):
        some = numbers[start : start + 512]
        batch = rows.batch(some)
        labels = rows.labels(some)
        loss = multitask_loss(model(batch), labels, None, torch.ones(1))
        loss.backward()
        for table in optimiser.tables:
            _only_column(table, batch, column)
        optimiser.step()
        model.zero_grad(set_to_none=True)
    model.eval()


def _only_column(table: Any, batch: Batch, column: int) -> None:
    """Drop the gradients of every other field."""
    width = batch.ids.shape[1]
    for flat, leaf in table.touched:
        if len(flat) == len(batch) * width and leaf.grad is not None:
            grad = leaf.grad.view(len(batch), width, -1)
            kept = grad[:, column].clone()
            grad.zero_()
            grad[:, column] = kept
        elif leaf.grad is not None:
            leaf.grad.zero_()


@dataclass
class Adapted:
    """A trained meta block and its ranker.

    Attributes
    ----------
    best
        Log-loss on the tasks of valid.
    """

    learner: MetaLearner
    rows: Rows
    best: float


def train_meta(
    log: Log, ranker: Ranker, view: Mapping[str, Any], seed: int, budget: Budget, **inner: Any
) -> Adapted:
    """LiMAML and its relatives, from a trained ranker on."""
    model = copy.deepcopy(ranker)
    world = RankerBlock(model, log.feature)
    settings = {"steps": STEPS, "rate": 1.0} | inner
    block = MetaBlock(entity_dim(model, log.columns), HIDDEN, DIM, seed=seed)
    learner = MetaLearner(world, InnerLoop(block, InnerConfig(**settings)))
    rows = Rows(world, view, log)
    train, valid = train_tasks(log), served(log, "valid", seed=seed)
    folder = Path(tempfile.mkdtemp())
    config = MetaTrainingConfig(
        epochs=budget.meta_epochs, tasks_per_epoch=budget.tasks, evaluations_per_epoch=2, patience=3
    )
    at = MetaTrainer(learner, rows, train, valid, config, world.tuned(), folder, seed).fit()
    shutil.rmtree(folder)
    assert at.best is not None
    return Adapted(learner, rows, at.best)


def train_tasks(log: Log) -> Tasks:
    """Tasks whose queries are what follows within a week of a refresh (at once, where all is fresh)."""
    own = cutoffs(log.times, log.delay)
    cuts = own if log.delay == "none" else np.minimum(own, log.times - log.times % (7 * DAY))
    return find_tasks(log.keys, log.times, cuts, support=SUPPORT, last=log.splits["train"][1], query=32)


def served(log: Log, split: str, age: int = 0, support: int = SUPPORT, seed: int | None = None) -> Tasks:
    """Tasks exactly as they are served, with embeddings `age` days older than need be."""
    first, last = log.splits[split]
    cuts = cutoffs(log.times, log.delay) - age * DAY
    tasks = find_tasks(log.keys, log.times, cuts, support=support, first=first, last=last)
    if seed is not None and len(tasks) > VALID_TASKS:
        which = np.random.default_rng(seed).choice(len(tasks), VALID_TASKS, replace=False)
        tasks = tasks.pick(np.sort(which))
    return tasks


def adapted(log: Log, model: Adapted, age: int = 0, split: str = "test") -> Probabilities:
    """Probabilities of the rows of a split, each with the embedding that its entity would have had."""
    first, last = log.splits[split]
    tasks = served(log, split, age)
    z = generate(model.learner.inner, model.learner.world, model.rows, tasks)
    _, found = score(model.learner, model.rows, tasks, z)
    out = np.empty(last - first, np.float32)
    out[tasks.rows("query")[0] - first] = found[:, 0]
    return out


def fine_tuned(log: Log, joint: Adapted, seed: int) -> Adapted:
    """The block that was trained without inner steps takes them at test; their size is chosen on valid."""
    world, rows, valid = joint.learner.world, joint.rows, served(log, "valid", seed=seed)
    best: tuple[float, float] | None = None
    for rate in (0.0, *RATES):
        inner = _with_rate(joint.learner.inner.block, rate)
        z = generate(inner, world, rows, valid)
        labels, found = score(joint.learner, rows, valid, z)
        loss = metrics.log_loss(labels[:, 0], found[:, 0])
        if best is None or loss < best[0]:
            best = (loss, rate)
    assert best is not None
    learner = MetaLearner(world, _with_rate(joint.learner.inner.block, best[1]))
    return Adapted(learner, rows, best[0])


def _with_rate(block: MetaBlock, rate: float) -> InnerLoop:
    if rate == 0.0:
        return InnerLoop(block, InnerConfig(steps=0))
    return InnerLoop(block, InnerConfig(steps=STEPS, rate=rate))


def run(log: Log, seed: int, budget: Budget, note: Callable[[str], None]) -> dict[str, Probabilities]:
    """All models of one seed: probabilities of the test rows by name."""
    torch.manual_seed(seed)
    found: dict[str, Probabilities] = {}
    started = time.process_time()

    def add(name: str, values: Probabilities) -> None:
        found[name] = values
        note(f"{log.name} seed {seed}: {name} ({time.process_time() - started:.0f} CPU s)")

    ranker, view = train_ranker(log, seed, budget)
    add("global", plain(log, ranker, view))
    wide, with_ids = train_ranker(log, seed, budget, "ids")
    add("+ ids", plain(log, wide, with_ids))
    counted, with_counts = train_ranker(log, seed, budget, "aggregates")
    add("+ aggregates", plain(log, counted, with_counts))
    known, with_all = train_ranker(log, seed, budget, "aggregates", "history")
    add("+ aggregates, history", plain(log, known, with_all))
    joint = train_meta(log, ranker, view, seed, budget, steps=0)
    add("K = 0", adapted(log, joint))
    add("fine-tuned", adapted(log, fine_tuned(log, joint, seed)))
    for name, variant in (("LiMAML", "limaml"), ("FOMAML", "fomaml"), ("CAVIA", "cavia")):
        model = train_meta(log, ranker, view, seed, budget, variant=variant)
        add(name, adapted(log, model))
        if variant == "limaml":
            for age in AGES[1:]:
                add(f"LiMAML, {age} d older", adapted(log, model, age))
    add("+ all, LiMAML", adapted(log, train_meta(log, known, with_all, seed, budget)))
    return found


def run_refreshed(log: Log, seed: int, budget: Budget) -> dict[str, Probabilities]:
    """Ids that go on learning, in a cell of its own; their learning rate is chosen on valid."""
    torch.manual_seed(seed)
    ranker, view = train_ranker(log, seed, budget, "ids")
    first, last = log.splits["valid"]
    labels = np.asarray(log.arrays["labels"])[first:last, 0]
    losses = {
        r: metrics.log_loss(labels, refreshed_ids(log, ranker, view, r, "valid")) for r in REFRESH_RATES
    }
    best = min(losses, key=lambda r: losses[r])
    return {"+ ids, refreshed": refreshed_ids(log, ranker, view, best, "test")}


def run_pairs(log: Log, seed: int, budget: Budget, note: Callable[[str], None]) -> dict[str, Probabilities]:
    """Models of pairs of one seed, and the log-loss on valid of the one that adapts."""
    torch.manual_seed(seed)
    ranker, view = train_ranker(log, seed, budget)
    found = {
        "ids": plain(log, *train_ranker(log, seed, budget, "ids", "pair ids")),
        "counts": plain(log, *train_ranker(log, seed, budget, "aggregates", "history", "pair aggregates")),
        "K = 0": adapted(log, train_meta(log, ranker, view, seed, budget, steps=0)),
    }
    model = train_meta(log, ranker, view, seed, budget)
    found["LiMAML"] = adapted(log, model)
    first, last = log.splits["valid"]
    labels = np.asarray(log.arrays["labels"])[first:last, 0]
    loss = metrics.log_loss(labels, adapted(log, model, split="valid"))
    note(f"{log.feature} seed {seed}: log-loss on valid {loss:.5f}")
    return found | {"valid": np.array([loss], np.float32)}
