"""What the benchmarks of freshness share: cold starts, arms, and cells that are computed once."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

import memberwise.ranking.effects
import memberwise.ranking.fisher
import memberwise.ranking.incremental
from _environment import ROOT
from _quality_logs import prepared
from memberwise.data.prepare import fingerprint
from memberwise.fresh.replay import Ground, Replay
from memberwise.nn.checkpoint import load_tensors, save_tensors
from memberwise.project import Project
from memberwise.ranking.effects import Effects, EffectsConfig
from memberwise.ranking.incremental import IncrementalConfig, Memory
from memberwise.ranking.predict import predict_all_logits
from memberwise.ranking.ranker import Ranker
from memberwise.recommender.fitting import new_ranker, train
from memberwise.recommender.parts.effects import EffectsPart
from memberwise.recommender.parts.incremental import IncrementalPart

FOLDER = ROOT / ".cache" / "fresh"
_CODE = (memberwise.ranking.incremental, memberwise.ranking.fisher, memberwise.ranking.effects)


@dataclass(frozen=True)
class Cold:
    """A cold start: its weights, and what it cost up to its best checkpoint."""

    ranker: Ranker
    cpu_seconds: float
    steps: int


class Log:
    """One log at one freshness, with its cold starts.

    Parameters
    ----------
    name, delay
        As in `_quality_logs.project`.
    sample
        Share of the log's rows, for smoke runs.
    """

    def __init__(self, name: str, delay: str, sample: float = 1.0) -> None:
        torch.set_num_threads(1)
        self.name, self.delay, self.sample = name, delay, sample
        self.project, self.prepared = prepared(name, delay, FOLDER / "rows", sample)
        self.ground = Ground(self.project, self.prepared)
        self.train_end = self.prepared.packed.splits["train"][1]
        self.test_start = self.prepared.packed.splits["test"][0]
        self.end = self.prepared.packed.splits["test"][1]

    @cached_property
    def _identity(self) -> list[Any]:
        config = self.project.config
        settings = [config.ranker.model_dump(mode="json"), config.training.model_dump(mode="json")]
        return [fingerprint(config, self.project.base), settings]

    def cold(self, seed: int) -> Cold:
        """The cold start with a seed: trained once, found again."""
        path = FOLDER / "cold" / f"{self.name}-{self.delay}-{_hash([self._identity, seed])}.safetensors"
        ranker = new_ranker(self.project, self.prepared.pipeline)
        if not path.is_file():
            settings = self.project.config.model_copy(update={"seed": seed})
            trainer = train(Project(settings, self.project.base), self.prepared, resume=False, watchers=[])
            best = next(r for r in trainer.records if r["step"] == trainer.at.best_step and r.get("best"))
            path.parent.mkdir(parents=True, exist_ok=True)
            about = {"cpu_seconds": best["cpu_seconds"], "steps": trainer.at.best_step}
            save_tensors(path, trainer.ranker.state_dict(), about)
        tensors, about = load_tensors(path)
        ranker.load_state_dict(tensors)
        ranker.eval()
        return Cold(ranker, about["cpu_seconds"], about["steps"])

    def memory(self, cold: Cold, config: IncrementalConfig) -> Memory:
        """What the cold start leaves to increments."""
        rows = self.ground.loader(0, self.train_end, config.batch_size)
        return Memory.of(cold.ranker, rows, self.ground.task_weights, config)

    def effects(self, cold: Cold, config: EffectsConfig) -> EffectsPart:
        """Effects with prior variances from valid."""
        valid = self.ground.loader(self.train_end, self.test_start, 8192)
        logits = predict_all_logits(cold.ranker, valid).astype(np.float64)
        rows = self.ground.rows(self.train_end, self.test_start)
        return EffectsPart(Effects.learned(config, self.project.config.task_names, rows, logits))

    def labels(self, first: int, last: int) -> np.ndarray:
        """Labels of the only task."""
        return np.asarray(self.prepared.packed.arrays["labels"][first:last], np.float64)[:, 0]

    def column(self, name: str, first: int, last: int) -> np.ndarray:
        """Another column of the rows."""
        return np.asarray(self.prepared.packed.arrays[name][first:last])

    def cell(
        self, what: str, settings: Mapping[str, Any], make: Callable[[], Replay], ours: bool = True
    ) -> Replay:
        """A replay: computed once, found again as long as data, settings and code are the same.

        That of a rival (not `ours`) does not depend on the settings and the code of the ranker.
        """
        code = [hashlib.sha256(Path(str(m.__file__)).read_bytes()).hexdigest() for m in _CODE if ours]
        key = _hash([self._identity[: 2 if ours else 1], self.sample, what, dict(settings), code])
        path = FOLDER / "cells" / f"{what}-{self.name}-{key}.npz"
        if not path.is_file():
            started = time.process_time()
            found = make()
            path.parent.mkdir(parents=True, exist_ok=True)
            half = path.with_suffix(".part.npz")
            about = json.dumps({"records": found.records, "first": found.first, "last": found.last})
            np.savez(half, about=np.array(about), **{f"arm {k}": v for k, v in found.scores.items()})
            half.replace(path)
            print(f"{what} {self.name}: {time.process_time() - started:.0f} CPU-seconds", file=sys.stderr)
        with np.load(path) as stored:
            about = json.loads(str(stored["about"]))
            scores = {k.removeprefix("arm "): stored[k] for k in stored.files if k.startswith("arm ")}
        return Replay(about["records"], scores, about["first"], about["last"])


def incremental(log: Log, cold: Cold, config: IncrementalConfig) -> IncrementalPart:
    """The part, after the cold start."""
    return IncrementalPart(config, log.memory(cold, config), {})


def mean_seconds(replay: Replay, arm: str) -> float:
    """CPU-seconds of a refresh."""
    return float(np.mean([r["seconds"] for r in replay.records if r["arm"] == arm]))


def stacked(replays: Sequence[Replay], arm: str) -> np.ndarray:
    """Predictions of an arm by seed, ``[S, n]``."""
    return np.stack([r.scores[arm][:, 0] for r in replays]).astype(np.float64)


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:20]
