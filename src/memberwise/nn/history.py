"""A member's history as one vector: the mean of what was seen and done."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class MeanHistory(nn.Module):
    """Mean of the past events, each weighted by a learned decay of its age.

    ``v_s = concat(item_s, action_s)``, ``c_s = 2^(-age_s / h)``, ``out = sum_s c_s v_s / sum_s c_s``

    and beside it ``log(1 + number of events)``.

    Parameters
    ----------
    item_dim, action_dim : int
        Widths of the embeddings.
    half_life : float
        Initial half-life h in days (learned, kept positive).

    Notes
    -----
    Items ``[B, N, Di]``, actions ``[B, N, Da]``, ages ``[B, N]`` in days, mask ``[B, N]``; result
    ``[B, Di + Da + 1]``. A row without history gives zeros.
    """

    def __init__(self, item_dim: int, action_dim: int, half_life: float = 90.0) -> None:
        super().__init__()
        self.out_dim = item_dim + action_dim + 1
        self.log_half_life = nn.Parameter(torch.tensor(half_life).log())

    def forward(
        self, items: Tensor, actions: Tensor, ages: Tensor, mask: Tensor, candidate: Tensor
    ) -> Tensor:
        """Pool the history; the candidate is not looked at. Returns ``[B, out_dim]``."""
        decay = torch.exp2(-ages / self.log_half_life.exp()) * mask
        weight = decay / decay.sum(1, keepdim=True).clamp_min(1e-6)
        pooled = torch.bmm(weight.unsqueeze(1), torch.cat([items, actions], -1)).squeeze(1)
        return torch.cat([pooled, mask.sum(1, keepdim=True, dtype=pooled.dtype).log1p()], -1)
