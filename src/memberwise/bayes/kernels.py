"""Serial numba kernels over CSR rows: products that keep a float32 design in float32.

scipy would convert a float32 matrix to float64 anew at every product with a float64 vector; these
kernels convert in registers. They are serial and release the GIL; callers split the rows.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from memberwise.bayes.likelihood import FloatArray

IndexArray = npt.NDArray[np.integer]


@numba.njit(nogil=True, cache=True)
def csr_dot(
    indptr: IndexArray, indices: IndexArray, data: npt.NDArray[np.floating], w: FloatArray, out: FloatArray
) -> None:
    """Write ``X w`` into ``out`` [n]."""
    for i in range(indptr.size - 1):
        total = 0.0
        for k in range(indptr[i], indptr[i + 1]):
            total += data[k] * w[indices[k]]
        out[i] = total


@numba.njit(nogil=True, cache=True)
def csr_transpose_dot(
    indptr: IndexArray, indices: IndexArray, data: npt.NDArray[np.floating], r: FloatArray, out: FloatArray
) -> None:
    """Add ``X' r`` to ``out`` [d]."""
    for i in range(indptr.size - 1):
        weight = r[i]
        if weight != 0.0:
            for k in range(indptr[i], indptr[i + 1]):
                out[indices[k]] += data[k] * weight


@numba.njit(nogil=True, cache=True)
def csr_squared_transpose_dot(
    indptr: IndexArray, indices: IndexArray, data: npt.NDArray[np.floating], r: FloatArray, out: FloatArray
) -> None:
    """Add ``(X * X)' r`` to ``out`` [d]: the diagonal of ``X' diag(r) X``."""
    for i in range(indptr.size - 1):
        weight = r[i]
        if weight != 0.0:
            for k in range(indptr[i], indptr[i + 1]):
                out[indices[k]] += data[k] * data[k] * weight


@numba.njit(nogil=True, cache=True)
def csr_gram_dot(
    indptr: IndexArray,
    indices: IndexArray,
    data: npt.NDArray[np.floating],
    r: FloatArray,
    v: FloatArray,
    out: FloatArray,
) -> None:
    """Add ``X' diag(r) X v`` to ``out`` [d] in one pass over the rows."""
    for i in range(indptr.size - 1):
        start, stop = indptr[i], indptr[i + 1]
        total = 0.0
        for k in range(start, stop):
            total += data[k] * v[indices[k]]
        total *= r[i]
        for k in range(start, stop):
            out[indices[k]] += data[k] * total
