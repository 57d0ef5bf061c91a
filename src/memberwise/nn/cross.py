"""Cross networks of DCN-V2, with full and with low-rank matrices."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from memberwise.schema import Model


class CrossNet(nn.Module):
    """Explicit feature crosses with full matrices.

    ``x_{l+1} = x_0 * (W_l x_l + b_l) + x_l``

    Parameters
    ----------
    dim : int
        Width d of the input; a multiple of 16 is markedly faster on CPUs.
    layers : int
        Number of crosses L: the output holds polynomials of degree L + 1 in the input.

    Notes
    -----
    Input and output are ``[B, d]``. The output is polynomial in the input: normalise numeric inputs.

    References
    ----------
    Wang et al. (2021), DCN V2, equation 1. LiRank (Borisyuk et al., 2024), section 3.1.
    """

    def __init__(self, dim: int, layers: int) -> None:
        super().__init__()
        self.out_dim = dim
        self.layers = nn.ModuleList(nn.Linear(dim, dim) for _ in range(layers))
        for layer in self.layers:
            nn.init.xavier_normal_(layer.weight)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, x0: Tensor) -> Tensor:
        """Cross the input with itself. ``[B, d] -> [B, d]``."""
        x = x0
        for layer in self.layers:
            x = (x0 * layer(x)).add_(x)  # cheaper than addcmul, whose gradient takes another pass
        return x


class LowRankCrossNet(nn.Module):
    """Explicit feature crosses with two skinny matrices instead of a square one.

    ``x_{l+1} = x_0 * (U_l (V_l^T x_l) + b_l) + x_l``, ``U_l, V_l: [d, r]``

    Parameters
    ----------
    dim : int
        Width d of the input.
    layers : int
        Number of crosses; two suffice in LiRank.
    rank : int
        Rank r. It saves work where ``2 r < d``.

    References
    ----------
    Wang et al. (2021), DCN V2, equation 2. LiRank, section 3.1.
    """

    def __init__(self, dim: int, layers: int, rank: int) -> None:
        super().__init__()
        self.out_dim = dim
        self.down = nn.ModuleList(nn.Linear(dim, rank, bias=False) for _ in range(layers))
        self.up = nn.ModuleList(nn.Linear(rank, dim) for _ in range(layers))
        for down, up in zip(self.down, self.up, strict=True):
            nn.init.xavier_normal_(down.weight)  # type: ignore[arg-type]
            nn.init.xavier_normal_(up.weight)  # type: ignore[arg-type]
            nn.init.zeros_(up.bias)  # type: ignore[arg-type]

    def forward(self, x0: Tensor) -> Tensor:
        """Cross the input with itself. ``[B, d] -> [B, d]``."""
        x = x0
        for down, up in zip(self.down, self.up, strict=True):
            x = (x0 * up(down(x))).add_(x)
        return x


class CrossConfig(Model):
    """A cross network: low-rank with `rank`, full without."""

    type: Literal["cross"] = "cross"
    layers: int = Field(3, ge=1, le=8)
    rank: int | None = Field(
        None, ge=1, description="Rank of the matrices, for inputs that are wide; null for full matrices."
    )

    def build(self, dim: int) -> CrossNet | LowRankCrossNet:
        """The block for an input of width `dim`."""
        if self.rank is None:
            return CrossNet(dim, self.layers)
        return LowRankCrossNet(dim, self.layers, self.rank)
