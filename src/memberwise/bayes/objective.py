"""Loss plus Gaussian prior: the function whose minimum is the posterior mode."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from memberwise.bayes.design import Design
from memberwise.bayes.likelihood import FloatArray, Likelihood
from memberwise.bayes.posterior import GaussianPosterior


@dataclass(frozen=True)
class Point:
    """Coefficients with everything that was computed there: the linear predictor, value, gradient."""

    w: FloatArray
    eta: FloatArray
    value: float
    gradient: FloatArray


@dataclass(frozen=True)
class Objective:
    r"""The negative log-posterior of one batch, a sum over rows and not a mean.

    .. math:: F(w) = \sum_i c_i\,\ell(x_i'w + o_i, y_i) + \tfrac12 (w - m)'\Lambda(w - m)

    Parameters
    ----------
    likelihood : Likelihood
        The pointwise loss.
    design : Design
        Features x_i, [n, d].
    y, weights, offset : float64 [n]
        Labels y_i, case weights c_i >= 0, and known parts o_i of the linear predictor.
    prior : GaussianPosterior
        N(m, Lambda^-1).
    """

    likelihood: Likelihood
    design: Design
    y: FloatArray
    weights: FloatArray
    offset: FloatArray
    prior: GaussianPosterior

    def at(self, w: FloatArray) -> Point:
        """Evaluate value and gradient at ``w``."""
        return self._point(w, self.design.dot(w) + self.offset)

    def along(self, start: Point, direction: FloatArray, direction_eta: FloatArray, step: float) -> Point:
        """Evaluate at ``start + step * direction``, whose linear predictor is known."""
        return self._point(start.w + step * direction, start.eta + step * direction_eta)

    def value_along(
        self, start: Point, direction_eta: FloatArray, slope: float, bend: float, step: float
    ) -> float:
        """Evaluate F alone on a line: the prior is a parabola there, so no product is needed.

        ``slope`` and ``bend`` are the first and second derivative of the prior term along the line.
        """
        loss = self.loss(start.eta + step * direction_eta)
        return loss + self.prior.penalty(start.w) + step * slope + 0.5 * step**2 * bend

    def loss(self, eta: FloatArray) -> float:
        """Weighted sum of losses, without the prior."""
        return float(self.weights @ self.likelihood.loss(eta, self.y))

    def curvature(self, point: Point) -> FloatArray:
        """Weight times second derivative of each row's loss, [n]: the D of X'DX."""
        return self.weights * self.likelihood.curvature(point.eta)

    def _point(self, w: FloatArray, eta: FloatArray) -> Point:
        slope = self.weights * self.likelihood.gradient(eta, self.y)
        gradient = self.design.transpose_dot(slope) + self.prior.penalty_gradient(w)
        value = self.loss(eta) + self.prior.penalty(w)
        if not np.isfinite(value):
            value = np.inf
        return Point(w, eta, value, gradient)
