"""Isotonic regression after the fact: what a calibration layer inside the network is compared with."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from sklearn.isotonic import IsotonicRegression

F32 = npt.NDArray[np.float32]


def posthoc_isotonic(scores: F32, labels: F32, weights: F32 | None = None) -> Callable[[F32], F32]:
    """The monotone steps of each task that fit these labels best, as a function of scores.

    ``min_f sum_i w_i (y_i - f(p_i))^2`` over all increasing f, one for each task

    Parameters
    ----------
    scores, labels : ndarray of float32, [n, T]
        Probabilities on rows that the model was not trained on (valid); a label is NaN where its task is not
        defined. A task without any keeps its scores.
    weights : ndarray of float32, [n, T], optional

    Returns
    -------
    callable
        ``[m, T] -> [m, T]``. Scores beyond those seen get the value of the nearest.

    References
    ----------
    Zadrozny and Elkan (2002), Transforming classifier scores into accurate multiclass probability estimates.
    """
    curves: list[IsotonicRegression | None] = []
    for t in range(scores.shape[1]):
        defined = ~np.isnan(labels[:, t])
        if weights is not None:
            defined &= weights[:, t] > 0
        if not defined.any():
            curves.append(None)
            continue
        weight = None if weights is None else weights[defined, t]
        curve = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip")
        curves.append(curve.fit(scores[defined, t], labels[defined, t], weight))

    def calibrate(others: F32) -> F32:
        columns = [
            others[:, t] if curve is None else curve.predict(others[:, t]) for t, curve in enumerate(curves)
        ]
        return np.stack(columns, axis=1).astype(np.float32)

    return calibrate
