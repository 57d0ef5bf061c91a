"""Serial numba kernels that walk events and rows together, once, in time order.

In all of them row i sees the events up to (not including) ``add_until[i]``, and a window has dropped those
before ``drop_until[i]``; both never decrease. ``done = [added, dropped]`` says how far a kernel has come and
is moved forward in place.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
U64 = npt.NDArray[np.uint64]
Flags = npt.NDArray[np.bool_]


@njit(cache=True, nogil=True)
def _add(
    event: int,
    sign: float,
    times: I64,
    offsets: I64,
    codes: I32,
    values: F32,
    sums: F64,
    at: I64,
    last: I64,
    rate: float,
) -> None:
    """Add an event (or take it away again) under each of its keys and under key 0, which is all of them."""
    width = values.shape[1]
    t = times[event]
    for j in range(offsets[event] - 1, offsets[event + 1]):
        k = 0 if j < offsets[event] else codes[j]
        if rate > 0.0:
            keep = np.exp(-rate * (t - at[k]))
            for w in range(width):
                sums[k, w] *= keep
            at[k] = t
        for w in range(width):
            sums[k, w] += sign * values[event, w]
        if sign > 0.0:
            last[k] = max(last[k], t)
        else:
            # Where no value is left, what rounding left of their sum goes too.
            for w in range(1, width, 2):
                if sums[k, w + 1] < 0.5:
                    sums[k, w] = 0.0


@njit(cache=True, nogil=True)
def walk_sums(
    add_until: I64,
    drop_until: I64,
    limits: I64,
    row_offsets: I64,
    row_codes: I32,
    done: I64,
    times: I64,
    offsets: I64,
    codes: I32,
    values: F32,
    sums: F64,
    at: I64,
    last: I64,
    rate: float,
    own: F64,
    everything: F64,
    own_last: I64,
) -> None:
    """Move the sums through the events and read, for every row, the sums under its keys and over all keys.

    Parameters
    ----------
    limits : [n]
        Cut-off of each row; sums that decay are read as of this moment.
    row_offsets, row_codes : [n + 1], [r]
        Keys of each row; a code below 1 is unknown.
    values : [m, W]
        What each event adds.
    sums : [K, W], at : [K], last : [K]
        Sums by key, the moment they were last decayed to, and the time of the last event.
    own, everything, own_last : [n, W], [n, W], [n]
        Results.
    """
    width = values.shape[1]
    added, dropped = done[0], done[1]
    for i in range(len(add_until)):
        while added < add_until[i]:
            _add(added, 1.0, times, offsets, codes, values, sums, at, last, rate)
            added += 1
        while dropped < drop_until[i]:
            _add(dropped, -1.0, times, offsets, codes, values, sums, at, last, rate)
            dropped += 1
        for j in range(row_offsets[i] - 1, row_offsets[i + 1]):
            k = 0 if j < row_offsets[i] else row_codes[j]
            if k < 0:
                continue
            keep = np.exp(-rate * (limits[i] - at[k])) if rate > 0.0 else 1.0
            if j < row_offsets[i]:
                for w in range(width):
                    everything[i, w] = keep * sums[0, w]
            else:
                for w in range(width):
                    own[i, w] += keep * sums[k, w]
                own_last[i] = max(own_last[i], last[k])
    done[0], done[1] = added, dropped


@njit(cache=True, nogil=True)
def walk_distinct(
    add_until: I64,
    drop_until: I64,
    row_offsets: I64,
    row_codes: I32,
    done: I64,
    offsets: I64,
    codes: I32,
    pairs: I32,
    pair_count: I32,
    distinct: I32,
    out: F64,
) -> None:
    """The same walk for the number of distinct values under each key.

    Parameters
    ----------
    pairs : [entries]
        Code of the (key, value) pair of each entry of `codes`; below 0 where the value is missing.
    pair_count, distinct : [P], [K]
        How often a pair is present, and how many pairs of a key are.
    out : [n]
        Sum over the keys of each row.
    """
    added, dropped = done[0], done[1]
    for i in range(len(add_until)):
        while added < add_until[i]:
            for j in range(offsets[added], offsets[added + 1]):
                p = pairs[j]
                if p >= 0:
                    if pair_count[p] == 0:
                        distinct[codes[j]] += 1
                    pair_count[p] += 1
            added += 1
        while dropped < drop_until[i]:
            for j in range(offsets[dropped], offsets[dropped + 1]):
                p = pairs[j]
                if p >= 0:
                    pair_count[p] -= 1
                    if pair_count[p] == 0:
                        distinct[codes[j]] -= 1
            dropped += 1
        for j in range(row_offsets[i], row_offsets[i + 1]):
            if row_codes[j] > 0:
                out[i] += distinct[row_codes[j]]
    done[0], done[1] = added, dropped


@njit(cache=True, nogil=True)
def walk_history(
    add_until: I64,
    row_codes: I32,
    row_times: I64,
    done: I64,
    times: I64,
    members: I32,
    items: U64,
    actions: I32,
    ring_items: U64,
    ring_actions: I32,
    ring_times: I64,
    total: I64,
    out_items: U64,
    out_actions: I32,
    out_ages: F32,
    out_known: Flags,
) -> None:
    """Move the members' rings through the events and copy out, newest first, what each row may know.

    Parameters
    ----------
    members, items, actions : [m]
        Member code, hashed item and action code of each event.
    ring_items, ring_actions, ring_times : [M, N]
        The last N events of each member; event number e of a member stands at e modulo N.
    total : [M]
        Events of each member so far.
    out_items, out_actions, out_ages, out_known : [n, N]
        Results, left as they are behind the last event. Ages in seconds.
    """
    length = ring_items.shape[1]
    added = done[0]
    for i in range(len(add_until)):
        while added < add_until[i]:
            m = members[added]
            if m >= 0:
                p = total[m] % length
                ring_items[m, p] = items[added]
                ring_actions[m, p] = actions[added]
                ring_times[m, p] = times[added]
                total[m] += 1
            added += 1
        m = row_codes[i]
        known = min(total[m], length) if m >= 0 else 0
        for j in range(known):
            p = (total[m] - 1 - j) % length
            out_items[i, j] = ring_items[m, p]
            out_actions[i, j] = ring_actions[m, p]
            out_ages[i, j] = (row_times[i] - ring_times[m, p]) * 1e-6
            out_known[i, j] = True
    done[0] = added


@njit(cache=True, nogil=True)
def count_places(rows: I32, first: I64, counts: I64) -> None:
    """Count the values of each column, ``counts[first[c] + rows[i, c]] += 1``; -1 is not counted.

    Parameters
    ----------
    rows : [n, C]
    first : [C]
        Where each column's table begins in `counts`; below 0, the column is not counted.
    """
    for i in range(rows.shape[0]):
        for c in range(rows.shape[1]):
            if rows[i, c] >= 0 and first[c] >= 0:
                counts[first[c] + rows[i, c]] += 1


@njit(cache=True, nogil=True)
def move_places(rows: I32, first: I64, moved: I32) -> None:
    """Replace values in place, ``rows[i, c] = moved[first[c] + rows[i, c]]``; -1 stays. Shapes as above."""
    for i in range(rows.shape[0]):
        for c in range(rows.shape[1]):
            if rows[i, c] >= 0:
                rows[i, c] = moved[first[c] + rows[i, c]]
