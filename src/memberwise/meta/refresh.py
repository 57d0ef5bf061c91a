"""When an entity's embedding changes, and what each of its versions has seen."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from memberwise.data.hashing import U64
from memberwise.errors import ConfigError
from memberwise.meta.episodes import I64, Tasks
from memberwise.schema import DAY, HOUR, Delay


def ready(times: I64, delay: Delay) -> I64:
    """The first moment at which an embedding may know an event: the end of its hour or day in UTC.

    The counterpart of `memberwise.data.times.cutoffs`: an event at t' is past for a row at t exactly if
    ``ready(t') <= t``. ``[n] -> [n]``

    Examples
    --------
    >>> ready(np.array([0, 5]), "none").tolist()
    [1, 6]
    """
    match delay:
        case "none":
            return times + 1
        case "hourly":
            return times - times % HOUR + HOUR
        case "daily":
            return times - times % DAY + DAY
    raise ConfigError("embeddings that are never refreshed", where="meta.delay", fix="write daily or hourly")


def entries(
    keys: U64, times: I64, moments: I64, *, support: int, window: int | None = None, first: int = 0
) -> Tasks:
    """All embeddings that a refresh after every hour or day would have made, of entities with new events.

    Parameters
    ----------
    keys : ndarray of uint64, shape [n]
        Entity of each row, 0 for none; rows in time order.
    times, moments : ndarray of int64, shape [n]
        Of each row, and when it counts (`ready`).
    support, window
        As in `memberwise.meta.episodes.find_tasks`.
    first
        Only the embeddings that rows from this one on change, and of every entity the last one before.

    Returns
    -------
    Tasks
        Without queries; ``cutoff`` is the moment from which an embedding holds.
    """
    inside = np.flatnonzero(keys != 0)
    order = inside[np.argsort(keys[inside], kind="stable")]
    found = _entries(
        keys[order],
        times[order],
        moments[order],
        order >= first,
        support,
        -1 if window is None else window,
    )
    ends = found[:, 1]
    return Tasks(order, found[:, :2].copy(), np.stack([ends, ends], axis=1), found[:, 2].copy())


@njit(cache=True, nogil=True)
def _entries(
    keys: U64,
    times: I64,
    moments: I64,
    wanted: npt.NDArray[np.bool_],
    support: int,
    window: int,
) -> I64:
    """One row per change of (key, moment): start and end of the support, and the moment."""
    n = len(keys)
    out = np.empty((n, 3), np.int64)
    made, begin, old = 0, 0, 0
    for i in range(n):
        if i == 0 or keys[i] != keys[i - 1]:
            begin, old = i, i
        more = i + 1 < n and keys[i + 1] == keys[i]
        if more and (moments[i + 1] == moments[i] or not (wanted[i] or wanted[i + 1])):
            continue
        while window >= 0 and old <= i and times[old] < moments[i] - window:
            old += 1
        out[made, 0] = min(max(old, max(begin, i + 1 - support)), i + 1)
        out[made, 1] = i + 1
        out[made, 2] = moments[i]
        made += 1
    return out[:made]
