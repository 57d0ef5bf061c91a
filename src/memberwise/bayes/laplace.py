"""One step of sequential Bayes: solve for the mode, measure the curvature there, absorb both."""

from __future__ import annotations

import numpy as np

from memberwise.bayes.likelihood import FloatArray
from memberwise.bayes.objective import Objective, Point
from memberwise.bayes.posterior import GaussianPosterior
from memberwise.bayes.precision import DiagonalPrecision, Hessian, LowRankPrecision
from memberwise.bayes.solver import (
    Solution,
    cholesky_direction,
    conjugate_gradient,
    conjugate_gradient_direction,
    minimise,
)

DENSE_LIMIT = 2_000  # coefficients up to which a d x d matrix is formed
_PROBE_SEED = 1_990


def laplace_step(
    objective: Objective,
    *,
    start: FloatArray | None = None,
    batch: str | None = None,
    tol: float | None = None,
    max_iter: int = 100,
    probes: int = 0,
) -> tuple[GaussianPosterior, Solution]:
    r"""Return the Laplace approximation to the posterior of one batch, and how the solve ended.

    .. math:: m_t = \arg\min F_t, \qquad \Lambda_t = \Lambda_{t-1} + X' D(m_t) X

    Parameters
    ----------
    objective : Objective
        Loss of the batch plus the prior, already forgotten as far as wanted.
    start : float64 [d], optional
        First iterate; the prior mean by default.
    batch : str, optional
        Key under which the batch is recorded.
    tol : float, optional
        Relative tolerance of `minimise`; 1e-10 with a direct solve, 1e-6 with an iterative one.
    max_iter : int
        Largest number of Newton steps.
    probes : int
        For diagonal storage of more than `DENSE_LIMIT` coefficients: random probes for the variances,
        each a conjugate gradient solve; 0 takes 1 / diag(H), which is over-confident when features
        are correlated.

    Returns
    -------
    posterior : GaussianPosterior
        The prior itself when the solve did not converge: a Laplace approximation away from the mode
        is biased.
    solution : Solution
        ``solution.converged`` tells which.
    """
    direct = objective.design.size <= DENSE_LIMIT
    solution = minimise(
        objective,
        objective.prior.mean if start is None else start,
        direction=cholesky_direction if direct else conjugate_gradient_direction,
        tol=tol if tol is not None else (1e-10 if direct else 1e-6),
        max_iter=max_iter,
    )
    if not solution.converged:
        return objective.prior, solution
    return absorb_at(objective, solution.point, batch=batch, probes=probes), solution


def absorb_at(
    objective: Objective, point: Point, *, batch: str | None = None, probes: int = 0
) -> GaussianPosterior:
    """Return the posterior with mode ``point`` and the batch's Hessian there, in the prior's storage."""
    curvature, design, precision = objective.curvature(point), objective.design, objective.prior.precision
    hessian: Hessian
    if isinstance(precision, LowRankPrecision):
        hessian = design.factor(curvature)
    elif not isinstance(precision, DiagonalPrecision) or design.size <= DENSE_LIMIT:
        hessian = design.gram(curvature)
    elif probes:
        hessian = 1.0 / probed_variances(objective, curvature, probes) - precision.values
    else:
        hessian = design.gram_diagonal(curvature)
    return objective.prior.absorb(hessian, point.w, batch=batch)


def probed_variances(objective: Objective, curvature: FloatArray, probes: int) -> FloatArray:
    r"""Estimate ``diag((P + X'DX)^-1)`` for diagonal P without inverting anything, [d].

    .. math:: \mathrm{diag}(A^{-1}) = M + \mathbb{E}\left[v \circ (A^{-1} v - M v)\right]

    with M = 1/diag(A) and random signs v. The estimate is kept between its two certain bounds, 1/diag(A)
    and the prior variance.

    References
    ----------
    .. [1] C. Bekas, E. Kokiopoulou and Y. Saad, "An estimator for the diagonal of a matrix" (2007).
    """
    design, prior = objective.design, objective.prior.precision
    least = 1.0 / (design.gram_diagonal(curvature) + prior.diagonal())
    rng, total = np.random.default_rng(_PROBE_SEED), np.zeros(design.size)
    for _ in range(probes):
        signs = rng.choice(np.array([-1.0, 1.0]), design.size)
        solved = conjugate_gradient(
            lambda v: design.gram_dot(curvature, v) + prior.dot(v), signs, least, 1e-3
        )
        total += signs * (solved - least * signs)
    return np.clip(least + total / probes, least, 1.0 / prior.diagonal())
