"""Whether probabilities mean what they say: log-loss, normalised entropy, ECE, O/E, reliability."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from memberwise.errors import DataError
from memberwise.metrics._inputs import Codes, FloatArray, Rows, defined_rows, group_codes, sum_by
from memberwise.metrics._ties import run_ends

Bins = Literal["mass", "width"]


@dataclass(frozen=True)
class ReliabilityCurve:
    """Predicted and observed rates in bins of the prediction, in rising order; empty bins left out.

    Attributes
    ----------
    predicted, observed : array [bins]
        Mean probability and rate of positives.
    weight : array [bins]
        Total row weight.
    error : array [bins]
        Standard error of ``observed - predicted``, with rows of one cluster taken as one draw.
    """

    predicted: FloatArray
    observed: FloatArray
    weight: FloatArray
    error: FloatArray


def log_loss(labels: npt.ArrayLike, scores: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> float:
    r"""Mean negative log-likelihood, in nats.

    .. math:: -\frac{1}{\sum w_i} \sum_i w_i \left(y_i \log p_i + (1 - y_i) \log(1 - p_i)\right)

    Probabilities are kept one machine epsilon (of their own type) away from 0 and 1.

    Parameters
    ----------
    labels, scores : array_like [n]
        Labels 0, 1 or ``nan``; probabilities.
    weights : array_like [n], optional
        Row weights.

    Returns
    -------
    float
        ``nan`` without rows; defined with one class.

    Raises
    ------
    DataError
        See `defined_rows`; or a score is not a probability.

    Examples
    --------
    >>> round(log_loss([1, 0], [0.8, 0.4]), 4)
    0.367
    """
    rows = defined_rows(labels, scores, weights, probabilities=True)
    return _mean(row_losses(rows), rows)


def normalised_entropy(
    labels: npt.ArrayLike, scores: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> float:
    r"""Log-loss over the entropy of the base rate: below one is better than a constant.

    .. math:: \mathrm{NE} = \mathrm{logloss} \,/\, -\left(q \log q + (1-q) \log(1-q)\right), \quad q = \bar y

    Parameters
    ----------
    labels, scores : array_like [n]
        Labels 0, 1 or ``nan``; probabilities.
    weights : array_like [n], optional
        Row weights.

    Returns
    -------
    float
        ``nan`` with fewer than two classes.

    Raises
    ------
    DataError
        See `defined_rows`; or a score is not a probability.

    References
    ----------
    .. [1] He et al. (2014), Practical lessons from predicting clicks on ads at Facebook, equation 1.

    Examples
    --------
    >>> normalised_entropy([1, 0], [0.5, 0.5])
    1.0
    """
    rows = defined_rows(labels, scores, weights, probabilities=True)
    entropy = float(binary_entropy(np.asarray(_mean(rows.labels, rows))))
    return _mean(row_losses(rows), rows) / entropy if entropy > 0 else float("nan")


def observed_over_expected(
    labels: npt.ArrayLike, scores: npt.ArrayLike, weights: npt.ArrayLike | None = None
) -> float:
    r"""Positives that came over positives that were predicted: above one is under-prediction.

    .. math:: \mathrm{O/E} = \sum_i w_i y_i \,/\, \sum_i w_i p_i

    Parameters
    ----------
    labels, scores : array_like [n]
        Labels 0, 1 or ``nan``; probabilities.
    weights : array_like [n], optional
        Row weights.

    Returns
    -------
    float
        ``nan`` when nothing is expected.

    Raises
    ------
    DataError
        See `defined_rows`; or a score is not a probability.

    Examples
    --------
    >>> observed_over_expected([1, 0, 1], [0.5, 0.25, 0.25])
    2.0
    """
    rows = defined_rows(labels, scores, weights, probabilities=True)
    expected = float((rows.masses * rows.scores).sum())
    return float(rows.positives.sum()) / expected if expected > 0 else float("nan")


def expected_calibration_error(
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    *,
    bins: int = 15,
    by: Bins = "mass",
) -> float:
    r"""Mean distance between predicted and observed rates over bins of the prediction (ECE).

    .. math:: \mathrm{ECE} = \sum_b \frac{w_b}{\sum w} \left| \bar y_b - \bar p_b \right|

    Parameters
    ----------
    labels, scores : array_like [n]
        Labels 0, 1 or ``nan``; probabilities.
    weights : array_like [n], optional
        Row weights.
    bins : int
        How many.
    by : {"mass", "width"}
        Bins of equal weight (equal scores always share a bin) or of equal width in [0, 1].

    Returns
    -------
    float
        ``nan`` without rows.

    Raises
    ------
    DataError
        See `defined_rows`; a score is not a probability; or ``bins`` is not positive.

    References
    ----------
    .. [1] Naeini et al. (2015), Obtaining well calibrated probabilities using Bayesian binning.

    Examples
    --------
    >>> round(expected_calibration_error([1, 1, 0, 0], [0.9, 0.9, 0.1, 0.3], bins=2), 3)
    0.15
    """
    rows = defined_rows(labels, scores, weights, probabilities=True)
    if len(rows) == 0:
        return float("nan")
    gap = sum_by(score_bins(rows, bins, by), rows.masses * (rows.labels - rows.scores), bins)
    return float(np.abs(gap).sum() / rows.masses.sum())


def reliability_curve(
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    *,
    clusters: npt.ArrayLike | None = None,
    bins: int = 15,
    by: Bins = "mass",
) -> ReliabilityCurve:
    """Observed rate of positives against the predicted one, in bins of the prediction.

    Parameters
    ----------
    labels, scores : array_like [n]
        Labels 0, 1 or ``nan``; probabilities.
    weights : array_like [n], optional
        Row weights.
    clusters : array_like [n], optional
        Ids whose rows belong together (members); each row is its own cluster if not given. The error is
        the linearised one of a ratio of cluster sums.
    bins : int
        How many.
    by : {"mass", "width"}
        See `expected_calibration_error`.

    Returns
    -------
    ReliabilityCurve

    Raises
    ------
    DataError
        See `defined_rows`; a score is not a probability; or ``bins`` is not positive.

    Examples
    --------
    >>> reliability_curve([1, 1, 0, 0], [0.9, 0.9, 0.1, 0.3], bins=2).observed.tolist()
    [0.0, 1.0]
    """
    ids = () if clusters is None else (clusters,)
    rows = defined_rows(labels, scores, weights, *ids, probabilities=True)
    if len(rows) == 0:
        return ReliabilityCurve(np.zeros(0), np.zeros(0), np.zeros(0), np.zeros(0))
    bin_, count = group_codes(score_bins(rows, bins, by))
    weight = sum_by(bin_, rows.masses, count)
    predicted = sum_by(bin_, rows.masses * rows.scores, count) / weight
    observed = sum_by(bin_, rows.positives, count) / weight
    cluster = group_codes(rows.ids[0]).codes if rows.ids else np.arange(len(rows), dtype=np.int64)
    residual = rows.masses * (rows.labels - rows.scores - (observed - predicted)[bin_])
    cell, cells = group_codes(cluster * count + bin_)
    sums = sum_by(cell, residual, cells)
    cell_bin = np.zeros(cells, dtype=np.int64)
    cell_bin[cell] = bin_
    error = np.sqrt(sum_by(cell_bin, sums**2, count)) / weight
    return ReliabilityCurve(predicted, observed, weight, error)


def row_losses(rows: Rows) -> FloatArray:
    """Negative log-likelihood of every row in nats, [n] float64."""
    eps = float(np.finfo(rows.scores.dtype).eps)
    right = np.where(rows.labels > 0, rows.scores, 1 - rows.scores.astype(np.float64))
    loss: FloatArray = -np.log(np.clip(right, eps, 1 - eps))
    return loss


def binary_entropy(rate: FloatArray) -> FloatArray:
    """Entropy of a rate in nats; zero at 0 and 1, ``nan`` at ``nan``."""
    inside = np.clip(rate, 1e-300, None), np.clip(1 - rate, 1e-300, None)
    entropy: FloatArray = -(rate * np.log(inside[0]) + (1 - rate) * np.log(inside[1]))
    return entropy


def score_bins(rows: Rows, bins: int, by: Bins) -> Codes:
    """Bin of every row, [n] in 0..bins-1; rows with the same score share a bin."""
    if bins < 1:
        raise DataError(f"bins must be at least 1, not {bins}", where="metrics")
    if by == "width" or len(rows) == 0:
        return np.minimum((rows.scores * bins).astype(np.int64), bins - 1)
    order = np.argsort(rows.scores)
    ordered = rows.scores[order]
    ends = run_ends(ordered)
    total = np.cumsum(rows.masses[order])[ends]
    middle = (total + np.concatenate([[0.0], total[:-1]])) / 2
    bin_ = np.minimum((middle / total[-1] * bins).astype(np.int64), bins - 1)
    result = np.empty(len(rows), dtype=np.int64)
    result[order] = np.repeat(bin_, np.diff(ends, prepend=-1))
    return result


def _mean(values: FloatArray, rows: Rows) -> float:
    return float(np.average(values, weights=rows.weights)) if len(rows) else float("nan")
