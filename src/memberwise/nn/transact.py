"""A transformer over a member's history that looks at the candidate from the first layer on."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memberwise.errors import ConfigError

PAD_TO = 16  # widths that enter a matrix product; odd widths cost up to 40 % on CPUs
AGE_SCALES = (1 / 24, 1.0, 7.0, 30.0, 180.0)
"""Days: an hour, a day, a week, a month, half a year."""


class AgeEncoding(nn.Module):
    """Ages as vectors: ``W [log(1 + a), 2^(-a / h_1), ..., 2^(-a / h_5)]``.

    Ages ``[B, N]`` in days (negative ones count as zero); result ``[B, N, D]``. The half-lives span an hour
    to half a year, so that both sessions and seasons can be told apart. W starts small.
    """

    rates: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("rates", -1.0 / torch.tensor(AGE_SCALES), persistent=False)
        self.linear = nn.Linear(1 + len(AGE_SCALES), dim)
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)

    def forward(self, ages: Tensor) -> Tensor:
        """``[B, N] -> [B, N, D]``."""
        a = ages.clamp_min(0.0).unsqueeze(-1)
        return self.linear(torch.cat([a.log1p(), torch.exp2(a * self.rates)], -1))


class HistoryLayer(nn.Module):
    """One encoder layer: attention, then a feed-forward map, each with its residual and norm behind it.

    ``x <- norm(x + W_o attention(x))``, ``x <- norm(x + W_2 relu(W_1 x))``

    Input and output are ``[B, N, d]``; the mask ``[B, 1, 1, N]`` is true where a step may be looked at.
    """

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.up, self.down = nn.Linear(dim, hidden), nn.Linear(hidden, dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.drop = nn.Dropout(dropout)
        for linear in (self.qkv, self.out, self.up, self.down):
            nn.init.xavier_uniform_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """``[B, N, d], [B, 1, 1, N] -> [B, N, d]``."""
        b, n, d = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        # Measured on one core at B = 1024, N = 20, d = 48, two heads: 23 ms with its gradient, where batched
        # products and a softmax written out need 35 ms.
        a = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = self.norm1(x + self.drop(self.out(a.transpose(1, 2).reshape(b, n, d))))
        return self.norm2(x + self.drop(self.down(F.relu(self.up(x)))))


class HistoryTransformer(nn.Module):
    """Transformer over past events, each joined with the candidate; the maximum and the newest few.

    ``x_s = [item_s | action_s | candidate] + age(a_s)``, ``H = encoder(x)``

    ``out = [max_{s: there} H_s | H_(1) | ... | H_(last)]``, where (1) is the newest event that is there

    Parameters
    ----------
    item_dim, action_dim : int
        Widths of the embeddings.
    layers : int
        Encoder layers.
    heads : int
        Attention heads.
    last : int
        How many of the newest events go out one by one.
    window : float
        In training, each row forgets the events of its last ``u ~ U(0, window)`` days, so that the model
        does not lean on events that serving may not have seen yet. Zero turns this off.
    dropout : float
        Dropout in the encoder.

    Attributes
    ----------
    dim : int
        Width d of a step: ``2 item_dim + action_dim`` and zeros up to a multiple of 16 that the heads divide.
    out_dim : int
        ``(1 + last) d``.

    Notes
    -----
    Items ``[B, N, Di]``, actions ``[B, N, Da]``, ages ``[B, N]`` in days, mask ``[B, N]``, candidate
    ``[B, Di]``; result ``[B, out_dim]``. Steps stand newest first. A step that the mask leaves out changes
    nothing, wherever it stands; the places of missing newest events are zero, and a row without history is
    zero altogether. The feed-forward map is half as wide as a step. There is no encoding of positions: age
    says more. The encoder runs once for each candidate, so keep N small.

    Raises
    ------
    ConfigError
        At the first batch, if there is no candidate: no id field of the row shares the history's table.

    References
    ----------
    LiRank (Borisyuk et al., 2024), section 3.5; Xia et al. (2023), TransAct. That one pools over padding
    too and ends in a linear map; this one pools over events only and leaves the map to what follows.
    """

    def __init__(
        self,
        item_dim: int,
        action_dim: int,
        layers: int = 2,
        heads: int = 2,
        last: int = 5,
        window: float = 1.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        width = 2 * item_dim + action_dim
        self.dim = width + -width % math.lcm(PAD_TO, heads)
        self.padding = self.dim - width
        self.last, self.window = last, window
        self.out_dim = (1 + last) * self.dim
        self.age = AgeEncoding(self.dim)
        self.layers = nn.ModuleList(
            HistoryLayer(self.dim, heads, self.dim // 2, dropout) for _ in range(layers)
        )

    def forward(
        self, items: Tensor, actions: Tensor, ages: Tensor, mask: Tensor, candidate: Tensor | None
    ) -> Tensor:
        """Encode the history as the candidate sees it. Returns ``[B, out_dim]``."""
        if candidate is None:
            raise ConfigError(
                "the history transformer compares each past event with the candidate, and there is none",
                fix="make the item a feature of the row, with the table of the history, "
                "or take an encoder that does without (mean)",
            )
        mask = self._recent_left_out(ages, mask)
        x = self._joined(items, actions, candidate) + self.age(ages)
        # Attention over nothing is 0 / 0: a row without events looks at its first place, which is then
        # pooled by nobody.
        visible = mask.clone()
        visible[:, 0] |= ~mask.any(1)
        for layer in self.layers:
            x = layer(x, visible[:, None, None, :])
        return torch.cat([masked_max(x, mask).unsqueeze(1), newest(x, mask, self.last)], 1).flatten(1)

    def _recent_left_out(self, ages: Tensor, mask: Tensor) -> Tensor:
        if not self.training or not self.window:
            return mask
        return mask & (ages >= self.window * torch.rand(len(ages), 1, device=ages.device))

    def _joined(self, items: Tensor, actions: Tensor, candidate: Tensor) -> Tensor:
        parts = [items, actions, candidate.unsqueeze(1).expand_as(items)]
        if self.padding:
            parts.append(items.new_zeros(1, 1, self.padding).expand(*items.shape[:2], self.padding))
        return torch.cat(parts, -1)


def masked_max(x: Tensor, mask: Tensor) -> Tensor:
    """Largest value of each unit over the steps that are there, zero where none is.

    ``[B, N, d], [B, N] -> [B, d]``
    """
    pooled = x.masked_fill(~mask.unsqueeze(-1), -math.inf).amax(1)
    return torch.where(mask.any(1, keepdim=True), pooled, 0.0)


def newest(x: Tensor, mask: Tensor, count: int) -> Tensor:
    """The first `count` steps that are there, newest first, then zeros.

    ``[B, N, d], [B, N] -> [B, count, d]``
    """
    n = x.shape[1]
    turn = torch.where(mask, torch.arange(n, 0, -1, device=x.device), 0)
    turn, place = turn.topk(min(count, n), 1)
    found = x.gather(1, place.unsqueeze(-1).expand(-1, -1, x.shape[2])) * (turn > 0).unsqueeze(-1)
    return found if n >= count else F.pad(found, (0, 0, 0, count - n))
