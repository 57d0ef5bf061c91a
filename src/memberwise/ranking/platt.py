"""Platt scaling: one slope and one shift per task, fitted on rows that the ranker was not trained on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
_PRECISION = 16.0
"""Of the prior: slope and shift stay near 1 and 0 until some hundred rows say otherwise."""
_STEPS = 50


def platt_scaling(
    logits: npt.NDArray[np.floating],
    labels: npt.NDArray[np.floating],
    weights: npt.NDArray[np.floating] | None = None,
) -> tuple[F64, F64]:
    """Slope a and shift b of each task that make ``sigmoid(a z + b)`` fit best, with a prior around (1, 0).

    ``min_{a,b} sum_i w_i log(1 + exp(-y_i (a z_i + b))) + 8 ((a - 1)^2 + b^2)``, ``y_i`` in {-1, 1}

    Parameters
    ----------
    logits, labels : ndarray, [n, T]
        Of rows that the model was not trained on (valid); a label is NaN where its task is not defined. A
        task with one class only, or whose order would turn, keeps slope 1 and shift 0.
    weights : ndarray, [n, T], optional

    Returns
    -------
    slope, shift : ndarray of float64, [T]

    References
    ----------
    Platt (1999), Probabilistic outputs for support vector machines. Guo et al. (2017), On calibration of
    modern neural networks: networks are too sure of themselves, and one slope takes most of it back.
    """
    tasks = logits.shape[1]
    slope, shift = np.ones(tasks), np.zeros(tasks)
    for t in range(tasks):
        w = np.ones(len(labels)) if weights is None else np.asarray(weights[:, t], np.float64)
        used = ~np.isnan(labels[:, t]) & (w > 0)
        y, z, w = labels[used, t] > 0.5, np.asarray(logits[used, t], np.float64), w[used]
        if len(np.unique(y)) < 2:
            continue
        a, b = _newton(np.stack([z, np.ones_like(z)], axis=1), y.astype(np.float64), w)
        if a > 0:
            slope[t], shift[t] = a, b
    return slope, shift


def _newton(x: F64, y: F64, w: F64) -> F64:
    """Damped Newton on the convex loss: halve the step until the loss falls."""
    prior = np.array([1.0, 0.0])

    def loss(at: F64) -> float:
        z = x @ at
        return float(w @ (np.logaddexp(0.0, z) - y * z) + 0.5 * _PRECISION * np.sum((at - prior) ** 2))

    at = prior.copy()
    value = loss(at)
    for _ in range(_STEPS):
        p = 1.0 / (1.0 + np.exp(-np.clip(x @ at, -50.0, 50.0)))
        gradient = x.T @ (w * (p - y)) + _PRECISION * (at - prior)
        hessian = (x * (w * p * (1.0 - p))[:, None]).T @ x + _PRECISION * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        while loss(at - step) > value and np.abs(step).max() > 1e-9:
            step /= 2.0
        if np.abs(step).max() <= 1e-9:
            break
        at, value = at - step, loss(at - step)
    return at
