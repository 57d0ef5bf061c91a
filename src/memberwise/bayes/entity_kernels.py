"""Serial numba kernels for many small logistic regressions at once, one per entity.

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

import math
from typing import Any

import numba
import numpy as np

from memberwise.bayes.small_cholesky import FAST, factorise, inverse_diagonal, pack, solve_factored, unpack

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


@numba.njit(nogil=True, cache=True, fastmath=FAST)
def linear_predictor(T: Any, n: int, d: int, w: Any, offset: Any, eta: Any) -> None:
    """Write ``T' w + offset`` into eta [n]."""
    for i in range(n):
        eta[i] = offset[i]
    for a in range(d):
        for i in range(n):
            eta[i] += w[a] * T[a, i]


@numba.njit(nogil=True, cache=True, fastmath=FAST)
def losses(n: int, eta: Any, y: Any, c: Any, slope: Any, bend: Any) -> float:
    """Write first and second derivative of each row's loss; return the summed loss."""
    total = 0.0
    for i in range(n):
        z = eta[i]
        small = math.exp(-abs(z))
        inverse = 1.0 / (1.0 + small)
        p = inverse if z >= 0 else small * inverse
        total += c[i] * (max(z, 0.0) + math.log1p(small) - y[i] * z)
        slope[i] = c[i] * (p - y[i])
        bend[i] = c[i] * small * inverse * inverse
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
def penalty_and_gradient(P: Any, at: int, d: int, gap: Any, g: Any) -> float:
    """Write ``P gap`` into g for a precision packed at ``P[at:]``; return ``gap' P gap / 2``."""
    for a in range(d):
        base, total = at + a * (a + 1) // 2, 0.0
        for b in range(a):
            total += P[base + b] * gap[b]
            g[b] += P[base + b] * gap[a]
        g[a] = total + P[base + a] * gap[a]
    penalty = 0.0
    for a in range(d):
        penalty += 0.5 * gap[a] * g[a]
    return penalty


@numba.njit(nogil=True, cache=True)
def newton_entity(
    T: Any, n: int, d: int, y: Any, c: Any, offset: Any, prior_mean: Any, P: Any, at: int, w: Any,
    max_iter: int, tol: float, eta: Any, slope: Any, bend: Any, W: Any, g: Any, step: Any, gap: Any, U: Any,
) -> bool:  # fmt: skip
    """Minimise one entity's loss plus prior from w [d], in place; leave the Hessian at the mode in U."""
    for a in range(d):
        gap[a] = w[a] - prior_mean[a]
    linear_predictor(T, n, d, w, offset, eta)
    value = losses(n, eta, y, c, slope, bend) + penalty_and_gradient(P, at, d, gap, g)
    for _ in range(max_iter):
        unpack(P, at, d, U)
        add_rows(T, n, d, slope, bend, W, g, U)
        if not (math.isfinite(value) and factorise(U, d)):
            return False
        decrease = 0.0
        for a in range(d):
            step[a] = -g[a]
        solve_factored(U, d, step)
        for a in range(d):
            decrease -= step[a] * g[a]
        done = 0.5 * decrease <= tol * max(1.0, abs(value))
        length, before, accepted = 1.0, value, False
        for a in range(d):
            w[a] += step[a]
        for _ in range(40):
            for a in range(d):
                gap[a] = w[a] - prior_mean[a]
            linear_predictor(T, n, d, w, offset, eta)
            value = losses(n, eta, y, c, slope, bend) + penalty_and_gradient(P, at, d, gap, g)
            accepted = value <= before - 1e-4 * length * decrease + 1e-12 * max(1.0, abs(before))
            if accepted:
                break
            length *= 0.5
            for a in range(d):
                w[a] -= length * step[a]
        if not accepted:
            return False
        if done:
            unpack(P, at, d, U)
            add_rows(T, n, d, slope, bend, W, g, U)
            return True
    return False


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
    T, U, W = np.empty((d_max + 1, n_max)), np.zeros((d_max + 1, d_max + 1)), np.empty((2, min(n_max, 512)))
    eta, slope, bend = np.empty(n_max), np.empty(n_max), np.empty(n_max)
    ye, ce, oe = np.empty(n_max), np.empty(n_max), np.empty(n_max)
    g, step, gap, work = np.empty(d_max + 1), np.empty(d_max), np.empty(d_max), np.empty(d_max)
    position = np.full(n_columns if Z.shape[0] == 0 else 0, -1, np.int32)
    for e in range(lo, hi):
        n, first, last, at = row_ptr[e + 1] - row_ptr[e], coef_ptr[e], coef_ptr[e + 1], pack_ptr[e]
        d = last - first
        spread_rows(e, row_ptr, order, Z, indptr, indices, data, coef_ptr, feature, position, T)
        for i in range(n):
            source = order[row_ptr[e] + i]
            ye[i], ce[i], oe[i] = y[source], c[source], offset[source]
        T[d, :n] = 0.0
        w, before = mean[first:last], prior_mean[first:last]
        good = newton_entity(
            T, n, d, ye, ce, oe, before, prior, at, w, max_iter, tol, eta, slope, bend, W, g, step, gap, U
        )
        status[e] = CONVERGED if good else FAILED
        if not good:
            w[:] = before
            unpack(prior, at, d, U)
            linear_predictor(T, n, d, w, oe, eta)
        pack(U, d, posterior, at)
        for i in range(n):
            score[order[row_ptr[e] + i]] = eta[i] - oe[i]
        factorise(U, d)
        inverse_diagonal(U, d, work, variance[first:last])


