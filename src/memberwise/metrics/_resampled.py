"""Metrics as functions of how often each cluster was drawn.

A metric prepares what does not depend on the draw once (sorted rows, sums per cluster) and returns a
function of the draws alone: an AUC costs one pass over sorted rows, everything else one pass
over sums by cluster. Adding a metric is one function and one line in ``PREPARE``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from memberwise.errors import DataError
from memberwise.metrics._inputs import FloatArray, Grouping, Rows, group_codes, ratio, sum_by
from memberwise.metrics._kernels import auc_of_draws, sums_of_draws
from memberwise.metrics._ties import run_ends
from memberwise.metrics.calibration import binary_entropy, row_losses, score_bins
from memberwise.metrics.discrimination import auc_of_groups
from memberwise.metrics.ranking import ndcg_of_requests, recall_of_requests, reciprocal_rank_of_requests

Draws = npt.NDArray[np.float32]
Resampled = Callable[[Draws], FloatArray]
"""From draws [clusters, draws] to the metric's values [draws]."""

BINS = 15


@dataclass(frozen=True)
class Sample:
    """One set of predictions with its clusters.

    Attributes
    ----------
    rows : Rows
        Defined rows.
    clusters : Grouping
        Cluster of each row.
    groups, requests : array [n] or None
        Ids for GAUC and for metrics per request.
    """

    rows: Rows
    clusters: Grouping
    groups: npt.NDArray[Any]
    requests: npt.NDArray[Any] | None


def prepare(metric: str, sample: Sample) -> Resampled:
    """Make a metric ready to be evaluated under draws; names are the keys of ``PREPARE``.

    Raises
    ------
    DataError
        The name is not known, or a metric per request has no requests.
    """
    name, _, k = metric.partition("@")
    per_request = PER_REQUEST.get(name)
    if per_request is not None and k.isdigit() == (name != "mrr"):
        if sample.requests is None:
            raise DataError(f"'{metric}' needs the requests of the rows", where="metrics")
        grouping = group_codes(sample.requests)
        values = per_request(sample.rows, grouping, int(k or 0))
        return _mean_of_groups(sample, grouping, values, np.ones(grouping.size))
    if metric not in PREPARE:
        known = ", ".join([*PREPARE, "ndcg@K", "recall@K", "mrr"])
        raise DataError(f"no metric '{metric}'", where="metrics", fix=f"one of {known}")
    return PREPARE[metric](sample)


def _auc(sample: Sample) -> Resampled:
    rows = sample.rows
    order = np.argsort(rows.scores)
    tie_end = np.zeros(len(rows), dtype=np.bool_)
    tie_end[run_ends(rows.scores[order])] = True
    cluster = sample.clusters.codes[order].astype(np.int32)
    positive, weight = rows.labels[order] > 0, rows.masses[order]
    return lambda draws: auc_of_draws(cluster, positive, weight, tie_end, draws)


def _grouped_auc(sample: Sample) -> Resampled:
    grouping = group_codes(sample.groups)
    values, masses = auc_of_groups(sample.rows, grouping)
    return _mean_of_groups(sample, grouping, values, masses)


def _log_loss(sample: Sample) -> Resampled:
    rows = sample.rows
    sums = _sums(sample, row_losses(rows) * rows.masses, rows.masses)
    return lambda draws: ratio(*sums_of_draws(sums, draws))


def _normalised_entropy(sample: Sample) -> Resampled:
    rows = sample.rows
    sums = _sums(sample, row_losses(rows) * rows.masses, rows.masses, rows.positives)

    def evaluate(draws: Draws) -> FloatArray:
        loss, mass, positive = sums_of_draws(sums, draws)
        return ratio(ratio(loss, mass), binary_entropy(ratio(positive, mass)))

    return evaluate


def _observed_over_expected(sample: Sample) -> Resampled:
    rows = sample.rows
    sums = _sums(sample, rows.positives, rows.masses * rows.scores)
    return lambda draws: ratio(*sums_of_draws(sums, draws))


def _expected_calibration_error(sample: Sample) -> Resampled:
    rows, clusters = sample.rows, sample.clusters
    # The bins stay those of the sample: a draw changes how much lies in each, not where they end.
    cell = clusters.codes * np.int64(BINS) + score_bins(rows, BINS, "mass")
    gap = sum_by(cell, rows.masses * (rows.labels - rows.scores), BINS * clusters.size).reshape(-1, BINS)
    sums = np.column_stack([gap, _sums(sample, rows.masses)])

    def evaluate(draws: Draws) -> FloatArray:
        found = sums_of_draws(sums, draws)
        return ratio(np.abs(found[:-1]).sum(0), found[-1])

    return evaluate


def _mean_of_groups(sample: Sample, grouping: Grouping, values: FloatArray, masses: FloatArray) -> Resampled:
    """Weighted mean of group values under draws; a group is drawn with the cluster that holds it."""
    owner = np.zeros(grouping.size, dtype=np.int64)
    owner[grouping.codes] = sample.clusters.codes
    if not np.array_equal(owner[grouping.codes], sample.clusters.codes):
        raise DataError(
            "a group (or request) has rows in more than one cluster",
            where="metrics",
            fix="resample clusters that hold whole groups, members for instance",
        )
    mass = np.where(np.isnan(values), 0.0, masses)
    columns = (np.nan_to_num(values) * mass, mass)
    sums = np.column_stack([sum_by(owner, column, sample.clusters.size) for column in columns])
    return lambda draws: ratio(*sums_of_draws(sums, draws))


def _sums(sample: Sample, *columns: FloatArray) -> FloatArray:
    """Sums of row columns by cluster, [clusters, columns]."""
    clusters = sample.clusters
    return np.column_stack([sum_by(clusters.codes, column, clusters.size) for column in columns])


PREPARE: dict[str, Callable[[Sample], Resampled]] = {
    "auc": _auc,
    "grouped_auc": _grouped_auc,
    "log_loss": _log_loss,
    "normalised_entropy": _normalised_entropy,
    "expected_calibration_error": _expected_calibration_error,
    "observed_over_expected": _observed_over_expected,
}

PER_REQUEST: dict[str, Callable[[Rows, Grouping, int], FloatArray]] = {
    "ndcg": ndcg_of_requests,
    "recall": recall_of_requests,
    "mrr": lambda rows, grouping, _: reciprocal_rank_of_requests(rows, grouping),
}

PROBABILITY_METRICS = frozenset(PREPARE) - {"auc", "grouped_auc"}
