"""What a report is told about predictions: whose they are, on which rows, how fresh, made by what."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from memberwise.data.vocabulary import MISSING, PAD, UNSEEN
from memberwise.report import FeatureRates, Freshness, Predictions, ReportContext, Split
from memberwise.report.text import when

if TYPE_CHECKING:
    from memberwise.data.layout import Layout
    from memberwise.recommender.core import Recommender

Arrays = Mapping[str, npt.NDArray[Any]]
OURS = "memberwise"
UNCURVED = "memberwise, without its curve"
REGRESSED = "memberwise, isotonic on valid"
UNADAPTED = "memberwise, without meta embeddings"
OTHERWISE = frozenset({UNCURVED, REGRESSED, UNADAPTED})
"""The ranker before its calibration curve, with isotonic regression after the fact, without embeddings."""


def predictions(
    rec: Recommender,
    arrays: Arrays,
    scores: Mapping[str, npt.NDArray[Any]],
    segments: Mapping[str, npt.NDArray[np.bool_]] = MappingProxyType({}),
) -> Predictions:
    """Rows for a report. Labels between 0 and 1 count as positive above one half."""
    labels = np.asarray(arrays["labels"], np.float32)
    labels = np.where(np.isnan(labels), np.nan, labels > 0.5).astype(np.float32)
    requests = None
    if "request" in arrays:
        # A request is shown to one member: the pair is its identity, should ids be reused.
        pairs = np.stack([np.asarray(arrays["request"]), np.asarray(arrays["member"])], axis=1)
        requests = np.unique(pairs, axis=0, return_inverse=True)[1].ravel()
    return Predictions(
        tasks=rec.project.config.task_names,
        labels=labels,
        scores=dict(scores),
        members=np.unique(arrays["member"], return_inverse=True)[1],
        time=np.asarray(arrays["time"], np.int64),
        weights=np.asarray(arrays["weights"], np.float32),
        requests=requests,
        segments={**rec.seen.segments(arrays), **segments},
        otherwise=OTHERWISE & scores.keys(),
    )


def context(rec: Recommender, arrays: Arrays, models: list[str], notes: list[str]) -> ReportContext:
    """Where the predictions come from."""
    summary = rec.summary
    return ReportContext(
        title=rec.project.config.name,
        version=_version(rec),
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        config=rec.project.to_dict(),
        versions=versions(),
        splits=[
            Split(name, part["rows"], part["first"], part["last"]) for name, part in summary["splits"].items()
        ],
        members=summary["members"],
        items=summary["items"],
        negatives=summary.get("negatives", ""),
        rejected=summary["reasons"],
        features=feature_rates(rec.pipeline.layout, arrays),
        log=rec.log,
        fit_seconds=rec.fit_seconds,
        notes=notes,
        freshness={name: freshness(rec, name) for name in models},
    )


def _version(rec: Recommender) -> str:
    """Which version it is, as a person would say it."""
    name = f"version {rec.version}" if rec.version else "a version that is not saved"
    return f"{name}, as of {when(rec.pipeline.last_event)} UTC" if rec.pipeline.last_event else name


def versions() -> dict[str, str]:
    """Versions of what computed the result."""
    packages = ("memberwise", "torch", "numpy", "polars", "pyarrow", "numba", "scikit-learn")
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def feature_rates(layout: Layout, arrays: Arrays) -> list[FeatureRates]:
    """Share of rows on which a feature is missing, or has a value never seen in train."""
    found = []
    ids = np.asarray(arrays["ids"])
    for f in layout.ids:
        block = ids[:, f.start : f.start + f.width]
        there = (block != PAD) & (block != MISSING)
        unknown = (block == UNSEEN).any(1).mean()
        found.append(FeatureRates(f.name, float(1 - there.any(1).mean()), float(unknown)))
    dense = np.asarray(arrays["dense"])
    at = len(layout.dense)
    for column in layout.dense:
        if column.indicator:
            found.append(FeatureRates(column.name, float(dense[:, at].mean()), 0.0))
            at += 1
    for h in layout.histories:
        empty = (np.asarray(arrays[f"{h.name}.items"]) == PAD).all(1).mean()
        found.append(FeatureRates(h.name, float(empty), 0.0))
    return found


_COUNTS = (OURS, *sorted(OTHERWISE), "logistic on counts")


def freshness(rec: Recommender, model: str) -> list[Freshness]:
    """How old the features of a model are, and whose they are."""
    if model not in _COUNTS:
        # Fitted on train and never refreshed: an id's weight knows nothing later.
        side: Any = "item" if model == "item popularity" else "other"
        return [Freshness(model, "frozen", side)]
    config = rec.project.config
    member, item = config.entities["member"].id, config.entities["item"].id
    found = []
    for a in rec.pipeline.aggregates:
        mine = any(c == member or c.startswith("member.") for c in a.spec.by)
        its = any(c == item or c.startswith("item.") for c in a.spec.by)
        found.append(Freshness(a.name, a.spec.delay, "member" if mine else "item" if its else "other"))
    if model == OURS or model in OTHERWISE:
        found += [Freshness(n, h.spec.delay, "member") for n, h in rec.pipeline.histories.items()]
    return found
