"""The outer loop: batches of tasks, early stopping on valid, a log, exact resume after any stop.

What it leaves on the way lies in a run folder (`memberwise.nn.run_folder`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from memberwise import metrics
from memberwise.errors import DataError
from memberwise.meta.config import MetaTrainingConfig
from memberwise.meta.episodes import Tasks, epoch
from memberwise.meta.generate import generate
from memberwise.meta.learner import MetaLearner
from memberwise.meta.rows import Rows, entity_features, segment
from memberwise.nn.run_folder import RunFolder, Watcher, below

REPORT_STEPS = 20
STRETCHES = (0.5, 2.0, 4.0, 8.0)
"""Factors of the step sizes that are tried on valid at the end."""


@dataclass
class Progress:
    """Where a training stands."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    best: float | None = None
    since_best: int = 0
    finished: bool = False
    loss_sum: float = 0.0
    loss_count: int = 0


class MetaTrainer:
    """Trains a meta block, and with it the global block's own parameters.

    Parameters
    ----------
    learner
        On return it holds the best weights, and so does `tuned`.
    rows
        All rows of the log up to the end of valid.
    train, valid
        Tasks. Queries of valid come after those of train; supports may reach back.
    config
        How to train.
    tuned : dict of str to nn.Parameter
        Parameters of the global block that learn too.
    run : Path
        Folder for the log and the checkpoints.
    seed
        Of the order of tasks and of the supports that are dropped.
    identity
        Names data and settings; a checkpoint made from others is refused.
    watchers
        Progress bar, TensorBoard, ...
    """

    def __init__(
        self,
        learner: MetaLearner,
        rows: Rows,
        train: Tasks,
        valid: Tasks,
        config: MetaTrainingConfig,
        tuned: Mapping[str, nn.Parameter],
        run: Path,
        seed: int = 0,
        identity: str = "",
        watchers: Sequence[Watcher] = (),
    ) -> None:
        if not len(train) or not len(valid):
            raise DataError(
                f"{len(train)} tasks to train on, {len(valid)} to select by",
                where="meta",
                fix="lower meta.training.min_rows, or leave meta out",
            )
        self.learner, self.rows, self.train, self.valid = learner, rows, train, valid
        self.config, self.seed = config, seed
        self.tuned = {k: p for k, p in tuned.items() if config.ranker_lr > 0}
        self.at = Progress()
        fixed = {
            "training settings": config.model_dump(mode="json"),
            "inner settings": learner.inner.config.model_dump(mode="json"),
            "seed": seed,
            "data": identity,
        }
        self.run = RunFolder(run, fixed, config.checkpoint_seconds, watchers)
        shown = min(len(train), config.tasks_per_epoch or len(train))
        self.batches = -(-shown // config.tasks_per_step)
        self.evaluate_every = max(1, -(-self.batches // config.evaluations_per_epoch))
        inner = learner.inner
        groups: list[dict[str, Any]] = [
            {"params": list(inner.block.parameters()), "lr": config.lr, "weight_decay": config.weight_decay},
        ]
        sizes = [p for p in (inner.log_rates, inner.log_shrinkage) if p is not None and p.requires_grad]
        if sizes:
            groups.append({"params": sizes, "lr": config.rate_lr, "weight_decay": 0.0})
        if self.tuned:
            groups.append({"params": list(self.tuned.values()), "lr": config.ranker_lr, "weight_decay": 0.0})
        self.parameters: list[nn.Parameter] = [p for g in groups for p in g["params"]]
        self.optimizer = torch.optim.AdamW(groups, fused=self.parameters[0].device.type in ("cpu", "cuda"))

    @property
    def records(self) -> list[dict[str, Any]]:
        """The log."""
        return self.run.records

    # -- the loop ---------------------------------------------------------------------------------

    def fit(self, resume: bool = False) -> Progress:
        """Train until the epochs are over or valid stops getting better; then restore the best weights.

        What is kept is never worse on valid than the ranker without embeddings: if nothing is better, step
        sizes of zero and an output layer of zero are kept, and every embedding is zero.
        """
        if not (resume and self._resume()):
            self.run.begin()
        if self.at.best is None:
            self._evaluate()
        while not self.at.finished:
            self._epoch()
        self._save()
        self._restore(self.run.best_weights())
        self._stretch()
        return self.at

    def _epoch(self) -> None:
        config, number = self.config, self.at.epoch
        order = epoch(self.train, config.tasks_per_step, self.seed, number, config.tasks_per_epoch)
        for batch, tasks in enumerate(order):
            if batch < self.at.batch:
                continue
            rng = np.random.default_rng(np.random.SeedSequence([self.seed, number, batch]))
            self._step(tasks.without_support(config.empty, rng))
            if self.at.step % REPORT_STEPS == 0:
                self._record(split="train", loss=self.at.loss_sum / self.at.loss_count)
                self.at.loss_sum, self.at.loss_count = 0.0, 0
            if self.at.batch % self.evaluate_every == 0 or self.at.batch == self.batches:
                self._evaluate()
                if self.at.finished:
                    return
            if self.run.due:
                self._save()
        self.at.epoch, self.at.batch = self.at.epoch + 1, 0
        self.at.finished = self.at.epoch >= config.epochs

    def _step(self, tasks: Tasks) -> None:
        entity = entity_features(self.rows, tasks)
        query = segment(self.rows, tasks, "query")
        loss = self.learner(entity, segment(self.rows, tasks, "support"), query)
        value = float(loss.detach())
        if not np.isfinite(value):
            raise DataError(
                f"the loss became {value} at step {self.at.step}",
                where="meta training",
                fix="lower meta.training.lr, meta.training.rate_lr or meta.inner.rate",
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.learner.add_gradients()
        nn.utils.clip_grad_norm_(self.parameters, self.config.clip_norm)
        self.optimizer.step()
        self.at.step += 1
        self.at.batch += 1
        self.at.loss_sum += value
        self.at.loss_count += 1
        self.run.progress(self.at.step, self.config.epochs * self.batches, len(query.owner))

    # -- valid ------------------------------------------------------------------------------------

    def _evaluate(self) -> None:
        inner = self.learner.inner
        z = generate(inner, self.learner.world, self.rows, self.valid)
        with torch.no_grad():
            plain = inner.block(entity_features(self.rows, self.valid)).numpy()
        labels, adapted = score(self.learner, self.rows, self.valid, z)
        _, unadapted = score(self.learner, self.rows, self.valid, plain)
        values = {
            "log_loss": _mean(metrics.log_loss, labels, adapted),
            "auc": _mean(metrics.auc, labels, adapted),
            "log_loss_unadapted": _mean(metrics.log_loss, labels, unadapted),
            "z_norm": float(np.linalg.norm(z, axis=1).mean()),
            "moved": float(np.linalg.norm(z - plain, axis=1).mean()),
        }
        if self.at.best is None:
            # The block says nothing yet: this is the ranker alone, which step sizes of zero leave as it is.
            weights = self._weights()
            self.at.best = values["log_loss_unadapted"]
            weights["meta.log_rates"] = torch.full_like(inner.log_rates, -torch.inf)
            self.run.keep_best(weights, step=0, **values)
        if better := values["log_loss"] < self.at.best:
            self.at.best, self.at.since_best = values["log_loss"], 0
            self.run.keep_best(self._weights(), step=self.at.step, **values)
        elif self.at.step:
            self.at.since_best += 1
        self._record(split="valid", best=better, **values)
        self.at.finished = self.at.since_best >= self.config.patience

    def _stretch(self) -> None:
        """Multiply the step sizes by the factor that is best on valid.

        Supports of train are rows that the ranker has learned: their gradients are smaller than those of new
        rows and less alike, so that the steps that suit them are not those that suit serving.
        """
        inner, best, factor, auc = self.learner.inner, self.at.best, 1.0, float("nan")
        start = inner.log_rates.detach().clone()
        if best is None or not bool(torch.isfinite(start).all()):
            return
        for tried in STRETCHES:
            with torch.no_grad():
                inner.log_rates.copy_(start + float(np.log(tried)))
            z = generate(inner, self.learner.world, self.rows, self.valid)
            found = score(self.learner, self.rows, self.valid, z)
            loss = _mean(metrics.log_loss, *found)
            if loss < best:
                best, factor, auc = loss, tried, _mean(metrics.auc, *found)
        with torch.no_grad():
            inner.log_rates.copy_(start + float(np.log(factor)))
        self.at.best = best
        if factor != 1.0:
            self._record(split="valid", best=True, log_loss=best, auc=auc, stretch=factor)

    def _record(self, **values: Any) -> None:
        inner = self.learner.inner
        kappa = 0.0 if inner.log_shrinkage is None else float(inner.log_shrinkage.detach().exp())
        self.run.record(
            step=self.at.step,
            epoch=self.at.epoch,
            cpu_seconds=round(self.run.cpu_seconds, 3),
            **values,
            rates=[round(r, 5) for r in inner.log_rates.detach().exp().tolist()],
            kappa=round(kappa, 4),
        )

    # -- checkpoints ------------------------------------------------------------------------------

    def _weights(self) -> dict[str, Tensor]:
        found = {f"meta.{k}": v for k, v in self.learner.inner.state_dict().items()}
        return found | {f"tuned.{k}": p.detach() for k, p in self.tuned.items()}

    def _restore(self, tensors: Mapping[str, Tensor]) -> None:
        self.learner.inner.load_state_dict(below(tensors, "meta."))
        with torch.no_grad():
            for name, p in self.tuned.items():
                p.copy_(tensors[f"tuned.{name}"])

    def _save(self) -> None:
        tensors = self._weights()
        for i, p in enumerate(self.parameters):
            tensors |= {f"optimizer.{i}.{k}": torch.as_tensor(v) for k, v in self.optimizer.state[p].items()}
        self.run.save(tensors, progress=asdict(self.at))

    def _resume(self) -> bool:
        """Go on from the last checkpoint; False if there is none."""
        if (found := self.run.resume()) is None:
            return False
        tensors, state = found
        self.at = Progress(**state["progress"])
        self._restore(tensors)
        for i, p in enumerate(self.parameters):
            if mine := below(tensors, f"optimizer.{i}."):
                self.optimizer.state[p] = mine
        return True


def score(
    learner: MetaLearner, rows: Rows, tasks: Tasks, z: np.ndarray[Any, Any], size: int = 1024
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Labels and probabilities ``[R, Y]`` of all query rows, task after task, given each task's embedding."""
    labels, probabilities = [], []
    with torch.inference_mode():
        for start in range(0, len(tasks), size):
            query = segment(rows, tasks.pick(np.arange(start, min(start + size, len(tasks)))), "query")
            mine = torch.from_numpy(z[start : start + size]).to(query.labels.dtype)
            logits = learner.world(mine.index_select(0, query.owner), query.features)
            labels.append(query.labels.numpy())
            probabilities.append(torch.sigmoid(logits).numpy())
    return np.concatenate(labels), np.concatenate(probabilities)


def _mean(metric: Any, labels: np.ndarray[Any, Any], probabilities: np.ndarray[Any, Any]) -> float:
    labels = np.where(np.isnan(labels), np.nan, labels > 0.5)
    values = [metric(labels[:, t], probabilities[:, t]) for t in range(labels.shape[1])]
    return float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")
