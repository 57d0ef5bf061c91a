"""Keys: the hashed combinations of column values that aggregates count under."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from memberwise.data.frame import Frame, Ragged
from memberwise.data.hashing import U64, combine


def keys(frame: Frame, by: Sequence[str], max_values: int) -> Ragged:
    """Hashed keys of every row; a row with list columns has one key per combination of values.

    Parameters
    ----------
    frame
        The rows.
    by
        Columns that make the key, in order.
    max_values
        Values used of each list column.

    Returns
    -------
    flat : ndarray of uint64
        Never missing: a row with a missing part has no key.
    offsets : ndarray of int64, shape [n + 1]
    """
    flat, offsets = _one(frame, by[0], max_values)
    for column in by[1:]:
        flat, offsets = _cross((flat, offsets), _one(frame, column, max_values))
    return flat, offsets


def _one(frame: Frame, column: str, max_values: int) -> Ragged:
    if frame.is_list(column):
        return frame.lists(column, max_values)
    values = frame.values(column)
    there = values != 0
    if bool(there.all()):
        return values, np.arange(len(values) + 1, dtype=np.int64)
    return values[there], np.concatenate([[0], np.cumsum(there)]).astype(np.int64)


def _cross(left: Ragged, right: Ragged) -> Ragged:
    """Every pair of a left and a right value of the same row, left major."""
    (a, a_off), (b, b_off) = left, right
    n_left, n_right = np.diff(a_off), np.diff(b_off)
    offsets = np.concatenate([[0], np.cumsum(n_left * n_right)]).astype(np.int64)
    row_of_left = np.repeat(np.arange(len(n_left)), n_left)
    repeats = n_right[row_of_left]
    first = np.repeat(a, repeats)
    # Position of each pair within its left value's run, shifted to where the row's right values start.
    starts = np.concatenate([[0], np.cumsum(repeats)[:-1]]) if len(repeats) else np.zeros(0, np.int64)
    within = np.arange(len(first)) - np.repeat(starts, repeats)
    second = b[np.repeat(b_off[:-1][row_of_left], repeats) + within]
    return combine(first, second), offsets


def row_keys(frame: Frame, by: Sequence[str]) -> U64:
    """One hashed key per row from single-valued columns; 0 where a part is missing. ``[n]``"""
    found = frame.values(by[0])
    for column in by[1:]:
        other = frame.values(column)
        found = np.where((found == 0) | (other == 0), np.uint64(0), combine(found, other))
    return found