@numba.njit(nogil=True, cache=True)
def largest(lo: int, hi: int, pointers: Any) -> int:
    """Return the size of the largest segment among lo .. hi-1."""
    size = 0
    for e in range(lo, hi):
        size = max(size, pointers[e + 1] - pointers[e])
    return size


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
            factorise(U, d)
        for i in range(row_ptr[e + 1] - row_ptr[e]):
            source, total = order[row_ptr[e] + i], 0.0
            for a in range(d):
                total += T[a, i] * mean[first + a]
                half[a] = T[a, i]
            score[source] = total
            if variance.size:
                spread = 0.0
                for a in range(d):
                    half[a] /= U[a, a]
                    spread += half[a] * half[a]
                    for b in range(a + 1, d):
                        half[b] -= half[a] * U[a, b]
                variance[source] = spread


@numba.njit(nogil=True, cache=True)
def count_features(
    row_ptr: Any, order: Any, indptr: Any, indices: Any, n_columns: int, constant: bool,
    known: Any, known_at: Any, known_size: Any, coef_ptr: Any,
) -> None:  # fmt: skip
    """Fill ``coef_ptr`` [E + 1]: how many features each entity has, those known and those in its rows."""
    seen = np.full(n_columns, -1, np.int64)
    coef_ptr[0] = 0
    for e in range(row_ptr.size - 1):
        total = known_size[e]
        for a in range(known_size[e]):
            column = known[known_at[e] + a]
            if column >= 0:
                seen[column] = e
        if constant and known_size[e] == 0:
            total += 1
        for i in range(row_ptr[e], row_ptr[e + 1]):
            for k in range(indptr[order[i]], indptr[order[i] + 1]):
                if seen[indices[k]] != e:
                    seen[indices[k]] = e
                    total += 1
        coef_ptr[e + 1] = coef_ptr[e] + total


@numba.njit(nogil=True, cache=True)
def list_features(
    row_ptr: Any, order: Any, indptr: Any, indices: Any, n_columns: int, constant: bool,
    known: Any, known_at: Any, known_size: Any, coef_ptr: Any, feature: Any,
) -> None:  # fmt: skip
    """Fill ``feature``: for each entity its known features as stored, then the new ones as they come."""
    seen = np.full(n_columns, -1, np.int64)
    for e in range(row_ptr.size - 1):
        at = coef_ptr[e]
        for a in range(known_size[e]):
            column = known[known_at[e] + a]
            feature[at] = column
            at += 1
            if column >= 0:
                seen[column] = e
        if constant and known_size[e] == 0:
            feature[at] = -1
            at += 1
        for i in range(row_ptr[e], row_ptr[e + 1]):
            for k in range(indptr[order[i]], indptr[order[i] + 1]):
                if seen[indices[k]] != e:
                    seen[indices[k]] = e
                    feature[at] = indices[k]
                    at += 1


@numba.njit(nogil=True, cache=True)
def recall_entities(
    lo: int, hi: int, coef_ptr: Any, feature: Any, pack_ptr: Any,
    stored_size: Any, stored_mean_at: Any, stored_pack_at: Any, stored_mean: Any, stored_pack: Any,
    full: bool, kept: Any, floor: Any, centre: Any, constant_floor: float, prior_mean: Any, prior: Any,
) -> None:  # fmt: skip
    """Write the prior of entities lo .. hi-1: what is stored, forgotten by ``kept[e]``, or the population's.

    The record of entity e has ``stored_size[e]`` coefficients (none if it is new) and starts at
    ``stored_mean_at[e]`` and ``stored_pack_at[e]`` of the store's arrays.

    ``kept[e]`` is delta to the power of the steps since the entity was last updated; ``floor`` and
    ``centre`` [p] are precision and mean of the population's prior.
    """
    d_max = largest(lo, hi, coef_ptr)
    U, b = np.empty((d_max, d_max)), np.empty(d_max)
    for e in range(lo, hi):
        first, d, at, known = coef_ptr[e], coef_ptr[e + 1] - coef_ptr[e], pack_ptr[e], stored_size[e]
        prior[at : at + d * (d + 1) // 2] = 0.0
        for a in range(known, d):
            column = feature[first + a]
            prior[at + a * (a + 1) // 2 + a] = constant_floor if column < 0 else floor[column]
            prior_mean[first + a] = 0.0 if column < 0 else centre[column]
        for a in range(known):
            prior_mean[first + a] = stored_mean[stored_mean_at[e] + a]
            source, target = stored_pack_at[e], at + a * (a + 1) // 2
            if full:
                for k in range(a + 1):
                    prior[target + k] = stored_pack[source + a * (a + 1) // 2 + k]
            else:
                prior[target + a] = stored_pack[source + a]
        if known == 0 or kept[e] == 1.0:
            continue
        for a in range(known):  # the information vector: kept * P m + (1 - kept) * F * centre
            b[a] = 0.0
            for k in range(known):
                row, column = max(a, k), min(a, k)
                b[a] += kept[e] * prior[at + row * (row + 1) // 2 + column] * prior_mean[first + k]
        for a in range(known):
            column = feature[first + a]
            bottom = constant_floor if column < 0 else floor[column]
            base = at + a * (a + 1) // 2
            for k in range(a + 1):
                prior[base + k] *= kept[e]
            prior[base + a] += (1.0 - kept[e]) * bottom
            b[a] += (1.0 - kept[e]) * bottom * (0.0 if column < 0 else centre[column])
        unpack(prior, at, known, U)
        factorise(U, known)
        solve_factored(U, known, b)
        for a in range(known):
            prior_mean[first + a] = b[a]
