"""The ids and the columns that one random effect takes from what the user passed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.sparse

from memberwise.bayes.inputs import InputError, column_names, with_columns
from memberwise.bayes.likelihood import FloatArray
from memberwise.bayes.random_effect import RandomEffect

Groups = Mapping[str, Any]
Designs = Mapping[str, Any]


def effect_rows(
    effect: RandomEffect, X: Any, n: int, groups: Groups | None, designs: Designs | None
) -> tuple[Any, Any]:
    """Return the ids [n] of one effect, and its design: float64 [n, q], or CSR where one was passed.

    What is passed by name goes before what a frame holds; without columns the design is empty.

    Raises
    ------
    InputError
        There are no ids.
    """
    names = column_names(X) or []
    column = effect.group or effect.name
    if groups is not None and effect.name in groups:
        ids = groups[effect.name]
    elif column in names:
        ids = X[column]
    else:
        raise InputError(f"no ids for effect {effect.name!r}", fix=f"pass groups={{{effect.name!r}: ...}}")
    if designs is not None and effect.name in designs:
        design = designs[effect.name]
    elif effect.columns:
        design = with_columns(X, effect.columns, fill=False).to_numpy()
    else:
        design = np.zeros((n, 0))
    return ids, scipy.sparse.csr_array(design) if scipy.sparse.issparse(design) else as_dense(design)


def as_dense(design: Any) -> FloatArray:
    """Return a design as a float64 array [n, q]."""
    array = np.asarray(design.toarray() if scipy.sparse.issparse(design) else design, dtype=np.float64)
    return array[:, None] if array.ndim == 1 else array
