"""How well scores put positives before negatives: AUC, AUC within groups, ROC and lift curves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from memberwise.metrics._inputs import FloatArray, Grouping, Rows, defined_rows, group_codes, ratio, sum_by
from memberwise.metrics._ties import order_within, run_ends
from memberwise.metrics.ranking import Grouped


@dataclass(frozen=True)
class Curve:
    """Points of a curve, one per distinct score and the origin, x ascending.

    Attributes
    ----------
    x, y : array [points]
        Coordinates; empty when the curve is not defined.
    threshold : array [points]
        Rows with a score at or above it are those counted at the point; the first is ``inf``.
    """

    x: FloatArray
    y: FloatArray
    threshold: FloatArray


def auc(labels: npt.ArrayLike, scores: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> float:
    r"""Probability that a random positive scores above a random negative, ties counting one half.

    .. math::
        \mathrm{AUC} = \frac{\sum_{i: y_i=1} \sum_{j: y_j=0} w_i w_j
            \left([s_i > s_j] + \tfrac12 [s_i = s_j]\right)}{\sum_{i: y_i=1} w_i \sum_{j: y_j=0} w_j}

    Parameters
    ----------
    labels, scores : array_like [n]
        Labels 0, 1 or ``nan``; any finite scores.
    weights : array_like [n], optional
        Row weights.

    Returns
    -------
    float
        ``nan`` with fewer than two classes.

    Raises
    ------
    DataError
        See `defined_rows`.

    References
    ----------
    .. [1] Hanley and McNeil (1982), The meaning and use of the area under a ROC curve.

    Examples
    --------
    >>> auc([0, 1, 0, 1], [0.1, 0.4, 0.4, 0.8])
    0.875
    """
    rows = defined_rows(labels, scores, weights)
    order = np.argsort(rows.scores)
    positive, negative = _tie_sums(rows, order, run_ends(rows.scores[order]))
    below = np.cumsum(negative) - negative
    pairs = positive.sum() * negative.sum()
    return float((positive * (below + negative / 2)).sum() / pairs) if pairs > 0 else float("nan")


def grouped_auc(
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    groups: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    *,
    weighting: Literal["size", "equal"] = "size",
) -> Grouped:
    r"""Mean of the AUC within groups (GAUC), over groups that hold both classes.

    .. math:: \mathrm{GAUC} = \sum_g v_g \mathrm{AUC}_g \,/\, \sum_g v_g

    with :math:`v_g` the group's total row weight (``size``) or one (``equal``).

    Do not use it to compare models whose member features are refreshed at different rates: a member
    enters only with both labels in the window, so a fresh running rate of that member is then
    negatively related to the labels that are left.

    Parameters
    ----------
    labels, scores : array_like [n]
        Labels 0, 1 or ``nan``; any finite scores.
    groups : array_like [n]
        Ids, usually of members.
    weights : array_like [n], optional
        Row weights.
    weighting : {"size", "equal"}
        What a group counts for.

    Returns
    -------
    Grouped
        ``value`` (``nan`` when no group has both classes) and ``groups``, the number used.

    Raises
    ------
    DataError
        See `defined_rows`.

    References
    ----------
    .. [1] Zhou et al. (2018), Deep interest network, equation 11.

    Examples
    --------
    >>> grouped_auc([0, 1, 0, 1, 1], [0.1, 0.4, 0.9, 0.8, 0.3], ["a", "a", "b", "b", "c"])
    Grouped(value=0.5, groups=2)
    """
    rows = defined_rows(labels, scores, weights, groups)
    values, masses = auc_of_groups(rows, group_codes(rows.ids[0]))
    used = ~np.isnan(values)
    if not used.any():
        return Grouped(float("nan"), 0)
    share = masses[used] if weighting == "size" else None
    return Grouped(float(np.average(values[used], weights=share)), int(used.sum()))


def auc_of_groups(rows: Rows, grouping: Grouping) -> tuple[FloatArray, FloatArray]:
    """Compute every group's AUC (``nan`` with one class) and total weight, both [groups]."""
    codes, count = grouping
    order, key = order_within(rows.scores, grouping)
    ends = run_ends(key)
    positive, negative = _tie_sums(rows, order, ends)
    group = codes[order[ends]]
    negatives = sum_by(group, negative, count)
    positives = sum_by(group, positive, count)
    before_group = np.cumsum(negatives) - negatives
    below = np.cumsum(negative) - negative - before_group[group]
    won = sum_by(group, positive * (below + negative / 2), count)
    pairs = positives * negatives
    return ratio(won, pairs), positives + negatives


