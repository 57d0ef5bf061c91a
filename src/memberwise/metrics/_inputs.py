"""The one place where labels, scores and weights are checked and undefined rows are dropped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from memberwise.errors import DataError

FloatArray = npt.NDArray[np.float64]
ScoreArray = npt.NDArray[np.float32] | npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """Rows on which a metric is computed, all of them defined, finite and of positive weight.

    Attributes
    ----------
    labels : array [n]
        float64, zeros and ones.
    scores : array [n]
        float32 or float64, as they came.
    weights : array [n] or None
        float64; ``None`` is one each.
    ids : tuple of arrays [n]
        What was passed beside, cut to the same rows.
    """

    labels: FloatArray
    scores: ScoreArray
    weights: FloatArray | None
    ids: tuple[npt.NDArray[Any], ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def positives(self) -> FloatArray:
        """Weight of each row's positive part, [n]."""
        return self.labels if self.weights is None else self.labels * self.weights

    @property
    def masses(self) -> FloatArray:
        """Weight of each row, [n]."""
        return np.ones(len(self.labels)) if self.weights is None else self.weights


class Grouping(NamedTuple):
    """Ids as consecutive codes: ``codes`` [n] in 0..size-1, every code in use."""

    codes: Codes
    size: int


def defined_rows(
    labels: npt.ArrayLike,
    scores: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    *ids: npt.ArrayLike,
    probabilities: bool = False,
) -> Rows:
    """Check one task's rows and leave out those with a ``nan`` label or a weight of zero.

    Parameters
    ----------
    labels, scores : array_like [n]
        See the conventions of `memberwise.metrics`.
    weights : array_like [n], optional
        Row weights.
    *ids : array_like [n]
        Further columns to cut to the same rows (members, requests).
    probabilities : bool
        Whether scores must also lie in [0, 1].

    Returns
    -------
    Rows

    Raises
    ------
    DataError
        Lengths differ; a defined label is neither 0 nor 1; a score of a defined row is not finite or
        not a probability; a weight is negative or not finite.
    """
    y = np.asarray(labels, dtype=np.float64)
    s = _floating(scores)
    w = None if weights is None else np.asarray(weights, dtype=np.float64)
    columns = tuple(np.asarray(column) for column in ids)
    for column in (y, s, w, *columns):
        if column is not None and (column.ndim != 1 or len(column) != y.size):
            raise DataError(
                f"labels, scores, weights and ids must be one-dimensional and of one length, "
                f"not {y.shape} and {column.shape}",
                where="metrics",
            )
    keep = ~np.isnan(y)
    if w is not None:
        _check(np.isfinite(w) & (w >= 0) | ~keep, w, "a weight must be finite and not negative")
        keep &= w != 0
    if not keep.all():
        y, s = y[keep], s[keep]
        w = None if w is None else w[keep]
        columns = tuple(column[keep] for column in columns)
    _check((y == 0) | (y == 1), y, "a label must be 0, 1 or nan (not defined)")
    _check(
        np.isfinite(s), s, "a prediction must be finite", "look at the training log: did the loss diverge?"
    )
    if probabilities:
        _check((s >= 0) & (s <= 1), s, "a probability must lie in [0, 1]", "pass probabilities, not logits")
    return Rows(y, s, w, columns)


def group_codes(ids: npt.NDArray[Any]) -> Grouping:
    """Number the distinct ids 0, 1, ... in sorted order.

    Parameters
    ----------
    ids : array [n]
        Integers in a range not much wider than n take O(n); anything else is sorted.

    Returns
    -------
    Grouping
    """
    if ids.size == 0:
        return Grouping(np.zeros(0, dtype=np.int64), 0)
    if np.issubdtype(ids.dtype, np.integer):
        low, high = int(ids.min()), int(ids.max())
        if high - low <= 4 * ids.size + 1024 and high <= np.iinfo(np.int64).max:
            shifted = ids.astype(np.int64) - low
            present = np.bincount(shifted, minlength=high - low + 1) > 0
            numbers = np.cumsum(present) - 1
            return Grouping(numbers[shifted], int(numbers[-1]) + 1)
    distinct, inverse = np.unique(ids, return_inverse=True)
    return Grouping(inverse.reshape(-1).astype(np.int64), len(distinct))


def sum_by(codes: Codes, values: npt.NDArray[Any], size: int) -> FloatArray:
    """Sum of values by code, [size]."""
    return np.bincount(codes, weights=values, minlength=size).astype(np.float64, copy=False)


def ratio(numerator: npt.NDArray[Any], denominator: npt.NDArray[Any]) -> FloatArray:
    """Quotient of two arrays, ``nan`` where the denominator is zero."""
    result = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=result, where=denominator > 0)
    return result


def _floating(scores: npt.ArrayLike) -> ScoreArray:
    """Scores as float32 if they came so (sorting is faster, ties stay ties), else float64."""
    array = np.asarray(scores)
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)


def _check(good: npt.NDArray[np.bool_], values: ScoreArray, rule: str, fix: str | None = None) -> None:
    if not good.all():
        bad = np.flatnonzero(~good)
        raise DataError(
            f"{rule}; {bad.size} rows are not, the first is {values[bad[0]]}", where="metrics", fix=fix
        )
