r"""Newton's method for one small logistic regression with a Gaussian prior, as numba kernels.

.. math:: F(w) = \sum_i c_i \left[\log(1 + e^{\eta_i}) - y_i \eta_i\right]
                 + \tfrac12 (w - m)' P (w - m), \qquad \eta_i = o_i + t_i'w

The rows stand in ``T`` [>= d, >= n], one row of T per coefficient: every loop over rows is then
contiguous, and loops over rows are most of the work.
"""

from __future__ import annotations

import math
from typing import Any

import numba

from memberwise.bayes.small_cholesky import FAST, copy_square, factorise, solve_factored, solve_upper

_ARMIJO = 1e-4  # the share of the predicted decrease that a step must deliver
_ROUNDING = 1e-14  # decrease, relative to F, that is below rounding


@numba.njit(nogil=True, cache=True, fastmath=FAST)
def linear_predictor(T: Any, n: int, d: int, w: Any, offset: Any, eta: Any) -> None:
    """Write ``T' w + offset`` into eta [n]."""
    for i in range(n):
        eta[i] = offset[i]
    for a in range(d):
        for i in range(n):
            eta[i] += w[a] * T[a, i]


@numba.njit(nogil=True, cache=True, fastmath=FAST)
def losses(n: int, eta: Any, y: Any, c: Any, slope: Any, bend: Any, twist: Any) -> float:
    """Write first, second and third derivative of each row's loss; return the summed loss."""
    total = 0.0
    for i in range(n):
        z = eta[i]
        small = math.exp(-abs(z))
        inverse = 1.0 / (1.0 + small)
        p = inverse if z >= 0 else small * inverse
        total += c[i] * (max(z, 0.0) + math.log1p(small) - y[i] * z)
        slope[i] = c[i] * (p - y[i])
        bend[i] = c[i] * small * inverse * inverse
        twist[i] = bend[i] * (1.0 - 2.0 * p)
    return total


@numba.njit(nogil=True, cache=True, fastmath=FAST)
def add_block(T: Any, n: int, d: int, slope: Any, bend: Any, W: Any, g: Any, U: Any) -> None:
    """Add ``T slope`` to g and ``T diag(bend) T'`` to the upper triangle of U, for even d.

    Two by two elements at a time: four sums stay in registers while the rows pass once.
    """
    for a in range(0, d, 2):
        one, two = 0.0, 0.0
        for i in range(n):
            W[0, i] = bend[i] * T[a, i]
            W[1, i] = bend[i] * T[a + 1, i]
            one += slope[i] * T[a, i]
            two += slope[i] * T[a + 1, i]
        g[a] += one
        g[a + 1] += two
        for b in range(a, d, 2):
            s00, s01, s10, s11 = 0.0, 0.0, 0.0, 0.0
            for i in range(n):
                left, right = T[b, i], T[b + 1, i]
                s00 += W[0, i] * left
                s01 += W[0, i] * right
                s10 += W[1, i] * left
                s11 += W[1, i] * right
            U[a, b] += s00
            U[a, b + 1] += s01
            U[a + 1, b] += s10
            U[a + 1, b + 1] += s11


@numba.njit(nogil=True, cache=True)
def add_rows(T: Any, n: int, d: int, slope: Any, bend: Any, W: Any, g: Any, U: Any) -> None:
    """`add_block` for any d and n: an odd d takes a row of zeros along, many rows come in blocks."""
    even = d + d % 2
    if n <= W.shape[1]:
        add_block(T, n, even, slope, bend, W, g, U)
        return
    for lo in range(0, n, W.shape[1]):
        hi = min(n, lo + W.shape[1])
        add_block(T[:, lo:hi], hi - lo, even, slope[lo:hi], bend[lo:hi], W, g, U)


@numba.njit(nogil=True, cache=True, fastmath=FAST)
def symmetric_dot(P: Any, d: int, v: Any, out: Any) -> None:
    """Write ``P v`` into out [d], for P [>= d, >= d] of which both triangles are filled."""
    for a in range(d):
        total = 0.0
        for b in range(d):
            total += P[a, b] * v[b]
        out[a] = total


@numba.njit(nogil=True, cache=True, fastmath=FAST)
def dot(n: int, a: Any, b: Any) -> float:
    """Return the inner product of the first n elements."""
    total = 0.0
    for i in range(n):
        total += a[i] * b[i]
    return total