def roc_curve(labels: npt.ArrayLike, scores: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Curve:
    """Share of positives found (y) against share of negatives mistaken for them (x), by threshold.

    Parameters
    ----------
    labels, scores : array_like [n]
        Labels 0, 1 or ``nan``; any finite scores.
    weights : array_like [n], optional
        Row weights.

    Returns
    -------
    Curve
        Empty with fewer than two classes.

    Raises
    ------
    DataError
        See `defined_rows`.

    Examples
    --------
    >>> curve = roc_curve([0, 1, 0, 1], [0.1, 0.4, 0.4, 0.8])
    >>> curve.x.tolist(), curve.y.tolist()
    ([0.0, 0.0, 0.5, 1.0], [0.0, 0.5, 1.0, 1.0])
    """
    positive, negative, threshold = _from_the_top(labels, scores, weights)
    if threshold.size == 0 or positive[-1] <= 0 or negative[-1] <= 0:
        return _no_curve()
    return Curve(
        np.concatenate([[0.0], negative / negative[-1]]),
        np.concatenate([[0.0], positive / positive[-1]]),
        np.concatenate([[np.inf], threshold]),
    )


def lift_curve(labels: npt.ArrayLike, scores: npt.ArrayLike, weights: npt.ArrayLike | None = None) -> Curve:
    """Rate of positives among the best-scored share x of rows, over the rate among all rows (y).

    Parameters
    ----------
    labels, scores : array_like [n]
        Labels 0, 1 or ``nan``; any finite scores.
    weights : array_like [n], optional
        Row weights.

    Returns
    -------
    Curve
        Without an origin (the lift of no rows is not defined); ends at (1, 1). Empty when there are no
        rows or no positives.

    Raises
    ------
    DataError
        See `defined_rows`.

    Examples
    --------
    >>> curve = lift_curve([0, 1, 0, 1], [0.1, 0.4, 0.4, 0.8])
    >>> curve.x.tolist(), curve.y.round(3).tolist()
    ([0.25, 0.75, 1.0], [2.0, 1.333, 1.0])
    """
    positive, negative, threshold = _from_the_top(labels, scores, weights)
    if threshold.size == 0 or positive[-1] <= 0:
        return _no_curve()
    mass = positive + negative
    return Curve(mass / mass[-1], positive / mass * (mass[-1] / positive[-1]), threshold)


def _tie_sums(
    rows: Rows, order: npt.NDArray[np.intp], ends: npt.NDArray[np.intp]
) -> tuple[FloatArray, FloatArray]:
    """Weight of the positives and of the negatives in every run of ties, both [runs]."""
    labels = rows.labels[order]
    if rows.weights is None:
        # Sums of whole numbers: exact, and a difference of running sums is the quickest way.
        positive = np.diff(np.cumsum(labels)[ends], prepend=0.0)
        return positive, np.diff(ends, prepend=-1) - positive
    if ends.size == 0:
        return np.zeros(0), np.zeros(0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    weights = rows.weights[order]
    return np.add.reduceat(weights * labels, starts), np.add.reduceat(weights * (1 - labels), starts)


def _from_the_top(
    labels: npt.ArrayLike, scores: npt.ArrayLike, weights: npt.ArrayLike | None
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Running positive and negative weight from the best score down, and the distinct scores."""
    rows = defined_rows(labels, scores, weights)
    order = np.argsort(rows.scores)
    ends = run_ends(rows.scores[order])
    positive, negative = _tie_sums(rows, order, ends)
    threshold = rows.scores[order][ends][::-1].astype(np.float64)
    return np.cumsum(positive[::-1]), np.cumsum(negative[::-1]), threshold


def _no_curve() -> Curve:
    return Curve(np.zeros(0), np.zeros(0), np.zeros(0))
