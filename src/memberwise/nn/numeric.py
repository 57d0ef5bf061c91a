"""Numbers as embeddings."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class NumericEmbedding(nn.Module):
    """A learned direction for each number, scaled by its value: ``e_i = x_i w_i``.

    Puts numbers on the same footing as ids in models that work on fields of equal width.

    Parameters
    ----------
    columns : int
        Number of numeric columns n.
    dim : int
        Width D of an embedding.

    Notes
    -----
    ``[B, n] -> [B, n, D]``.
    """

    def __init__(self, columns: int, dim: int, std: float = 0.01) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(columns, dim).normal_(std=std))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, n] -> [B, n, D]``."""
        return x.unsqueeze(-1) * self.weight
