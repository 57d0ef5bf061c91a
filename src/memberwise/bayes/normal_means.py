"""Normal observations as weighted points: raw while they are few, binned when they are many and alike."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from memberwise.bayes.inputs import InputError
from memberwise.bayes.likelihood import FloatArray

RAW_LIMIT = 5_000  # observations kept one by one
_BINS_PER_SD = 256
Shard = FloatArray | tuple[FloatArray, float | FloatArray]


@dataclass(frozen=True)
class Points:
    """Weighted observations.

    Parameters
    ----------
    x : float64 [m]
        Values; of a bin, the mean of what fell into it.
    noise : float64 [m]
        Standard deviation of each value around its theta.
    count : float64 [m]
        How many observations each point stands for.
    """

    x: FloatArray
    noise: FloatArray
    count: FloatArray

    @property
    def total(self) -> float:
        """Number of observations."""
        return float(self.count.sum())


def observations(x: object, noise: object = 1.0) -> tuple[FloatArray, FloatArray]:
    """Return values and noise as two finite float64 arrays [n].

    Raises
    ------
    InputError
        Empty, not one-dimensional, not finite, or a noise that is not positive.
    """
    values = np.asarray(x, dtype=np.float64)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1 or values.size == 0:
        raise InputError(f"expected a non-empty vector of observations, got shape {values.shape}")
    spread = np.asarray(noise, dtype=np.float64)
    if spread.ndim and spread.shape != values.shape:
        raise InputError(f"{values.size} observations but a noise of shape {spread.shape}")
    if not (np.isfinite(values).all() and np.isfinite(spread).all()):
        raise InputError("observations and their noise must be finite")
    if not (spread > 0).all():
        raise InputError("the noise must be positive", fix="drop observations of zero variance")
    return values, np.broadcast_to(spread, values.shape)


def summarise(shards: Iterable[Shard]) -> list[Points]:
    r"""Reduce observations to points, shard by shard.

    Up to `RAW_LIMIT` observations are kept as they are. More, if their noise is one and the same, are
    counted on a fixed lattice of 256 cells per standard deviation, each cell standing at the mean of its
    content: counts of shards add up, so any cut into shards gives the same points. Error of a cell:
    at most :math:`(s/256)^2/8` in the second moment. With unequal noise every shard is kept whole and
    the updates sum over shards.

    Parameters
    ----------
    shards : iterable of x, or of (x, noise)
        Observations with a noise of 1, or with their own.
    """
    pairs = [observations(*(shard if isinstance(shard, tuple) else (shard,))) for shard in shards]
    if not pairs:
        raise InputError("no observations")
    first = float(pairs[0][1][0])
    equal = all((noise == first).all() for _, noise in pairs)
    if sum(x.size for x, _ in pairs) <= RAW_LIMIT:
        x = np.concatenate([x for x, _ in pairs])
        return [Points(x, np.concatenate([noise for _, noise in pairs]), np.ones(x.size))]
    if not equal:
        return [Points(x, np.ascontiguousarray(noise), np.ones(x.size)) for x, noise in pairs]
    return [_binned([x for x, _ in pairs], first)]


def _binned(parts: list[FloatArray], noise: float) -> Points:
    """Count all parts on one lattice."""
    cells, counts, sums = [], [], []
    for x in parts:
        cell = np.floor(x * (_BINS_PER_SD / noise)).astype(np.int64)
        low = int(cell.min())
        if int(cell.max()) - low < 4 * x.size + 1_000_000:
            count, total = np.bincount(cell - low), np.bincount(cell - low, weights=x)
            occupied = np.flatnonzero(count)
            cells.append(occupied + low)
            counts.append(count[occupied])
            sums.append(total[occupied])
        else:  # a few values far away: sort instead of counting
            distinct, inverse = np.unique(cell, return_inverse=True)
            cells.append(distinct)
            counts.append(np.bincount(inverse))
            sums.append(np.bincount(inverse, weights=x))
    distinct, inverse = np.unique(np.concatenate(cells), return_inverse=True)
    count = np.bincount(inverse, weights=np.concatenate(counts))
    mean = np.bincount(inverse, weights=np.concatenate(sums)) / count
    return Points(mean, np.full(mean.size, noise), np.asarray(count, dtype=np.float64))
