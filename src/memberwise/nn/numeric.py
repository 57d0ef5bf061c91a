"""Numbers as embeddings: a direction each, or a piecewise linear curve each."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from memberwise.schema import Model


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


class PiecewiseLinear(nn.Module):
    """A learned curve of each number, bent at the quantiles of train.

    ``e_ij = clamp((x_i - q_ij) / (q_i,j+1 - q_ij), 0, 1)``, ``out_i = relu(W_i e_i + b_i)``

    Trees cut a number where they like; a perceptron sees it as a straight line and has to learn each bend.
    Here every quantile of train is a bend from the start.

    Parameters
    ----------
    columns : int
        Number of numeric columns n.
    bins : int
        Pieces K of each curve.
    dim : int
        Width D of an embedding.

    Attributes
    ----------
    out_dim : int
        ``n D``.

    Notes
    -----
    ``[B, n] -> [B, n D]``. Until `fit`, every curve is flat. Values outside of train are those of its ends,
    so that nothing extrapolates. A column with few distinct values has fewer pieces.

    References
    ----------
    Gorishniy et al. (2022), On embeddings for numerical features in tabular deep learning, equation 1
    (PLE with a linear map and ReLU).
    """

    left: Tensor
    slope: Tensor

    def __init__(self, columns: int, bins: int = 16, dim: int = 8) -> None:
        super().__init__()
        self.bins, self.out_dim = bins, columns * dim
        self.register_buffer("left", torch.zeros(columns, bins))
        self.register_buffer("slope", torch.zeros(columns, bins))
        self.weight = nn.Parameter(torch.empty(columns, bins, dim).normal_(std=bins**-0.5))
        self.bias = nn.Parameter(torch.zeros(columns, 1, dim))

    @torch.no_grad()
    def fit(self, rows: Tensor) -> None:
        """Set the bends to the quantiles of these rows, ``[rows, n]``; equal quantiles are one bend."""
        levels = torch.linspace(0.0, 1.0, self.bins + 1, dtype=rows.dtype)
        self.left.zero_()
        self.slope.zero_()
        for i, column in enumerate(rows.sort(0).values.unbind(1)):
            places = (levels * (len(column) - 1)).round().long()
            bends = torch.unique_consecutive(column[places])
            pieces = len(bends) - 1
            self.left[i, :pieces] = bends[:-1]
            self.slope[i, :pieces] = 1.0 / bends.diff()

    def encode(self, x: Tensor) -> Tensor:
        """How far each number is through each piece, ``[B, n] -> [B, n, K]``."""
        return ((x.unsqueeze(-1) - self.left) * self.slope).clamp(0.0, 1.0)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, n] -> [B, n D]``."""
        pieces = self.encode(x).transpose(0, 1)
        return torch.baddbmm(self.bias, pieces, self.weight).relu().transpose(0, 1).flatten(1)


class PiecewiseConfig(Model):
    """Piecewise linear embeddings of numeric columns."""

    bins: int = Field(
        16, ge=2, le=256, description="Pieces of each number's curve, cut at quantiles of train."
    )
    dim: int = Field(8, ge=1, le=256, description="Width of a number's embedding.")

    def build(self, columns: int) -> PiecewiseLinear:
        """The layer for this many columns."""
        return PiecewiseLinear(columns, self.bins, self.dim)
