"""An update from events to a published version: observe, check, learn, publish, and say what was done."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from memberwise import bundle
from memberwise.data.events import DRAWN
from memberwise.data.files import Source, expand
from memberwise.data.frame import Frame
from memberwise.data.prepare import check_new_events
from memberwise.errors import BundleError, DataError
from memberwise.fresh.drift import Drift
from memberwise.fresh.gate import GateError, Quality, quality, reasons, refuse, size_reason
from memberwise.fresh.policy import Plan, decide
from memberwise.fresh.reference import PROFILE, drift
from memberwise.project import FreshConfig, Project
from memberwise.ranking.predict import sigmoid
from memberwise.recommender import Recommender
from memberwise.recommender.increment import Observed, learn_parts
from memberwise.recommender.parts import PARTS, Setting
from memberwise.recommender.scoring import adjusted, ranker_logits

KEY = "update"
"""Where a manifest says what the update was."""
_TRIED = 500
"""Rows that a new version must be able to predict before it is published."""


@dataclass
class Outcome:
    """What an update did.

    Attributes
    ----------
    rows, first, last
        The new events: how many, and their first and last moment in microseconds.
    before : dict of Quality
        By task: how the version in service predicted all new rows, each before it was learned.
    checked : dict of (Quality, Quality)
        By task: the latest rows as predicted by the version in service, and after learning from the others.
    seconds : dict of float
        CPU-seconds of each step.
    plan
        What learned, and what is advised.
    drift
        What has changed since the fit; None where nothing is known of it.
    why
        Reasons of the gate; not empty only where it was forced.
    version
        The published directory.
    known
        The version that already holds these events, if that is so; nothing was done then.
    files
        Where the events came from: who forgets a member is told of them.
    """

    rows: int = 0
    first: int = 0
    last: int = 0
    before: dict[str, Quality] = field(default_factory=dict)
    checked: dict[str, tuple[Quality, Quality]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    plan: Plan | None = None
    drift: Drift | None = None
    profile: dict[str, Any] = field(default_factory=dict)
    why: list[str] = field(default_factory=list)
    key: str = ""
    version: Path | None = None
    known: str | None = None
    files: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for manifests and for programs."""
        plan = self.plan or Plan(False, (), ())
        return {
            "rows": self.rows, "first": self.first, "last": self.last, "key": self.key,
            "learns": list(plan.learns), "advice": list(plan.advice), "refused because": self.why,
            "before": {t: q.to_dict() for t, q in self.before.items()},
            "checked": {
                t: {"before": a.to_dict(), "after": b.to_dict()} for t, (a, b) in self.checked.items()
            },
            "drift": [] if self.drift is None else [
                r for r in self.drift.to_records() if r["verdict"] != "stable"
            ],
            "seconds": {k: round(v, 3) for k, v in self.seconds.items()},
            "files": self.files,
        }  # fmt: skip


def update(
    project: Project,
    events: Source,
    *,
    force: bool = False,
    train: bool | None = None,
    wait: float = 0.0,
    rec: Recommender | None = None,
) -> Outcome:
    """Let the current version learn from new events and publish the result.

    A crash at any moment leaves the version before in service. Events that a version on the way to the
    current one was made of are recognised, and nothing is done.

    Parameters
    ----------
    project
        Whose versions are moved forward.
    events
        Newer than what the current version has seen.
    force
        Publish even what the gate would refuse.
    train
        Whether the ranker learns; None leaves it to the policy.
    wait
        Seconds to wait for another update that is at work.
    rec
        The current version, if it is in memory already.

    Raises
    ------
    GateError
        If the gate does not let the new version through.
    DataError
        If the events cannot be used.
    BundleError
        If another update is at work, or the version cannot be written.
    """
    with bundle.writer(project.bundles, wait):
        current = bundle.resolve(project.bundles).name
        if rec is None or rec.version != current:
            started = time.process_time()
            rec = Recommender.load(project.bundles)
            loading = time.process_time() - started
        else:
            loading = 0.0
        try:
            limits = project.config.fresh
            newer, outcome = next_version(rec, events, force=force, train=train, limits=limits)
        except DataError:
            if (known := _known(project.bundles, rec, events)) is not None:
                return Outcome(known=known)
            raise
        outcome.seconds = {"load": loading, **outcome.seconds}
        if not isinstance(events, pl.DataFrame | pa.Table):
            outcome.files = [f if "://" in f else str(Path(f).resolve()) for f in expand(events)]
        missing = [p.name for p in PARTS if p.wanted(project.config) and p.name not in rec.parts]
        if missing and outcome.plan is not None:
            advice = (
                f"the project asks for {', '.join(missing)}, which this version was fitted without: fit again"
            )
            outcome.plan = replace(outcome.plan, advice=(*outcome.plan.advice, advice))
        _publish(project, rec, newer, outcome, force)
        return outcome


