"""The training loop: early stopping, best weights, a log, and exact resume after any stop.

Its run folder (`memberwise.nn.run_folder`) holds a record per report of the train loss and per evaluation of
valid.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from memberwise import metrics
from memberwise.data.batch import Batch
from memberwise.data.loader import Loader, Position
from memberwise.errors import DataError
from memberwise.nn.devices import choose_device
from memberwise.nn.run_folder import RunFolder, Watcher, below
from memberwise.ranking.config import TrainingConfig
from memberwise.ranking.loss import multitask_loss
from memberwise.ranking.optimizers import Optimizers
from memberwise.ranking.platt import platt_scaling
from memberwise.ranking.predict import predict, predict_all_logits
from memberwise.ranking.ranker import Ranker

REPORT_STEPS = 50
CURVE_ROWS = 100_000
"""Rows of train, at most, that decide where the curves of numbers bend."""
_METRICS: dict[str, tuple[Callable[..., float], int]] = {
    "log_loss": (metrics.log_loss, -1),
    "auc": (metrics.auc, +1),
    "normalised_entropy": (metrics.normalised_entropy, -1),
}


@dataclass
class Progress:
    """Where a training stands."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    best: float | None = None
    best_step: int = 0
    since_best: int = 0
    finished: bool = False
    wait_seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    """Of the steps since the last report."""


