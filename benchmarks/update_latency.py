"""How long do the events of 1,000 members take to become a published version?

A model of Complete Journey, fitted on the log up to a cut; then the events after it, until 1,000 members have
come, are learned and published in a process that is warm (it has made one update before). CPU seconds, one
thread: checking, point-in-time features, the gate, effects, last layer, publishing with checksums. Then the
same events on a model whose state holds ten times the members: the log ten times over, under other names.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from _environment import ROOT
from _harness import Report, Target, quick_asked
from _quality_logs import project as quality_project
from memberwise.data.events import TIME
from memberwise.data.log import sort_events
from memberwise.data.events import EventChecker, Rejects
from memberwise.fresh.update import Outcome, update
from memberwise.project import Project
from memberwise.recommender import Recommender
from memberwise.recommender.increment import see_and_score

MEMBERS, COPIES = 1000, 10
FOLDER = ROOT / ".cache" / "fresh" / "latency"

SECONDS = Target(
    "CPU-seconds without meta", 2.0, "events of 1,000 members into a published version, all but the meta refresh",
    at_most=True,
)  # fmt: skip
GROWTH = Target(
    "growth at 10x the members", 1.5, "the cost of an update at ten times the members, as a factor", at_most=True
)  # fmt: skip
PARTS: dict[str, Any] = {"effects": {}, "exploration": {}, "incremental": {"every": 5}}


def fitted(cut: int, log: pl.DataFrame, quick: bool) -> Project:
    """A project over the events before the cut, fitted and published once."""
    values = quality_project("completejourney", "none", FOLDER).to_dict()
    folder = FOLDER / ("quick" if quick else "whole")
    path = folder / "log.parquet"
    folder.mkdir(parents=True, exist_ok=True)
    values["events"]["path"], values["output"], values["name"] = str(path), str(folder), "latency"
    values["split"] = {"train": 0.85, "valid": 0.1}
    values |= PARTS
    if quick:
        values["training"] |= {"epochs": 1}
    project = Project.from_dict(values)
    if not path.is_file():
        log[:cut].write_parquet(path)
    if not (project.bundles / "current").is_symlink():
        Recommender.fit(project).save()
    return project


def next_members(log: pl.DataFrame, first: int, members: int) -> int:
    """Row before which so many distinct members have come; rows of one moment stay together."""
    households = log["household_id"][first:].to_numpy()
    new = np.zeros(len(households), np.bool_)
    new[np.unique(households, return_index=True)[1]] = True
    times = log["timestamp"][first:].to_numpy()
    enough = int(np.searchsorted(np.cumsum(new), members))
    return first + int(np.searchsorted(times, times[min(enough, len(times) - 1)], side="right"))


def crowd(rec: Recommender, project: Project, log: pl.DataFrame, copies: int) -> None:
    """Publish a version whose features and effects have seen the log of many times the members."""
    column = project.config.entities["member"].id
    names = [pl.format("{}-{}", pl.lit(k), pl.col(column)) for k in range(1, copies)]
    pipeline = rec.pipeline.copy(empty=True)
    with tempfile.TemporaryDirectory() as work:
        checked = sort_events(log, EventChecker(project.config), Path(work) / "events", Rejects())
        for chunk in checked.chunks():
            same = chunk.with_columns(pl.col(column).cast(pl.String))
            many = pl.concat([same, *(same.with_columns(name.alias(column)) for name in names)])
            pipeline.absorb(many.sort(TIME, maintain_order=True))
            pipeline.settle()
        effects = rec.parts["effects"]
        increment = rec.observe(log.tail(1)) if False else None
    rec.pipeline = pipeline


def main() -> None:
    """Measure."""
    quick = quick_asked(str(__doc__))
    torch.set_num_threads(1)


if __name__ == "__main__":
    main()