def next_version(
    rec: Recommender,
    events: Source,
    *,
    force: bool = False,
    train: bool | None = None,
    limits: FreshConfig | None = None,
) -> tuple[Recommender, Outcome]:
    """Observe, check and learn, without publishing; arguments and errors as `update`.

    `limits` are those of the gate; by default as they stood when the version was fitted.
    """
    outcome, clock = Outcome(), _Clock()
    limits = rec.project.config.fresh if limits is None else limits
    observed = rec.observe(events)
    clock.lap(outcome, "observe")
    increment = observed.increment
    times = np.asarray(increment.arrays["time"])
    outcome.rows, outcome.first, outcome.last = len(increment), int(times[0]), int(times[-1])
    outcome.key = _key(increment.events, increment.arrays)
    _check_clock(limits, outcome.last)
    labels = np.asarray(increment.arrays["labels"])
    before = sigmoid(adjusted(rec.parts, increment.arrays, increment.logits))
    outcome.before = _by_task(rec, labels, before)
    outcome.drift, outcome.profile = drift(rec, _info(rec), increment.arrays, before)
    plan = decide(rec, outcome.before, limits, outcome.drift)
    outcome.plan = plan if train is None else Plan(train, plan.learns, plan.advice)
    outcome.why = _check(rec, observed, labels, before, outcome, limits)
    clock.lap(outcome, "check")
    if not force:
        refuse(outcome.why)
    newer = rec.learn(observed, train=outcome.plan.train)
    _check_numbers(newer.score({k: np.array(a[-_TRIED:]) for k, a in increment.arrays.items()}))
    clock.lap(outcome, "learn")
    return newer, outcome


def _info(rec: Recommender) -> Mapping[str, Any]:
    """What the manifest of a version says, if it stands on disk."""
    folder = None if rec.stored is None else rec.stored.folder
    there = folder is not None and (folder / bundle.MANIFEST).is_file()
    return bundle.read_manifest(folder).info if folder is not None and there else {}


def _check(
    rec: Recommender,
    observed: Observed,
    labels: npt.NDArray[np.float32],
    before: npt.NDArray[np.float32],
    outcome: Outcome,
    config: FreshConfig,
) -> list[str]:
    """Learn from the earlier of the new rows, compare on the later ones; reasons against publishing.

    What makes vectors stays out of it: it would be refreshed twice.
    """
    increment = observed.increment
    times = np.asarray(increment.arrays["time"])
    n = len(times)
    cut = int(np.searchsorted(times, times[min(n - 1, round(n * (1 - config.check)))], side="left"))
    if cut == 0 or n - cut < config.check_rows:
        return []
    assert outcome.plan is not None
    cheap = {name: part for name, part in rec.parts.items() if not part.vectors()}
    setting = Setting(rec.project, observed.pipeline, rec.ranker)
    early = increment.rows(0, cut, train=outcome.plan.train)
    parts, ranker = learn_parts(cheap, early, setting)
    late = {k: np.array(a[cut:]) for k, a in increment.arrays.items()}
    read, logits = ranker_logits(ranker, parts, late)
    after = sigmoid(adjusted(parts, read, logits))
    _check_numbers(after)
    old, new = _by_task(rec, labels[cut:], before[cut:]), _by_task(rec, labels[cut:], after)
    outcome.checked = {task: (old[task], new[task]) for task in old}
    return reasons(config, rec.project.config.task_names, labels[cut:], before[cut:], after)


def _check_numbers(probabilities: npt.NDArray[np.float32]) -> None:
    """Refuse, forced or not, a version that cannot predict the rows that it has just learned."""
    if not np.isfinite(probabilities).all():
        raise GateError(
            "the new version was not published: some of its predictions are not numbers",
            fix="look for extreme values in the new events",
        )


