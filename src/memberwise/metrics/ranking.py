"""Quality of the list that one request got: NDCG, reciprocal rank and recall at k.

Ties are given the expectation over all their orders (McSherry and Najork 2008, Computing information
retrieval performance measures efficiently in the presence of tied scores), so that a constant score is
worth what chance is worth, whatever the order of the file.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from memberwise.errors import DataError
from memberwise.metrics._inputs import FloatArray, Grouping, Rows, defined_rows, group_codes, ratio, sum_by
from memberwise.metrics._ties import order_within, run_ends


class Grouped(NamedTuple):
    """A metric averaged over groups, and how many groups it is defined on."""

    value: float
    groups: int


def ndcg_at_k(labels: npt.ArrayLike, scores: npt.ArrayLike, requests: npt.ArrayLike, k: int = 10) -> Grouped:
    r"""Discounted gain of the first k items of a request, over that of the best order.

    .. math::
        \mathrm{NDCG@}k = \frac{\sum_{r \le k} y_{(r)} / \log_2(1 + r)}
                               {\sum_{r \le \min(k, \sum y)} 1 / \log_2(1 + r)}

    Parameters
    ----------
    labels, scores : array_like [n]
        Labels 0, 1 or ``nan``; any finite scores.
    requests : array_like [n]
        Ids of the lists.
    k : int
        How many places count.

    Returns
    -------
    Grouped
        Mean over requests with a positive; ``nan`` when there is none.

    Raises
    ------
    DataError
        See `defined_rows`; or k is not positive.

    References
    ----------
    .. [1] Järvelin and Kekäläinen (2002), Cumulated gain-based evaluation of IR techniques.

    Examples
    --------
    >>> ndcg_at_k([1, 0, 0, 1], [0.9, 0.5, 0.2, 0.8], [7, 7, 8, 8])
    Grouped(value=1.0, groups=2)
    """
    rows = defined_rows(labels, scores, None, requests)
    return _mean(ndcg_of_requests(rows, group_codes(rows.ids[0]), k))


def recall_at_k(
    labels: npt.ArrayLike, scores: npt.ArrayLike, requests: npt.ArrayLike, k: int = 10
) -> Grouped:
    r"""Share of a request's positives that are among its first k items.

    .. math:: \mathrm{recall@}k = \sum_{r \le k} y_{(r)} \,/\, \sum_r y_{(r)}

    Parameters
    ----------
    labels, scores : array_like [n]
        Labels 0, 1 or ``nan``; any finite scores.
    requests : array_like [n]
        Ids of the lists.
    k : int
        How many places count.

    Returns
    -------
    Grouped
        Mean over requests with a positive; ``nan`` when there is none.

    Raises
    ------
    DataError
        See `defined_rows`; or k is not positive.

    Examples
    --------
    >>> recall_at_k([1, 0, 1, 0], [0.9, 0.5, 0.2, 0.1], [7, 7, 7, 7], k=2)
    Grouped(value=0.5, groups=1)
    """
    rows = defined_rows(labels, scores, None, requests)
    return _mean(recall_of_requests(rows, group_codes(rows.ids[0]), k))


def mrr(labels: npt.ArrayLike, scores: npt.ArrayLike, requests: npt.ArrayLike) -> Grouped:
    r"""Mean reciprocal rank of a request's first positive.

    .. math:: \mathrm{MRR} = \frac1Q \sum_q 1 / \min\{r : y_{q,(r)} = 1\}

    Parameters
    ----------
    labels, scores : array_like [n]
        Labels 0, 1 or ``nan``; any finite scores.
    requests : array_like [n]
        Ids of the lists.

    Returns
    -------
    Grouped
        Mean over requests with a positive; ``nan`` when there is none.

    Raises
    ------
    DataError
        See `defined_rows`.

    Examples
    --------
    >>> mrr([0, 1, 1, 0], [0.9, 0.5, 0.8, 0.1], [7, 7, 8, 8])
    Grouped(value=0.75, groups=2)
    """
    rows = defined_rows(labels, scores, None, requests)
    return _mean(reciprocal_rank_of_requests(rows, group_codes(rows.ids[0])))


class _Ties(NamedTuple):
    """Runs of tied rows, request by request, best first; all arrays [runs].

    ``first`` is the place (from 1) of the run's first row in its request, ``size`` its rows and
    ``positives`` how many of them are positive.
    """

    request: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]
    size: npt.NDArray[np.int64]
    positives: npt.NDArray[np.int64]


def ndcg_of_requests(rows: Rows, grouping: Grouping, k: int) -> FloatArray:
    """NDCG@k of every request, [requests]; ``nan`` without a positive."""
    _check_places(k)
    ties = _ties(rows, grouping)
    discount = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, k + 2)))])
    begin, end = np.minimum(ties.first - 1, k), np.minimum(ties.first - 1 + ties.size, k)
    gain = ties.positives / ties.size * (discount[end] - discount[begin])
    best = discount[np.minimum(_positives(ties, grouping), k)]
    got = sum_by(ties.request, gain, grouping.size)
    return ratio(got, best)


def recall_of_requests(rows: Rows, grouping: Grouping, k: int) -> FloatArray:
    """Recall@k of every request, [requests]; ``nan`` without a positive."""
    _check_places(k)
    ties = _ties(rows, grouping)
    inside = np.clip(k - (ties.first - 1), 0, ties.size)
    found = sum_by(ties.request, ties.positives * inside / ties.size, grouping.size)
    total = _positives(ties, grouping)
    return ratio(found, total)


def reciprocal_rank_of_requests(rows: Rows, grouping: Grouping) -> FloatArray:
    """Expected reciprocal rank of every request, [requests]; ``nan`` without a positive."""
    ties = _ties(rows, grouping)
    winning = np.flatnonzero(ties.positives > 0)
    request, where = np.unique(ties.request[winning], return_index=True)
    winning = winning[where]
    first, size, positives = ties.first[winning], ties.size[winning], ties.positives[winning]
    value, still = np.zeros(len(winning)), np.ones(len(winning))
    # `still` is the chance that the run's first `passed` rows are all negative.
    alive, passed = np.arange(len(winning)), 0
    while alive.size:
        hit = positives[alive] / (size[alive] - passed)
        value[alive] += still[alive] * hit / (first[alive] + passed)
        still[alive] *= 1 - hit
        passed += 1
        alive = alive[size[alive] - positives[alive] >= passed]
    result = np.full(grouping.size, np.nan)
    result[request] = value
    return result


def _ties(rows: Rows, grouping: Grouping) -> _Ties:
    """Sort rows by request and falling score and gather the runs of ties."""
    if len(rows) == 0:
        empty = np.zeros(0, dtype=np.int64)
        return _Ties(empty, empty, empty, empty)
    order, key = order_within(-rows.scores, grouping)
    ends = run_ends(key)
    starts = np.concatenate([[0], ends[:-1] + 1])
    size = ends - starts + 1
    positives = np.add.reduceat(rows.labels[order], starts).astype(np.int64)
    request = grouping.codes[order[starts]]
    opening = np.searchsorted(request, np.arange(grouping.size))
    first = starts - starts[opening][request] + 1
    return _Ties(request, first, size, positives)


def _positives(ties: _Ties, grouping: Grouping) -> npt.NDArray[np.int64]:
    return sum_by(ties.request, ties.positives, grouping.size).astype(np.int64)


def _check_places(k: int) -> None:
    if k < 1:
        raise DataError(f"k must be at least 1, not {k}", where="metrics")


def _mean(values: FloatArray) -> Grouped:
    used = ~np.isnan(values)
    return Grouped(float(values[used].mean()) if used.any() else float("nan"), int(used.sum()))
