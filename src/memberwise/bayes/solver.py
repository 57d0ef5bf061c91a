"""Newton's method on loss plus prior, with a direct or an iterative inner solve."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.linalg

from memberwise.bayes.likelihood import FloatArray
from memberwise.bayes.objective import Objective, Point
from memberwise.bayes.precision import cholesky

Direction = Callable[[Objective, Point], FloatArray]
_DECREASE = 1e-4  # Armijo's constant: the share of the predicted decrease that a step must deliver
_ROUNDING = 64 * np.finfo(float).eps


@dataclass(frozen=True)
class Solution:
    """Where a solve ended.

    Parameters
    ----------
    point : Point
        The last iterate with its value and gradient.
    converged : bool
        Whether the predicted further decrease fell below the tolerance.
    n_iter : int
        Newton steps taken.
    """

    point: Point
    converged: bool
    n_iter: int


def cholesky_direction(objective: Objective, point: Point) -> FloatArray:
    """Return the exact Newton direction, O(n d^2 + d^3): for up to a few thousand coefficients."""
    hessian = objective.design.gram(objective.curvature(point)) + objective.prior.precision.dense()
    result: FloatArray = -scipy.linalg.cho_solve((cholesky(hessian), True), point.gradient)
    return result


def conjugate_gradient(
    product: Callable[[FloatArray], FloatArray],
    b: FloatArray,
    scale: FloatArray,
    tol: float,
    max_iter: int = 200,
) -> FloatArray:
    """Solve ``A x = b`` by conjugate gradients preconditioned with ``diag(scale)``.

    Parameters
    ----------
    product : callable
        ``v -> A v`` for a symmetric positive definite A.
    b, scale : float64 [d]
        Right-hand side, and an approximation to the diagonal of A's inverse.
    tol : float
        Reduction of the residual, in the preconditioner's norm, at which to stop.
    max_iter : int
        Largest number of products.
    """
    residual, solution = b.copy(), np.zeros_like(b)
    preconditioned = scale * residual
    direction = preconditioned.copy()
    size = float(residual @ preconditioned)
    target = size * tol**2
    for _ in range(max_iter):
        if size <= target:
            break
        image = product(direction)
        step = size / float(direction @ image)
        solution += step * direction
        residual -= step * image
        preconditioned = scale * residual
        previous, size = size, float(residual @ preconditioned)
        direction *= size / previous
        direction += preconditioned
    return solution


def conjugate_gradient_direction(objective: Objective, point: Point) -> FloatArray:
    """Return a Newton direction by preconditioned conjugate gradients, for large sparse designs.

    The preconditioner is the prior's diagonal plus the diagonal of X'DX, and it is what makes this
    fast: with features whose counts span six orders of magnitude, plain gradients need hundreds of
    passes. The inner solve is as exact as the outer iteration can use: a tenth at first, tighter as
    the minimum comes near.
    """
    curvature, design, prior = objective.curvature(point), objective.design, objective.prior.precision
    scale = 1.0 / (design.gram_diagonal(curvature) + prior.diagonal())
    size = float(point.gradient @ (scale * point.gradient))
    tol = min(0.1, np.sqrt(size / max(1.0, abs(point.value))))
    return conjugate_gradient(
        lambda v: design.gram_dot(curvature, v) + prior.dot(v), -point.gradient, scale, max(tol, 1e-8)
    )


def minimise(
    objective: Objective,
    start: FloatArray,
    *,
    direction: Direction = cholesky_direction,
    tol: float = 1e-8,
    max_iter: int = 100,
) -> Solution:
    """Minimise loss plus prior by damped Newton steps.

    It stops when half the squared Newton decrement, which is the decrease still to be had, is at most
    ``tol * max(1, |F|)``, after one last step; with an exact direction that step squares the error.

    Parameters
    ----------
    objective : Objective
        What to minimise; strictly convex because the prior is proper.
    start : float64 [d]
        First iterate.
    direction : callable
        `cholesky_direction` or `conjugate_gradient_direction`.
    tol : float
        Relative tolerance on the objective.
    max_iter : int
        Largest number of Newton steps.
    """
    point = objective.at(start)
    for iteration in range(max_iter):
        step = direction(objective, point)
        decrease = -float(step @ point.gradient)
        if not np.isfinite(decrease):
            return Solution(point, False, iteration)
        small = max(1.0, abs(point.value))
        if decrease <= _ROUNDING * small:
            return Solution(point, True, iteration)
        following = _line_search(objective, point, step, decrease)
        if following is None:
            return Solution(point, decrease <= 2.0 * tol * small, iteration)
        point = following
        if 0.5 * decrease <= tol * small:
            return Solution(point, True, iteration + 1)
    return Solution(point, False, max_iter)


def _line_search(objective: Objective, point: Point, step: FloatArray, decrease: float) -> Point | None:
    """Halve the step until it delivers its share of the predicted decrease; None when none does."""
    eta = objective.design.dot(step)
    slope = float(step @ objective.prior.penalty_gradient(point.w))
    bend = float(step @ objective.prior.precision.dot(step))
    slack = _ROUNDING * max(1.0, abs(point.value))
    length = 1.0
    for _ in range(40):
        value = objective.value_along(point, eta, slope, bend, length)
        if value <= point.value - _DECREASE * length * decrease + slack:
            return objective.along(point, step, eta, length)
        length *= 0.5
    return None
