"""Residual DCN: a cross network with attention in rank space beside a plain low-rank one."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from memberwise.nn.cross import LowRankCrossNet
from memberwise.schema import Model

MAX_TEMPERATURE = 10.0  # and its inverse is the least


class AttentionCross(nn.Module):
    """One low-rank cross whose rank space attends to itself, each example on its own.

    ``Q, K, V = x V_q, x V_k, x V_v``, each ``[B, r]`` seen as ``[B, r / c, c]``: r / c tokens of width c

    ``A = softmax(Q K^T / (sqrt(c) tau))``, ``H = A V + V``, ``x' = x_0 * (U vec(H) + b) + x``

    With ``A = I`` and without the skip ``+ V`` this is the low-rank cross of `LowRankCrossNet`.

    Parameters
    ----------
    dim : int
        Width d.
    rank : int
        Rank r.
    token : int
        Width c of a token; it divides the rank.
    skip : bool
        Whether the values pass beside the attention. Without it the layer starts nearly constant over its
        tokens: small queries and keys make the softmax uniform, and ``A V`` is the mean of the tokens.

    Notes
    -----
    The temperature is learned and stays between 1/10 and 10 by ``log tau = log(10) tanh(s / log(10))``, with
    s = 0 at the start. A hard clamp would have no gradient outside and could never come back.

    Rows never meet: a score matrix belongs to one example.

    Raises
    ------
    ValueError
        If the width of a token does not divide the rank.

    References
    ----------
    LiRank (Borisyuk et al., 2024), section 3.1 (attention between the two low-rank maps, skip, temperature);
    layout of the tokens and place of the skip are ours.
    """

    def __init__(self, dim: int, rank: int, token: int, skip: bool = True) -> None:
        super().__init__()
        if rank % token:
            raise ValueError(f"the width of a token ({token}) must divide the rank ({rank})")
        self.rank, self.token, self.skip = rank, token, skip
        self.down = nn.Linear(dim, 3 * rank, bias=False)
        """Rows ``V_q``, ``V_k`` and ``V_v``, one after the other: one product makes all three."""
        self.up = nn.Linear(rank, dim)
        self.log_temperature = nn.Parameter(torch.zeros(()))
        for part in self.down.weight.data.split(rank):
            nn.init.xavier_normal_(part)
        nn.init.xavier_normal_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    @property
    def temperature(self) -> Tensor:
        """``tau``, between 1/10 and 10."""
        bound = math.log(MAX_TEMPERATURE)
        return torch.exp(bound * torch.tanh(self.log_temperature / bound))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """``A V`` of each example. Three times ``[B, T, c] -> [B, T, c]``."""
        # As one head, because torch's fused kernel takes four axes only. Measured on one core at B = 1024 and
        # r = 64, with gradients: 4 ms where two batched products need 6 (c = 16), and 15 for 53 (c = 1).
        q, k, v = (t.unsqueeze(1) for t in (q / self.temperature, k, v))
        return F.scaled_dot_product_attention(q, k, v).squeeze(1)

    def forward(self, x0: Tensor, x: Tensor) -> Tensor:
        """Cross `x` with the input `x0`. ``[B, d], [B, d] -> [B, d]``."""
        tokens = F.linear(x, self.down.weight).view(x.shape[0], 3, self.rank // self.token, self.token)
        q, k, v = tokens.unbind(1)
        h = self.attend(q, k, v)
        if self.skip:
            h = h + v
        return torch.addcmul(x, x0, self.up(h.flatten(1)))


class AttentionCrossNet(nn.Module):
    """Several `AttentionCross`: ``x_{l+1} = x_0 * (U_l vec(A_l V_l + V_l) + b_l) + x_l``.

    Parameters
    ----------
    dim, rank, token, skip
        As in `AttentionCross`.
    layers : int
        Number of crosses.

    Notes
    -----
    ``[B, d] -> [B, d]``, with 4 d r weights a layer where `LowRankCrossNet` has 2 d r. The output grows like
    a polynomial of the input: normalise numeric inputs and warm the learning rate up.
    """

    def __init__(self, dim: int, layers: int, rank: int, token: int = 16, skip: bool = True) -> None:
        super().__init__()
        self.out_dim = dim
        self.layers = nn.ModuleList(AttentionCross(dim, rank, token, skip) for _ in range(layers))

    def forward(self, x0: Tensor) -> Tensor:
        """``[B, d] -> [B, d]``."""
        x = x0
        for layer in self.layers:
            x = layer(x0, x)
        return x


class ResidualCrossNet(nn.Module):
    """A plain and an attending low-rank cross network side by side.

    ``y = [Cross(x_0) | AttentionCross(x_0)]``, or their sum

    Parameters
    ----------
    dim, layers, rank, token, skip
        As in `AttentionCrossNet`.
    merge : {"concat", "sum"}
        How the two meet.

    Notes
    -----
    ``[B, d] -> [B, 2 d]`` with concatenation, ``[B, d]`` with the sum. About 6 d r weights a layer: compare
    it with a plain cross network of three times the rank.

    References
    ----------
    LiRank, section 3.1, Residual DCN. The paper does not say how the branches merge.
    """

    def __init__(
        self,
        dim: int,
        layers: int,
        rank: int,
        token: int = 16,
        skip: bool = True,
        merge: Literal["concat", "sum"] = "concat",
    ) -> None:
        super().__init__()
        self.merge = merge
        self.out_dim = 2 * dim if merge == "concat" else dim
        self.plain = LowRankCrossNet(dim, layers, rank)
        self.attending = AttentionCrossNet(dim, layers, rank, token, skip)

    def forward(self, x0: Tensor) -> Tensor:
        """``[B, d] -> [B, out_dim]``."""
        plain, attending = self.plain(x0), self.attending(x0)
        return torch.cat([plain, attending], 1) if self.merge == "concat" else plain + attending


class AttentionCrossConfig(Model):
    """A cross network with attention in rank space."""

    type: Literal["attention_cross"] = "attention_cross"
    layers: int = Field(2, ge=1, le=8)
    rank: int = Field(64, ge=1, description="Rank of the matrices.")
    token: int = Field(16, ge=1, description="Width of the tokens that attend; divides the rank.")
    skip: bool = Field(True, description="Let the values pass beside the attention.")

    @model_validator(mode="after")
    def _tokens_fill_the_rank(self) -> AttentionCrossConfig:
        if self.rank % self.token:
            raise ValueError(f"token ({self.token}) must divide rank ({self.rank})")
        return self

    def build(self, dim: int) -> AttentionCrossNet:
        """The block for an input of width `dim`."""
        return AttentionCrossNet(dim, self.layers, self.rank, self.token, self.skip)


class ResidualCrossConfig(Model):
    """Residual DCN: a plain cross network and one with attention in rank space, side by side."""

    type: Literal["residual_cross"] = "residual_cross"
    layers: int = Field(2, ge=1, le=8)
    rank: int = Field(64, ge=1, description="Rank of the matrices.")
    token: int = Field(16, ge=1, description="Width of the tokens that attend; divides the rank.")
    skip: bool = Field(True, description="Let the values pass beside the attention.")
    merge: Literal["concat", "sum"] = Field("concat", description="How the two networks meet.")

    @model_validator(mode="after")
    def _tokens_fill_the_rank(self) -> ResidualCrossConfig:
        if self.rank % self.token:
            raise ValueError(f"token ({self.token}) must divide rank ({self.rank})")
        return self

    def build(self, dim: int) -> ResidualCrossNet:
        """The block for an input of width `dim`."""
        return ResidualCrossNet(dim, self.layers, self.rank, self.token, self.skip, self.merge)
