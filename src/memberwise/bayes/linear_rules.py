"""Linear rules for two groups of few samples with many features; each returns log-odds weights.

Conventions
-----------
``X`` : float64 [n, p], ``positive`` : bool [n]. A rule is a `LinearRules` with one row per setting of
its tuning parameter; its score ``x'coef + intercept`` is the log-odds of the positive group.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.linalg

from memberwise.bayes.likelihood import BoolArray, FloatArray
from memberwise.bayes.two_sample import TwoSample


@dataclass(frozen=True)
class LinearRules:
    """One linear rule per tuning value.

    Parameters
    ----------
    coef : float64 [h, p]
        Weights.
    intercept : float64 [h]
        Constants; where all weights are zero, the log ratio of the groups in training.
    """

    coef: FloatArray
    intercept: FloatArray

    def scores(self, X: FloatArray) -> FloatArray:
        """Log-odds of the positive group for each sample and rule, [n, h]."""
        return X @ self.coef.T + self.intercept


def assemble(coef: FloatArray, middle: FloatArray, log_prior: float, fallback: float) -> LinearRules:
    """Put the threshold at the midpoint, moved by the prior; without weights the larger group wins."""
    coef = np.atleast_2d(coef)
    empty = ~coef.any(axis=1)
    return LinearRules(coef, np.where(empty, fallback, log_prior - coef @ middle))


def independence_rule(two: TwoSample, effect: FloatArray, log_prior: float) -> LinearRules:
    r"""Return the rule that is optimal for independent features.

    .. math:: \frac{1}{N_h} \sum_j \frac{v_j}{S_j} (x_j - \bar x_j) + \log\frac{\pi_1}{\pi_2}

    Parameters
    ----------
    two : TwoSample
        The comparison.
    effect : float64 [p]
        Estimate v of the normalised differences.
    log_prior : float
        Log ratio of the groups' probabilities.

    References
    ----------
    .. [1] Y. Ouyang and F. Liang, "An Empirical Bayes Approach for High Dimensional Classification",
       arXiv 1702.05056.
    """
    coef = effect / (two.scale * two.effective)
    return assemble(coef, two.middle, log_prior, two.log_prior)


@dataclass(frozen=True)
class WithinCovariance:
    r"""The pooled covariance shrunk towards a multiple of the identity, never formed.

    .. math:: \Sigma = (1 - \rho)\, R'R / n + \rho\, \mu I, \qquad \mu = \mathrm{tr}(R'R) / (np)

    R [n, p] holds the samples minus their group means; rho is the Ledoit-Wolf intensity. Solving costs
    O(n^2 p) for any p, by the identity of Woodbury on the Gram matrix R R'.

    Parameters
    ----------
    residuals : float64 [n, p]
        R.
    shrinkage, level : float
        rho and mu.

    References
    ----------
    .. [1] O. Ledoit and M. Wolf, "A well-conditioned estimator for large-dimensional covariance
       matrices" (2004).
    """

    residuals: FloatArray
    shrinkage: float
    level: float

    @classmethod
    def fit(cls, X: FloatArray, positive: BoolArray) -> WithinCovariance:
        """Centre each group and find the intensity."""
        R = X.copy()
        R[positive] -= R[positive].mean(axis=0)
        R[~positive] -= R[~positive].mean(axis=0)
        n, p = R.shape
        gram = R @ R.T
        level = float(np.trace(gram)) / (n * p)
        squared = float((gram**2).sum()) / n**2
        distance = squared / p - level**2
        noise = (float((np.diagonal(gram) ** 2).sum()) / n - squared) / (n * p)
        shrinkage = 1.0 if distance <= 0 else float(np.clip(noise / distance, 0.0, 1.0))
        return cls(R, max(shrinkage, 1e-6), level)

    def solve(self, d: FloatArray) -> FloatArray:
        """Return ``Sigma^-1 d`` for d [p] or [p, k]; zero when nothing varies."""
        n = self.residuals.shape[0]
        ridge, weight = self.shrinkage * self.level, (1.0 - self.shrinkage) / n
        if ridge <= 0.0:
            return np.zeros_like(d)
        if weight <= 0.0:
            return d / ridge
        inner = self.residuals @ self.residuals.T + (ridge / weight) * np.eye(n)
        half = scipy.linalg.solve(inner, self.residuals @ d, assume_a="pos")
        result: FloatArray = (d - self.residuals.T @ half) / ridge
        return result


def shrinkage_rule(
    X: FloatArray, positive: BoolArray, two: TwoSample, difference: FloatArray, log_prior: float
) -> LinearRules:
    """Return linear discriminant analysis with shrunk covariance and the given mean difference [p]."""
    coef = WithinCovariance.fit(X, positive).solve(difference)
    return assemble(coef, two.middle, log_prior, two.log_prior)


def selected_rules(
    X: FloatArray, positive: BoolArray, two: TwoSample, difference: FloatArray, rank: FloatArray,
    sizes: tuple[int, ...], log_prior: float,
) -> LinearRules:  # fmt: skip
    """Return shrinkage rules on the ``m`` features with the largest ``rank``, one per m in ``sizes``."""
    order = np.argsort(-rank, kind="stable")
    coef = np.zeros((len(sizes), X.shape[1]))
    for row, m in enumerate(sizes):
        top = order[:m]
        coef[row, top] = WithinCovariance.fit(X[:, top], positive).solve(difference[top])
    return assemble(coef, two.middle, log_prior, two.log_prior)


def centroid_rules(X: FloatArray, positive: BoolArray, n_thresholds: int, log_prior: float) -> LinearRules:
    r"""Return nearest shrunken centroids for thresholds from zero to where all is shrunk away.

    .. math:: d_{kj} = \frac{\bar x_{kj} - \bar x_j}{m_k (s_j + s_0)}, \qquad
              d'_{kj} = \mathrm{sign}(d_{kj}) (|d_{kj}| - \Delta)_+

    with pooled s_j, s_0 their median and :math:`m_k = \sqrt{1/n_k - 1/n}`.

    References
    ----------
    .. [1] R. Tibshirani et al., "Diagnosis of multiple cancer types by shrunken centroids of gene
       expression" (2002).
    """
    n, centre = X.shape[0], X.mean(axis=0)
    groups = (X[positive], X[~positive])
    pooled = sum(((g - g.mean(axis=0)) ** 2).sum(axis=0) for g in groups) / max(n - 2, 1)
    s = np.sqrt(pooled)
    wide = s + np.median(s)
    safe = np.where(wide > 0, wide, np.inf)
    contrasts, factors = [], []
    for g in groups:
        factor = np.sqrt(max(1.0 / g.shape[0] - 1.0 / n, 1e-12))
        factors.append(factor)
        contrasts.append((g.mean(axis=0) - centre) / (factor * safe))
    largest = max(float(np.abs(c).max(initial=0.0)) for c in contrasts)
    coef, intercept = np.zeros((n_thresholds, X.shape[1])), np.zeros(n_thresholds)
    fallback = float(np.log(groups[0].shape[0] / groups[1].shape[0]))
    for row, threshold in enumerate(np.linspace(0.0, largest, n_thresholds)):
        moved = [
            f * np.sign(c) * np.maximum(np.abs(c) - threshold, 0.0)
            for f, c in zip(factors, contrasts, strict=True)
        ]
        coef[row] = (moved[0] - moved[1]) / safe
        bend = float((moved[0] ** 2 - moved[1] ** 2).sum())
        intercept[row] = log_prior - coef[row] @ centre - 0.5 * bend if coef[row].any() else fallback
    return LinearRules(coef, intercept)
