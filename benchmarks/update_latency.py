"""How long do the events of 1,000 members take to become a published version?

Two models of Complete Journey, fitted on the log up to a cut, one with meta embeddings of members and one
without; then the events after it, until 1,000 members have come, are learned and published in a process that
is warm (it has made one update before). CPU seconds, one thread: checking, point-in-time features, the gate,
effects, last layer, the adaptation of the members' embeddings, publishing with checksums. Then the same
events on models whose state holds ten times the members: the log ten times over, under other names. One epoch
of training has to do: it decides what a model predicts, not what an update of it costs.
"""

from __future__ import annotations

import itertools
import shutil
import tempfile
import time
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
from memberwise.data.datasets import completejourney
from memberwise.data.events import TIME, EventChecker, Rejects
from memberwise.data.log import sort_events
from memberwise.data.pipeline import FeaturePipeline
from memberwise.data.timeline import EmbeddingTimeline
from memberwise.fresh.update import Outcome, update
from memberwise.meta.supports import Supports
from memberwise.project import Project
from memberwise.recommender import Recommender
from memberwise.recommender.parts import Part, Setting
from memberwise.recommender.parts.effects import EffectsPart
from memberwise.recommender.parts.meta import MetaPart

MEMBERS, COPIES = 1000, 10
FOLDER = ROOT / ".cache" / "fresh" / "latency"
PLAIN, META = "all but meta", "with meta refresh"
PARTS: dict[str, Any] = {"effects": {}, "exploration": {}, "incremental": {"every": 5}}
SECTIONS: dict[str, dict[str, Any]] = {
    PLAIN: PARTS,
    META: PARTS | {"meta": {"training": {"epochs": 1, "tasks_per_epoch": 1024}}},
}
LIMITS = {PLAIN: 2.0, META: 10.0}
GROWTH = 1.5
TARGETS = [
    t
    for what, limit in LIMITS.items()
    for t in (
        Target(
            f"CPU-seconds, {what}",
            limit,
            f"events of 1,000 members into a published version, {what}",
            at_most=True,
        ),
        Target(
            f"growth, {what}",
            GROWTH,
            f"cost of the same update at ten times the members, as a factor of that cost, {what}",
            at_most=True,
        ),
    )
]


