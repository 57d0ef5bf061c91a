"""The replay of a project: the usual arms from the version that was fitted, and their report."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from memberwise import bundle
from memberwise.fresh.replay import Arm, Ground, Retrained, Stale, Updated, WarmStarted, replay
from memberwise.project import Project
from memberwise.ranking.effects import EffectsConfig
from memberwise.ranking.incremental import IncrementalConfig, Memory
from memberwise.ranking.predict import predict_all_logits
from memberwise.recommender import Recommender
from memberwise.recommender.fitting import prepared_rows
from memberwise.recommender.own_rows import check_same
from memberwise.recommender.parts import Part
from memberwise.recommender.parts.effects import Effects, EffectsPart
from memberwise.recommender.parts.incremental import IncrementalPart
from memberwise.report.freshness import STALE, FreshnessReport

VARIANTS: dict[str, dict[str, Any]] = {
    "incremental": {},
    "incremental, cold weight .3": {"cold_weight": 0.3},
    "incremental, forgetting .9": {"forgetting": 0.9},
}
"""Ways to train the ranker on the slice alone."""


def study(
    project: Project, *, slices: int = 20, retrain: bool = True, limit: float = 0.01
) -> FreshnessReport:
    """Replay the log after train through all arms.

    Valid chose when training stopped, and prior variances: the first half of the slices is not quite unseen.

    Parameters
    ----------
    project
        It has a version.
    slices
        Equal in rows.
    retrain
        Also train from nothing before every slice: on all rows, and on a window as long as train.
    limit
        Cost of staleness that is too much, as a share of log-loss.

    Raises
    ------
    BundleError, DataError
        If there is no version, or it was fitted on another log.
    """
    rec = fitted_version(project)
    prepared = prepared_rows(rec.project)
    check_same(rec, prepared)
    ground = Ground(rec.project, prepared)
    first, last = prepared.packed.splits["train"][1], prepared.packed.splits["test"][1]
    arms = _arms(rec, ground, retrain)
    found = replay(ground, arms, ground.cuts(first, last, slices))
    task = rec.project.config.task_names[0]
    notes = [
        "Every arm starts from the version that was fitted on train, and predicts a slice before it "
        "learns it. Features move for all arms alike, as old as the project declares."
    ]
    return FreshnessReport(
        rec.project.config.name,
        found.of_task(task),
        task=task,
        limit=limit,
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        notes=notes,
    )


def fitted_version(project: Project) -> Recommender:
    """The version before all updates that the current one descends from."""
    folder = bundle.resolve(project.bundles)
    while (parent := bundle.read_manifest(folder).parent) is not None:
        if not (folder.parent / parent / bundle.MANIFEST).is_file():
            break
        folder = folder.parent / parent
    return Recommender.load(folder)


def _arms(rec: Recommender, ground: Ground, retrain: bool) -> list[Arm]:
    config, ranker = rec.project.config, rec.ranker
    train_end, valid_end = (
        ground.prepared.packed.splits["train"][1],
        ground.prepared.packed.splits["valid"][1],
    )
    arms: list[Arm] = [Stale(STALE, ranker)]
    if retrain:
        best = max((int(r["step"]) for r in rec.log if r.get("best")), default=1)
        steps = best / train_end
        arms.append(Retrained("full retrain", ranker, None, steps, config.seed))
        arms.append(Retrained("sliding-window retrain", ranker, train_end, steps, config.seed))
    arms.append(WarmStarted("warm start only", ranker, seed=config.seed))
    base = (config.incremental or IncrementalConfig()).model_copy(update={"every": 1})
    rows = ground.loader(0, train_end, base.batch_size)
    memory = Memory.of(ranker, rows, ground.task_weights, base, config.seed)
    for name, change in VARIANTS.items():
        part = IncrementalPart(base.model_copy(update=change), memory, {})
        arms.append(Updated(name, ranker, {"incremental": part}))
    effects = _effects(rec, ground, train_end, valid_end)
    arms.append(Updated("effects only", ranker, {"effects": effects}))
    # In the order of the registry: what the ranker learns is not to be learned again by what stands on it.
    everything: dict[str, Part] = {"incremental": IncrementalPart(base, memory, {}), "effects": effects}
    beside = {n: p for n, p in rec.parts.items() if n not in everything and not p.vectors()}
    arms.append(Updated("everything", ranker, {**everything, **beside}))
    return arms


def _effects(rec: Recommender, ground: Ground, first: int, last: int) -> EffectsPart:
    """Those of the version; or, if the project asks for none, with the defaults."""
    part = rec.parts.get("effects")
    if isinstance(part, EffectsPart):
        return part
    logits = predict_all_logits(rec.ranker, ground.loader(first, last, 8192))
    tasks = rec.project.config.task_names
    return EffectsPart(
        Effects.learned(EffectsConfig(), tasks, ground.rows(first, last), logits.astype(float))
    )
