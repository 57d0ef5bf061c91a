"""Replay: walk a log forward in slices, predict, score, then learn, with several ways of staying fresh.

Every arm starts from the same cold start on train. For each slice it first predicts the rows, each seen with
features exactly as old as declared, and only then may it learn from them. What differs between arms is what
learns; features move for all of them alike.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from memberwise import metrics
from memberwise.data.loader import Loader, Position
from memberwise.data.prepare import Prepared
from memberwise.errors import DataError
from memberwise.project import Project
from memberwise.ranking.loss import multitask_loss
from memberwise.ranking.optimizers import Optimizers
from memberwise.ranking.platt import platt_scaling
from memberwise.ranking.predict import predict_all_logits, sigmoid
from memberwise.ranking.ranker import Ranker
from memberwise.ranking.trainer import prime
from memberwise.recommender.fitting import new_ranker
from memberwise.recommender.increment import learn_parts
from memberwise.recommender.parts import Increment, Part, Setting
from memberwise.recommender.scoring import adjusted, ranker_logits

Arrays = dict[str, npt.NDArray[Any]]
Logits = npt.NDArray[np.float32]
_SCORE_ROWS = 8192


@dataclass(frozen=True)
class Ground:
    """What all arms of a replay share: the project and its packed rows, in time order."""

    project: Project
    prepared: Prepared

    def rows(self, first: int, last: int) -> Arrays:
        """Rows with their vectors gathered."""
        arrays = {k: np.array(a[first:last]) for k, a in self.prepared.packed.arrays.items()}
        return arrays | self.prepared.pipeline.gather_vectors(arrays)

    def loader(self, first: int, last: int, batch_size: int, seed: int = 0, shuffle: bool = False) -> Loader:
        """Batches of rows."""
        layout = self.prepared.pipeline.layout
        return Loader(self.rows(first, last), layout, batch_size, seed, shuffle=shuffle)

    @property
    def task_weights(self) -> torch.Tensor:
        """Of the loss."""
        return torch.tensor([t.loss_weight for t in self.project.config.tasks])

    def cuts(self, first: int, last: int, slices: int) -> list[int]:
        """Where about equal slices begin and end; rows of one moment stay together.

        Raises
        ------
        DataError
            If there are fewer moments than slices.
        """
        times = np.asarray(self.prepared.packed.arrays["time"])
        even = first + (last - first) * np.arange(1, slices) // slices
        inner = np.searchsorted(times, times[even], side="left") if slices > 1 else np.zeros(0, np.int64)
        cuts = [first, *(int(c) for c in np.unique(inner) if first < c < last), last]
        if len(cuts) <= slices:
            raise DataError(
                f"{last - first:,} rows cannot be cut into {slices} slices between moments",
                where="replay",
                fix="ask for fewer slices",
            )
        return cuts

    def days(self, first: int, last: int) -> list[int]:
        """Where days (UTC) begin, from `first` to `last`."""
        day = np.asarray(self.prepared.packed.arrays["time"][first:last]) // 86_400_000_000
        return [first, *(np.flatnonzero(np.diff(day)) + 1 + first).tolist(), last]


class Arm(ABC):
    """A way of staying fresh.

    Parameters
    ----------
    name
        As reports show it.
    ranker
        After the cold start; it does not change.
    """

    def __init__(self, name: str, ranker: Ranker) -> None:
        self.name, self.ranker = name, ranker

    def logits(self, ground: Ground, first: int, last: int) -> Logits:
        """Of rows, before learning from them. ``[n, T]``"""
        return predict_all_logits(self.ranker, ground.loader(first, last, _SCORE_ROWS))

    @abstractmethod
    def learn(self, ground: Ground, first: int, last: int, logits: Logits) -> None:
        """Learn from rows that were predicted just now; `logits` are those of the ranker alone."""

    def score(self, ground: Ground, first: int, last: int) -> tuple[npt.NDArray[np.float32], Logits]:
        """Probabilities, and the logits of the ranker alone."""
        logits = self.logits(ground, first, last)
        return sigmoid(logits), logits

    def bytes(self) -> int:
        """What the last refresh would write to a new version."""
        return 0


class Stale(Arm):
    """Never learns after the cold start."""

    def learn(self, ground: Ground, first: int, last: int, logits: Logits) -> None:
        """Nothing."""


class Updated(Arm):
    """Parts of a version learn, as `memberwise update` lets them.

    Parameters
    ----------
    parts
        As after the cold start: effects, incremental, exploration.
    """

    def __init__(self, name: str, ranker: Ranker, parts: Mapping[str, Part]) -> None:
        super().__init__(name, ranker)
        self.parts = dict(parts)
        self._read: Mapping[str, npt.NDArray[Any]] = {}
        self._digests: dict[str, str] = {}
        self._written = 0

    def score(self, ground: Ground, first: int, last: int) -> tuple[npt.NDArray[np.float32], Logits]:
        """Probabilities of the ranker and its parts, and the logits of the ranker alone."""
        self._read, logits = ranker_logits(self.ranker, self.parts, ground.rows(first, last))
        return sigmoid(adjusted(self.parts, self._read, logits)), logits

    def learn(self, ground: Ground, first: int, last: int, logits: Logits) -> None:
        """One update, on the rows that were scored last."""
        increment = Increment(f"rows {first}:{last}", pl.DataFrame(), self._read, logits)
        setting = Setting(ground.project, ground.prepared.pipeline, self.ranker)
        before = self.ranker
        self.parts, self.ranker = learn_parts(self.parts, increment, setting)
        self._written = 0 if self.ranker is before else _tensor_bytes(self.ranker)

    def bytes(self) -> int:
        """Files of parts that differ from those of the version before, and the ranker's if it has learned."""
        written = self._written
        with TemporaryDirectory() as work:
            for name, part in self.parts.items():
                folder = Path(work) / name
                folder.mkdir()
                part.write(folder)
                for file in sorted(folder.iterdir()):
                    digest = hashlib.sha256(file.read_bytes()).hexdigest()
                    if self._digests.get(f"{name}/{file.name}") != digest:
                        self._digests[f"{name}/{file.name}"] = digest
                        written += file.stat().st_size
        return written


