"""Sums over decisions and over bootstrap draws of members, and intervals of what is made of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from memberwise.metrics import Interval

Floats = npt.NDArray[np.float64]


def ratio(a: Any, b: Any) -> Any:
    """``a / b``, NaN where b is not positive."""
    return np.divide(a, b, out=np.full_like(np.asarray(a, np.float64), np.nan), where=np.asarray(b) > 0)


def sums(
    columns: dict[str, Floats], clusters: npt.NDArray[Any] | None, draws: int, seed: int
) -> tuple[dict[str, Any], dict[str, Any], int]:
    """Sums of columns over all rows, and over every bootstrap draw of clusters, [draws]."""
    names = list(columns)
    table = np.stack([columns[name] for name in names], axis=1)
    if clusters is not None:
        codes = np.unique(clusters, return_inverse=True)[1]
        table = np.stack([np.bincount(codes, weights=c) for c in table.T], axis=1)
    count, generator = len(table), np.random.default_rng(seed)
    drawn = np.empty((draws, len(names)))
    for i in range(draws):
        times = np.bincount(generator.integers(0, count, count), minlength=count)
        drawn[i] = times @ table
    whole = dict(zip(names, table.sum(0), strict=True))
    return whole, dict(zip(names, drawn.T, strict=True)), count


def interval_of(value: float, draws: Floats, level: float) -> Interval:
    """A value with the quantiles of its draws; those that are not finite do not count."""
    good = draws[np.isfinite(draws)]
    if good.size < 2 or not np.isfinite(value):
        return Interval(value, float("nan"), float("nan"), float("nan"))
    low, high = np.quantile(good, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high), float(good.std(ddof=1)))
