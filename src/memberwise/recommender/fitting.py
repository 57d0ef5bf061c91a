"""From a project to prepared rows and a trained ranker."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl
import torch

from memberwise.data.arrays import load_arrays, save_arrays
from memberwise.data.events import Rejects
from memberwise.data.frame import load_entity_tables
from memberwise.data.negatives import NegativeSampler
from memberwise.data.packed import PackedRows
from memberwise.data.pipeline import FeaturePipeline
from memberwise.data.prepare import Prepared, Progress, fingerprint, prepare
from memberwise.errors import ConfigError, DataError, MemberwiseError
from memberwise.locks import alone
from memberwise.nn.run_folder import Watcher
from memberwise.project import Project
from memberwise.ranking.ranker import Ranker
from memberwise.ranking.trainer import Trainer
from memberwise.recommender.loading import loader
from memberwise.recommender.parts import PARTS, Fitting

_STATE, _SUMMARY = "pipeline.safetensors", "prepared.json"


def prepared_rows(project: Project, progress: Progress = lambda what, done, of: None) -> Prepared:
    """The packed rows of a project's log: made once, found again as long as nothing has changed.

    Other settings of the ranker or of training need no new preparation; another schema or other files do.
    Of several processes that ask at once, one prepares and the others wait for its rows.
    """
    refusal = DataError("another process is preparing these rows", where=str(project.output))
    with alone(project.output / ".preparing", refusal, wait=math.inf):
        return _prepared_rows(project, progress)


def _prepared_rows(project: Project, progress: Progress) -> Prepared:
    name = fingerprint(project.config, project.base)
    work = project.output / "cache" / name
    if (work / _SUMMARY).is_file():
        try:
            if json.loads((work / _SUMMARY).read_text()).get("boot") == _boot():
                return _load(project, work)
        except (MemberwiseError, ValueError):
            shutil.rmtree(work)  # a damaged cache is made again
    shutil.rmtree(project.output / "cache", ignore_errors=True)
    prepared = prepare(project.config, work, project.base, progress=progress)
    _keep_rejects(prepared.rejects.table(), project.output / "rejects.parquet")
    parts = prepared.pipeline.to_arrays()
    if prepared.negatives is not None:
        parts["negatives"] = prepared.negatives.to_arrays()
    save_arrays(work / _STATE, parts)
    meta = {"boot": _boot(), "train_end": prepared.pipeline.train_end, "summary": prepared.summary}
    (work / _SUMMARY).write_text(json.dumps(meta))
    return prepared


def _keep_rejects(rejected: pl.DataFrame | None, path: Path) -> None:
    """Put the rows of this log that are of no use in the place of those of an earlier one."""
    if rejected is None:
        path.unlink(missing_ok=True)
        return
    partial = path.with_name(path.name + ".partial")
    rejected.write_parquet(partial)
    partial.replace(path)


def _boot() -> str:
    """Names the run of this machine: after a power cut, rows that never reached the disk read as zero."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.is_file() else ""


def _load(project: Project, work: Path) -> Prepared:
    meta = json.loads((work / _SUMMARY).read_text())
    parts = load_arrays(work / _STATE)
    tables = load_entity_tables(project.config, project.base)
    pipeline = FeaturePipeline(project.config, tables, meta["train_end"], project.base)
    pipeline.load_arrays(parts)
    sampler = None
    if project.config.negatives is not None:
        sampler = NegativeSampler(project.config)
        sampler.load_arrays(parts["negatives"])
    return Prepared(PackedRows(work / "packed"), pipeline, sampler, Rejects(), meta["summary"])


@contextmanager
def fitting_alone(project: Project) -> Iterator[None]:
    """Inside, no other fit writes to the project's run: two would mix their checkpoints."""
    refusal = ConfigError(
        "another fit of this project is at work",
        where=str(project.output),
        fix="wait until it has ended, or give this one a folder of its own: output",
    )
    with alone(project.output / ".fitting", refusal):
        yield


def new_ranker(project: Project, pipeline: FeaturePipeline) -> Ranker:
    """An untrained ranker for a project."""
    rows = {name: v.rows for name, v in pipeline.vocabularies.items()}
    dims = {name: v.dim for name, v in pipeline.vectors.items()}
    counts = {
        name: torch.from_numpy(v.counts.astype(np.float32))
        for name, v in pipeline.vocabularies.items()
        if v.encoding == "vocabulary" and len(v.counts) == v.rows
    }
    return Ranker(pipeline.layout, rows, dims, project.config.ranker, seed=project.config.seed, counts=counts)


def fit_parts(fitting: Fitting, stage: str) -> None:
    """Fit the parts of one stage that the project asks for, in their order."""
    for kind in PARTS:
        if kind.stage == stage and kind.wanted(fitting.project.config):
            fitting.parts[kind.name] = kind.fit(fitting)
    fitting.parts = {kind.name: fitting.parts[kind.name] for kind in PARTS if kind.name in fitting.parts}


def train(
    project: Project,
    prepared: Prepared,
    *,
    resume: bool,
    watchers: Sequence[Watcher],
    run: Path | None = None,
) -> Trainer:
    """Train the project's ranker; the trainer returned holds the best weights and the log.

    `run` is the folder of the run; the project's own without.
    """
    config = project.config
    # The seed of the project spreads to independent streams: shuffling and dropout.
    order, dropout = (int(s.generate_state(1)[0]) for s in np.random.SeedSequence(config.seed).spawn(2))
    trainer = Trainer(
        new_ranker(project, prepared.pipeline),
        loader(prepared, "train", config.training.batch_size, seed=order, shuffle=True),
        loader(prepared, "valid", 8192),
        config.training,
        [t.loss_weight for t in config.tasks],
        run or project.output / "run",
        seed=dropout,
        identity=fingerprint(config, project.base),
        watchers=watchers,
    )
    trainer.fit(resume)
    return trainer
