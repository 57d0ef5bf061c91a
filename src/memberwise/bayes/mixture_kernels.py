"""The expectation step of the variational mixture, blocked so that every loop vectorises."""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

_BLOCK = 256
_LOG2E = 1.4426950408889634
_LN2_HIGH, _LN2_LOW = 0.693147180369123816490, 1.90821492927058770002e-10
_POWERS = 2.0 ** -np.arange(1024.0)  # 2^-k
_FAST = {"contract", "nsz", "reassoc"}


@numba.njit(nogil=True, cache=True)
def exponentials(values: Any) -> None:
    """Overwrite values in [-708, 0] with their exponentials, relative error below 1e-12.

    numba has no vector math library, so exp is written out: a power of two from a table times a
    polynomial on [-ln 2 / 2, ln 2 / 2].
    """
    for i in range(values.size):
        k = np.int32(0.5 - values[i] * _LOG2E)
        r = (values[i] + k * _LN2_HIGH) + k * _LN2_LOW
        p = 1.0 / 39916800.0
        p = p * r + 1.0 / 3628800.0
        p = p * r + 1.0 / 362880.0
        p = p * r + 1.0 / 40320.0
        p = p * r + 1.0 / 5040.0
        p = p * r + 1.0 / 720.0
        p = p * r + 1.0 / 120.0
        p = p * r + 1.0 / 24.0
        p = p * r + 1.0 / 6.0
        p = p * r + 0.5
        p = p * r + 1.0
        values[i] = (p * r + 1.0) * _POWERS[k]


@numba.njit(nogil=True, cache=True, fastmath=_FAST)
def expectation(
    x: Any, precision: Any, count: Any, slope: Any, level: Any, constant: Any, N: Any, B: Any, A: Any
) -> float:
    """Add the sufficient statistics of all points; return their summed log normaliser.

    Scores are ``precision_i (slope_t x_i - level_t) + constant_t``; with phi their softmax over t,
    N += sum count phi, B += sum count phi precision, A += sum count phi precision x, each [T].
    """
    T, total = slope.size, 0.0
    S = np.empty((T, _BLOCK))
    top, mass = np.empty(_BLOCK), np.empty(_BLOCK)
    for lo in range(0, x.size, _BLOCK):
        n = min(_BLOCK, x.size - lo)
        xs, rs, cs = x[lo : lo + n], precision[lo : lo + n], count[lo : lo + n]
        for i in range(n):
            top[i] = -1e300
            mass[i] = 0.0
        for t in range(T):
            row, a, b, e = S[t], slope[t], level[t], constant[t]
            for i in range(n):
                row[i] = rs[i] * (a * xs[i] - b) + e
                top[i] = max(top[i], row[i])
        for t in range(T):
            row = S[t]
            for i in range(n):
                row[i] = max(row[i] - top[i], -700.0)
            exponentials(row[:n])
            for i in range(n):
                mass[i] += row[i]
        for i in range(n):
            total += cs[i] * (top[i] + math.log(mass[i]))
            mass[i] = cs[i] / mass[i]
        for t in range(T):
            row = S[t]
            first, second, third = 0.0, 0.0, 0.0
            for i in range(n):
                share = row[i] * mass[i]
                first += share
                second += share * rs[i]
                third += share * rs[i] * xs[i]
            N[t] += first
            B[t] += second
            A[t] += third
    return total


@numba.njit(nogil=True, cache=True, fastmath=_FAST)
def posterior_means(x: Any, noise: Any, log_weights: Any, means: Any, variances: Any, out: Any) -> None:
    """Write ``E[theta | x]`` under a mixture of normals and atoms into out [n]."""
    K = means.size
    S = np.empty((K, _BLOCK))
    top, mass = np.empty(_BLOCK), np.empty(_BLOCK)
    for lo in range(0, x.size, _BLOCK):
        n = min(_BLOCK, x.size - lo)
        xs, ss = x[lo : lo + n], noise[lo : lo + n]
        for i in range(n):
            top[i] = -1e300
            mass[i] = 0.0
            out[lo + i] = 0.0
        for k in range(K):
            row, m, v, e = S[k], means[k], variances[k], log_weights[k]
            if v == 0.0:
                for i in range(n):
                    gap = (xs[i] - m) / ss[i]
                    row[i] = e - 0.5 * gap * gap
            else:
                for i in range(n):
                    noise_i = ss[i] * ss[i]
                    total = v + noise_i
                    row[i] = e - 0.5 * ((xs[i] - m) * (xs[i] - m) / total + math.log(total / noise_i))
            for i in range(n):
                top[i] = max(top[i], row[i])
        for k in range(K):
            row, m, v = S[k], means[k], variances[k]
            for i in range(n):
                row[i] = max(row[i] - top[i], -700.0)
            exponentials(row[:n])
            for i in range(n):
                gain = v / (v + ss[i] * ss[i])
                mass[i] += row[i]
                out[lo + i] += row[i] * (m + gain * (xs[i] - m))
        for i in range(n):
            out[lo + i] /= mass[i]
