"""The training loss of several tasks, each defined on its own rows."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def multitask_loss(logits: Tensor, labels: Tensor, weights: Tensor | None, task_weights: Tensor) -> Tensor:
    """Weighted sum over tasks of the mean binary cross-entropy of the rows where the task is defined.

    ``L = sum_t c_t / n_t sum_{i: y_it defined} w_it BCE(sigmoid(s_it), y_it)``

    Parameters
    ----------
    logits, labels : Tensor, [B, T]
        A label is NaN where its task is not defined: the row then gives that head no gradient.
    weights : Tensor, [B, T], or None
    task_weights : Tensor, [T]

    Returns
    -------
    Tensor, scalar

    References
    ----------
    LiRank, section 3.3 (an example trains only the heads whose label it has).
    """
    defined = ~torch.isnan(labels)
    loss = F.binary_cross_entropy_with_logits(logits, torch.where(defined, labels, 0.0), reduction="none")
    loss = torch.where(defined, loss if weights is None else loss * weights, 0.0)
    return (loss.sum(0) / defined.sum(0).clamp_min(1) * task_weights).sum()
