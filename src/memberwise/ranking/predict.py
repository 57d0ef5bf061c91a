"""Probabilities for many rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from memberwise.data.batch import Batch
from memberwise.data.loader import Loader
from memberwise.ranking.ranker import Ranker


def predict(ranker: Ranker, loader: Loader) -> npt.NDArray[np.float32]:
    """Probabilities of all rows of a loader that does not shuffle. ``[n, T]``"""
    device = next(ranker.parameters()).device
    ranker.eval()
    parts = []
    with torch.inference_mode():
        for batch in loader.epoch():
            parts.append(torch.sigmoid(ranker(batch.to(device))).cpu().numpy())
    return np.concatenate(parts) if parts else np.zeros((0, len(ranker.layout.tasks)), np.float32)


def predict_arrays(ranker: Ranker, arrays: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
    """Probabilities of the rows of one set of arrays (vectors gathered already). ``[n, T]``"""
    device = next(ranker.parameters()).device
    ranker.eval()
    with torch.inference_mode():
        batch = Batch.from_arrays(arrays, ranker.layout).to(device)
        return torch.sigmoid(ranker(batch)).cpu().numpy()