class Trainer:
    """Trains a ranker on packed rows.

    Parameters
    ----------
    ranker
        The model; on return it holds the best weights.
    train, valid
        Loaders; `valid` does not shuffle.
    config
        How to train.
    task_weights
        Weight of each task in the loss.
    run : Path
        Folder for the log and the checkpoints.
    seed
        Of dropout.
    identity
        Names the data; a checkpoint made from other data is refused.
    watchers
        Progress bar, TensorBoard, ...
    """

    def __init__(
        self,
        ranker: Ranker,
        train: Loader,
        valid: Loader,
        config: TrainingConfig,
        task_weights: Sequence[float],
        run: Path,
        seed: int = 0,
        identity: str = "",
        watchers: Sequence[Watcher] = (),
    ) -> None:
        self.device = choose_device(config.device, "training.device")
        self.ranker = ranker.to(self.device)
        self.train_rows, self.valid_rows, self.config = train, valid, config
        self.seed = seed
        self.total_steps = config.epochs * train.batches
        self.evaluate_every = max(1, -(-train.batches // config.evaluations_per_epoch))
        self.task_weights = torch.tensor(list(task_weights), device=self.device)
        self.optimizers = Optimizers(ranker, config, self.total_steps)
        self.at = Progress()
        self._valid_labels = np.asarray(valid.arrays["labels"])
        fixed = {
            "training settings": config.model_dump(mode="json"),
            "ranker settings": ranker.config.model_dump(mode="json"),
            "seed": seed,
            "data": identity,
        }
        self.run = RunFolder(run, fixed, config.checkpoint_seconds, watchers)

    @property
    def records(self) -> list[dict[str, Any]]:
        """The log."""
        return self.run.records

    # -- the loop ---------------------------------------------------------------------------------

    def fit(self, resume: bool = False) -> Progress:
        """Train until the epochs are over or valid stops getting better, then restore the best weights.

        Parameters
        ----------
        resume
            Go on from the last checkpoint, if there is one. The result is the same as without a stop.
        """
        if resume and self._resume():
            self.run.tell(split="resume", step=self.at.step, epoch=self.at.epoch)
        else:
            self.run.begin()
            torch.manual_seed(self.seed)
            prime(self.ranker, self.train_rows)
        while not self.at.finished:
            self._epoch()
        self._save()
        self.ranker.load_state_dict(self.run.best_weights())
        if self.config.platt and self.ranker.curves is None:
            self._calibrate()
        return self.at

    def _calibrate(self) -> None:
        """Take from valid what training makes too sure: a slope and a shift of each task's logit."""
        logits = predict_all_logits(self.ranker, self.valid_rows)
        weights = np.asarray(self.valid_rows.arrays["weights"])
        slope, shift = platt_scaling(logits, self._valid_labels, weights)
        self.ranker.rescale(*(torch.from_numpy(v).to(self.device, torch.float32) for v in (slope, shift)))

    def _epoch(self) -> None:
        self.ranker.train()
        batches = self.train_rows.epoch(Position(self.at.epoch, self.at.batch))
        waited = time.monotonic()
        for batch in batches:
            self.at.wait_seconds += time.monotonic() - waited
            self.at.losses.append(self._step(batch))
            if self.at.step % REPORT_STEPS == 0:
                self._record(split="train", loss=float(np.mean(self.at.losses)))
                self.at.losses = []
            if self.at.batch % self.evaluate_every == 0 or self.at.batch == self.train_rows.batches:
                self._evaluate()
                if self.at.finished:
                    return
            if self.run.due:
                self._save()
            waited = time.monotonic()
        self.at.epoch, self.at.batch = self.at.epoch + 1, 0
        self.at.finished = self.at.epoch >= self.config.epochs

    def _step(self, batch: Batch) -> float:
        batch = batch.to(self.device)
        assert batch.labels is not None
        loss = multitask_loss(self.ranker(batch), batch.labels, batch.weights, self.task_weights)
        value = float(loss.detach())
        loss = loss + self.ranker.auxiliary_loss()
        if not np.isfinite(value):
            raise DataError(
                f"the loss became {value} at step {self.at.step}",
                where="training",
                fix="lower training.lr, lengthen training.warmup, or look for extreme weights",
            )
        self.optimizers.step(loss, self.at.step)
        self.at.step += 1
        self.at.batch += 1
        self.run.progress(self.at.step, self.total_steps, len(batch))
        return value

    def _evaluate(self) -> None:
        probabilities = predict(self.ranker, self.valid_rows)
        self.ranker.train()
        values = {
            name: _mean_over_tasks(f, self._valid_labels, probabilities) for name, (f, _) in _METRICS.items()
        }
        sign = _METRICS[self.config.metric][1]
        value = values[self.config.metric]
        if np.isnan(value):
            raise DataError(
                f"{self.config.metric} is not defined on valid: its labels are all the same",
                where="split.valid",
                fix="choose another split, or training.metric: log_loss",
            )
        better = self.at.best is None or sign * (value - self.at.best) > 0
        if better:
            self.at.best, self.at.best_step, self.at.since_best = value, self.at.step, 0
            self.run.keep_best(self.ranker.state_dict(), step=self.at.step, **values)
        else:
            self.at.since_best += 1
        self._record(split="valid", best=better, **values)
        self.at.finished = self.at.since_best >= self.config.patience

    def _record(self, **values: Any) -> None:
        cpu = round(self.run.cpu_seconds, 3)
        self.run.record(step=self.at.step, epoch=self.at.epoch, cpu_seconds=cpu, **values)

    # -- checkpoints ------------------------------------------------------------------------------

    def _save(self) -> None:
        tensors = {f"model.{k}": v for k, v in self.ranker.state_dict().items()}
        tensors |= {f"optimizer.{k}": v for k, v in self.optimizers.tensors().items()}
        tensors["random"] = torch.get_rng_state()
        self.run.save(tensors, progress=asdict(self.at), sparse_steps=self.optimizers.sparse.steps)

    def _resume(self) -> bool:
        """Go on from the last checkpoint; False if there is none."""
        if (found := self.run.resume()) is None:
            return False
        tensors, state = found
        self.at = Progress(**state["progress"])
        self.ranker.load_state_dict(below(tensors, "model."))
        self.optimizers.load(below(tensors, "optimizer."), state["sparse_steps"])
        torch.set_rng_state(tensors["random"])
        return True


def prime(ranker: Ranker, train: Loader) -> None:
    """Give a new ranker what it takes from train before its first step: label rates and curves' bends."""
    ranker.set_prior(_label_rates(train))
    ranker.set_curves(_dense_sample(train))


def _label_rates(loader: Loader) -> torch.Tensor:
    labels = np.asarray(loader.arrays["labels"], np.float32)
    return torch.from_numpy(np.nanmean(labels, axis=0, dtype=np.float64).astype(np.float32))


def _dense_sample(loader: Loader) -> torch.Tensor:
    """Evenly spaced rows of the numeric columns."""
    dense = loader.arrays["dense"]
    return torch.from_numpy(np.array(dense[:: max(1, len(dense) // CURVE_ROWS)], np.float32))


def _mean_over_tasks(
    metric: Callable[..., float], labels: npt.NDArray[np.float32], probabilities: npt.NDArray[np.float32]
) -> float:
    values = [metric(labels[:, t], probabilities[:, t]) for t in range(labels.shape[1])]
    return float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")
