"""Labels that say whether a number is high for its kind: above a percentile of its cluster the period before.

Raw dwell is noisy, and a fixed threshold goes stale and favours long content. A threshold per cluster
(position, type of content, platform) that moves with the days does neither.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from memberwise.data.arrays import Arrays
from memberwise.data.events import label_column
from memberwise.data.frame import Frame
from memberwise.data.hashing import U64, combine
from memberwise.data.times import I64
from memberwise.errors import DataError
from memberwise.schema import Percentile

F32 = npt.NDArray[np.float32]
_EVERYTHING = np.uint64(1)
"""Key of the cluster of all rows."""


class PercentileLabels:
    """Thresholds of one task, walked through the log in time order.

    ``y_i = 1[v_i > q_share(v_j : j in the cluster of i, period(j) = period(i) - 1)]``

    The cluster of a row is made by the values of all columns of `within`; while it had fewer than `min_rows`
    rows in the period before, the last column is left out, and in the end all rows are one cluster. Where
    even these are too few, as in the first period of a log, the label is not defined.

    Parameters
    ----------
    task : str
        Whose labels.
    spec
        Share, columns, period and least number of rows.

    Notes
    -----
    Rows of the same period never meet: a threshold knows nothing of the period that it judges. Only the last
    two periods are kept.

    References
    ----------
    LiRank (Borisyuk et al., 2024), section 4.1 (long dwell).
    """

    def __init__(self, task: str, spec: Percentile) -> None:
        self.task, self.spec = task, spec
        self._values: F32 = np.zeros(0, np.float32)
        self._keys: U64 = np.zeros((len(spec.within) + 1, 0), np.uint64)
        """By level, the finest first; 0 where a row has no value in one of the columns."""
        self._periods: I64 = np.zeros(0, np.int64)

    def label(self, frame: Frame) -> F32:
        """Labels of the next rows of the log, ``[n]``: 0, 1, or NaN where they are not defined.

        Raises
        ------
        DataError
            If the rows are of an earlier period than those before.
        """
        raw = frame.events[label_column(self.task)].to_numpy()
        periods, keys = frame.times // self.spec.period, self._clusters(frame)
        if len(raw) and len(self._periods) and periods[0] < self._periods[-1]:
            raise DataError(
                "events are older than those that set the thresholds", where=f"tasks.{self.task}.percentile"
            )
        defined = ~np.isnan(raw)
        self._values = np.concatenate([self._values, raw[defined]])
        self._keys = np.concatenate([self._keys, keys[:, defined]], axis=1)
        self._periods = np.concatenate([self._periods, periods[defined]])
        labels = np.full(len(raw), np.nan, np.float32)
        for period in np.unique(periods[defined]):
            rows = np.flatnonzero((periods == period) & defined)
            limits = self._limits(period - 1, keys[:, rows])
            known = ~np.isnan(limits)
            labels[rows[known]] = raw[rows[known]] > limits[known]
        if len(periods):
            self._forget(int(periods[-1]) - 1)
        return labels

    def _clusters(self, frame: Frame) -> U64:
        """Key of each row's cluster at every level, ``[levels, n]``."""
        key = np.full(len(frame), _EVERYTHING, np.uint64)
        levels = [key]
        for column in self.spec.within:
            key = combine(key, frame.values(column))
            levels.insert(0, key)
        return np.stack(levels)

    def _limits(self, period: int, keys: U64) -> F32:
        """Threshold of each row by the rows of a period, ``[n]``; NaN where these are too few."""
        past = self._periods == period
        values = self._values[past]
        limits = np.full(keys.shape[1], np.nan, np.float32)
        for mine, theirs in zip(keys, self._keys[:, past], strict=True):
            known, quantile = cluster_quantiles(theirs, values, self.spec.share, self.spec.min_rows)
            if len(known) == 0:
                continue
            place = np.minimum(np.searchsorted(known, mine), len(known) - 1)
            found = (known[place] == mine) & np.isnan(limits)
            limits[found] = quantile[place[found]]
        return limits

    def _forget(self, before: int) -> None:
        kept = self._periods >= before
        self._values, self._periods = self._values[kept], self._periods[kept]
        self._keys = self._keys[:, kept]

    def to_arrays(self) -> Arrays:
        """The last two periods, for saving."""
        return {"values": self._values, "keys": self._keys, "periods": self._periods}

    def load_arrays(self, state: Arrays) -> None:
        """The inverse of `to_arrays`."""
        self._values = np.asarray(state["values"], np.float32)
        self._keys = np.asarray(state["keys"], np.uint64)
        self._periods = np.asarray(state["periods"], np.int64)


def cluster_quantiles(keys: U64, values: F32, share: float, min_rows: int) -> tuple[U64, F32]:
    """The least value that at least a share of each cluster does not exceed; small clusters are left out.

    Parameters
    ----------
    keys : ndarray of uint64, [n]
        Cluster of each row; 0 for none.
    values : ndarray of float32, [n]
    share : float
        Between 0 and 1.
    min_rows : int
        Rows that a cluster needs.

    Returns
    -------
    clusters : ndarray of uint64, in order
    quantiles : ndarray of float32
    """
    order = np.lexsort((values, keys))
    clusters, start, count = np.unique(keys[order], return_index=True, return_counts=True)
    enough = (count >= min_rows) & (clusters != 0)
    rank = np.ceil(share * count[enough]).astype(np.int64) - 1
    return clusters[enough], values[order][start[enough] + rank]
