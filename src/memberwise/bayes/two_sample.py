"""From two groups of samples to one z-value per feature."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri_exp
from scipy.stats import t as student

from memberwise.bayes.likelihood import BoolArray, FloatArray

_CLIP = 8.0
GUARD = 0.05


@dataclass(frozen=True)
class TwoSample:
    r"""Normalised differences of two groups (Welch).

    .. math:: S_j = \sqrt{s_{1j}^2/n_1 + s_{2j}^2/n_2}, \qquad z_j \approx N(\delta_j, 1), \quad
              \delta_j = (\mu_{1j} - \mu_{2j}) / S_j

    Parameters
    ----------
    z : float64 [p]
        z-values; 0 where the feature does not vary.
    scale : float64 [p]
        Standard error S_j of the difference; inf where the feature does not vary.
    middle : float64 [p]
        Midpoint of the two means.
    effective : float
        n1 n2 / (n1 + n2), the harmonic sample size that turns a z-value into log-odds.
    log_prior : float
        Log ratio of the group sizes.
    """

    z: FloatArray
    scale: FloatArray
    middle: FloatArray
    effective: float
    log_prior: float


def compare(X: FloatArray, positive: BoolArray, *, guard: float = GUARD) -> TwoSample:
    """Compare the rows where ``positive`` is true with the others.

    t-values become z-values through Satterthwaite's degrees of freedom, clipped at 8: with few samples
    the tails of t would be taken for signal. Tiny standard errors, which are luck, are raised to a low
    quantile of all; a feature that does not vary is dropped. A group of one sample borrows the other's
    variance.

    Parameters
    ----------
    X : float64 [n, p]
        Samples.
    positive : bool [n]
        Membership of the first group; both groups have at least one sample.
    guard : float
        That quantile; 0 leaves every standard error as it is.
    """
    first, second = X[positive], X[~positive]
    n1, n2 = first.shape[0], second.shape[0]
    v1 = first.var(axis=0, ddof=1) if n1 > 1 else second.var(axis=0, ddof=1 if n2 > 1 else 0)
    v2 = second.var(axis=0, ddof=1) if n2 > 1 else v1
    m1, m2 = first.mean(axis=0), second.mean(axis=0)
    spread = v1 / n1 + v2 / n2
    varies = spread > 1e-24 * np.maximum(1.0, np.abs(m1) + np.abs(m2)) ** 2
    scale = np.full(X.shape[1], np.inf)
    freedom = np.ones(X.shape[1])
    if varies.any():
        raised = np.sqrt(spread[varies])
        scale[varies] = np.maximum(raised, np.quantile(raised, guard))
        parts = (v1 / n1) ** 2 / max(n1 - 1, 1) + (v2 / n2) ** 2 / max(n2 - 1, 1)
        freedom[varies] = spread[varies] ** 2 / np.maximum(parts[varies], 1e-300)
    t = (m1 - m2) / scale
    z = to_z(t, np.clip(freedom, 1.0, max(n1 + n2 - 2, 1)))
    return TwoSample(z, scale, 0.5 * (m1 + m2), n1 * n2 / (n1 + n2), float(np.log(n1 / n2)))


def to_z(t: FloatArray, freedom: FloatArray) -> FloatArray:
    """Return the normal value with the same tail probability, between -8 and 8, [p]."""
    tail = ndtri_exp(student.logcdf(-np.abs(t), freedom))
    return np.clip(-np.sign(t) * tail, -_CLIP, _CLIP)


def empirical_null(z: FloatArray) -> tuple[float, float]:
    """Return centre and scale of the null z-values: median and spread of their middle half.

    Correlated features make the null wider or narrower than N(0, 1), and may shift it. The scale is
    never below one.
    """
    low, centre, high = np.quantile(z, [0.25, 0.5, 0.75])
    return float(centre), max(1.0, float(high - low) / 1.3489795003921634)
