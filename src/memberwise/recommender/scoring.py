"""From arrays to the ranker's logits, and what parts read of the ranker on the way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from memberwise.ranking.predict import predict_logits, predict_with_hidden
from memberwise.ranking.ranker import Ranker
from memberwise.recommender.parts import Part

Arrays = Mapping[str, npt.NDArray[Any]]
Logits = npt.NDArray[np.float32]


def ranker_logits(ranker: Ranker, parts: Mapping[str, Part], arrays: Arrays) -> tuple[Arrays, Logits]:
    """Logits of the ranker alone, and the arrays with what parts made of its last hidden layer.

    One pass of the ranker serves both: the hidden layer is too large to keep, and to compute twice.
    """
    readers = [part for part in parts.values() if part.reads_hidden]
    if not readers:
        return arrays, predict_logits(ranker, arrays)
    logits, hidden = predict_with_hidden(ranker, arrays)
    read: dict[str, npt.NDArray[Any]] = dict(arrays)
    for part in readers:
        read |= part.read_hidden(hidden)
    return read, logits


def adjusted(parts: Mapping[str, Part], arrays: Arrays, logits: Logits) -> Logits:
    """Logits after every part."""
    for part in parts.values():
        logits = part.adjust(arrays, logits)
    return logits
