"""The nonparametric maximum likelihood estimate of the distribution of normal means (Kiefer-Wolfowitz)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import nnls

from memberwise.bayes.likelihood import FloatArray
from memberwise.bayes.mixture_prior import MixturePrior
from memberwise.bayes.normal_means import Points

_MERGE = 1e-9


def npmle(
    points: Points,
    *,
    n_grid: int = 600,
    tol: float = 1e-6,
    max_iter: int = 200,
    gained: Callable[[float, float], None] = lambda gain, limit: None,
) -> tuple[MixturePrior, float]:
    r"""Maximise the likelihood over all priors on a grid by the constrained Newton method.

    .. math:: \max_g \sum_i c_i \log \sum_k g_k\, \phi_{s_i}(x_i - u_k), \qquad g \ge 0, \; \sum_k g_k = 1

    Each step adds the grid points where the gradient
    :math:`D(u) = n^{-1}\sum_i c_i \phi_{s_i}(x_i - u)/f(x_i) - 1` has a local maximum, solves the
    quadratic model of the likelihood by non-negative least squares, and searches along the line.

    Parameters
    ----------
    points : Points
        The observations.
    n_grid : int
        Grid points, equally spaced over the range of x, zero always among them.
    tol : float
        Stop when the largest gradient, which bounds what is still to be gained per observation, is
        below this.
    max_iter : int
        Most steps.
    gained
        Told after every step what is still to be gained, and `tol`.

    Returns
    -------
    prior : MixturePrior
        Atoms with positive weight.
    gap : float
        The largest gradient at the end: a certificate, the log-likelihood per observation is within
        this of the optimum over the grid.

    References
    ----------
    .. [1] Y. Wang, "On fast computation of the non-parametric maximum likelihood estimate of a mixing
       distribution" (2007).
    """
    low, high = float(points.x.min()), float(points.x.max())
    grid = np.unique(np.append(np.linspace(low, high, n_grid), 0.0 if low <= 0.0 <= high else low))
    share = points.count / points.total
    likelihood = _likelihood(points, grid)
    active = np.unique(np.linspace(0, grid.size - 1, min(60, grid.size)).astype(int))
    weights = _em_steps(likelihood[:, active], share, np.full(active.size, 1.0 / active.size))
    gap = np.inf
    for _ in range(max_iter):
        density = likelihood[:, active] @ weights
        gradient = (share / density) @ likelihood - 1.0
        gap = float(gradient.max())
        if gap < tol:
            break
        gained(gap, tol)
        active, weights = _with_peaks(gradient, active, weights)
        new = _quadratic_step(likelihood[:, active], share, weights)
        weights = _line_search(likelihood[:, active], share, weights, new)
        kept = weights > _MERGE
        active, weights = active[kept], weights[kept] / weights[kept].sum()
    return MixturePrior(weights, grid[active], np.zeros(active.size)), gap


def _likelihood(points: Points, grid: FloatArray) -> FloatArray:
    """Density of each point at each grid value, each row scaled to a maximum of one, [m, K]."""
    log = -0.5 * ((points.x[:, None] - grid) / points.noise[:, None]) ** 2
    log -= log.max(axis=1, keepdims=True)
    np.exp(log, out=log)
    return log


def _em_steps(columns: FloatArray, share: FloatArray, weights: FloatArray, steps: int = 30) -> FloatArray:
    """Take a few EM steps: slow to finish, but they leave no observation without density."""
    for _ in range(steps):
        weights = weights * ((share / (columns @ weights)) @ columns)
    return weights / weights.sum()


def _with_peaks(
    gradient: FloatArray, active: np.ndarray[tuple[int], np.dtype[np.intp]], weights: FloatArray
) -> tuple[np.ndarray[tuple[int], np.dtype[np.intp]], FloatArray]:
    """Add every local maximum of the gradient that is positive, with weight zero."""
    padded = np.concatenate([[-np.inf], gradient, [-np.inf]])
    peak = np.flatnonzero((gradient > 0) & (gradient >= padded[:-2]) & (gradient >= padded[2:]))
    wider = np.union1d(active, peak)
    start = np.zeros(wider.size)
    start[np.searchsorted(wider, active)] = weights
    return wider, start


def _quadratic_step(columns: FloatArray, share: FloatArray, weights: FloatArray) -> FloatArray:
    """Minimise the second-order model: non-negative least squares with a heavy row for the sum."""
    root = np.sqrt(share)
    scaled = columns * (root / (columns @ weights))[:, None]
    gram, right = scaled.T @ scaled, 2.0 * (scaled.T @ root)
    heavy = 1e4
    gram += heavy
    # Columns of neighbouring grid points are nearly alike: lift the diagonal above rounding.
    gram[np.diag_indices_from(gram)] += 100 * np.finfo(float).eps * np.trace(gram)
    lower = np.linalg.cholesky(gram)
    target = np.linalg.solve(lower, right + heavy)
    solution, _ = nnls(lower.T, target, maxiter=50 * gram.shape[0])
    total = solution.sum()
    return solution / total if total > 0 else weights


def _line_search(columns: FloatArray, share: FloatArray, old: FloatArray, new: FloatArray) -> FloatArray:
    """Go from old towards new as far as the likelihood grows."""
    before = float(share @ np.log(columns @ old))
    step = 1.0
    for _ in range(30):
        candidate = old + step * (new - old)
        density = columns @ candidate
        if density.min() > 0 and float(share @ np.log(density)) >= before:
            return candidate
        step *= 0.5
    return old