class Retrained(Arm):
    """A cold start from nothing before every slice.

    The cold start that serves first was scaled on valid (`memberwise.ranking.platt`). Later ones have learned
    those rows; they are scaled by what they said of the slices, each before it was learned.

    Parameters
    ----------
    window
        Latest rows that it is trained on; None for all.
    steps
        Steps of training per row: as many as the cold start took to its best weights.
    since
        The cold start serves until this row.
    """

    def __init__(
        self, name: str, ranker: Ranker, window: int | None, steps: float, seed: int = 0, since: int = 0
    ) -> None:
        super().__init__(name, ranker)
        self.window, self.steps_per_row, self.seed, self.since = window, steps, seed, since
        self._scale: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]] | None = None
        self._said: list[tuple[Logits, Logits, Logits]] = []

    def learn(self, ground: Ground, first: int, last: int, logits: Logits) -> None:
        """Train on the rows up to here."""
        if last < self.since:
            return
        if self._scale is not None:
            rows = ground.rows(first, last)
            unscaled = ((logits - self._scale[1]) / self._scale[0]).astype(np.float32)
            self._said.append((unscaled, np.asarray(rows["labels"]), np.asarray(rows["weights"])))
        start = 0 if self.window is None else max(0, last - self.window)
        batch_size = ground.project.config.training.batch_size
        window = ground.loader(start, last, batch_size, self.seed, shuffle=True)
        self.ranker = cold_start(ground, window, round(self.steps_per_row * window.rows), self.seed)
        self._rescale(logits.shape[1])

    def _rescale(self, tasks: int) -> None:
        """Take from the new ranker what its forerunners were too sure of."""
        self._scale = np.ones(tasks), np.zeros(tasks)
        if self._said and self.ranker.curves is None:
            said, labels, weights = (np.concatenate(parts) for parts in zip(*self._said, strict=True))
            self._scale = platt_scaling(said, labels, weights)
            self.ranker.rescale(*(torch.from_numpy(part).float() for part in self._scale))

    def bytes(self) -> int:
        """All weights."""
        return _tensor_bytes(self.ranker)


class WarmStarted(Arm):
    """The usual training goes on from the last weights with the new rows alone, nothing holding it."""

    def __init__(self, name: str, ranker: Ranker, epochs: int = 1, seed: int = 0) -> None:
        super().__init__(name, ranker)
        self.epochs, self.seed = epochs, seed

    def learn(self, ground: Ground, first: int, last: int, logits: Logits) -> None:
        """Train on the slice."""
        config = ground.project.config.training
        rows = ground.loader(first, last, config.batch_size, self.seed + first, shuffle=True)
        newer = new_ranker(ground.project, ground.prepared.pipeline)
        newer.load_state_dict(self.ranker.state_dict())
        self.ranker = _trained(ground, newer, rows, self.epochs * rows.batches, self.seed + first)

    def bytes(self) -> int:
        """All weights."""
        return _tensor_bytes(self.ranker)


