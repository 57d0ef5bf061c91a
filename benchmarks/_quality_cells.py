"""Cells of a comparison: one model, one log, one freshness, one seed; each computed once and kept.

A cell is named by the hash of everything that its numbers depend on: the arrays, the settings in full, the
seed and the recipe. What is there is not computed again, so that a run that was stopped goes on.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from _environment import BENCHMARKS, peers_python
from _quality_logs import prepared
from _worker import ONE_THREAD
from memberwise.data.prepare import Prepared
from memberwise.project import Project
from memberwise.ranking.baselines import BASELINES
from memberwise.ranking.predict import predict
from memberwise.ranking.trainer import Trainer
from memberwise.recommender.fitting import loader, new_ranker

RECIPE = 1
"""Raise it when the ranker computes something else under the same settings."""
PARTS = ("train", "valid", "test")
_NOT_IDS = ("labels", "ids")


@dataclass(frozen=True)
class Cell:
    """Predictions of one fit.

    Attributes
    ----------
    valid, test : ndarray of float32, [n]
        Probabilities.
    note : dict
        ``seconds`` (CPU) and what the fit has to say for itself.
    """

    valid: np.ndarray
    test: np.ndarray
    note: dict[str, Any]


@dataclass(frozen=True)
class PeerFit:
    """A setting of a peer, a seed, and the latest rows of train that it sees (all without)."""

    setting: Mapping[str, Any]
    seed: int = 0
    latest_rows: int | None = None


class NotKeptError(LookupError):
    """A cell is not there, and none may be computed."""


class Case:
    """One log at one freshness, and the cells on it.

    Parameters
    ----------
    log, delay
        As in `_quality_logs.project`.
    folder
        Keeps rows and cells.
    sample
        Share of the log's rows, for smoke runs.
    kept
        Take only cells that are there.
    """

    def __init__(
        self, log: str, delay: str, folder: Path, sample: float = 1.0, *, kept: bool = False
    ) -> None:
        self.log, self.delay, self.folder, self.sample, self.kept = log, delay, folder, sample, kept

    @cached_property
    def _made(self) -> tuple[Project, Prepared]:
        return prepared(self.log, self.delay, self.folder / "rows", self.sample)

    @property
    def project(self) -> Project:
        """The project with the package's defaults."""
        return self._made[0]

    @property
    def prepared(self) -> Prepared:
        """Its packed rows."""
        return self._made[1]

    def column(self, part: str, name: str) -> np.ndarray:
        """A column of the rows of a part; ``labels`` of the only task."""
        values = np.asarray(self.prepared.packed.rows(part)[name])
        return values[:, 0] if name == "labels" else values

    @cached_property
    def _hash_of_ids(self) -> str:
        return self._hash(_NOT_IDS)

    @cached_property
    def _hash_of_rows(self) -> str:
        return self._hash(sorted(self.prepared.packed.arrays))

    def _hash(self, names: Any) -> str:
        digest = hashlib.sha256(json.dumps(self.prepared.packed.splits).encode())
        for name in names:
            digest.update(np.ascontiguousarray(self.prepared.packed.arrays[name]))
        return digest.hexdigest()

    # -- kinds of cells ---------------------------------------------------------------------------

    def ours(self, ranker: Mapping[str, Any], training: Mapping[str, Any], history: str, seed: int) -> Cell:
        """The ranker under these settings beside the defaults."""
        values = self.project.to_dict()
        values["ranker"] |= ranker
        values["training"] |= training
        values["seed"] = seed
        project = Project.from_dict(values)
        config = project.config
        settings = {
            "ranker": config.ranker.model_dump(mode="json"),
            "training": config.training.model_dump(mode="json"),
            "history": history,
            "recipe": RECIPE,
        }
        return self._kept("ours", settings, seed, self._hash_of_rows, lambda: self._train(project, history))

    def baseline(self, name: str) -> Cell:
        """A baseline of the package; it has no randomness."""

        def fit() -> Cell:
            rows = {part: self.prepared.packed.rows(part) for part in PARTS}
            started = time.process_time()
            model = BASELINES[name].fit(rows["train"], rows["valid"], self.prepared.pipeline.layout)
            scores = {part: model(rows[part])[:, 0].astype(np.float32) for part in ("valid", "test")}
            return Cell(**scores, note={"seconds": time.process_time() - started})

        data = self._hash_of_ids if name == "logistic on ids" else self._hash_of_rows
        return self._kept(name, {}, 0, data, fit)

    def peer(self, name: str, fits: Sequence[PeerFit]) -> list[Cell]:
        """Fits of one peer; what is missing is fitted by one process, which pays its imports once."""
        settings = [{"setting": dict(fit.setting), "latest_rows": fit.latest_rows} for fit in fits]
        paths = [
            self._path(name, setting, fit.seed, self._hash_of_rows)
            for setting, fit in zip(settings, fits, strict=True)
        ]
        missing = [k for k, path in enumerate(paths) if not path.is_file()]
        if missing and self.kept:
            raise NotKeptError(name)
        if missing:
            about = {"log": self.log, "delay": self.delay, "kind": name}
            jobs = [asdict(fits[k]) | {"output": str(paths[k]), "about": about} for k in missing]
            with TemporaryDirectory() as work:
                file = Path(work) / "jobs.json"
                file.write_text(json.dumps({"peer": name, "folder": str(self._exported()), "jobs": jobs}))
                command = [str(peers_python()), str(BENCHMARKS / "peers" / "quality.py"), str(file)]
                subprocess.run(command, check=True, stdout=sys.stderr, env={**os.environ, **ONE_THREAD})
        return [_read(path) for path in paths]

    # -- how --------------------------------------------------------------------------------------

    def _kept(
        self, kind: str, settings: Mapping[str, Any], seed: int, data: str, fit: Callable[[], Cell]
    ) -> Cell:
        path = self._path(kind, settings, seed, data)
        if path.is_file():
            return _read(path)
        if self.kept:
            raise NotKeptError(kind)
        cell = fit()
        half = path.with_suffix(".part.npz")
        note = cell.note | {"log": self.log, "delay": self.delay, "kind": kind, "seed": seed}
        np.savez(half, valid=cell.valid, test=cell.test, note=np.array(json.dumps(note)))
        half.replace(path)
        print(f"{self.log} {self.delay} {kind} seed {seed}: {note['seconds']:.0f} s", file=sys.stderr)
        return cell

    def _path(self, kind: str, settings: Mapping[str, Any], seed: int, data: str) -> Path:
        key = json.dumps([kind, settings, seed, data], sort_keys=True)
        cells = self.folder / "cells"
        cells.mkdir(parents=True, exist_ok=True)
        return cells / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.npz"

    def _train(self, project: Project, history: str) -> Cell:
        torch.set_num_threads(1)
        layout = self.prepared.pipeline.layout
        # The rows are the same for every encoder of the history: only the ranker's layout differs.
        histories = tuple(replace(h, encoder=history) for h in layout.histories)
        self.prepared.pipeline.layout = replace(layout, histories=histories)
        order, dropout = (
            int(s.generate_state(1)[0]) for s in np.random.SeedSequence(project.config.seed).spawn(2)
        )
        training = project.config.training
        started = time.process_time()
        try:
            with TemporaryDirectory() as run:
                trainer = Trainer(
                    new_ranker(project, self.prepared.pipeline),
                    loader(self.prepared, "train", training.batch_size, seed=order, shuffle=True),
                    loader(self.prepared, "valid", 8192),
                    training,
                    [1.0],
                    Path(run),
                    seed=dropout,
                )
                trainer.fit()
            seconds = time.process_time() - started
            scores = {
                part: predict(trainer.ranker, loader(self.prepared, part, 8192))[:, 0]
                for part in ("valid", "test")
            }
        finally:
            self.prepared.pipeline.layout = layout
        steps = trainer.train_rows.batches
        note = {"seconds": seconds, "best epoch": trainer.at.best_step / steps}
        note["parameters"] = sum(p.numel() for p in trainer.ranker.parameters())
        return Cell(**scores, note=note)

    def _exported(self) -> Path:
        """The rows as the peers read them."""
        folder = self.folder / "exported" / self._hash_of_rows[:16]
        layout = self.prepared.pipeline.layout
        fields = np.array([i for i, f in enumerate(layout.ids) for _ in range(f.width)], np.int64)
        rows = {name: v.rows for name, v in self.prepared.pipeline.vocabularies.items()}
        sizes = np.array([rows[f.table] for f in layout.ids], np.int64)
        folder.mkdir(parents=True, exist_ok=True)
        for part in PARTS:
            if (path := folder / f"{part}.npz").is_file():
                continue
            half = path.with_suffix(".part.npz")
            parts = {name: self.column(part, name) for name in ("ids", "dense")}
            np.savez(half, **parts, label=self.column(part, "labels"), fields=fields, sizes=sizes)
            half.replace(path)
        return folder


def _read(path: Path) -> Cell:
    with np.load(path) as stored:
        return Cell(stored["valid"], stored["test"], json.loads(str(stored["note"])))
