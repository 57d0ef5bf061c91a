"""A posterior as named arrays, for files that hold it beside other things."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from memberwise.bayes.posterior import GaussianPosterior
from memberwise.bayes.precision import DiagonalPrecision, FullPrecision, LowRankPrecision, Precision
from memberwise.errors import ConfigError


def posterior_to_arrays(posterior: GaussianPosterior) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Return a JSON header and float64 arrays that `posterior_from_arrays` turns back without loss.

    Names are the caller's to store; a model's own file keeps full width, so that a resumed model
    continues to the last bit. The exchange form, in float32, is `GaussianPosterior.to_arrow`.
    """
    arrays: dict[str, npt.NDArray[Any]] = {"mean": posterior.mean}
    p = posterior.precision
    if isinstance(p, FullPrecision):
        form, arrays["precision"] = "full", p.matrix[np.tril_indices(p.size)]
    elif isinstance(p, DiagonalPrecision):
        form, arrays["precision"] = "diagonal", p.values
    elif isinstance(p, LowRankPrecision):
        form, arrays["precision"], arrays["directions"] = "low_rank", p.base, p.directions
    else:
        raise ConfigError(f"no storage for a precision of type {type(p).__name__}")
    return {"form": form, "batches": list(posterior.batches)}, arrays


def posterior_from_arrays(
    names: tuple[str, ...], header: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]
) -> GaussianPosterior:
    """Return the posterior that `posterior_to_arrays` described."""
    precision: Precision = DiagonalPrecision(arrays["precision"])
    if header["form"] == "full":
        lower = np.zeros((len(names), len(names)))
        lower[np.tril_indices(len(names))] = arrays["precision"]
        precision = FullPrecision(lower + np.tril(lower, -1).T)
    elif header["form"] == "low_rank":
        precision = LowRankPrecision(arrays["precision"], arrays["directions"])
    return GaussianPosterior(names, arrays["mean"], precision, tuple(header["batches"]))
