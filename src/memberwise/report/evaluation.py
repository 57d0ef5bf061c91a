"""From predictions to metrics: over all rows, by segment, by time slice, and against baselines."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from memberwise import metrics
from memberwise.metrics import Interval, Resamples
from memberwise.report.inputs import Predictions, ReportContext

SLICES = 10
# Segments and slices are read for their pattern: a fifth of the draws is enough, and keeps the whole
# report at about twice the price of its first table.
DRAWS_SHARE = 5


class Metric(NamedTuple):
    """How a metric is called, whether more of it is better (None: neither), and what it says."""

    label: str
    higher: bool | None
    meaning: str


METRICS: dict[str, Metric] = {
    "auc": Metric("AUC", True, "chance that a positive is scored above a negative"),
    "grouped_auc": Metric("GAUC", True, "AUC within members, averaged by their rows"),
    "log_loss": Metric("Log-loss", False, "mean negative log-likelihood, nats"),
    "normalised_entropy": Metric("NE", False, "log-loss over that of a constant"),
    "expected_calibration_error": Metric("ECE", False, "distance of predicted from observed rates, 15 bins"),
    "observed_over_expected": Metric("O/E", None, "positives that came over positives predicted"),
    "ndcg@10": Metric("NDCG@10", True, "discounted gain of a request's first 10 items"),
    "mrr": Metric("MRR", True, "reciprocal rank of a request's first positive"),
    "recall@10": Metric("Recall@10", True, "share of a request's positives in its first 10 items"),
}
PER_REQUEST = frozenset({"ndcg@10", "mrr", "recall@10"})

Table = dict[str, dict[str, dict[str, Interval]]]
"""Model (or baseline) -> task -> metric -> interval."""


@dataclass(frozen=True)
class Cut:
    """Metrics on some of the rows.

    Attributes
    ----------
    name : str
        What the rows are.
    rows, members : int
        How many.
    first, last : int
        Time of the first and last row, microseconds UTC; zero without rows.
    rates : dict
        Task to its rate of positives, unweighted; ``nan`` where there are no defined rows.
    values : Table
        Every model's metrics.
    differences : Table
        The first model minus each baseline, paired.
    """

    name: str
    rows: int
    members: int
    first: int
    last: int
    rates: dict[str, float]
    values: Table
    differences: Table


@dataclass(frozen=True)
class Evaluation:
    """All rows, then the parts."""

    overall: Cut
    segments: tuple[Cut, ...]
    slices: tuple[Cut, ...]


def evaluate(predictions: Predictions, *, draws: int, seed: int) -> Evaluation:
    """Compute every metric of every model on all rows, segments and about ten equal slices of time.

    Parameters
    ----------
    predictions : Predictions
        What to evaluate.
    draws : int
        Bootstrap draws of members; segments and slices use a fifth of them, and at least 50.
    seed : int
        Of the draws.

    Returns
    -------
    Evaluation

    Raises
    ------
    DataError
        A score is not a probability, or a request has rows of several members.
    """
    fewer = min(draws, max(50, draws // DRAWS_SHARE))
    slices = time_slices(predictions.time)
    return Evaluation(
        overall=evaluate_rows("all rows", predictions, draws, seed),
        segments=tuple(
            evaluate_rows(name, predictions.take(np.asarray(mask, dtype=bool)), fewer, seed)
            if np.any(mask)
            else _nothing(name, predictions)
            for name, mask in predictions.segments.items()
        ),
        slices=tuple(
            evaluate_rows(f"slice {i + 1}", predictions.take(slices == code), fewer, seed)
            for i, code in enumerate(np.unique(slices))
        ),
    )


def evaluate_rows(name: str, predictions: Predictions, draws: int, seed: int) -> Cut:
    """Compute every model's metrics, and the first model's differences from the others, on given rows."""
    names = metric_names(predictions)
    found: dict[str, dict[str, dict[str, Resamples]]] = {
        model: {
            task: metrics.resample(
                predictions.column(t)[0], scores[:, t], predictions.members, metrics=names,
                weights=predictions.column(t)[1], requests=predictions.requests, draws=draws, seed=seed,
            )
            for t, task in enumerate(predictions.tasks)
        }
        for model, scores in predictions.scores.items()
    }  # fmt: skip
    ours = found[predictions.models[0]]
    return Cut(
        name=name,
        rows=len(predictions),
        members=len(np.unique(predictions.members)),
        first=int(predictions.time.min()),
        last=int(predictions.time.max()),
        rates={task: _rate(predictions.labels[:, t]) for t, task in enumerate(predictions.tasks)},
        values={model: _intervals(table) for model, table in found.items()},
        differences={
            model: _intervals(
                {task: {name: ours[task][name] - table[task][name] for name in names} for task in table}
            )
            for model, table in found.items()
            if model != predictions.models[0]
        },
    )


def metric_names(predictions: Predictions) -> list[str]:
    """Names of the metrics that can be computed, in the order of the report."""
    return [name for name in METRICS if predictions.requests is not None or name not in PER_REQUEST]


def time_slices(time: np.ndarray, slices: int = SLICES) -> np.ndarray:
    """Number each row's slice, [n]; slices hold about equally many rows, and never part equal times."""
    ordered = np.sort(time)
    starts = ordered[np.arange(1, slices) * len(time) // slices]
    return np.searchsorted(np.unique(starts), time, side="right")


def strongest_baseline(cut: Cut, task: str, otherwise: Set[str] = frozenset()) -> str | None:
    """Name of the baseline with the least log-loss on a task; None without baselines.

    Models in `otherwise` are no baselines.
    """
    names = [model for model in cut.differences if model not in otherwise]
    if not names:
        return None
    losses = {model: cut.values[model][task]["log_loss"].value for model in names}
    return min(losses, key=lambda model: (np.nan_to_num(losses[model], nan=np.inf), model))


def freshness_warning(context: ReportContext, otherwise: Set[str] = frozenset()) -> str | None:
    """Say that GAUC cannot compare these models, when their member features differ in delay.

    Models in `otherwise` are the first one once more, and are not named.
    """
    by_delay: dict[tuple[str, ...], list[str]] = {}
    for model, features in context.freshness.items():
        if model not in otherwise:
            delays = tuple(sorted({f.delay for f in features if f.side == "member"}))
            by_delay.setdefault(delays, []).append(model)
    if len(by_delay) < 2:
        return None
    listed = "; ".join(
        f"{' and '.join(delays) if delays else 'none'} in {', '.join(models)}"
        for delays, models in by_delay.items()
    )
    return (
        f"Do not compare these models by GAUC: their member features are not equally fresh ({listed}). A "
        "member enters GAUC only with both labels in the window, which counts against fresh member features. "
        "Compare by AUC, log-loss or the metrics per request."
    )


def _intervals(table: Mapping[str, Mapping[str, Resamples]]) -> dict[str, dict[str, Interval]]:
    return {
        task: {name: sample.interval() for name, sample in samples.items()} for task, samples in table.items()
    }


def _rate(labels: np.ndarray) -> float:
    defined = labels[~np.isnan(labels)]
    return float(defined.mean(dtype=np.float64)) if defined.size else float("nan")


def _nothing(name: str, predictions: Predictions) -> Cut:
    """The cut of a segment without rows: every metric is there, and not defined."""
    nan = float("nan")
    undefined = {
        task: dict.fromkeys(metric_names(predictions), Interval(nan, nan, nan, nan))
        for task in predictions.tasks
    }
    everyone = dict.fromkeys(predictions.models, undefined)
    others = dict.fromkeys(predictions.models[1:], undefined)
    return Cut(name, 0, 0, 0, 0, dict.fromkeys(predictions.tasks, nan), everyone, others)
