"""Serial numba kernels for small dense positive definite matrices: factor, solve, invert, pack.

Conventions
-----------
A symmetric matrix stands in the upper triangle of U [>= d, >= d]; a packed one by rows of its lower
triangle, element (a, b) at ``a (a + 1) / 2 + b``. A factor R with ``R'R = U`` keeps the reciprocals of its
diagonal, since all that is ever done with the diagonal is to divide by it.
"""

from __future__ import annotations

import math
from typing import Any

import numba

FAST = {"reassoc", "contract", "nsz"}  # sums may be reordered; NaN and inf keep their meaning


@numba.njit(nogil=True, cache=True, fastmath=FAST)
def factorise(U: Any, d: int, width: int) -> bool:
    """Overwrite the upper triangle of U [d, d] with its factor R; False if U is not positive.

    Columns d .. width-1 of U are right-hand sides B and become ``R'^-1 B``. Four pivot rows at a time, so
    that the trailing rows are read and written a quarter as often.
    """
    for j in range(0, d, 4):
        stop = min(j + 4, d)
        for k in range(j, stop):
            if not U[k, k] > 0.0:
                return False
            scale = 1.0 / math.sqrt(U[k, k])
            U[k, k] = scale
            for q in range(k + 1, width):
                U[k, q] *= scale
            for i in range(k + 1, stop):
                below = U[k, i]
                for q in range(i, width):
                    U[i, q] -= below * U[k, q]
        for i in range(stop, d):  # reached only when there were four
            one, two, three, four = U[j, i], U[j + 1, i], U[j + 2, i], U[j + 3, i]
            for q in range(i, width):
                U[i, q] -= one * U[j, q] + two * U[j + 1, q] + three * U[j + 2, q] + four * U[j + 3, q]
    return True


@numba.njit(nogil=True, cache=True, fastmath=FAST)
def solve_upper(R: Any, d: int, b: Any) -> None:
    """Overwrite b [d] with ``R^-1 b``."""
    for i in range(d - 1, -1, -1):
        total = b[i]
        for q in range(i + 1, d):
            total -= R[i, q] * b[q]
        b[i] = total * R[i, i]


@numba.njit(nogil=True, cache=True, fastmath=FAST)
def solve_factored(R: Any, d: int, b: Any) -> None:
    """Overwrite b [d] with ``(R'R)^-1 b``."""
    for i in range(d):
        b[i] *= R[i, i]
        for q in range(i + 1, d):
            b[q] -= b[i] * R[i, q]
    solve_upper(R, d, b)


@numba.njit(nogil=True, cache=True, fastmath=FAST)
def inverse_diagonal(R: Any, d: int, work: Any, out: Any) -> None:
    """Write the diagonal of ``(R'R)^-1`` into out [d]; R is overwritten with its inverse."""
    for i in range(d - 1, -1, -1):
        for q in range(i + 1, d):
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
        total = R[i, i] * R[i, i]
        for q in range(i + 1, d):
            R[i, q] *= R[i, i]
            total += R[i, q] * R[i, q]
        out[i] = total


@numba.njit(nogil=True, cache=True)
def copy_square(source: Any, d: int, target: Any) -> None:
    """Copy a matrix [d, d]; whole rows take less time than the triangle alone."""
    for a in range(d):
        for b in range(d):
            target[a, b] = source[a, b]


@numba.njit(nogil=True, cache=True)
def unpack_both(packed: Any, at: int, d: int, P: Any) -> None:
    """Write the packed triangle at ``packed[at:]`` into both triangles of P."""
    for a in range(d):
        for b in range(a + 1):
            P[a, b] = P[b, a] = packed[at + a * (a + 1) // 2 + b]


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
