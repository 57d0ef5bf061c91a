"""A mixed-effects model as named arrays in one file, and back."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import scipy.sparse

from memberwise.bayes.persistence import pack_text, unpack_text, write_arrays
from memberwise.bayes.posterior_arrays import posterior_from_arrays, posterior_to_arrays

if TYPE_CHECKING:
    from memberwise.bayes.mixed import MixedEffectsLogisticRegression


def save_mixed(model: MixedEffectsLogisticRegression, path: str | os.PathLike[str]) -> None:
    """Write the fixed effect, every entity's posterior and the prior variances.

    The arrays of block b are named ``b/...``; entities stand without gaps, in the order of their ids.
    """
    header, arrays = posterior_to_arrays(model.fixed_.posterior_)
    arrays["feature_scale"] = model.fixed_.feature_scale_
    arrays["text"], arrays["text_ends"] = pack_text(model.fixed_.posterior_.names)
    params = model.get_params(deep=False)
    header |= {
        "params": params | {"effects": [asdict(e) for e in model.effects], "directory": None},
        "classes": model.classes_.tolist(), "class_type": model.classes_.dtype.str,
        "step": model.step_, "fixed_steps": model.fixed_.n_steps_, "n_features": model.n_features_in_,
        "named": hasattr(model, "feature_names_in_"),
        "blocks": {
            n: {"constant": s.constant_variance, "sparse": s.sparse} for n, s in model.states_.items()
        },
    }  # fmt: skip
    for name, state in model.states_.items():
        own = {"variance": state.variance} | state.store.compacted()
        own["ids"], own["id_ends"] = pack_text(state.store.slots)
        arrays |= {f"{name}/{key}": array for key, array in own.items()}
    write_arrays(path, type(model).__name__, header, arrays)


def restore_mixed(
    model: MixedEffectsLogisticRegression, header: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]
) -> None:
    """Fill a model that has its classes and empty blocks with what `save_mixed` wrote."""
    fixed, names = model.fixed_, tuple(unpack_text(arrays["text"], arrays["text_ends"]))
    fixed.posterior_ = posterior_from_arrays(names, header, arrays)
    fixed.feature_scale_, fixed.n_steps_ = arrays["feature_scale"], header["fixed_steps"]
    fixed.n_features_in_ = model.n_features_in_ = header["n_features"]
    if header["named"]:
        fixed.feature_names_in_ = np.array(names[model.fit_intercept :], dtype=object)
        model.feature_names_in_ = fixed.feature_names_in_
    model.step_ = header["step"]
    for effect in model.effects:
        about = header["blocks"][effect.name]
        own = {k.split("/", 1)[1]: a for k, a in arrays.items() if k.startswith(f"{effect.name}/")}
        shape = (0, own["variance"].size)
        state = model._empty_state(
            effect, scipy.sparse.csr_array(shape) if about["sparse"] else np.zeros(shape)
        )
        state.variance, state.constant_variance = own["variance"], about["constant"]
        state.store.restore(unpack_text(own["ids"], own["id_ends"]), own)
        model.states_[effect.name] = state
