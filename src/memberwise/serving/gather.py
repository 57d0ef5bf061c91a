"""Look-ups of embeddings for requests: rows of a fused matrix into places of a wider row."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from memberwise.nn.rowwise_int8 import half

F32 = npt.NDArray[np.float32]
I8 = npt.NDArray[np.int8]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]


@njit(cache=True, nogil=True)
def gather_fields(
    rows: I32,
    starts: I64,
    counts: I64,
    parts: I64,
    places: I64,
    table: F32,
    packed: I8,
    halves: F32,
    out: F32,
    add: bool,
) -> None:
    """Embedding of every field, the mean of its values; a value is the sum of its rows.

    Parameters
    ----------
    rows : [n, C]
        Rows of the table; 0 for none.
    starts, counts, parts : [F]
        Column of each field in `rows`, its values at most, and the rows of a value.
    places : [F]
        Column of `out` where each field's embedding begins.
    table : [R, D]
        Fused matrix; without rows where `packed` holds it.
    packed, halves : [R, D + 4], [65536]
        The same as bytes (`memberwise.nn.rowwise_int8`), and the numbers that half precision stands for.
    out : [n, d]
        Result; zero where a field has no value.
    add
        Whether to add to what stands in `out`.
    """
    small = table.shape[0] == 0
    dim = packed.shape[1] - 4 if small else table.shape[1]
    for i in range(rows.shape[0]):
        for f in range(len(starts)):
            at, there = places[f], 0
            for v in range(counts[f]):
                there += rows[i, starts[f] + v * parts[f]] > 0
            share = np.float32(1.0) / np.float32(max(there, 1))
            if not add:
                for d in range(dim):
                    out[i, at + d] = np.float32(0.0)
            for c in range(starts[f], starts[f] + counts[f] * parts[f]):
                r = rows[i, c]
                if r <= 0:
                    continue
                if small:
                    scale = share * half(packed, r, dim, halves)
                    middle = share * half(packed, r, dim + 2, halves)
                    for d in range(dim):
                        out[i, at + d] += middle + scale * np.float32(packed[r, d])
                else:
                    for d in range(dim):
                        out[i, at + d] += share * table[r, d]


@njit(cache=True, nogil=True)
def fused_rows(
    ids: I32, starts: I64, widths: I64, offsets: I64, quotients: I64, remainders: I64, out: I32
) -> None:
    """Rows of a fused matrix from the ids of a batch; 0 where there is none.

    Parameters
    ----------
    ids : [n, C]
        By column of the batch; -1 in unused places.
    starts, widths : [F]
        Columns of each field in `ids`.
    offsets : [F]
        Where each field's table begins in the matrix.
    quotients, remainders : [F]
        Of compressed tables (`memberwise.ranking.columns.TableRows`), whose values take two columns of
        `out`; 0 for other tables.
    out : [n, C']
        Result.
    """
    for i in range(ids.shape[0]):
        at = 0
        for f in range(len(starts)):
            for c in range(starts[f], starts[f] + widths[f]):
                r = np.int64(ids[i, c])
                if remainders[f] == 0:
                    out[i, at] = r + offsets[f] if r >= 0 else 0
                    at += 1
                    continue
                out[i, at + 1] = 0
                if r < 0:
                    out[i, at] = 0
                elif r < 2:
                    out[i, at] = r + offsets[f]
                else:
                    out[i, at] = 2 + (r - 2) // remainders[f] + offsets[f]
                    out[i, at + 1] = 2 + quotients[f] + (r - 2) % remainders[f] + offsets[f]
                at += 2
