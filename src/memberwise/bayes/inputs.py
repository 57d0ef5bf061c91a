"""From what users hold (arrays, CSR, data frames) to what the solvers take, matched by column name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import scipy.sparse
from sklearn.utils.validation import assert_all_finite, check_array, column_or_1d, validate_data

from memberwise.bayes.likelihood import FloatArray
from memberwise.bayes.precision import Matrix
from memberwise.errors import DataError


class InputError(DataError, ValueError):
    """Rows, labels or weights that an estimator cannot use; also a ValueError, as scikit-learn expects."""


class SeparationWarning(UserWarning):
    """A hyperplane separates the classes perfectly: only the prior keeps the coefficients finite."""


def column_names(X: Any) -> list[str] | None:
    """Return the column names of a data frame, None for an array or matrix.

    Columns that are merely numbered are no names: such a frame is an array, as it is for scikit-learn.
    """
    if not hasattr(X, "columns") or not hasattr(X, "to_numpy"):
        return None
    names = list(X.columns)
    return names if all(isinstance(name, str) for name in names) else None


def with_columns(X: Any, wanted: Sequence[str], *, fill: bool) -> Any:
    """Return a data frame with exactly the columns ``wanted``, in that order.

    Parameters
    ----------
    X : data frame
        Any frame with ``columns`` and ``to_numpy``; polars is kept as it is.
    wanted : sequence of str
        Names in the order of the coefficients.
    fill : bool
        Whether an absent column is a feature that is zero in every row (training) or an error
        (prediction).
    """
    present = column_names(X) or []
    absent = [name for name in wanted if name not in set(present)]
    if absent and not fill:
        raise InputError(f"columns {absent[:5]} are missing", fix="pass every column the model was fitted on")
    if not isinstance(X, pl.DataFrame):
        X = pl.DataFrame({name: X[name].to_numpy() for name in present})
    return X.with_columns([pl.lit(0.0).alias(name) for name in absent]).select(list(wanted))


def read_features(estimator: Any, X: Any, *, reset: bool) -> Matrix:
    """Validate features as scikit-learn does and return float64 [n, p] or a CSR array that is not copied.

    With ``reset`` the estimator remembers how many columns there are, and their names if X is a frame.
    """
    kinds = [np.float64, np.float32]
    names = column_names(X)
    if names is not None:
        checked = check_array(X.to_numpy(), dtype=kinds)
        if reset:
            estimator.n_features_in_ = len(names)
            estimator.feature_names_in_ = np.array(names, dtype=object)
    else:
        checked = validate_data(
            estimator, X, reset=reset, accept_sparse="csr", dtype=kinds, accept_large_sparse=True
        )
    if scipy.sparse.issparse(checked):
        result = scipy.sparse.csr_array(checked)
        if not result.has_canonical_format:
            result = result.copy()
            result.sum_duplicates()
        return result
    return np.asarray(checked, dtype=np.float64)


def read_labels(y: Any, *, numeric: bool) -> npt.NDArray[Any]:
    """Return labels as an array [n]; a column [n, 1] is flattened with scikit-learn's warning.

    Raises
    ------
    InputError
        ``y`` is missing or empty.
    ValueError
        More than one column, or numbers that are not finite.
    """
    if y is None:
        raise InputError("the estimator requires y to be passed, but the target y is None")
    labels: npt.NDArray[Any] = column_or_1d(y, warn=True)
    if labels.size == 0:
        raise InputError("y is empty: there is nothing to learn from")
    if numeric:
        labels = labels.astype(np.float64)
    if labels.dtype.kind == "f":
        assert_all_finite(labels, input_name="y")
    return labels


def per_row(
    values: npt.ArrayLike | None, n: int, default: float, what: str, *, least: float = -np.inf
) -> FloatArray:
    """Return one finite number per row, [n].

    Raises
    ------
    InputError
        Wrong length, not finite, or below ``least``.
    """
    if values is None:
        return np.full(n, default)
    result = np.asarray(values, dtype=np.float64)
    if result.ndim == 0:
        result = np.full(n, float(result))
    if result.shape != (n,):
        raise InputError(f"{what} has shape {result.shape}, expected ({n},)")
    if not np.isfinite(result).all() or (result < least).any():
        raise InputError(f"{what} must be finite" + ("" if least == -np.inf else f" and at least {least:g}"))
    return result
