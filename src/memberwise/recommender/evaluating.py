"""Judge a version: score rows with labels as it would have scored them, beside what it is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import polars as pl

from memberwise.data.events import TIME
from memberwise.data.files import Source
from memberwise.data.log import EventLog
from memberwise.data.negatives import NegativeSampler
from memberwise.data.pipeline import FeaturePipeline
from memberwise.data.prepare import Prepared, check_new_events
from memberwise.errors import ConfigError
from memberwise.ranking.baselines import BASELINES, applicable
from memberwise.ranking.posthoc import posthoc_isotonic
from memberwise.recommender.increment import joined
from memberwise.recommender.own_rows import own_rows
from memberwise.recommender.personal import by_support, without_embeddings
from memberwise.recommender.reporting import OURS, REGRESSED, UNCURVED, context, predictions
from memberwise.report import Report
from memberwise.report.text import when

if TYPE_CHECKING:
    from memberwise.recommender.core import Recommender

Arrays = dict[str, npt.NDArray[Any]]
Scores = dict[str, npt.NDArray[np.float32]]


def evaluate(rec: Recommender, events: Source | None, baselines: bool | Sequence[str], draws: int) -> Report:
    """What `Recommender.evaluate` does."""
    notes: list[str] = []
    segments: dict[str, npt.NDArray[np.bool_]] = {}
    names = _baselines(rec, baselines)
    prepared = own_rows(rec) if events is None or names else None
    if events is not None:
        arrays = score_events(rec, events, notes)
        scores: Scores = {OURS: arrays.pop("scores")}
    else:
        assert prepared is not None
        arrays = dict(prepared.packed.rows("test"))
        scores = {OURS: rec._score_packed(arrays)}
        if baselines:
            scores |= _otherwise_calibrated(rec, prepared, arrays, scores[OURS])
            scores |= without_embeddings(rec, arrays)
            segments = by_support(rec, prepared)
    for name in names:
        assert prepared is not None
        rows, layout = prepared.packed.rows, prepared.pipeline.layout
        scores[name] = BASELINES[name].fit(rows("train"), rows("valid"), layout)(arrays)  # type: ignore[assignment]
    cautions = _hindsight(rec, np.asarray(arrays["time"], np.int64))
    about = replace(context(rec, arrays, list(scores), notes), cautions=cautions)
    found = predictions(rec, arrays, scores, segments)
    return Report.build(found, context=about, draws=draws, seed=rec.project.config.seed)


def score_events(rec: Recommender, events: Source, notes: list[str]) -> Arrays:
    """Arrays of labelled events with their ``scores``, each row seeing only its past."""
    with TemporaryDirectory() as work:
        log, rejects = check_new_events(rec.project.config, events, Path(work))
        pipeline, sampler = _before(rec, int(log.times()[0]), notes)
        parts: list[Arrays] = []
        for chunk in log.chunks():
            if sampler is not None:
                chunk = sampler.expand(chunk)
            frame = pipeline.absorb(chunk)
            arrays: Arrays = pipeline.batch_arrays(frame) | pipeline.labels(frame.events)
            arrays["scores"] = rec.score(arrays)
            parts.append(arrays)
    if rejects.total:
        reasons = "; ".join(f"{n:,} x {reason}" for reason, n in rejects.counts.most_common())
        notes.append(f"{rejects.total:,} of {rejects.read:,} rows could not be used: {reasons}.")
    return joined(parts)


def _before(
    rec: Recommender, moment: int, notes: list[str]
) -> tuple[FeaturePipeline, NegativeSampler | None]:
    """Features and negatives as of a moment: the version's, or replayed from the log if that is past."""
    if rec.pipeline.last_event is None or moment > rec.pipeline.last_event:
        return rec.pipeline.copy(), rec._sampler()
    notes.append(
        "The events are not newer than what this version has seen: their features were rebuilt from the "
        "project's log."
    )
    with TemporaryDirectory() as work:
        config = rec.project.config
        log, _ = check_new_events(config, config.events.path, Path(work), rec.project.base)
        return _replay(rec, log, moment)


def _replay(rec: Recommender, log: EventLog, moment: int) -> tuple[FeaturePipeline, NegativeSampler | None]:
    pipeline, config = rec.pipeline.copy(empty=True), rec.project.config
    sampler = NegativeSampler(config) if config.negatives is not None else None
    for chunk in log.chunks():
        past = chunk.filter(pl.col(TIME) < moment)
        if len(past):
            pipeline.absorb(past if sampler is None else sampler.expand(past))
            pipeline.settle()
    return pipeline, sampler


def _hindsight(rec: Recommender, times: npt.NDArray[np.int64]) -> list[str]:
    """Where a version may know rows already: figures on them are too good.

    Vectors stand on a timeline, and no row sees one that is newer than itself; what else learns from updates
    has one state, that of now.
    """
    ends = {name: int(part["last"]) for name, part in rec.summary["splits"].items()}
    found = []
    if trained := int((times <= ends["train"]).sum()):
        found.append(
            f"{trained:,} of {len(times):,} rows are not later than the end of train, {when(ends['train'])} "
            "UTC: the ranker was trained on those that stand in the project's log, and figures on them are "
            "too good. Without files, `evaluate` of the project judges the test split."
        )
    now, learns = rec.pipeline.last_event or 0, [n for n, part in rec.parts.items() if not part.vectors()]
    if now > ends["test"] and learns and (learned := int((times <= now).sum()) - trained):
        found.append(
            f"{learned:,} of {len(times):,} rows come before {when(now)} UTC, up to which updates have "
            f"taught this version ({', '.join(learns)}): it knows what came after them, and figures on them "
            "are too good. Each update has said how it predicted its events before it learned them; "
            "`memberwise replay` of the project does so for all of the log after train; or give newer events."
        )
    return found


def _baselines(rec: Recommender, wanted: bool | Sequence[str]) -> list[str]:
    """Names of the simple models to fit."""
    if isinstance(wanted, bool):
        return applicable(rec.pipeline.layout) if wanted else []
    for name in wanted:
        if name not in BASELINES:
            raise ConfigError(f"{name!r} is not a baseline", fix=f"use one of: {', '.join(BASELINES)}")
    return list(wanted)


def _otherwise_calibrated(
    rec: Recommender, prepared: Prepared, arrays: Arrays, scores: npt.NDArray[np.float32]
) -> Scores:
    """The scores before the calibration curve, if there is one, and after a regression on valid."""
    valid = prepared.packed.rows("valid")
    found = {}
    if rec.ranker.curves is not None:
        with rec.ranker.uncurved():
            found[UNCURVED] = rec._score_packed(arrays)
    labels, weights = (np.asarray(valid[k], np.float32) for k in ("labels", "weights"))
    found[REGRESSED] = posthoc_isotonic(rec._score_packed(valid), labels, weights)(scores)
    return found
