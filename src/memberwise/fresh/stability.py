"""How much histograms differ, and how much of it chance explains: of few rows, and of the stretch of time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import chi2, f, t

from memberwise.schema import DAY

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

CHANCE = 0.999
_SIGMAS = 3.29  # the same level for a rate
_LENGTHS = (1 / 24, 1 / 4, 1.0, 2.0, 4.0, 8.0, 16.0)
_FEWEST, _MOST = 8, 32
"""Stretches of one length that are looked at: of fewer nothing is said."""
_UNSURE = 0.1  # a variance is taken to be as large as it is in one case of ten
WHOLE = 0.9
"""Of a stretch or a cycle: so much of it counts as all."""
_MANY = 1e9  # degrees of freedom of what does not vary; JSON has no infinity


@dataclass(frozen=True)
class Spread:
    """How much stretches of one length differ.

    All rows of a day may carry one value (an aggregate as of midnight), and every day has its own mix of
    members and items: a day is then a sample of one, however many rows it has.

    Attributes
    ----------
    days
        Length of a stretch.
    mean
        Of a feature: mean PSI of a stretch against all others. Of a rate or a ratio: variance between
        stretches, less the mean square of their errors.
    freedom
        ``2 mean^2 / variance`` of these PSIs: degrees of freedom of the chi-squared variable that they are
        like, with the variance at the upper end of what so few stretches allow.
    noise
        Mean of ``1/n + 1/m`` for the effective rows of a stretch and of the others.
    stretches
        How many.
    """

    days: float
    mean: float
    freedom: float
    noise: float
    stretches: int


def fitting(spreads: Sequence[Spread], days: float | None) -> Spread | None:
    """The spread of the longest stretches that are no longer than so many days; else of the shortest.

    Rows of a whole day begin a little after midnight and end a little before.
    """
    if days is None or not spreads:
        return None
    return max((s for s in spreads if WHOLE * s.days <= days), key=lambda s: s.days, default=spreads[0])


def psi_by_chance(used: int, noise: float, spread: Spread | None) -> float:
    r"""What a PSI exceeds once in a thousand without drift.

    .. math:: \max\{(1/n + 1/m)\, \chi^2_{B-1},\; \mathrm{mean} \cdot F_{\nu, \nu (K-1)}\}

    each at its quantile: what the number of rows explains, and what K other stretches of time differ by,
    whose mean is known as well as nu degrees of freedom of each allow.

    Parameters
    ----------
    used
        B, bins with rows.
    noise
        ``1/n + 1/m``.
    spread
        Of stretches as long as the one that is judged; None where it is not known.
    """
    rows = float(noise * chi2.ppf(CHANCE, max(1, used - 1)))
    if spread is None or not spread.mean:
        return rows
    # Fewer rows than those stretches had differ more.
    mean = spread.mean + (used - 1) * max(0.0, noise - spread.noise)
    known = spread.freedom * (spread.stretches - 1)
    return max(rows, mean * float(f.ppf(CHANCE, spread.freedom, known)))


def gap_by_chance(one: float, other: float, spread: Spread | None) -> float:
    """What a difference of two rates or ratios with these errors exceeds once in a thousand without drift."""
    rows = _SIGMAS**2 * (one**2 + other**2)
    if spread is None or not spread.mean:
        return float(np.sqrt(rows))
    level = float(t.ppf(1 - (1 - CHANCE) / 2, spread.stretches - 1))
    return float(np.sqrt(rows + level**2 * spread.mean))


def stability(before: Floats, now: Floats) -> float:
    """Population stability index of two histograms; bins that both lack do not count."""
    used = (before + now) > 0
    p, q = before[used] + 0.5, now[used] + 0.5
    p, q = p / p.sum(), q / q.sum()
    return float(((q - p) * np.log(q / p)).sum())


def stretches(times: Ints) -> list[tuple[float, Ints]]:
    """The lengths in days that some rows can be cut into, and the stretch of every row, -1 for none."""
    first, days = int(times.min()), float(times.max() - times.min()) / DAY
    found = []
    for length in _LENGTHS:
        many = int(days / length + 1 - WHOLE)
        if many < _FEWEST:
            break
        place = ((times - first) / (length * DAY)).astype(np.int64)
        chosen = np.unique(np.linspace(0, many - 1, min(many, _MOST)).round().astype(np.int64))
        at = np.searchsorted(chosen, place).clip(0, len(chosen) - 1)
        found.append((length, np.where(chosen[at] == place, at, -1)))
    return found


def effective(each: Floats) -> Floats:
    """As many independent rows would say. ``(sum n_m)^2 / sum n_m^2`` over members m; ``[.., M] -> [..]``"""
    squares = (each**2).sum(-1)
    size: Floats = np.divide(each.sum(-1) ** 2, squares, out=np.zeros_like(squares), where=squares > 0)
    return size


def spread_of_counts(days: float, counts: Floats, total: Floats, sizes: Floats, others: Floats) -> Spread:
    """Of a feature.

    Parameters
    ----------
    days
        Length of a stretch.
    counts : ndarray, [K, B]
        Rows of every stretch in each bin.
    total : ndarray, [B]
        All rows.
    sizes, others : ndarray, [K]
        Effective rows of every stretch, and of all but it.
    """
    there = np.flatnonzero((sizes > 0) & (others > 0) & (counts.sum(1) > 0))
    if (many := len(there)) < _FEWEST:
        return Spread(days, 0.0, _MANY, 0.0, many)
    psi = np.array([stability(total - counts[k], counts[k]) for k in there])
    weights = sizes[there] / sizes[there].sum()  # a stretch of few rows says little
    mean, noise = float(weights @ psi), float(weights @ (1 / sizes[there] + 1 / others[there]))
    variance = float(weights @ (psi - mean) ** 2) * many / float(chi2.ppf(_UNSURE, many - 1))
    freedom = max(1.0, 2 * mean**2 / variance) if variance > 0 else _MANY
    return Spread(days, mean, freedom, noise, many)


def spread_of_values(days: float, values: Floats, errors: Floats, weights: Floats) -> Spread:
    """Of a rate or a ratio, from that of every stretch with its error. ``[K], [K], [K]``"""
    if len(values) < _FEWEST:
        return Spread(days, 0.0, _MANY, 0.0, len(values))
    share = weights / weights.sum()
    variance = float(share @ (values - share @ values) ** 2) / (1 - float(share @ share))
    return Spread(days, max(0.0, variance - float(share @ errors**2)), _MANY, 0.0, len(values))