def cold_start(ground: Ground, rows: Loader, steps: int, seed: int) -> Ranker:
    """A ranker trained from nothing for a number of steps, without looking at valid."""
    settings = ground.project.config.model_copy(update={"seed": seed})
    ranker = new_ranker(Project(settings, ground.project.base), ground.prepared.pipeline)
    prime(ranker, rows)
    return _trained(ground, ranker, rows, steps, seed)


def _trained(ground: Ground, ranker: Ranker, rows: Loader, steps: int, seed: int) -> Ranker:
    config = ground.project.config.training
    optimizers = Optimizers(ranker, config, max(steps, 1))
    torch.manual_seed(seed)
    ranker.train()
    for step, batch in zip(range(steps), _endless(rows), strict=False):
        assert batch.labels is not None
        loss = multitask_loss(ranker(batch), batch.labels, batch.weights, ground.task_weights)
        optimizers.step(loss + ranker.auxiliary_loss(), step)
    ranker.eval()
    return ranker


def _endless(rows: Loader) -> Iterator[Any]:
    epoch = 0
    while True:
        yield from rows.epoch(Position(epoch))
        epoch += 1


def _tensor_bytes(ranker: Ranker) -> int:
    return sum(t.numel() * t.element_size() for t in ranker.state_dict().values())


@dataclass
class Replay:
    """What a replay found.

    Attributes
    ----------
    records : list of dict
        One for each arm, task and slice, as `memberwise.report.freshness.FreshnessReport` takes them.
    scores : dict of arrays, [n, T]
        Predictions of every arm on all rows of the slices, each made before the row was learned.
    first, last : int
        The rows.
    """

    records: list[dict[str, Any]] = field(default_factory=list)
    scores: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    first: int = 0
    last: int = 0

    def of_task(self, task: str) -> list[dict[str, Any]]:
        """Records of one task."""
        return [{k: v for k, v in r.items() if k != "task"} for r in self.records if r["task"] == task]


def replay(
    ground: Ground, arms: Sequence[Arm], cuts: Sequence[int], *, quiet_until: int = 0, measure: bool = True
) -> Replay:
    """Walk through slices: every arm predicts, is scored, then learns.

    Parameters
    ----------
    ground
        The rows.
    arms
        Each is moved forward in place.
    cuts
        Rows at which slices begin, and where the last one ends.
    quiet_until
        Slices before this row are learned but not recorded: for them settings were chosen.
    measure
        Whether to work out the bytes that a refresh writes.

    Returns
    -------
    Replay
    """
    kept: dict[str, list[npt.NDArray[np.float32]]] = {arm.name: [] for arm in arms}
    found = Replay(first=max(cuts[0], quiet_until), last=cuts[-1])
    number = 0
    for first, last in itertools.pairwise(cuts):
        loud = first >= quiet_until
        for arm in arms:
            probabilities, logits = arm.score(ground, first, last)
            started = time.process_time()
            arm.learn(ground, first, last, logits)
            seconds = time.process_time() - started
            if loud:
                size = arm.bytes() if measure else 0
                kept[arm.name].append(probabilities)
                found.records += _records(ground, arm.name, number, first, last, probabilities, seconds, size)
        number += loud
    found.scores = {name: np.concatenate(parts) for name, parts in kept.items() if parts}
    return found


def _records(
    ground: Ground,
    arm: str,
    number: int,
    first: int,
    last: int,
    probabilities: npt.NDArray[np.float32],
    seconds: float,
    size: int,
) -> list[dict[str, Any]]:
    """Metrics of one slice, a record per task; a metric that is not defined there is left out."""
    arrays = ground.prepared.packed.arrays
    times = np.asarray(arrays["time"][first:last])
    labels = np.asarray(arrays["labels"][first:last], np.float64)
    records = []
    for t, task in enumerate(ground.project.config.task_names):
        defined = ~np.isnan(labels[:, t])
        y, p = labels[defined, t], probabilities[defined, t].astype(np.float64)
        if not len(y):
            continue
        record: dict[str, Any] = {
            "task": task, "arm": arm, "slice": number, "first": int(times[0]), "last": int(times[-1]),
            "rows": len(y), "log_loss": float(metrics.log_loss(y, p)), "seconds": seconds, "bytes": size,
            "observed_over_expected": float(y.sum() / p.sum()),
        }  # fmt: skip
        if 0 < (y > 0.5).sum() < len(y):
            record["auc"] = float(metrics.auc(y > 0.5, p))
        records.append(record)
    return records
