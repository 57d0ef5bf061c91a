"""Three ways to store the precision (inverse covariance) of a Gaussian: diagonal, full, low rank.

Conventions
-----------
``d`` : int
    Number of coefficients.
``floor`` : float64 [d]
    The precision to which forgetting returns, one value per coefficient, all positive.
``decay`` : float64 [d]
    Square root of the forgetting factor of each coefficient, in [0, 1].
A Hessian arrives as a vector [d] (its diagonal), a matrix [d, d], or a `Factor` (rows B with
H = B'B, so that a sparse design never becomes a d x d matrix).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeAlias

import numpy as np
import scipy.linalg
import scipy.sparse
import scipy.sparse.linalg

from memberwise.bayes.likelihood import FloatArray

_LANCZOS_SEED = 20_210_813


@dataclass(frozen=True)
class Factor:
    """A Hessian ``H = B'B`` given by its rows.

    Parameters
    ----------
    rows : CSR array [n, d]
        The design, each row multiplied by the square root of its curvature and weight.
    """

    rows: scipy.sparse.csr_array

    def diagonal(self) -> FloatArray:
        """The diagonal of H, [d]."""
        squared = self.rows.multiply(self.rows)
        return np.asarray(squared.sum(axis=0), dtype=float).ravel()

    def dense(self) -> FloatArray:
        """H itself, [d, d]."""
        product = self.rows.T @ self.rows
        return np.asarray(product.toarray(), dtype=float)


Hessian: TypeAlias = FloatArray | Factor
Matrix: TypeAlias = Any  # float array or CSR array [n, d]; scipy brings no types to tell them apart


class Precision(Protocol):
    """What a posterior asks of its precision, whatever the storage."""

    @property
    def size(self) -> int:
        """Number of coefficients d."""

    def dot(self, v: FloatArray) -> FloatArray:
        """Precision times vector, [d]."""

    def solve(self, b: FloatArray) -> FloatArray:
        """Covariance times vector, [d]."""

    def diagonal(self) -> FloatArray:
        """Diagonal of the precision, [d]."""

    def variances(self) -> FloatArray:
        """Diagonal of the covariance, [d]."""

    def row_variances(self, rows: Matrix) -> FloatArray:
        """Variance of the linear predictor of each row, [n]."""

    def sample(self, noise: FloatArray) -> FloatArray:
        """Turn standard normal draws [k, noise_size] into draws [k, d] from N(0, covariance)."""

    def noise_size(self) -> int:
        """How many standard normal numbers one draw takes."""

    def forgotten(self, decay: FloatArray, floor: FloatArray) -> Self:
        """``S P S + (I - S^2) F`` with S = diag(decay), F = diag(floor)."""

    def plus(self, hessian: Hessian) -> Self:
        """The precision after data with this Hessian."""

    def extended(self, floor: FloatArray) -> Self:
        """The precision with new independent coefficients appended."""

    def dense(self) -> FloatArray:
        """The matrix itself, [d, d]."""


def dense_hessian(hessian: Hessian) -> FloatArray:
    """Return a Hessian in any of its forms as a matrix [d, d]."""
    if isinstance(hessian, Factor):
        return hessian.dense()
    return np.diag(hessian) if hessian.ndim == 1 else hessian


def hessian_diagonal(hessian: Hessian) -> FloatArray:
    """Return the diagonal of a Hessian in any of its forms, [d]."""
    if isinstance(hessian, Factor):
        return hessian.diagonal()
    return hessian if hessian.ndim == 1 else np.diagonal(hessian).copy()


def cholesky(matrix: FloatArray) -> FloatArray:
    """Return the lower Cholesky factor of a positive definite matrix, scaled first to a unit diagonal.

    The scaling makes the factorisation indifferent to the units of the features.

    Raises
    ------
    numpy.linalg.LinAlgError
        The matrix is not positive definite.
    """
    diagonal = np.diagonal(matrix)
    if not np.all(diagonal > 0):
        raise np.linalg.LinAlgError("the precision has a diagonal element that is not positive")
    scale = np.sqrt(diagonal)
    lower: FloatArray = scipy.linalg.cholesky(matrix / np.outer(scale, scale), lower=True)
    return lower * scale[:, None]


@dataclass(frozen=True)
class DiagonalPrecision:
    """One number per coefficient.

    Absorbing a Hessian matrix keeps the variances, ``1 / diag((P + H)^-1)``, not ``diag(P + H)``:
    with correlated features the latter is over-confident and freezes the coefficients. Only a
    Hessian that itself comes as a diagonal is added as it is.

    Parameters
    ----------
    values : float64 [d]
        The precisions, all positive.
    """

    values: FloatArray

    @property
    def size(self) -> int:
        """Number of coefficients d."""
        return int(self.values.size)

    def dot(self, v: FloatArray) -> FloatArray:
        """Precision times vector, [d]."""
        return self.values * v

    def solve(self, b: FloatArray) -> FloatArray:
        """Covariance times vector, [d]."""
        return b / self.values

    def diagonal(self) -> FloatArray:
        """Diagonal of the precision, [d]."""
        return self.values

    def variances(self) -> FloatArray:
        """Diagonal of the covariance, [d]."""
        return 1.0 / self.values

    def row_variances(self, rows: Matrix) -> FloatArray:
        """Variance of the linear predictor of each row, [n]."""
        squared = rows.multiply(rows) if scipy.sparse.issparse(rows) else rows**2
        return np.asarray(squared @ self.variances(), dtype=float)

    def noise_size(self) -> int:
        """How many standard normal numbers one draw takes."""
        return self.size

    def sample(self, noise: FloatArray) -> FloatArray:
        """Turn standard normal draws [k, d] into draws from N(0, covariance)."""
        return noise / np.sqrt(self.values)

    def forgotten(self, decay: FloatArray, floor: FloatArray) -> DiagonalPrecision:
        """``S P S + (I - S^2) F``."""
        return DiagonalPrecision(decay**2 * self.values + (1.0 - decay**2) * floor)

    def plus(self, hessian: Hessian) -> DiagonalPrecision:
        """Keep the variances that the full precision would have."""
        if isinstance(hessian, np.ndarray) and hessian.ndim == 1:
            return DiagonalPrecision(self.values + hessian)
        full = FullPrecision(np.diag(self.values)).plus(hessian)
        return DiagonalPrecision(1.0 / full.variances())

    def extended(self, floor: FloatArray) -> DiagonalPrecision:
        """Append independent coefficients."""
        return DiagonalPrecision(np.concatenate([self.values, floor]))

    def dense(self) -> FloatArray:
        """The matrix itself, [d, d]."""
        return np.diag(self.values)


@dataclass(frozen=True)
class FullPrecision:
    """A symmetric matrix: exact, d (d + 1) / 2 numbers.

    Parameters
    ----------
    matrix : float64 [d, d]
        Positive definite.
    """

    matrix: FloatArray

    @property
    def size(self) -> int:
        """Number of coefficients d."""
        return int(self.matrix.shape[0])

    def dot(self, v: FloatArray) -> FloatArray:
        """Precision times vector, [d]."""
        return self.matrix @ v

    def solve(self, b: FloatArray) -> FloatArray:
        """Covariance times vector, [d]."""
        result: FloatArray = scipy.linalg.cho_solve((cholesky(self.matrix), True), b)
        return result

    def diagonal(self) -> FloatArray:
        """Diagonal of the precision, [d]."""
        return np.diagonal(self.matrix).copy()

    def variances(self) -> FloatArray:
        """Diagonal of the covariance, [d]."""
        inverse = scipy.linalg.solve_triangular(cholesky(self.matrix), np.eye(self.size), lower=True)
        return np.asarray((inverse**2).sum(axis=0))

    def row_variances(self, rows: Matrix) -> FloatArray:
        """Variance of the linear predictor of each row, [n]."""
        lower, variances = cholesky(self.matrix), np.empty(rows.shape[0])
        block = max(1, 4_000_000 // max(1, self.size))
        for start in range(0, rows.shape[0], block):
            part = rows[start : start + block]
            dense = part.toarray() if scipy.sparse.issparse(part) else np.asarray(part, dtype=float)
            half = scipy.linalg.solve_triangular(lower, dense.T, lower=True)
            variances[start : start + block] = (half**2).sum(axis=0)
        return variances

    def noise_size(self) -> int:
        """How many standard normal numbers one draw takes."""
        return self.size

    def sample(self, noise: FloatArray) -> FloatArray:
        """Turn standard normal draws [k, d] into draws from N(0, covariance)."""
        draws: FloatArray = scipy.linalg.solve_triangular(
            cholesky(self.matrix), noise.T, lower=True, trans="T"
        ).T
        return draws

    def forgotten(self, decay: FloatArray, floor: FloatArray) -> FullPrecision:
        """``S P S + (I - S^2) F``, positive definite whenever P and F are."""
        return FullPrecision(self.matrix * np.outer(decay, decay) + np.diag((1.0 - decay**2) * floor))

    def plus(self, hessian: Hessian) -> FullPrecision:
        """``P + H``."""
        return FullPrecision(self.matrix + dense_hessian(hessian))

    def extended(self, floor: FloatArray) -> FullPrecision:
        """Append independent coefficients."""
        return FullPrecision(scipy.linalg.block_diag(self.matrix, np.diag(floor)))

    def dense(self) -> FloatArray:
        """The matrix itself, [d, d]."""
        return self.matrix


@dataclass(frozen=True)
class LowRankPrecision:
    r"""A diagonal plus a few directions that the data pinned down: ``diag(a) + U U'``.

    Absorbing a Hessian keeps the ``rank`` leading eigenvectors of ``U U' + H`` and moves the diagonal
    of what is left over into ``a``, so that the diagonal of the precision stays exact.

    Parameters
    ----------
    base : float64 [d]
        The diagonal part ``a``, all positive.
    directions : float64 [d, rank]
        ``U``; columns of zeros are directions not yet in use.
    """

    base: FloatArray
    directions: FloatArray

    @property
    def size(self) -> int:
        """Number of coefficients d."""
        return int(self.base.size)

    def _capacitance(self) -> tuple[FloatArray, FloatArray]:
        """Return ``diag(a)^-1 U`` and the Cholesky factor of ``I + U' diag(a)^-1 U``."""
        scaled = self.directions / self.base[:, None]
        inner = np.eye(self.directions.shape[1]) + self.directions.T @ scaled
        return scaled, scipy.linalg.cholesky(inner, lower=True)

    def dot(self, v: FloatArray) -> FloatArray:
        """Precision times vector, [d]."""
        return self.base * v + self.directions @ (self.directions.T @ v)

    def solve(self, b: FloatArray) -> FloatArray:
        """Covariance times vector by the Woodbury identity, [d]."""
        scaled, lower = self._capacitance()
        result: FloatArray = b / self.base - scaled @ scipy.linalg.cho_solve((lower, True), scaled.T @ b)
        return result

    def diagonal(self) -> FloatArray:
        """Diagonal of the precision, [d]."""
        return self.base + np.asarray((self.directions**2).sum(axis=1))

    def variances(self) -> FloatArray:
        """Diagonal of the covariance, [d]."""
        scaled, lower = self._capacitance()
        half = scipy.linalg.solve_triangular(lower, scaled.T, lower=True)
        return 1.0 / self.base - np.asarray((half**2).sum(axis=0))

    def row_variances(self, rows: Matrix) -> FloatArray:
        """Variance of the linear predictor of each row, [n]."""
        scaled, lower = self._capacitance()
        squared = rows.multiply(rows) if scipy.sparse.issparse(rows) else rows**2
        half = scipy.linalg.solve_triangular(lower, np.asarray(rows @ scaled).T, lower=True)
        return np.asarray(squared @ (1.0 / self.base)) - np.asarray((half**2).sum(axis=0))

    def noise_size(self) -> int:
        """How many standard normal numbers one draw takes."""
        return self.size + self.directions.shape[1]

    def sample(self, noise: FloatArray) -> FloatArray:
        """Turn draws [k, d + rank] into draws from N(0, covariance).

        If e ~ N(0, P) then P^-1 e ~ N(0, P^-1), and P = diag(a) + U U' is easy to draw from.
        """
        d = self.size
        right = noise[:, :d] * np.sqrt(self.base) + noise[:, d:] @ self.directions.T
        scaled, lower = self._capacitance()
        correction = scipy.linalg.cho_solve((lower, True), scaled.T @ right.T)
        return right / self.base - (scaled @ correction).T

    def forgotten(self, decay: FloatArray, floor: FloatArray) -> LowRankPrecision:
        """``S P S + (I - S^2) F``."""
        base = decay**2 * self.base + (1.0 - decay**2) * floor
        return LowRankPrecision(base, self.directions * decay[:, None])

    def plus(self, hessian: Hessian) -> LowRankPrecision:
        """Keep the leading eigenvectors of ``U U' + H``, and the exact diagonal."""
        rank, d = self.directions.shape[1], self.size
        if isinstance(hessian, np.ndarray) and hessian.ndim == 1:
            return LowRankPrecision(self.base + hessian, self.directions)
        if rank >= d:
            values, vectors = scipy.linalg.eigh(self.directions @ self.directions.T + dense_hessian(hessian))
        else:
            values, vectors = self._leading(hessian, rank)
        kept = vectors * np.sqrt(np.maximum(values, 0.0))
        total = (self.directions**2).sum(axis=1) + hessian_diagonal(hessian)
        left = np.maximum(total - (kept**2).sum(axis=1), 0.0)
        padded = np.zeros((d, rank))
        padded[:, : kept.shape[1]] = kept
        return LowRankPrecision(self.base + left, padded)

    def _leading(self, hessian: Hessian, rank: int) -> tuple[FloatArray, FloatArray]:
        """Return the ``rank`` largest eigenpairs of ``U U' + H`` without forming it."""
        u = self.directions

        def product(v: FloatArray) -> FloatArray:
            own = hessian.rows.T @ (hessian.rows @ v) if isinstance(hessian, Factor) else hessian @ v
            return np.asarray(own + u @ (u.T @ v))

        operator = scipy.sparse.linalg.LinearOperator((self.size, self.size), matvec=product, dtype=float)
        start = np.random.default_rng(_LANCZOS_SEED).standard_normal(self.size)
        values, vectors = scipy.sparse.linalg.eigsh(operator, k=rank, which="LA", v0=start)
        return values, vectors

    def extended(self, floor: FloatArray) -> LowRankPrecision:
        """Append independent coefficients."""
        rows = np.zeros((floor.size, self.directions.shape[1]))
        return LowRankPrecision(np.concatenate([self.base, floor]), np.vstack([self.directions, rows]))

    def dense(self) -> FloatArray:
        """The matrix itself, [d, d]."""
        return np.diag(self.base) + self.directions @ self.directions.T
