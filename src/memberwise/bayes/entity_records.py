"""Serial numba kernels between a batch and the store: features, what is known of them, what is kept.

Conventions as in `memberwise.bayes.entity_kernels`. The record of entity e in the store has ``size[e]``
coefficients (none if the entity is new), which start at ``mean_at[e]`` and ``pack_at[e]`` of its arrays.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from memberwise.bayes.entity_kernels import largest
from memberwise.bayes.small_cholesky import factorise, solve_factored, unpack


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
        factorise(U, known, known)
        solve_factored(U, known, b)
        for a in range(known):
            prior_mean[first + a] = b[a]


@numba.njit(nogil=True, cache=True)
def store_entities(
    lo: int, hi: int, coef_ptr: Any, feature: Any, pack_ptr: Any, mean: Any, precision: Any, variance: Any,
    full: bool, mean_at: Any, pack_at: Any, stored_feature: Any, stored_mean: Any, stored_pack: Any,
) -> None:  # fmt: skip
    """Write posteriors into their records, rounded to the store's float32.

    A diagonal record keeps one over each marginal variance.
    """
    for e in range(lo, hi):
        first, d, at, target = coef_ptr[e], coef_ptr[e + 1] - coef_ptr[e], mean_at[e], pack_at[e]
        for a in range(d):
            stored_feature[at + a] = feature[first + a]
            stored_mean[at + a] = mean[first + a]
        if full:
            for k in range(d * (d + 1) // 2):
                stored_pack[target + k] = precision[pack_ptr[e] + k]
        else:
            for a in range(d):
                stored_pack[target + a] = 1.0 / variance[first + a]
