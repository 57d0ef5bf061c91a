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
    return sigmoid(predict_all_logits(ranker, loader))


def predict_all_logits(ranker: Ranker, loader: Loader) -> npt.NDArray[np.float32]:
    """Logits of all rows of a loader that does not shuffle. ``[n, T]``"""
    device = next(ranker.parameters()).device
    ranker.eval()
    parts = []
    with torch.inference_mode():
        for batch in loader.epoch():
            parts.append(ranker(batch.to(device)).cpu().numpy())
    return np.concatenate(parts) if parts else np.zeros((0, len(ranker.layout.tasks)), np.float32)


def predict_logits(ranker: Ranker, arrays: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
    """Logits of the rows of one set of arrays (vectors gathered already). ``[n, T]``"""
    device = next(ranker.parameters()).device
    ranker.eval()
    with torch.inference_mode():
        logits: npt.NDArray[np.float32] = (
            ranker(Batch.from_arrays(arrays, ranker.layout).to(device)).cpu().numpy()
        )
    return logits


def predict_with_hidden(
    ranker: Ranker, arrays: Mapping[str, npt.NDArray[Any]]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Logits, and what enters the last layer task by task, in one pass. ``[n, T]`` and ``[n, T, D]``"""
    caught: list[torch.Tensor] = []

    def catch(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> None:
        caught.append(output)

    hook = ranker.heads.register_forward_hook(catch)
    try:
        logits = predict_logits(ranker, arrays)
    finally:
        hook.remove()
    return logits, caught[0].cpu().numpy()


def sigmoid(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """``1 / (1 + exp(-logit))``."""
    return torch.sigmoid(torch.from_numpy(logits)).numpy()