@numba.njit(nogil=True, cache=True, fastmath=FAST)
def chebyshev_step(
    T: Any, n: int, d: int, twist: Any, R: Any, g: Any, step: Any, move: Any, zeros: Any, extra: Any
) -> float:  # fmt: skip
    r"""Add the third-order term to a Newton step, write how the step moves each logit, return its slope.

    .. math:: s \leftarrow s - \tfrac12 H^{-1} \sum_i \ell'''_i\, (t_i's)^2\, t_i

    H is factored already (R), so a third order of convergence costs one more solve. Where the step would
    then hardly descend, it stays Newton's.
    """
    linear_predictor(T, n, d, step, zeros, move)
    for i in range(n):
        move[i] *= 0.5 * move[i] * twist[i]
    for a in range(d):
        extra[a] = 0.0
        for i in range(n):
            extra[a] += move[i] * T[a, i]
    solve_factored(R, d, extra)
    slope, change = dot(d, step, g), dot(d, extra, g)
    if slope - change < 0.5 * slope:
        slope -= change
        for a in range(d):
            step[a] -= extra[a]
    linear_predictor(T, n, d, step, zeros, move)
    return slope


@numba.njit(nogil=True, cache=True, fastmath=FAST)
def newton_entity(
    T: Any, n: int, d: int, y: Any, c: Any, offset: Any, zeros: Any, prior_mean: Any, P: Any, w: Any,
    max_iter: int, tol: float, per_row: Any, per_coef: Any, W: Any, H: Any, R: Any,
) -> bool:  # fmt: skip
    """Minimise F from w [d], in place; False, and w of no use, when it cannot be done.

    It ends when the decrease still to be had is at most ``tol``, after one last step. Then the first of
    ``per_row`` holds the linear predictor at w, ``H`` the Hessian where that step began, which is at most
    sqrt(2 tol) posterior standard deviations away, and ``R`` its factor.

    Newton's first steps fall short because the loss is less curved farther out: each step gets a
    third-order term, and the length that one Newton iteration along it suggests.
    """
    eta, slope, bend, twist, move, trial = per_row
    g, step, gap, pull, image, extra = per_coef
    for a in range(d):
        gap[a] = w[a] - prior_mean[a]
    symmetric_dot(P, d, gap, pull)
    linear_predictor(T, n, d, w, offset, eta)
    value = losses(n, eta, y, c, slope, bend, twist) + 0.5 * dot(d, gap, pull)
    for _ in range(max_iter):
        copy_square(P, d, H)
        for a in range(d):
            g[a] = pull[a]
        add_rows(T, n, d, slope, bend, W, g, H)
        copy_square(H, d, R)
        for a in range(d):
            R[a, d] = -g[a]
        if not (math.isfinite(value) and factorise(R, d, d + 1)):
            return False
        for a in range(d):
            step[a] = R[a, d]
        solve_upper(R, d, step)
        if -0.5 * dot(d, step, g) <= tol + _ROUNDING * abs(value):
            for a in range(d):
                w[a] += step[a]
            linear_predictor(T, n, d, w, offset, eta)
            return True
        fall = -chebyshev_step(T, n, d, twist, R, g, step, move, zeros, extra)
        symmetric_dot(P, d, step, image)
        penalty, rise, curve = 0.5 * dot(d, gap, pull), dot(d, step, pull), dot(d, step, image)
        for i in range(n):
            trial[i] = eta[i] + move[i]
        losses(n, trial, y, c, slope, bend, twist)
        first, second = dot(n, slope, move) + rise + curve, curve
        for i in range(n):
            second += bend[i] * move[i] * move[i]
        length, before, accepted = min(max(1.0 - first / second, 0.25), 4.0), value, False
        for _ in range(40):
            for i in range(n):
                trial[i] = eta[i] + length * move[i]
            value = losses(n, trial, y, c, slope, bend, twist)
            value += penalty + length * (rise + 0.5 * length * curve)
            accepted = value <= before - _ARMIJO * length * fall + _ROUNDING * abs(before)
            if accepted:
                break
            length *= 0.5
        if not accepted:
            return False
        for i in range(n):
            eta[i] = trial[i]
        for a in range(d):
            w[a] += length * step[a]
            gap[a] += length * step[a]
            pull[a] += length * image[a]
    return False
