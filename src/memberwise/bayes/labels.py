"""Two labels of any kind, and the zeros and ones that the likelihood takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.utils.multiclass import check_classification_targets, type_of_target

from memberwise.bayes.inputs import InputError, read_labels
from memberwise.bayes.likelihood import FloatArray

Labels = npt.NDArray[Any]


def binary_labels(y: npt.ArrayLike) -> Labels:
    """Check that labels are of at most two kinds, and return them as an array [n].

    Raises
    ------
    InputError
        Empty, or more than two classes.
    """
    labels = read_labels(y, numeric=False)
    check_classification_targets(labels)
    kind = type_of_target(labels, input_name="y", raise_unknown=True)
    if kind != "binary":
        raise InputError(f"Only binary classification is supported. The type of the target is {kind}.")
    return labels


def both_classes(labels: Labels, named: npt.ArrayLike | None = None) -> Labels:
    """Return the two classes, sorted, [2]: those that are named, else those that the labels show.

    Raises
    ------
    InputError
        Not two of them.
    """
    found = np.unique(labels if named is None else np.asarray(named))
    if found.size == 1 and named is None:
        raise InputError(
            "y holds one class only", fix="use partial_fit with classes=, or rows of the other class too"
        )
    if found.size != 2:
        raise InputError(f"{found.size} classes, expected 2", fix="pass classes=[negative, positive]")
    return found


def zero_one(labels: Labels, classes: Labels) -> FloatArray:
    """Return 1 for the second class and 0 for the first, [n].

    Raises
    ------
    InputError
        A label that is neither.
    """
    if not np.isin(labels, classes).all():
        raise InputError(f"labels outside the classes {classes.tolist()}")
    return (labels == classes[-1]).astype(np.float64)
