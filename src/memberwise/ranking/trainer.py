"""The training loop: early stopping, best weights, a log, and exact resume after any stop.

A run folder holds

- ``log.jsonl``: one record per report of the train loss and per evaluation of valid;
- ``checkpoint.safetensors``: model, optimisers, loader position, random state (from time to time);
- ``best.safetensors``: the weights with the best metric so far.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from memberwise import metrics
from memberwise.data.batch import Batch
from memberwise.data.loader import Loader, Position
from memberwise.errors import ConfigError, DataError
from memberwise.nn.checkpoint import load_tensors, save_tensors
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


class Watcher(Protocol):
    """Sees a training go by: a progress bar, TensorBoard."""

    def record(self, record: Mapping[str, Any]) -> None:
        """One record of the log; its ``split`` is train or valid, or resume where a training goes on."""

    def progress(self, step: int, steps: int, rows: int) -> None:
        """After every step."""


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
    cpu_seconds: float = 0.0
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
        self.device = choose_device(config.device)
        self.ranker = ranker.to(self.device)
        self.train_rows, self.valid_rows, self.config = train, valid, config
        self.run, self.seed, self.identity, self.watchers = run, seed, identity, list(watchers)
        self.total_steps = config.epochs * train.batches
        self.evaluate_every = max(1, -(-train.batches // config.evaluations_per_epoch))
        self.task_weights = torch.tensor(list(task_weights), device=self.device)
        self.optimizers = Optimizers(ranker, config, self.total_steps)
        self.at = Progress()
        self.records: list[dict[str, Any]] = []
        self._valid_labels = np.asarray(valid.arrays["labels"])
        self._started = self._last_checkpoint = 0.0

    # -- the loop ---------------------------------------------------------------------------------

    def fit(self, resume: bool = False) -> Progress:
        """Train until the epochs are over or valid stops getting better, then restore the best weights.

        Parameters
        ----------
        resume
            Go on from the last checkpoint, if there is one. The result is the same as without a stop.
        """
        self.run.mkdir(parents=True, exist_ok=True)
        if resume and self._checkpoint.exists():
            self._load()
            for watcher in self.watchers:
                watcher.record({"split": "resume", "step": self.at.step, "epoch": self.at.epoch})
        else:
            for old in (self._checkpoint, self._best, self.run / "log.jsonl"):
                old.unlink(missing_ok=True)
            torch.manual_seed(self.seed)
            prime(self.ranker, self.train_rows)
        self._started = time.process_time() - self.at.cpu_seconds
        self._last_checkpoint = time.monotonic()
        while not self.at.finished:
            self._epoch()
        self._save()
        self.ranker.load_state_dict(load_tensors(self._best)[0])
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
            self._maybe_save()
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
        for watcher in self.watchers:
            watcher.progress(self.at.step, self.total_steps, len(batch))
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
            save_tensors(self._best, self.ranker.state_dict(), {"step": self.at.step, **values})
        else:
            self.at.since_best += 1
        self._record(split="valid", best=better, **values)
        self.at.finished = self.at.since_best >= self.config.patience

    def _record(self, **values: Any) -> None:
        self.at.cpu_seconds = time.process_time() - self._started
        record = {
            "step": self.at.step,
            "epoch": self.at.epoch,
            "cpu_seconds": round(self.at.cpu_seconds, 3),
            **values,
        }
        self.records.append(record)
        with (self.run / "log.jsonl").open("a") as f:
            f.write(json.dumps(record) + "\n")
        for watcher in self.watchers:
            watcher.record(record)

    # -- checkpoints ------------------------------------------------------------------------------

    @property
    def _checkpoint(self) -> Path:
        return self.run / "checkpoint.safetensors"

    @property
    def _best(self) -> Path:
        return self.run / "best.safetensors"

    def _maybe_save(self) -> None:
        if time.monotonic() - self._last_checkpoint >= self.config.checkpoint_seconds:
            self._save()
            self._last_checkpoint = time.monotonic()

    def _save(self) -> None:
        self.at.cpu_seconds = time.process_time() - self._started
        tensors = {f"model.{k}": v for k, v in self.ranker.state_dict().items()}
        tensors |= {f"optimizer.{k}": v for k, v in self.optimizers.tensors().items()}
        tensors["random"] = torch.get_rng_state()
        state = {
            "progress": asdict(self.at),
            "sparse_steps": self.optimizers.sparse.steps,
            "records": len(self.records),
            **self._fixed(),
        }
        save_tensors(self._checkpoint, tensors, state)

    def _fixed(self) -> dict[str, Any]:
        """What must not change between a stop and its resume."""
        return {
            "training settings": self.config.model_dump(mode="json"),
            "ranker settings": self.ranker.config.model_dump(mode="json"),
            "seed": self.seed,
            "data": self.identity,
        }

    def _load(self) -> None:
        tensors, state = load_tensors(self._checkpoint)
        for key, value in self._fixed().items():
            if state.get(key) != value:
                raise ConfigError(
                    f"the checkpoint was made with other {key}",
                    where=str(self._checkpoint),
                    fix="run without --resume, or restore what was changed",
                )
        self.at = Progress(**state["progress"])
        self.ranker.load_state_dict({k[6:]: v for k, v in tensors.items() if k.startswith("model.")})
        found = {k[10:]: v for k, v in tensors.items() if k.startswith("optimizer.")}
        self.optimizers.load(found, state["sparse_steps"])
        torch.set_rng_state(tensors["random"])
        log = self.run / "log.jsonl"
        lines = log.read_text().splitlines()[: state["records"]] if log.exists() else []
        self.records = [json.loads(line) for line in lines]
        log.write_text("".join(line + "\n" for line in lines))  # what came after the checkpoint comes again


def choose_device(name: str) -> torch.device:
    """The device of a name; ``auto`` takes a GPU if there is one.

    Raises
    ------
    ConfigError
        If the device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"{name!r} is not a device of this machine", where="training.device", fix="use auto or cpu"
        ) from error
    return device


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
