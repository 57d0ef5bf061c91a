"""Serial numba kernels for small dense positive definite matrices: factor, solve, invert, pack.

Conventions
-----------
A symmetric matrix stands in the upper triangle of U [>= d, >= d]; a packed one by rows of its lower
triangle, element (a, b) at ``a (a + 1) / 2 + b``.
"""

from __future__ import annotations

import math
from typing import Any

import numba

FAST = {"reassoc", "contract", "nsz"}  # sums may be reordered; NaN and inf keep their meaning


@numba.njit(nogil=True, cache=True, fastmath=FAST)
def factorise(U: Any, d: int) -> bool:
    """Overwrite the upper triangle of U [d, d] with R where ``R'R = U``; False if U is not positive.

    Two pivot rows at a time, so that the trailing rows are read and written half as often.
    """
    j = 0
    while j < d:
        pair = j + 1 < d
        if not U[j, j] > 0.0:
            return False
        scale = 1.0 / math.sqrt(U[j, j])
        for q in range(j, d):
            U[j, q] *= scale
        if pair:
            below = U[j, j + 1]
            for q in range(j + 1, d):
                U[j + 1, q] -= below * U[j, q]
            if not U[j + 1, j + 1] > 0.0:
                return False
            scale = 1.0 / math.sqrt(U[j + 1, j + 1])
            for q in range(j + 1, d):
                U[j + 1, q] *= scale
        for i in range(j + 2, d):
            one, two = U[j, i], U[j + 1, i]
            for q in range(i, d):
                U[i, q] -= one * U[j, q] + two * U[j + 1, q]
        j += 2
    return True


@numba.njit(nogil=True, cache=True, fastmath=FAST)
def solve_factored(R: Any, d: int, b: Any) -> None:
    """Overwrite b [d] with ``(R'R)^-1 b``."""
    for i in range(d):
        b[i] /= R[i, i]
        for q in range(i + 1, d):
            b[q] -= b[i] * R[i, q]
    for i in range(d - 1, -1, -1):
        total = b[i]
        for q in range(i + 1, d):
            total -= R[i, q] * b[q]
        b[i] = total / R[i, i]


@numba.njit(nogil=True, cache=True, fastmath=FAST)
def inverse_diagonal(R: Any, d: int, work: Any, out: Any) -> None:
    """Write the diagonal of ``(R'R)^-1`` into out [d]; R is overwritten with its inverse."""
    for i in range(d - 1, -1, -1):
        for q in range(i, d):
            work[q] = R[i, q]
            R[i, q] = 0.0
        k = i + 1
        while k + 1 < d:
            one, two = work[k], work[k + 1]
            R[i, k] -= one * R[k, k]
            for q in range(k + 1, d):
                R[i, q] -= one * R[k, q] + two * R[k + 1, q]
            k += 2
        if k < d:
            R[i, k] -= work[k] * R[k, k]
        scale = 1.0 / work[i]
        R[i, i] = scale
        total = scale * scale
        for q in range(i + 1, d):
            R[i, q] *= scale
            total += R[i, q] * R[i, q]
        out[i] = total


@numba.njit(nogil=True, cache=True)
def unpack(packed: Any, at: int, d: int, U: Any) -> None:
    """Write the packed triangle at ``packed[at:]`` into the upper triangle of U."""
    for a in range(d):
        for b in range(a + 1):
            U[b, a] = packed[at + a * (a + 1) // 2 + b]


@numba.njit(nogil=True, cache=True)
def pack(U: Any, d: int, packed: Any, at: int) -> None:
    """Write the upper triangle of U into ``packed[at:]``."""
    for a in range(d):
        for b in range(a + 1):
            packed[at + a * (a + 1) // 2 + b] = U[b, a]
