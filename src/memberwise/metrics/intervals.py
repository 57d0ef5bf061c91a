"""Confidence intervals that know that the rows of a member belong together.

Clusters (members) are drawn with replacement, as many as there are; a draw is a vector of counts, and
metrics are evaluated under counts (`memberwise.metrics._resampled`) instead of on copied rows. Two
predictions with the same labels, clusters and seed are evaluated under the same draws, which is what
makes a difference between them paired.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from memberwise.errors import DataError
from memberwise.metrics._inputs import FloatArray, defined_rows, group_codes
from memberwise.metrics._resampled import PROBABILITY_METRICS, Draws, Sample, prepare

# Draws side by side: 64 bytes of float32, one cache line for each cluster.
BLOCK = 16


@dataclass(frozen=True)
class Interval:
    """A value with its percentile interval and standard error.

    Attributes
    ----------
    value : float
        The metric on the data themselves.
    low, high : float
        Ends of the interval.
    se : float
        Standard deviation over draws.
    """

    value: float
    low: float
    high: float
    se: float

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


@dataclass(frozen=True)
class Resamples:
    """A metric on the data and on every draw; differences of two with the same draws are paired.

    Attributes
    ----------
    value : float
        The metric on the data, mean over seeds.
    draws : array [draws]
        The metric on each draw.
    """

    value: float
    draws: FloatArray

    def __sub__(self, other: Resamples) -> Resamples:
        return Resamples(self.value - other.value, self.draws - other.draws)

    def interval(self, level: float = 0.95) -> Interval:
        """Percentile interval; draws on which the metric is not defined are left out.

        Parameters
        ----------
        level : float
            Coverage, between 0 and 1.

        Returns
        -------
        Interval
            All ``nan`` but the value with fewer than two clusters or fewer than two defined draws.
        """
        good = self.draws[~np.isnan(self.draws)]
        if good.size < 2 or np.isnan(self.value):
            return Interval(self.value, float("nan"), float("nan"), float("nan"))
        low, high = np.quantile(good, [(1 - level) / 2, (1 + level) / 2])
        return Interval(self.value, float(low), float(high), float(good.std(ddof=1)))


def bootstrap(
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    clusters: npt.ArrayLike,
    *,
    metrics: Sequence[str] = ("auc", "log_loss"),
    weights: npt.ArrayLike | None = None,
    groups: npt.ArrayLike | None = None,
    requests: npt.ArrayLike | None = None,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Interval]:
    """Intervals of metrics by the clustered bootstrap.

    Parameters
    ----------
    labels : array_like [n]
        Labels 0, 1 or ``nan``.
    scores : array_like [n] or [S, n]
        Predictions; with S rows, those of S training seeds: seeds are then drawn together with clusters,
        and the value is the mean of the metric over seeds (never the metric of averaged predictions).
        With few seeds the part of the variance that they cause is understated by (S - 1)/S.
    clusters : array_like [n]
        Ids that are drawn whole (members).
    metrics : sequence of str
        Of ``auc``, ``grouped_auc``, ``log_loss``, ``normalised_entropy``,
        ``expected_calibration_error`` (15 bins of equal mass), ``observed_over_expected``, ``mrr``,
        ``ndcg@K``, ``recall@K``.
    weights : array_like [n], optional
        Row weights (metrics per request do not use them).
    groups : array_like [n], optional
        Groups of ``grouped_auc``, weighted by size; the clusters if not given.
    requests : array_like [n], optional
        Lists of ``ndcg@K``, ``recall@K``, ``mrr``.
    draws : int
        How many.
    seed : int
        Of the draws; the same seed on the same rows gives the same draws.
    level : float
        Coverage.

    Returns
    -------
    dict of str to Interval

    Raises
    ------
    DataError
        See `defined_rows`; a metric is not known or lacks its ids; a group spans several clusters.

    References
    ----------
    .. [1] Field and Welsh (2007), Bootstrapping clustered data.

    Examples
    --------
    >>> found = bootstrap([0, 1, 0, 1], [0.1, 0.4, 0.5, 0.8], [1, 1, 2, 2], metrics=["auc"], draws=200)
    >>> print(found["auc"])
    0.7500 [0.7500, 1.0000]
    """
    samples = resample(
        labels, scores, clusters, metrics=metrics, weights=weights, groups=groups, requests=requests,
        draws=draws, seed=seed,
    )  # fmt: skip
    return {name: sample.interval(level) for name, sample in samples.items()}


def paired_bootstrap(
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    baseline: npt.ArrayLike,
    clusters: npt.ArrayLike,
    *,
    metrics: Sequence[str] = ("auc", "log_loss"),
    weights: npt.ArrayLike | None = None,
    groups: npt.ArrayLike | None = None,
    requests: npt.ArrayLike | None = None,
    draws: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Interval]:
    """Intervals of the difference ``scores - baseline``, both under the same draws.

    Parameters
    ----------
    labels, clusters, metrics, weights, groups, requests, draws, seed, level
        See `bootstrap`.
    scores, baseline : array_like [n] or [S, n]
        Two predictions of the same rows, with equally many seeds (seed s of one is drawn together with
        seed s of the other) or one of them with a single one.

    Returns
    -------
    dict of str to Interval

    Raises
    ------
    DataError
        See `bootstrap`; or the numbers of seeds differ and neither is one.

    Examples
    --------
    >>> found = paired_bootstrap([0, 1], [0.2, 0.8], [0.2, 0.8], [1, 2], metrics=["log_loss"], draws=9)
    >>> print(found["log_loss"])
    0.0000 [0.0000, 0.0000]
    """
    counts = {np.atleast_2d(np.asarray(array)).shape[0] for array in (scores, baseline)} - {1}
    if len(counts) > 1:
        raise DataError(
            f"predictions of {' and '.join(map(str, sorted(counts)))} seeds cannot be paired",
            where="metrics",
            fix="train both with the same seeds, or pass one seed of either",
        )
    ours, theirs = (
        resample(
            labels, array, clusters, metrics=metrics, weights=weights, groups=groups, requests=requests,
            draws=draws, seed=seed,
        )
        for array in (scores, baseline)
    )  # fmt: skip
    return {name: (ours[name] - theirs[name]).interval(level) for name in ours}


def resample(
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    clusters: npt.ArrayLike,
    *,
    metrics: Sequence[str] = ("auc", "log_loss"),
    weights: npt.ArrayLike | None = None,
    groups: npt.ArrayLike | None = None,
    requests: npt.ArrayLike | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, Resamples]:
    """Draw-by-draw values behind `bootstrap`, for comparing many predictions at the price of one each.

    Parameters
    ----------
    labels, scores, clusters, metrics, weights, groups, requests, draws, seed
        See `bootstrap`.

    Returns
    -------
    dict of str to Resamples

    Raises
    ------
    DataError
        See `bootstrap`.
    """
    by_seed = np.atleast_2d(np.asarray(scores))
    results = [
        _one_seed(_sample(labels, row, clusters, metrics, weights, groups, requests), metrics, draws, seed)
        for row in by_seed
    ]
    if len(results) == 1:
        return results[0]
    generator = np.random.default_rng(_streams(seed)[1])
    chosen = generator.integers(0, len(results), (draws, len(results)))
    times = np.stack([(chosen == s).sum(1) for s in range(len(results))]) / len(results)
    return {
        name: Resamples(
            float(np.mean([result[name].value for result in results])),
            _weighted(times, np.stack([result[name].draws for result in results])),
        )
        for name in metrics
    }


def _weighted(times: FloatArray, values: FloatArray) -> FloatArray:
    """Sum over seeds; a seed that was not drawn does not spread its ``nan``."""
    total: FloatArray = np.where(times > 0, times * values, 0.0).sum(0)
    return total


def _sample(
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    clusters: npt.ArrayLike,
    metrics: Sequence[str],
    weights: npt.ArrayLike | None,
    groups: npt.ArrayLike | None,
    requests: npt.ArrayLike | None,
) -> Sample:
    named: Mapping[str, npt.ArrayLike | None] = {"clusters": clusters, "groups": groups, "requests": requests}
    given = {name: ids for name, ids in named.items() if ids is not None}
    probabilities = not PROBABILITY_METRICS.isdisjoint(metrics)
    rows = defined_rows(labels, scores, weights, *given.values(), probabilities=probabilities)
    ids = dict(zip(given, rows.ids, strict=True))
    return Sample(rows, group_codes(ids["clusters"]), ids.get("groups", ids["clusters"]), ids.get("requests"))


def _one_seed(sample: Sample, metrics: Sequence[str], draws: int, seed: int) -> dict[str, Resamples]:
    prepared = {name: prepare(name, sample) for name in metrics}
    count = sample.clusters.size
    once = np.ones((count, 1), dtype=np.float32)
    values = {name: float(evaluate(once)[0]) for name, evaluate in prepared.items()}
    parts: dict[str, list[FloatArray]] = {name: [np.zeros(0)] for name in metrics}
    # One cluster drawn over and over never varies: that is no interval, and must not look like a tight one.
    if count > 1:
        for block in _cluster_draws(count, draws, seed):
            for name, evaluate in prepared.items():
                parts[name].append(evaluate(block))
    return {name: Resamples(values[name], np.concatenate(parts[name])) for name in metrics}


def _cluster_draws(count: int, draws: int, seed: int) -> Iterator[Draws]:
    """Counts of each cluster in draws of ``count`` with replacement, in blocks [count, <= BLOCK]."""
    generator = np.random.default_rng(_streams(seed)[0])
    for start in range(0, draws, BLOCK):
        width = min(BLOCK, draws - start)
        block = np.empty((count, width), dtype=np.float32)
        for b in range(width):
            block[:, b] = np.bincount(generator.integers(0, count, count), minlength=count)
        yield block


def _streams(seed: int) -> list[np.random.SeedSequence]:
    """Independent streams for clusters and for training seeds."""
    return np.random.SeedSequence(seed).spawn(2)
