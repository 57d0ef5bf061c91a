"""How wide the prior is, how much of train holds, how far to go: what later rows make most probable."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.linalg

from memberwise.bayes.precision import cholesky

Floats = npt.NDArray[np.float64]

PRECISIONS = 10.0 ** np.arange(-1.0, 6.5, 0.5)
"""Prior precisions that the evidence chooses from."""
KEPT = 10.0 ** np.arange(0.0, -2.25, -0.25)
"""Shares of what train says that may still hold after it."""
STEPS = (0.0, 0.5, 1.0)
"""Shares of the way from the trained weights to the best ones of train."""
EXPECTED, _SPREAD, _SPREAD_KEPT = 0.5, 0.5, 0.35
"""Before any evidence: logits are off by half a unit, within a factor of three in their precision;
what train says holds, within a factor of two. A short valid decides little, a long one everything."""
_LONGEST = 2.0  # logits that an item's constant may move by in the one step from the trained weights


class Tuned(NamedTuple):
    """What later rows make most probable.

    Attributes
    ----------
    floor
        Prior precision.
    kept
        Share of train's curvature that holds.
    step
        Share of the way to train's mode.
    """

    floor: float
    kept: float
    step: float


def tune_layer(gradient: Floats, hessian: Floats, slope: Floats, curvature: Floats, usual: float) -> Tuned:
    r"""Choose the prior of the last layer by the evidence of later rows.

    The loss of train and of the later rows is taken as a parabola around the trained weights: slope and
    curvature over train, g and H later. With prior mean m and precision P,

    .. math:: \log \mathrm{evidence} = -g'm - \tfrac12 m'Hm + \tfrac12 (g + Hm)'(P + H)^{-1}(g + Hm)
                                     + \tfrac12 \log|P| - \tfrac12 \log|P + H|.

    `usual` is the logarithm (base 10) of the precision that is expected before any evidence.
    """
    eye = np.eye(len(gradient))

    def evidence(floor: float) -> Iterator[tuple[float, float, float]]:
        mode = -np.linalg.solve(curvature + floor * eye, slope)
        for kept in KEPT:
            prior = kept * curvature + floor * eye
            lower, wider = cholesky(prior), cholesky(prior + hessian)
            logs = float(np.log(np.diagonal(lower)).sum() - np.log(np.diagonal(wider)).sum())
            for step in STEPS:
                mean = step * mode
                moved = gradient + hessian @ mean
                pulled = scipy.linalg.solve_triangular(wider, moved, lower=True)
                cost = float(gradient @ mean + 0.5 * mean @ hessian @ mean)
                yield float(kept), step, logs - cost + 0.5 * float(pulled @ pulled)

    return _most_probable(evidence, usual)


def tune_items(gradient: Floats, hessian: Floats, slope: Floats, curvature: Floats) -> Tuned:
    """`tune_layer` for many independent constants that share their prior, [E] each."""

    def evidence(floor: float) -> Iterator[tuple[float, float, float]]:
        mode = one_step(slope, curvature, floor)
        for kept in KEPT:
            prior = kept * curvature + floor
            logs = 0.5 * float(np.log(prior / (prior + hessian)).sum())
            for step in STEPS:
                mean = step * mode
                moved = gradient + hessian * mean
                cost = float((gradient * mean + 0.5 * hessian * mean**2).sum())
                yield float(kept), step, logs - cost + 0.5 * float((moved**2 / (prior + hessian)).sum())

    return _most_probable(evidence, float(np.log10(1 / EXPECTED**2)))


def one_step(slope: Floats, curvature: Floats, floor: float) -> Floats:
    """Newton's step of many independent constants from zero."""
    return np.clip(-slope / (curvature + floor), -_LONGEST, _LONGEST)


def _most_probable(evidence: Callable[[float], Iterator[tuple[float, float, float]]], usual: float) -> Tuned:
    """The best of the grids, by log-evidence and what was expected before."""
    best, found = -np.inf, Tuned(float(10.0**usual), 1.0, 0.0)
    for floor in PRECISIONS:
        for kept, step, value in evidence(float(floor)):
            far = ((np.log10(floor) - usual) / _SPREAD) ** 2 + (np.log10(kept) / _SPREAD_KEPT) ** 2
            if value - 0.5 * far > best:
                best, found = value - 0.5 * far, Tuned(float(floor), kept, step)
    return found
