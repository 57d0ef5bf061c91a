"""Serial numba kernels that fit and score many small logistic regressions at once, one per entity.

Conventions
-----------
Entities ``lo .. hi-1`` of a batch are handled by one call; calls on disjoint ranges may run in
parallel threads. Rows of entity e are ``order[row_ptr[e]:row_ptr[e+1]]``. Its coefficients stand at
``coef_ptr[e]:coef_ptr[e+1]`` of the batch's coefficient arrays, and ``feature`` says which column each
multiplies (-1 is the constant). A precision is packed by rows of its lower triangle, element (a, b) at
``a (a + 1) / 2 + b``, starting at ``pack_ptr[e]``. Columns come dense, ``Z`` [n, p], or as CSR
(``indptr``, ``indices``, ``data``); the form that is not used has length zero.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from memberwise.bayes.entity_newton import linear_predictor, newton_entity
from memberwise.bayes.small_cholesky import (
    copy_square,
    factorise,
    inverse_diagonal,
    pack,
    unpack,
    unpack_both,
)

CONVERGED, FAILED = 0, 1


@numba.njit(nogil=True, cache=True)
def spread_rows(
    e: int, row_ptr: Any, order: Any, Z: Any, indptr: Any, indices: Any, data: Any,
    coef_ptr: Any, feature: Any, position: Any, T: Any,
) -> None:  # fmt: skip
    """Copy the rows of one entity into ``T`` [d_e, n_e], a row per coefficient in the entity's order."""
    first, d = coef_ptr[e], coef_ptr[e + 1] - coef_ptr[e]
    start, n = row_ptr[e], row_ptr[e + 1] - row_ptr[e]
    for a in range(d):
        column = feature[first + a]
        fill = 1.0 if column < 0 else 0.0
        for i in range(n):
            T[a, i] = fill
        if column >= 0 and Z.shape[0] == 0:
            position[column] = a
    if Z.shape[0] > 0:
        for i in range(n):
            for a in range(d):
                if feature[first + a] >= 0:
                    T[a, i] = Z[order[start + i], feature[first + a]]
        return
    for i in range(n):
        for k in range(indptr[order[start + i]], indptr[order[start + i] + 1]):
            a = position[indices[k]]
            if a >= 0:
                T[a, i] = data[k]
    for a in range(d):
        if feature[first + a] >= 0:
            position[feature[first + a]] = -1


@numba.njit(nogil=True, cache=True)
def largest(lo: int, hi: int, pointers: Any) -> int:
    """Return the size of the largest segment among lo .. hi-1."""
    size = 0
    for e in range(lo, hi):
        size = max(size, pointers[e + 1] - pointers[e])
    return size


@numba.njit(nogil=True, cache=True)
def six_buffers(size: int) -> Any:
    """Return six arrays to work in."""
    return np.empty(size), np.empty(size), np.empty(size), np.empty(size), np.empty(size), np.empty(size)


@numba.njit(nogil=True, cache=True)
def solve_entities(
    lo: int, hi: int, row_ptr: Any, order: Any, Z: Any, indptr: Any, indices: Any, data: Any, n_columns: int,
    y: Any, c: Any, offset: Any, coef_ptr: Any, feature: Any, pack_ptr: Any,
    prior_mean: Any, prior: Any, mean: Any, posterior: Any, variance: Any, score: Any, status: Any,
    max_iter: int, tol: float,
) -> None:  # fmt: skip
    """Fit entities lo .. hi-1: ``mean`` is read as the start and overwritten with the mode.

    Writes the packed posterior precision, the marginal variances, each row's score ``z'b`` and the
    status. An entity whose solve fails keeps its prior mean and precision.
    """
    n_max, d_max = largest(lo, hi, row_ptr), largest(lo, hi, coef_ptr)
    T, W = np.empty((d_max + 1, n_max)), np.empty((2, min(n_max, 512)))
    P, H, R = np.empty((d_max, d_max)), np.zeros((d_max + 1, d_max + 1)), np.empty((d_max, d_max + 1))
    zeros, work = np.zeros(n_max), np.empty(d_max)
    per_row, per_coef = six_buffers(n_max), six_buffers(d_max + 1)
    ye, ce, oe = np.empty(n_max), np.empty(n_max), np.empty(n_max)
    position = np.full(n_columns if Z.shape[0] == 0 else 0, -1, np.int32)
    for e in range(lo, hi):
        n, first, last, at = row_ptr[e + 1] - row_ptr[e], coef_ptr[e], coef_ptr[e + 1], pack_ptr[e]
        d = last - first
        spread_rows(e, row_ptr, order, Z, indptr, indices, data, coef_ptr, feature, position, T)
        for i in range(n):
            source = order[row_ptr[e] + i]
            ye[i], ce[i], oe[i] = y[source], c[source], offset[source]
        T[d, :n] = 0.0
        unpack_both(prior, at, d, P)
        w, before = mean[first:last], prior_mean[first:last]
        good = newton_entity(
            T, n, d, ye, ce, oe, zeros, before, P, w, max_iter, tol, per_row, per_coef, W, H, R
        )
        status[e] = CONVERGED if good else FAILED
        eta = per_row[0]
        if not good:
            w[:] = before
            copy_square(P, d, H)
            copy_square(P, d, R)
            factorise(R, d, d)
            linear_predictor(T, n, d, w, oe, eta)
        pack(H, d, posterior, at)
        for i in range(n):
            score[order[row_ptr[e] + i]] = eta[i] - oe[i]
        inverse_diagonal(R, d, work, variance[first:last])


@numba.njit(nogil=True, cache=True)
def score_entities(
    lo: int, hi: int, row_ptr: Any, order: Any, Z: Any, indptr: Any, indices: Any, data: Any, n_columns: int,
    coef_ptr: Any, feature: Any, pack_ptr: Any, mean: Any, precision: Any, score: Any, variance: Any,
) -> None:  # fmt: skip
    """Write each row's score ``z'b`` and, if ``variance`` is not empty, its variance ``z' P^-1 z``."""
    n_max, d_max = largest(lo, hi, row_ptr), largest(lo, hi, coef_ptr)
    T, U, half = np.empty((d_max, n_max)), np.empty((d_max, d_max)), np.empty(d_max)
    position = np.full(n_columns if Z.shape[0] == 0 else 0, -1, np.int32)
    for e in range(lo, hi):
        first, d = coef_ptr[e], coef_ptr[e + 1] - coef_ptr[e]
        spread_rows(e, row_ptr, order, Z, indptr, indices, data, coef_ptr, feature, position, T)
        if variance.size:
            unpack(precision, pack_ptr[e], d, U)
            factorise(U, d, d)
        for i in range(row_ptr[e + 1] - row_ptr[e]):
            source, total = order[row_ptr[e] + i], 0.0
            for a in range(d):
                total += T[a, i] * mean[first + a]
                half[a] = T[a, i]
            score[source] = total
            if variance.size:
                spread = 0.0
                for a in range(d):
                    half[a] *= U[a, a]
                    spread += half[a] * half[a]
                    for b in range(a + 1, d):
                        half[b] -= half[a] * U[a, b]
                variance[source] = spread
