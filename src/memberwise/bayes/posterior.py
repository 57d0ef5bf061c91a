"""The Gaussian posterior: the one object that knows how to forget, absorb, penalise and sample."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from memberwise.bayes.likelihood import FloatArray, logistic_normal_mean
from memberwise.bayes.precision import (
    DiagonalPrecision,
    FullPrecision,
    Hessian,
    LowRankPrecision,
    Matrix,
    Precision,
)
from memberwise.errors import BundleError, ConfigError, DataError

Seed = int | np.random.SeedSequence | np.random.Generator
_FORMAT = "memberwise.GaussianPosterior.1"


@dataclass(frozen=True)
class GaussianPosterior:
    r"""A named Gaussian belief about coefficients, ``w ~ N(mean, precision^-1)``.

    It is immutable: every operation returns a new posterior, so a step that fails leaves the
    previous one in force.

    Parameters
    ----------
    names : tuple of str
        One unique name per coefficient; coefficients are matched by name, never by position.
    mean : float64 [d]
        Posterior mean.
    precision : Precision
        Diagonal, full or low-rank storage of the inverse covariance.
    batches : tuple of str
        Keys of the batches absorbed so far; a batch is never absorbed twice.

    Raises
    ------
    ConfigError
        Sizes disagree or a name occurs twice.

    Examples
    --------
    >>> prior = GaussianPosterior.isotropic(["age", "price"], precision=4.0)
    >>> after = prior.absorb(np.diag([12.0, 0.0]), mean=[0.5, 0.0], batch="2026-01-01")
    >>> after.variances()
    array([0.0625, 0.25  ])
    >>> after.forget(0.5, floor=4.0).variances()
    array([0.1 , 0.25])

    References
    ----------
    .. [1] "Incremental Learning for Personalized Recommender Systems", arXiv 2108.13299.
    .. [2] R. Kulhavy and M. Zarrop, "On a general concept of forgetting" (1993): forgetting that
       returns to an alternative distribution instead of to ignorance.
    """

    names: tuple[str, ...]
    mean: FloatArray
    precision: Precision
    batches: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        d = len(self.names)
        if self.mean.shape != (d,) or self.precision.size != d:
            raise ConfigError(
                f"{d} names, a mean of shape {self.mean.shape} and a precision of size {self.precision.size}"
            )
        if len(set(self.names)) != d:
            raise ConfigError("a coefficient name occurs twice", fix="rename or drop one of the columns")

    @classmethod
    def isotropic(
        cls,
        names: Sequence[str],
        *,
        precision: float | npt.ArrayLike = 1.0,
        mean: float | npt.ArrayLike = 0.0,
        form: str = "full",
        rank: int = 16,
    ) -> GaussianPosterior:
        """Return the prior ``N(mean, 1/precision)`` with independent coefficients.

        Parameters
        ----------
        names : sequence of str
            Coefficient names.
        precision, mean : float or [d]
            Prior precision (positive) and mean.
        form : {"full", "diagonal", "low_rank"}
            How later precision is stored.
        rank : int
            Directions kept by the low-rank form.

        Raises
        ------
        ConfigError
            Unknown form, or a precision that is not positive and finite.
        """
        d = len(names)
        values = np.broadcast_to(np.asarray(precision, dtype=float), (d,)).copy()
        _check_floor(values)
        forms: dict[str, Precision] = {}
        if form == "full":
            forms[form] = FullPrecision(np.diag(values))
        elif form == "diagonal":
            forms[form] = DiagonalPrecision(values)
        elif form == "low_rank":
            forms[form] = LowRankPrecision(values, np.zeros((d, rank)))
        else:
            raise ConfigError(f"unknown form {form!r}", fix="choose full, diagonal or low_rank")
        return cls(tuple(names), np.broadcast_to(np.asarray(mean, float), (d,)).copy(), forms[form])

    # --- as a prior ---------------------------------------------------------------------------

    def penalty(self, w: FloatArray) -> float:
        r"""Return :math:`\tfrac12 (w-m)'\Lambda(w-m)`, the negative log-density without its constant."""
        gap = w - self.mean
        return 0.5 * float(gap @ self.precision.dot(gap))

    def penalty_gradient(self, w: FloatArray) -> FloatArray:
        r"""Return :math:`\Lambda(w-m)`, [d]."""
        return self.precision.dot(w - self.mean)

    def variances(self) -> FloatArray:
        """Return the marginal variance of each coefficient, [d]."""
        return self.precision.variances()

    # --- through time -------------------------------------------------------------------------

    def absorb(self, hessian: Hessian, mean: npt.ArrayLike, *, batch: str | None = None) -> GaussianPosterior:
        r"""Return the posterior after a batch whose loss has this Hessian at the new mode.

        .. math:: \Lambda_t = \Lambda_{t-1} + X'DX, \qquad m_t = \arg\min F_t

        Parameters
        ----------
        hessian : float64 [d], float64 [d, d] or Factor
            Hessian of the batch's summed loss at ``mean``, the prior's share excluded.
        mean : [d]
            Mode of loss plus penalty.
        batch : str, optional
            Key of the batch.

        Raises
        ------
        DataError
            The batch was absorbed before, or a number is not finite.
        """
        recorded = self.record(batch)
        centre = np.asarray(mean, dtype=float)
        precision = self.precision.plus(hessian)
        if not (np.isfinite(centre).all() and np.isfinite(precision.diagonal()).all()):
            raise DataError("the update is not finite; the previous posterior stays")
        return replace(recorded, mean=centre, precision=precision)

    def record(self, batch: str | None) -> GaussianPosterior:
        """Return the posterior with one more batch key, or itself without one; a known key is refused."""
        self.refuse_repeat(batch)
        return self if batch is None else replace(self, batches=(*self.batches, batch))

    def refuse_repeat(self, batch: str | None) -> None:
        """Raise `DataError` when a batch of this key is already part of the posterior."""
        if batch is not None and batch in self.batches:
            raise DataError(
                f"batch {batch!r} was already absorbed",
                fix="each batch counts once; give new data a new key",
            )

    def forget(
        self,
        delta: float | npt.ArrayLike,
        floor: float | npt.ArrayLike,
        *,
        center: float | npt.ArrayLike = 0.0,
        steps: int = 1,
    ) -> GaussianPosterior:
        r"""Return the belief after time has passed: less certain, and drawn back to the prior.

        .. math:: \Lambda' = S\Lambda S + (I - S^2) F, \qquad
                  \Lambda' m' = S\Lambda S\, m + (I - S^2) F \mu, \qquad S = \mathrm{diag}(\sqrt{\delta})

        Without data this converges to N(center, 1/floor), so nothing degenerates. With one common
        ``delta``, ``steps=k`` equals k single calls: a silent entity can be brought up to date
        lazily, when it is next seen.

        Parameters
        ----------
        delta : float or [d]
            Forgetting factor in [0, 1]; 1 forgets nothing, 0 everything.
        floor, center : float or [d]
            Precision (positive) and mean of the prior to which the belief returns.
        steps : int
            How many steps have passed.

        Raises
        ------
        ConfigError
            ``delta`` outside [0, 1], ``floor`` not positive, or ``steps`` negative.
        """
        d = len(self.names)
        factor = np.broadcast_to(np.asarray(delta, dtype=float), (d,))
        bottom = np.broadcast_to(np.asarray(floor, dtype=float), (d,))
        if not np.all((factor >= 0) & (factor <= 1)) or steps < 0:
            raise ConfigError(f"forgetting needs 0 <= delta <= 1 and steps >= 0, got {delta!r} and {steps}")
        _check_floor(bottom)
        kept = factor**steps
        if np.all(kept == 1.0):
            return self
        decay = np.sqrt(kept)
        precision = self.precision.forgotten(decay, bottom)
        pulled = decay * self.precision.dot(decay * self.mean) + (1.0 - kept) * bottom * center
        return replace(self, mean=precision.solve(pulled), precision=precision)

    def extend(
        self,
        names: Sequence[str],
        *,
        precision: float | npt.ArrayLike = 1.0,
        mean: float | npt.ArrayLike = 0.0,
    ) -> GaussianPosterior:
        """Return a posterior that also knows the names that are new, as independent prior coefficients.

        Parameters
        ----------
        names : sequence of str
            Names wanted; those already known are left as they are.
        precision, mean : float or [len(names)]
            Prior of each name.
        """
        known = set(self.names)
        new = [i for i, name in enumerate(names) if name not in known]
        if not new:
            return self
        floor = np.broadcast_to(np.asarray(precision, dtype=float), (len(names),))[new]
        centre = np.broadcast_to(np.asarray(mean, dtype=float), (len(names),))[new]
        _check_floor(floor)
        return replace(
            self,
            names=self.names + tuple(names[i] for i in new),
            mean=np.concatenate([self.mean, centre]),
            precision=self.precision.extended(floor),
        )

    # --- as a prediction ----------------------------------------------------------------------

    def predict(self, rows: Matrix) -> tuple[FloatArray, FloatArray]:
        """Return mean and variance of the linear predictor of each row, two arrays [n].

        Parameters
        ----------
        rows : float64 [n, d] or CSR array [n, d]
            Features in the order of ``names``.
        """
        return np.asarray(rows @ self.mean, dtype=float), self.precision.row_variances(rows)

    def probability(self, rows: Matrix) -> FloatArray:
        """Return the probability of label 1 averaged over the posterior, [n]."""
        return logistic_normal_mean(*self.predict(rows))

    def upper_bound(self, rows: Matrix, width: float = 1.0) -> FloatArray:
        """Return mean + ``width`` standard deviations of the linear predictor (UCB), [n]."""
        mean, variance = self.predict(rows)
        return mean + width * np.sqrt(variance)

    def sample(self, size: int = 1, *, seed: Seed = 0) -> FloatArray:
        """Return ``size`` independent draws of all coefficients (Thompson sampling), [size, d]."""
        noise = np.random.default_rng(seed).standard_normal((size, self.precision.noise_size()))
        return self.mean + self.precision.sample(noise)

    # --- on disk ------------------------------------------------------------------------------

    def to_arrow(self) -> pa.Table:
        """Return the posterior as a table: a row per coefficient, the precision in float32.

        Columns: ``name``, ``mean`` (float64), ``precision`` (the diagonal, or its diagonal part), and
        ``row`` (full: the lower triangle; low rank: the directions). A full matrix whose variances
        would not survive rounding to float32 is kept in float64.
        """
        columns: dict[str, pa.Array] = {
            "name": pa.array(self.names, pa.string()),
            "mean": pa.array(self.mean),
        }
        p = self.precision
        if isinstance(p, FullPrecision):
            form, matrix = "full", p.matrix.astype(_storage_type(p.matrix))
            columns["precision"] = pa.array(np.diagonal(matrix).copy())
            lower, ends = matrix[np.tril_indices(p.size)], np.cumsum(np.arange(p.size + 1), dtype=np.int64)
            columns["row"] = pa.LargeListArray.from_arrays(pa.array(ends), pa.array(lower))
        elif isinstance(p, LowRankPrecision):
            form = "low_rank"
            columns["precision"] = pa.array(p.base.astype(np.float32))
            flat = pa.array(p.directions.astype(np.float32).ravel())
            columns["row"] = pa.FixedSizeListArray.from_arrays(flat, p.directions.shape[1])
        elif isinstance(p, DiagonalPrecision):
            form = "diagonal"
            columns["precision"] = pa.array(p.values.astype(np.float32))
        else:
            raise ConfigError(f"no storage for a precision of type {type(p).__name__!s}")
        about = {"format": _FORMAT, "form": form, "batches": json.dumps(self.batches)}
        return pa.table(columns).replace_schema_metadata(about)

    @classmethod
    def from_arrow(cls, table: pa.Table) -> GaussianPosterior:
        """Read a posterior back from `to_arrow`.

        Raises
        ------
        BundleError
            The table is not such a posterior, or its precision is not positive.
        """
        about = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
        if about.get("format") != _FORMAT:
            raise BundleError(
                f"the table is not a posterior of format {_FORMAT}", where=str(about.get("format"))
            )
        names = tuple(table["name"].to_pylist())
        values = _numbers(table["precision"])
        precision: Precision = DiagonalPrecision(values)
        if about["form"] == "full":
            matrix = np.zeros((values.size, values.size))
            matrix[np.tril_indices(values.size)] = _numbers(table["row"].combine_chunks().flatten())
            precision = FullPrecision(matrix + np.tril(matrix, -1).T)
        elif about["form"] == "low_rank":
            flat = _numbers(table["row"].combine_chunks().flatten())
            precision = LowRankPrecision(values, flat.reshape(values.size, -1))
        if not (np.isfinite(values).all() and (values > 0).all()):
            raise BundleError("a stored precision is not positive", fix="restore an earlier version")
        return cls(names, _numbers(table["mean"]), precision, tuple(json.loads(about["batches"])))


def _check_floor(values: FloatArray) -> None:
    if not (np.isfinite(values).all() and (values > 0).all()):
        raise ConfigError("a prior precision must be positive and finite", fix="for a vague prior use 1e-6")


def _storage_type(matrix: FloatArray) -> type[np.floating]:
    """Return float32 when rounding to it moves no variance by more than about a thousandth."""
    scale = np.sqrt(np.diagonal(matrix))
    smallest = np.linalg.eigvalsh(matrix / np.outer(scale, scale))[0] if scale.size else 1.0
    return np.float32 if smallest > 6e-5 * scale.size else np.float64


def _numbers(column: pa.Array | pa.ChunkedArray) -> FloatArray:
    return np.asarray(column.to_numpy(), dtype=np.float64).copy()
