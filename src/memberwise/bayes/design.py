"""The design matrix as the solvers see it: six products, dense or sparse, with a free intercept.

Conventions
-----------
Coefficient 0 is the intercept when there is one; features follow. The column of ones is never stored.
``w`` : float64 [d], ``r`` : float64 [n], d counts the intercept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse

from memberwise.bayes.kernels import csr_dot, csr_gram_dot, csr_squared_transpose_dot, csr_transpose_dot
from memberwise.bayes.likelihood import FloatArray
from memberwise.bayes.precision import Factor, Matrix


@dataclass(frozen=True)
class Design:
    """Rows of features, and whether a constant stands before them.

    Parameters
    ----------
    features : float array [n, p] or CSR array [n, p]
        A CSR array may be float32 and is never copied or converted.
    intercept : bool
        Whether coefficient 0 multiplies a constant 1.
    """

    features: Matrix
    intercept: bool = True

    @property
    def n_rows(self) -> int:
        """Number of rows n."""
        return int(self.features.shape[0])

    @property
    def size(self) -> int:
        """Number of coefficients d, the intercept included."""
        return int(self.features.shape[1]) + self.intercept

    @property
    def sparse(self) -> bool:
        """Whether the features are a CSR array."""
        return scipy.sparse.issparse(self.features)

    def dot(self, w: FloatArray) -> FloatArray:
        """``X w``, [n]."""
        own = w[1:] if self.intercept else w
        if self.sparse:
            x, out = self.features, np.empty(self.n_rows)
            csr_dot(x.indptr, x.indices, x.data, own, out)
        else:
            out = self.features @ own
        return out + w[0] if self.intercept else out

    def transpose_dot(self, r: FloatArray) -> FloatArray:
        """``X' r``, [d]."""
        out, own = self._result()
        if self.sparse:
            csr_transpose_dot(self.features.indptr, self.features.indices, self.features.data, r, own)
        else:
            own[:] = self.features.T @ r
        if self.intercept:
            out[0] = r.sum()
        return out

    def gram_diagonal(self, r: FloatArray) -> FloatArray:
        """Diagonal of ``X' diag(r) X``, [d]."""
        out, own = self._result()
        if self.sparse:
            csr_squared_transpose_dot(self.features.indptr, self.features.indices, self.features.data, r, own)
        else:
            own[:] = r @ self.features**2
        if self.intercept:
            out[0] = r.sum()
        return out

    def gram_dot(self, r: FloatArray, v: FloatArray) -> FloatArray:
        """``X' diag(r) X v``, [d]."""
        if not self.sparse or self.intercept:
            return self.transpose_dot(r * self.dot(v))
        out = np.zeros(self.size)
        csr_gram_dot(self.features.indptr, self.features.indices, self.features.data, r, v, out)
        return out

    def gram(self, r: FloatArray) -> FloatArray:
        """``X' diag(r) X`` as a matrix, [d, d]."""
        out = np.empty((self.size, self.size))
        x, k = self.features, int(self.intercept)
        if self.sparse:
            out[k:, k:] = Factor(_scaled_rows(x, np.sqrt(r))).dense()
        else:
            half = x * np.sqrt(r)[:, None]
            out[k:, k:] = half.T @ half
        if self.intercept:
            out[0, 0] = r.sum()
            out[0, 1:] = out[1:, 0] = self.transpose_dot(r)[1:]
        return out

    def factor(self, r: FloatArray) -> Factor:
        """Rows B with ``B'B = X' diag(r) X``, the constant column included."""
        return Factor(_scaled_rows(self.rows(), np.sqrt(r)))

    def rows(self) -> scipy.sparse.csr_array:
        """The design as one CSR array [n, d], the constant column included."""
        x = scipy.sparse.csr_array(self.features)
        if not self.intercept:
            return x
        ones = scipy.sparse.csr_array(np.ones((self.n_rows, 1)))
        return scipy.sparse.csr_array(scipy.sparse.hstack([ones, x], format="csr"))

    def matrix(self) -> Matrix:
        """The design with its constant column, dense when the features are, [n, d]."""
        if self.sparse or not self.intercept:
            return self.rows() if self.sparse else self.features
        return np.column_stack([np.ones(self.n_rows), self.features])

    def _result(self) -> tuple[FloatArray, FloatArray]:
        out = np.zeros(self.size)
        return out, (out[1:] if self.intercept else out)


def _scaled_rows(x: scipy.sparse.csr_array, factor: FloatArray) -> scipy.sparse.csr_array:
    """Multiply each row by a number."""
    data = x.data * np.repeat(factor, np.diff(x.indptr))
    return scipy.sparse.csr_array((data, x.indices, x.indptr), shape=x.shape)


def root_mean_square(features: Matrix, weights: FloatArray) -> FloatArray:
    """Return the weighted root mean square of each column about zero, [p]; 1 where a column is all zero.

    About zero and not about the mean: scaling without centring keeps sparse data sparse, and a prior
    stated in these units needs no correction of the intercept.
    """
    squares = Design(features, intercept=False).gram_diagonal(weights) / max(weights.sum(), 1e-300)
    return np.where(squares > 0, np.sqrt(squares), 1.0)
