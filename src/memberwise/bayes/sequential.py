"""What the logistic and the Gaussian model share: everything but the likelihood and the labels."""

from __future__ import annotations

import os
import warnings
from abc import ABC, abstractmethod
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted

from memberwise.bayes.design import Design, root_mean_square
from memberwise.bayes.inputs import (
    InputError,
    column_names,
    per_row,
    read_features,
    with_columns,
)
from memberwise.bayes.laplace import DENSE_LIMIT, absorb_at, laplace_step
from memberwise.bayes.likelihood import (
    FloatArray,
    Likelihood,
)
from memberwise.bayes.objective import Objective
from memberwise.bayes.persistence import pack_text, read_arrays, unpack_text, write_arrays
from memberwise.bayes.posterior import GaussianPosterior
from memberwise.bayes.posterior_arrays import posterior_from_arrays, posterior_to_arrays
from memberwise.bayes.precision import Matrix

INTERCEPT = "(intercept)"


class SequentialRegression(BaseEstimator, ABC):
    """One posterior, carried from batch to batch; subclasses bring the likelihood and read the labels."""

    def __init__(
        self,
        *,
        prior_precision: float = 1.0,
        intercept_precision: float = 1e-4,
        fit_intercept: bool = True,
        scale: bool = False,
        forgetting: float = 1.0,
        intercept_forgetting: float | None = None,
        covariance: str = "auto",
        rank: int = 16,
        variance_probes: int = 0,
        tol: float | None = None,
        max_iter: int = 100,
    ) -> None:
        self.prior_precision = prior_precision
        self.intercept_precision = intercept_precision
        self.fit_intercept = fit_intercept
        self.scale = scale
        self.forgetting = forgetting
        self.intercept_forgetting = intercept_forgetting
        self.covariance = covariance
        self.rank = rank
        self.variance_probes = variance_probes
        self.tol = tol
        self.max_iter = max_iter

    @abstractmethod
    def _likelihood(self) -> Likelihood:
        """Return the loss of one row."""

    @abstractmethod
    def _target(self, y: npt.ArrayLike, *, fresh: bool) -> FloatArray:
        """Return labels as the likelihood takes them; ``fresh`` forgets those of earlier batches."""

    def fit(
        self, X: Any, y: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None, *,
        offset: npt.ArrayLike | None = None, batch: str | None = None,
    ) -> Self:  # fmt: skip
        """Fit from the prior.

        Parameters
        ----------
        X : array, CSR or data frame [n, p]
            Features.
        y : [n]
            Labels: two distinct ones of any kind for a classifier, numbers for a regressor.
        sample_weight, offset : [n], optional
            Weights enter loss and Hessian alike (for down-sampled negatives: one over the rate); offsets
            are known parts of the linear predictor.
        batch : str, optional
            Key of the data, so that it is never absorbed twice.

        Raises
        ------
        InputError
            One class only, shapes that disagree, or numbers that are not finite.
        """
        target = self._target(y, fresh=True)
        self._inspect(self._learn(X, target, sample_weight, offset, batch=batch, reset=True))
        return self

    def _inspect(self, objective: Objective) -> None:
        """Look at a first fit, to warn of what is odd about the data."""

    def __sklearn_tags__(self) -> Tags:
        """Sparse input."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    # --- one step -----------------------------------------------------------------------------

    def _begin(self, features: Matrix, weights: FloatArray, names: list[str]) -> None:
        """Set the prior and freeze the scale of each feature."""
        self.feature_scale_ = root_mean_square(features, weights) if self.scale else np.ones(len(names))
        form = self.covariance
        if form == "auto":
            form = "full" if len(names) < DENSE_LIMIT else "diagonal"
        everything = [INTERCEPT, *names] if self.fit_intercept else names
        self.posterior_ = GaussianPosterior.isotropic(
            everything, precision=self._floor(), form=form, rank=min(self.rank, len(everything))
        )
        self.n_steps_ = 0

    def _floor(self) -> FloatArray:
        """Prior precision of each coefficient, [d]: L2 enters here, and nowhere else."""
        own = self.prior_precision * self.feature_scale_**2
        return np.concatenate([[self.intercept_precision], own]) if self.fit_intercept else own

    def _forgotten(self) -> GaussianPosterior:
        """Return the posterior as the prior of the next step."""
        delta = np.full(self.posterior_.mean.size, self.forgetting)
        if self.fit_intercept and self.intercept_forgetting is not None:
            delta[0] = self.intercept_forgetting
        return self.posterior_.forget(delta, self._floor())

    def _extend(self, features: Matrix, weights: FloatArray, names: list[str]) -> None:
        """Give the columns after the known ones their prior."""
        known = self.feature_scale_.size
        if len(names) == known:
            return
        new = root_mean_square(features, weights)[known:] if self.scale else np.ones(len(names) - known)
        self.feature_scale_ = np.concatenate([self.feature_scale_, new])
        self.posterior_ = self.posterior_.extend(
            names[known:], precision=self.prior_precision * self.feature_scale_[known:] ** 2
        )

    def _step(
        self,
        features: Matrix,
        y: FloatArray,
        weights: FloatArray,
        offset: FloatArray,
        batch: str | None,
        keep: bool,
    ) -> Objective:
        """Forget, solve, absorb. ``keep`` says whether a failed solve leaves the posterior as it was."""
        self.posterior_.refuse_repeat(batch)
        prior = self._forgotten() if self.n_steps_ else self.posterior_
        objective = Objective(
            self._likelihood(), Design(features, self.fit_intercept), y, weights, offset, prior
        )
        posterior, solution = laplace_step(
            objective, batch=batch, tol=self.tol, max_iter=self.max_iter, probes=self.variance_probes
        )
        self.n_iter_, self.converged_ = max(1, solution.n_iter), solution.converged
        if solution.converged:
            self.posterior_ = posterior
        elif not keep:
            self.posterior_ = absorb_at(objective, solution.point, batch=batch, probes=self.variance_probes)
        if not solution.converged:
            kept = "the previous posterior stays" if keep else "the last iterate is used"
            warnings.warn(
                f"the solve did not converge in {solution.n_iter} steps; {kept}",
                ConvergenceWarning,
                stacklevel=3,
            )
        self.n_steps_ += int(solution.converged or not keep)
        return objective

    def _training_features(self, X: Any, *, reset: bool) -> Any:
        """Return X with the known columns first, new ones after; frames only, arrays pass unchanged."""
        names = column_names(X)
        if reset or names is None:
            return X
        known = list(getattr(self, "feature_names_in_", []))
        if not known:
            raise InputError("the model was fitted on an array", fix="go on with arrays, or fit on a frame")
        return with_columns(X, [*known, *(name for name in names if name not in set(known))], fill=True)

    def _names(self, n_features: int) -> list[str]:
        return [str(n) for n in getattr(self, "feature_names_in_", (f"x{i}" for i in range(n_features)))]

    def _read(
        self, X: Any, y: FloatArray, sample_weight: npt.ArrayLike | None, *, batch: str | None, reset: bool
    ) -> tuple[Matrix, FloatArray]:
        """Validate one batch and make room for it in the posterior; ``reset`` starts from the prior."""
        frame = column_names(X) is not None
        if not reset:
            self.posterior_.refuse_repeat(batch)
            X = self._training_features(X, reset=False)
        features = read_features(self, X, reset=reset or frame)
        n = features.shape[0]
        if y.shape != (n,):
            raise InputError(f"{n} rows but {y.size} labels")
        weights = per_row(sample_weight, n, 1.0, "sample_weight", least=0.0)
        if not weights.any():
            raise InputError("every sample_weight is zero: there is nothing to learn from")
        names = self._names(features.shape[1])
        if reset:
            self._begin(features, weights, names)
        else:
            self._extend(features, weights, names)
        return features, weights

    def _learn(
        self,
        X: Any,
        y: FloatArray,
        sample_weight: npt.ArrayLike | None,
        offset: npt.ArrayLike | None,
        *,
        batch: str | None,
        reset: bool,
    ) -> Objective:
        """Validate one batch and take one step."""
        features, weights = self._read(X, y, sample_weight, batch=batch, reset=reset)
        return self._step(features, y, weights, per_row(offset, y.size, 0.0, "offset"), batch, keep=not reset)

    # --- reading ------------------------------------------------------------------------------

    def _predict_design(self, X: Any) -> Design:
        check_is_fitted(self, "posterior_")
        known = getattr(self, "feature_names_in_", None)
        if column_names(X) is not None and known is not None:
            X = with_columns(X, [str(name) for name in known], fill=False)
        return Design(read_features(self, X, reset=False), self.fit_intercept)

    def _eta(self, design: Design, offset: npt.ArrayLike | None) -> FloatArray:
        """Return the linear predictor at the posterior mean, [n]."""
        return design.dot(self.posterior_.mean) + per_row(offset, design.n_rows, 0.0, "offset")

    def linear_predictor(
        self, X: Any, *, offset: npt.ArrayLike | None = None
    ) -> tuple[FloatArray, FloatArray]:
        """Return posterior mean and variance of the linear predictor, two arrays [n].

        Parameters
        ----------
        X : array, CSR or data frame [n, p]
            Features; a frame is matched by column name.
        offset : [n], optional
            Known part of the linear predictor.
        """
        design = self._predict_design(X)
        return self._eta(design, offset), self.posterior_.precision.row_variances(design.matrix())

    @property
    def coef_(self) -> FloatArray:
        """Posterior means of the feature coefficients: [1, p] for a classifier, [p] for a regressor."""
        own = self.posterior_.mean[1:] if self.fit_intercept else self.posterior_.mean
        return own[None, :] if isinstance(self, ClassifierMixin) else own

    @property
    def intercept_(self) -> Any:
        """Posterior mean of the intercept: [1] for a classifier, a float for a regressor."""
        value = float(self.posterior_.mean[0]) if self.fit_intercept else 0.0
        return np.array([value]) if isinstance(self, ClassifierMixin) else value

    # --- files --------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write parameters and posterior to one file (safetensors, checksum, atomic)."""
        check_is_fitted(self, "posterior_")
        header, arrays = posterior_to_arrays(self.posterior_)
        arrays["feature_scale"] = self.feature_scale_
        labels = getattr(self, "classes_", None)
        header |= {
            "params": self.get_params(),
            "n_steps": self.n_steps_,
            "n_features": self.n_features_in_,
            "named": hasattr(self, "feature_names_in_"),
            "classes": None if labels is None else labels.tolist(),
            "class_type": None if labels is None else labels.dtype.str,
        }
        arrays["text"], arrays["text_ends"] = pack_text(self.posterior_.names)
        write_arrays(path, type(self).__name__, header, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read an estimator back from `save`; it continues where the saved one stopped."""
        header, arrays = read_arrays(path, cls.__name__)
        names = tuple(unpack_text(arrays["text"], arrays["text_ends"]))
        model = cls(**header["params"])
        model.posterior_ = posterior_from_arrays(names, header, arrays)
        model.feature_scale_ = arrays["feature_scale"]
        model.n_steps_, model.n_features_in_ = header["n_steps"], header["n_features"]
        if header["named"]:
            model.feature_names_in_ = np.array(names[model.fit_intercept :], dtype=object)
        if header["classes"] is not None:
            model.classes_ = np.array(header["classes"], dtype=np.dtype(header["class_type"]))
        return model