def fitted(log: pl.DataFrame, folder: Path, sections: dict[str, Any]) -> Project:
    """A project over a log, fitted and published once; its bundles are emptied down to that version."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "log.parquet"
    if not path.is_file():
        log.write_parquet(path)
    values = quality_project("completejourney", "none", FOLDER).to_dict()
    values["events"]["path"], values["output"], values["name"] = str(path), str(folder), "latency"
    values["split"] = {"train": 0.85, "valid": 0.1}
    values |= sections
    values["training"] |= {"epochs": 1}
    project = Project.from_dict(values)
    if not (project.bundles / "000001").is_dir():
        Recommender.fit(project).save()
    return project


def batch_ends(log: pl.DataFrame, first: int, members: int) -> int:
    """Row before which so many distinct members have come; rows of one moment stay together."""
    households = log["household_id"][first:].to_numpy()
    new = np.zeros(len(households), np.bool_)
    new[np.unique(households, return_index=True)[1]] = True
    times = log["timestamp"][first:].to_numpy()
    enough = min(int(np.searchsorted(np.cumsum(new), members)), len(times) - 1)
    return first + int(np.searchsorted(times, times[enough], side="right"))


def crowded(rec: Recommender, log: pl.DataFrame, copies: int) -> Recommender:
    """The same version, whose features and effects have seen the log of so many times the members."""
    config = rec.project.config
    column = config.entities["member"].id
    names = [pl.format("{}-{}", pl.lit(k), pl.col(column)).alias(column) for k in range(1, copies)]
    pipeline = rec.pipeline.copy(empty=True)
    with tempfile.TemporaryDirectory() as work:
        checked = sort_events(log, EventChecker(config), Path(work) / "events", Rejects())
        for chunk in checked.chunks():
            one = chunk.with_columns(pl.col(column).cast(pl.String))
            many = pl.concat([one, *(one.with_columns(name) for name in names)])
            pipeline.absorb(many.sort(TIME, maintain_order=True))
            pipeline.settle()
    newer = Recommender(
        rec.project, rec.ranker, pipeline, rec.seen, rec.negatives, rec.summary, rec.log, rec.fit_seconds,
        rec.parts,
    )  # fmt: skip
    effects = rec.parts["effects"]
    assert isinstance(effects, EffectsPart)
    known, n = effects.effects, len(rec.seen.to_arrays()["member.ids"])
    ids = np.asarray(rec.seen.to_arrays()["member.ids"], np.uint64)
    rows = {"item": np.zeros(n, np.uint64), "labels": np.ones((n, 1)), "weights": np.ones((n, 1))}
    for k in range(copies):
        known = known.updated(rows | {"member": ids + np.uint64(k)}, np.zeros((n, 1)), f"copy {k}")
    newer.parts["effects"] = replace(effects, effects=known)
    if isinstance(rec.parts.get("meta"), MetaPart):
        newer.parts["meta"] = _crowded_meta(rec.parts["meta"], pipeline, copies)
    return newer


def _crowded_meta(part: Part, pipeline: FeaturePipeline, copies: int) -> MetaPart:
    """Supports and embeddings of so many times the members."""
    assert isinstance(part, MetaPart)
    old, names = part.supports, np.arange(copies, dtype=np.uint64)

    def many(ids: np.ndarray) -> np.ndarray:
        return (ids[:, None] + names).ravel()

    arrays = {k: np.repeat(a, copies, axis=0) for k, a in old.arrays.items()}
    arrays["member"] = many(old.arrays["member"])
    supports = Supports(arrays, {k: many(v) for k, v in old.keys.items()}, old.size)
    blocks = []
    for b in part.blocks:
        t = b.timeline
        lines = (np.repeat(a, copies, axis=0) for a in (t.cutoffs, t.vectors))
        timeline = EmbeddingTimeline(t.entity, t.version, many(t.keys), *lines)
        blocks.append(replace(b, timeline=timeline))
        pipeline.attach(b.name, timeline)
    setting = Setting(part.setting.project, pipeline, part.setting.ranker)
    return MetaPart(part.config, setting, blocks, supports, part.version, part.log)


def timed(rec: Recommender, project: Project, batches: list[pl.DataFrame]) -> tuple[Outcome, int, float]:
    """Publish the version, update it once to get warm, then measure the next update; bytes it wrote."""
    shutil.rmtree(project.bundles)
    rec.version = rec.stored = None
    rec.save(project.bundles)
    update(project, batches[0], rec=rec, train=False)
    warm = Recommender.load(project.bundles)
    started = time.process_time()
    outcome = update(project, batches[1], rec=warm, train=False)
    seconds = time.process_time() - started
    assert outcome.version is not None
    written = sum(
        f.stat().st_size for f in outcome.version.rglob("*") if f.is_file() and f.stat().st_nlink == 1
    )
    return outcome, written, seconds


def measure(log: pl.DataFrame, what: str, quick: bool, report: Report) -> None:
    """One update at one and at ten times the members."""
    members, copies = (100, 2) if quick else (MEMBERS, COPIES)
    times = log["timestamp"].to_numpy()
    cut = int(np.searchsorted(times, times[int(len(log) * 0.9)], side="left"))
    ends = [cut, batch_ends(log, cut, members)]
    ends.append(batch_ends(log, ends[1], members))
    batches = [log[a:b] for a, b in itertools.pairwise(ends)]
    folder = FOLDER / f"{'quick' if quick else 'whole'}-{'meta' if what == META else 'plain'}"
    project = fitted(log[:cut], folder, SECTIONS[what])
    rec = Recommender.load(project.bundles / "000001")
    rows, found = [], []
    kept = project.bundles.with_name("kept")
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(project.bundles / "000001", kept / "000001")
    try:
        for factor, one in ((1, rec), (copies, crowded(rec, log[:cut], copies))):
            outcome, written, seconds = timed(one, project, batches)
            found.append(seconds)
            size = sum(f.stat().st_size for f in (project.bundles / "current").rglob("*") if f.is_file())
            steps = [f"{outcome.seconds[s]:.2f}" for s in ("observe", "check", "learn", "publish")]
            sizes = [f"{written / 1e6:.1f}", f"{size / 1e6:.0f}"]
            rows.append([f"{factor} x", f"{outcome.rows:,}", *steps, f"{seconds:.2f}", *sizes])
    finally:
        shutil.rmtree(project.bundles, ignore_errors=True)
        (project.bundles).mkdir()
        (kept / "000001").rename(project.bundles / "000001")
        (project.bundles / "current").symlink_to("000001")
    report.table(
        f"one update with the events of {members:,} members, {what}, CPU-seconds",
        ["members", "rows", "observe", "check", "learn", "publish", "all", "MB written", "MB of the version"],
        rows,
    )
    report.measures |= {f"CPU-seconds, {what}": found[0], f"growth, {what}": found[1] / found[0]}


def main() -> None:
    """Measure both models."""
    quick = quick_asked(str(__doc__))
    torch.set_num_threads(1)
    log = pl.read_parquet(completejourney("uniform").files["impressions"]).sort(
        "timestamp", maintain_order=True
    )
    report = Report("update_latency", TARGETS)
    report.versions |= {p: version(p) for p in ("torch", "numpy", "polars", "safetensors")}
    for what in SECTIONS:
        measure(log.tail(30_000) if quick else log, what, quick, report)
    report.finish()


if __name__ == "__main__":
    main()
