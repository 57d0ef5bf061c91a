r"""How far estimation error of the differences can raise the misclassification rate.

Two classes N(mu_1, Sigma), N(mu_2, Sigma) of equal probability, delta the vector of normalised
differences (mu_1 - mu_2)_j / S_j with :math:`S_j = \sigma_j / \sqrt{N_h}`, and a rule that weighs the
normalised coordinates by v.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from memberwise.bayes.likelihood import FloatArray
from memberwise.errors import ConfigError


@dataclass(frozen=True)
class ErrorBound:
    """Misclassification rates of a rule.

    Parameters
    ----------
    error : float
        Exact rate of the rule with weights v.
    bayes : float
        Rate of the best rule.
    bound : float
        Upper bound on ``error`` that knows only the relative estimation error.
    relative : float
        ``|v - delta| / |delta|`` at the best scaling of v, at most one.
    """

    error: float
    bayes: float
    bound: float
    relative: float


def error_bound(
    v: FloatArray, delta: FloatArray, *, effective: float = 1.0, correlation: FloatArray | None = None
) -> ErrorBound:
    r"""Return exact error, Bayes error and the bound that links estimation to misclassification.

    .. math:: \mathrm{err}(v) = \Phi\left(-\frac{\langle v, \delta\rangle}{2\sqrt{N_h}\sqrt{v'Rv}}\right),
              \qquad \mathrm{err}^* = \Phi\left(-\tfrac12 \sqrt{\delta' R^{-1} \delta / N_h}\right)

    If :math:`\|cv - \delta\| \le \varepsilon\|\delta\|` for some c > 0 and :math:`\varepsilon < 1`, then

    .. math:: \mathrm{err}(v) \le
        \Phi\left(-\tfrac12 \Delta \sqrt{(1-\varepsilon^2)/\lambda_{\max}(R)}\right),
        \qquad \Delta = \|\delta\|/\sqrt{N_h}

    because the angle between v and delta then has cosine at least :math:`\sqrt{1-\varepsilon^2}`, and
    :math:`v'Rv \le \lambda_{\max}\|v\|^2`. Scale does not matter to a rule, so the scale c that brings v
    closest to delta is taken. Without positive correlation with delta the bound is one.

    Parameters
    ----------
    v, delta : float64 [p]
        Weights and true normalised differences.
    effective : float
        N_h = n1 n2 / (n1 + n2).
    correlation : float64 [p, p], optional
        R; the identity if not given.

    Raises
    ------
    ConfigError
        Shapes disagree, delta is zero, or ``effective`` is not positive.

    References
    ----------
    .. [1] P. Bickel and E. Levina, "Some theory for Fisher's linear discriminant function" (2004).
    .. [2] J. Fan and Y. Fan, "High-dimensional classification using features annealed independence
       rules" (2008).
    """
    v, delta = np.asarray(v, dtype=np.float64), np.asarray(delta, dtype=np.float64)
    length = float(np.linalg.norm(delta))
    if v.shape != delta.shape or length == 0.0 or effective <= 0.0:
        raise ConfigError("v and delta need one shape, delta must not be zero, effective must be positive")
    root = np.sqrt(effective)
    spread, energy, largest = float(v @ v), float(delta @ delta), 1.0
    if correlation is not None:
        spread, energy = float(v @ correlation @ v), float(delta @ np.linalg.solve(correlation, delta))
        largest = float(np.linalg.eigvalsh(correlation)[-1])
    bayes = float(ndtr(-0.5 * np.sqrt(energy) / root))
    size = float(np.sqrt(max(spread, 0.0)))
    if size == 0.0:
        return ErrorBound(0.5, bayes, 1.0, 1.0)
    inner = float(v @ delta)
    error = float(ndtr(-0.5 * inner / (root * size)))
    if inner <= 0.0:
        return ErrorBound(error, bayes, 1.0, 1.0)
    cosine = min(1.0, inner / (float(np.linalg.norm(v)) * length))
    bound = float(ndtr(-0.5 * length * cosine / (root * np.sqrt(largest))))
    return ErrorBound(error, bayes, bound, float(np.sqrt(max(0.0, 1.0 - cosine**2))))