def _by_task(
    rec: Recommender, labels: npt.NDArray[np.float32], probabilities: npt.NDArray[np.float32]
) -> dict[str, Quality]:
    found = {t: quality(labels, probabilities, i) for i, t in enumerate(rec.project.config.task_names)}
    return {t: q for t, q in found.items() if q is not None}


def _check_clock(limits: FreshConfig, last: int) -> None:
    ahead = last - time.time_ns() // 1000
    if ahead > limits.max_ahead:
        moment = datetime.fromtimestamp(last / 1e6, UTC).strftime("%Y-%m-%d %H:%M UTC")
        raise DataError(
            f"an event of {moment} lies {ahead / 3.6e9:.1f} hours ahead of this machine's clock: "
            "once it counts, no earlier event can",
            where="events",
            fix="mend the clock or the time column's unit; or raise fresh.max_ahead",
        )


def _publish(project: Project, rec: Recommender, newer: Recommender, outcome: Outcome, force: bool) -> None:
    clock = _Clock()
    directory, config = project.bundles, project.config.fresh
    old = _files(directory, rec)

    def accept(files: Mapping[str, Mapping[str, Any]]) -> None:
        reason = size_reason(config, old, files)
        if reason is not None:
            outcome.why.append(reason)
        if not force:
            refuse(outcome.why)

    try:
        outcome.version = newer.save(directory, info=told(outcome), accept=accept)
    except OSError as error:
        raise BundleError(
            f"the new version cannot be written: {error.strerror or error}",
            where=str(directory),
            fix="make room and update again; the version before is still in service",
        ) from error
    clock.lap(outcome, "publish")


def told(outcome: Outcome) -> dict[str, Any]:
    """What a manifest says of an update; the next one compares with its profile to find drift."""
    return {KEY: outcome.to_dict(), PROFILE: outcome.profile}


def size_gate(project: Project, rec: Recommender) -> Callable[[Mapping[str, Mapping[str, Any]]], None]:
    """Looks at the files of a new version; raises `GateError` if they are much larger than those of `rec`."""
    config, old = project.config.fresh, _files(project.bundles, rec)

    def accept(files: Mapping[str, Mapping[str, Any]]) -> None:
        reason = size_reason(config, old, files)
        refuse([] if reason is None else [reason])

    return accept


def _files(directory: Path, rec: Recommender) -> Mapping[str, Mapping[str, Any]]:
    return {} if rec.version is None else bundle.read_manifest(directory / rec.version).files


def _known(directory: Path, rec: Recommender, events: Source) -> str | None:
    """The version, on the way to this one, that was made of these very events."""
    version = rec.version
    keys: dict[str, str] = {}
    while version is not None and (directory / version / bundle.MANIFEST).is_file():
        manifest = bundle.read_manifest(directory / version)
        keys[manifest.info.get(KEY, {}).get("key", "")] = version
        version = manifest.parent
    keys.pop("", None)
    if not keys:
        return None
    with TemporaryDirectory() as work:
        log, _ = check_new_events(rec.project.config, events, Path(work))
        chunks = list(log.chunks())
    config = rec.project.config
    parts = []
    for chunk in chunks:
        frame = Frame(chunk, config, rec.pipeline.tables)
        parts.append({"time": frame.times, "member": frame.ids("member"), "item": frame.ids("item")})
    arrays = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
    return keys.get(_key(pl.concat(chunks), arrays))


def _key(events: pl.DataFrame, arrays: Mapping[str, npt.NDArray[Any]]) -> str:
    """Names events by when, who and what, in whatever order; drawn negatives are no events."""
    real = ~events[DRAWN].to_numpy() if DRAWN in events.columns else np.ones(len(events), np.bool_)
    columns = [np.asarray(arrays[name])[real] for name in ("time", "member", "item")]
    order = np.lexsort(columns[::-1])
    digest = hashlib.sha256()
    for column in columns:
        digest.update(np.ascontiguousarray(column[order]).tobytes())
    return digest.hexdigest()


class _Clock:
    """CPU-seconds between steps."""

    def __init__(self) -> None:
        self._at = time.process_time()

    def lap(self, outcome: Outcome, step: str) -> None:
        now = time.process_time()
        outcome.seconds[step] = now - self._at
        self._at = now
