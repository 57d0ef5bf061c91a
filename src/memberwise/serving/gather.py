"""Look-ups of embeddings for requests: rows of a fused matrix into places of a wider row."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

F32 = npt.NDArray[np.float32]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]


@njit(cache=True, nogil=True)
def gather_fields(rows: I32, starts: I64, widths: I64, places: I64, table: F32, out: F32) -> None:
    """Embedding of every field, the mean where it has several values; zero where it has none.

    Parameters
    ----------
    rows : [n, C]
        Rows of the table; 0 for no value.
    starts, widths : [F]
        Columns of each field in `rows`.
    places : [F]
        Column of `out` where each field's embedding begins.
    table : [R, D]
        Fused matrix.
    out : [n, d]
        Result.
    """
    dim = table.shape[1]
    for i in range(rows.shape[0]):
        for f in range(len(starts)):
            at, there = places[f], 0
            for d in range(dim):
                out[i, at + d] = np.float32(0.0)
            for c in range(starts[f], starts[f] + widths[f]):
                r = rows[i, c]
                if r > 0:
                    there += 1
                    for d in range(dim):
                        out[i, at + d] += table[r, d]
            if there > 1:
                share = np.float32(1.0) / np.float32(there)
                for d in range(dim):
                    out[i, at + d] *= share


@njit(cache=True, nogil=True)
def sum_wide(rows: I32, starts: I64, widths: I64, table: F32, out: F32) -> None:
    """Add the weights of all ids, several values of a field sharing one weight.

    Parameters
    ----------
    rows : [n, C], starts, widths : [F], table : [R, T]
        As in `gather_fields`.
    out : [n, T]
        Added to.
    """
    for i in range(rows.shape[0]):
        for f in range(len(starts)):
            there = 0
            for c in range(starts[f], starts[f] + widths[f]):
                there += rows[i, c] > 0
            if there == 0:
                continue
            share = np.float32(1.0) / np.float32(there)
            for c in range(starts[f], starts[f] + widths[f]):
                if rows[i, c] > 0:
                    for t in range(table.shape[1]):
                        out[i, t] += share * table[rows[i, c], t]
