"""Sums and AUC under many draws of cluster weights, in one pass each."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt


@numba.njit(nogil=True, cache=True)
def auc_of_draws(
    cluster: npt.NDArray[np.int32],
    positive: npt.NDArray[np.bool_],
    weight: npt.NDArray[np.float64],
    tie_end: npt.NDArray[np.bool_],
    draws: npt.NDArray[np.float32],
) -> npt.NDArray[np.float64]:
    """Compute the AUC under every draw of cluster weights.

    The inner loops run over draws, which lie side by side in memory, so that they become vector
    instructions and a row's cluster is fetched once for all draws: O(n) per draw, 0.2 s for 1,000
    draws of 100,000 rows.

    Parameters
    ----------
    cluster, positive, weight, tie_end : arrays [n]
        Rows by rising score; ``tie_end`` marks the last row of a run of equal scores.
    draws : array [clusters, draws]
        How often each cluster was drawn.

    Returns
    -------
    array [draws]
        ``nan`` where a draw holds one class.
    """
    n, count = cluster.shape[0], draws.shape[1]
    below = np.zeros(count)  # negatives with a lower score
    won = np.zeros(count)
    positives = np.zeros(count)
    tied_positive = np.zeros(count)
    tied_negative = np.zeros(count)
    fresh = True
    for i in range(n):
        w, drawn = weight[i], draws[cluster[i]]
        if fresh and tie_end[i]:
            if positive[i]:
                for b in range(count):
                    won[b] += w * drawn[b] * below[b]
                    positives[b] += w * drawn[b]
            else:
                for b in range(count):
                    below[b] += w * drawn[b]
            continue
        if positive[i]:
            for b in range(count):
                tied_positive[b] += w * drawn[b]
        else:
            for b in range(count):
                tied_negative[b] += w * drawn[b]
        fresh = tie_end[i]
        if fresh:
            for b in range(count):
                won[b] += tied_positive[b] * (below[b] + tied_negative[b] / 2)
                below[b] += tied_negative[b]
                positives[b] += tied_positive[b]
                tied_positive[b] = 0.0
                tied_negative[b] = 0.0
    result = np.full(count, np.nan)
    for b in range(count):
        if positives[b] > 0 and below[b] > 0:
            result[b] = won[b] / (positives[b] * below[b])
    return result


@numba.njit(nogil=True, cache=True)
def sums_of_draws(
    columns: npt.NDArray[np.float64], draws: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """Compute the product ``columns.T @ draws``.

    BLAS would wake a pool of threads for a millisecond's work, a thousand times: measured at five times
    the CPU seconds on two cores.

    Parameters
    ----------
    columns : array [clusters, k]
        Sums of row values by cluster.
    draws : array [clusters, draws]
        How often each cluster was drawn.

    Returns
    -------
    array [k, draws]
    """
    total = np.zeros((columns.shape[1], draws.shape[1]))
    for c in range(columns.shape[0]):
        drawn = draws[c]
        for k in range(columns.shape[1]):
            value = columns[c, k]
            if value != 0.0:
                for b in range(drawn.shape[0]):
                    total[k, b] += value * drawn[b]
    return total
