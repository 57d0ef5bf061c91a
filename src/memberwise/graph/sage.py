"""GraphSAGE layers over sampled neighbours: mean or attention, aware of edge types and ages."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memberwise.graph.blocks import Block

AGE_SCALES = (1 / 24, 1.0, 7.0, 30.0, 180.0)
"""Half-lives in days: an hour, a day, a week, a month, half a year."""


def age_basis(ages: Tensor) -> Tensor:
    """``[log(1 + a), 2^(-a / h_1), ..., 2^(-a / h_5)]``: ``[..] -> [.., 6]``, ages in days."""
    rates = -1.0 / torch.tensor(AGE_SCALES, device=ages.device)
    a = ages.clamp_min(0.0).unsqueeze(-1)
    return torch.cat([a.log1p(), torch.exp2(a * rates)], -1)


class MeanAggregator(nn.Module):
    """Weighted mean of the neighbours.

    ``n_v = sum_u w_vu h_u / sum_u w_vu``, with w the edge's strength times a gate per edge type

    States ``[S, d]``; result ``[M, d]`` and the shares ``[M, f]``. A node without neighbours gets zeros. The
    gates start at one; they let the encoder trust artificial edges less.
    """

    def __init__(self, dim: int, kinds: int) -> None:
        super().__init__()
        self.out_dim = dim
        self.gate = nn.Parameter(torch.zeros(kinds))

    def forward(self, own: Tensor, states: Tensor, block: Block) -> tuple[Tensor, Tensor]:
        """``[M, d], [S, d] -> [M, d], [M, f]``."""
        share = block.weights * block.mask * self.gate.exp()[block.kinds]
        share = share / share.sum(1, keepdim=True).clamp_min(1e-12)
        # Weighted sums of rows without ever holding [M, f, d].
        mixed = F.embedding_bag(block.neighbours.clamp_min(0), states, mode="sum", per_sample_weights=share)
        return mixed, share


class AttentionAggregator(nn.Module):
    """Each node chooses whom to listen to.

    ``a_vu = softmax_u(q_v . k_u / sqrt(d / heads) + b_kind + c . phi(age_vu) + log w_vu)``,
    ``n_v = sum_u a_vu v_u``

    Keys and values are made once per state below, before they are gathered.
    """

    def __init__(self, dim: int, kinds: int, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.out_dim = heads, dim
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.kind = nn.Embedding(kinds, heads)
        self.age = nn.Linear(1 + len(AGE_SCALES), heads, bias=False)
        nn.init.zeros_(self.kind.weight)
        nn.init.zeros_(self.age.weight)

    def forward(self, own: Tensor, states: Tensor, block: Block) -> tuple[Tensor, Tensor]:
        """``[M, d], [S, d] -> [M, d], [M, f]`` (shares averaged over heads)."""
        m, f = block.neighbours.shape
        d = states.shape[1]
        if not f:
            return own.new_zeros(m, d), own.new_zeros(m, 0)
        width = d // self.heads
        first, end = span(block.neighbours)
        places = (block.neighbours - first).clamp_min(0).reshape(-1)
        keys, values = (
            side.index_select(0, places).view(m, f, self.heads, width)
            for side in self.key_value(states[first:end]).split(d, 1)
        )
        q = self.query(own).view(m, 1, self.heads, width) / math.sqrt(width)
        # A product of a vector and a few others costs as a matrix product several times its arithmetic.
        logits = (q * keys).sum(-1)
        logits = logits + self.kind(block.kinds) + self.age(age_basis(block.ages))
        logits = logits + block.weights.clamp_min(1e-12).log().unsqueeze(-1)
        mask = block.mask.unsqueeze(-1)
        # A node without neighbours has no softmax: its shares are zero.
        share = torch.softmax(logits.masked_fill(~mask, -1e9), 1) * mask
        mixed = (share.unsqueeze(-1) * values).sum(1).view(m, d)
        return mixed, share.mean(2)


def span(rows: Tensor) -> tuple[int, int]:
    """The rows ``first .. end - 1`` hold all that are asked for; -1 is none, and one row is always in it.

    Nodes of a type stand together: what no neighbour comes from is not looked at.
    """
    end = int(rows.max()) + 1
    if end <= 0:
        return 0, 1
    return int(torch.where(rows < 0, end, rows).min()), end


class SageLayer(nn.Module):
    """New state of a node from its own and its neighbours'.

    ``h_v' = act(W_s h_v + W_n n_v + W_k mean(kind) + W_a mean(phi(age)) + W_d degrees + b)``

    The means of edge types and of age bases are taken with the aggregator's shares.

    Parameters
    ----------
    dim : int
        Width below.
    out_dim : int
        Width of the new state.
    kinds : int
        Edge types.
    degrees : int
        Width of `Block.degrees`.
    aggregator : nn.Module
        `MeanAggregator` or `AttentionAggregator`.
    last : bool
        Leave the activation out.

    References
    ----------
    Hamilton, Ying and Leskovec (2017), algorithm 2; LiGNN (Borisyuk et al., 2024), section 3.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int,
        kinds: int,
        degrees: int,
        aggregator: MeanAggregator | AttentionAggregator,
        last: bool,
    ) -> None:
        super().__init__()
        self.kinds, self.last, self.out_dim = kinds, last, out_dim
        self.aggregator = aggregator
        self.own = nn.Linear(dim, out_dim)
        self.neighbours = nn.Linear(aggregator.out_dim, out_dim, bias=False)
        self.context = nn.Linear(kinds + 1 + len(AGE_SCALES) + degrees, out_dim, bias=False)
        nn.init.normal_(self.context.weight, std=0.02)

    def forward(self, states: Tensor, block: Block) -> Tensor:
        """``[S, d] -> [M, out_dim]``."""
        own = states.index_select(0, block.own)
        out = self.own(own)
        if block.neighbours.shape[1]:
            mixed, share = self.aggregator(own, states, block)
            out = out + self.neighbours(mixed)
            context = self._context(share, block)
        else:  # no query was made: the node MLP alone
            context = own.new_zeros(len(own), self.kinds + 1 + len(AGE_SCALES))
        out = out + self.context(torch.cat([context, block.degrees], 1))
        return out if self.last else F.gelu(out)

    def _context(self, share: Tensor, block: Block) -> Tensor:
        kinds = share.new_zeros(len(share), self.kinds).scatter_add(1, block.kinds.long(), share)
        ages = torch.einsum("mf,mfa->ma", share, age_basis(block.ages))
        return torch.cat([kinds, ages], 1)


class SageEncoder(nn.Module):
    """Layers over the blocks of a query, the farthest hop first.

    Parameters
    ----------
    dim, out_dim : int
        Width of the first states and of the result.
    layers : int
        Hops.
    kinds, degrees : int
        Edge types; width of `Block.degrees`.
    aggregator : str
        ``mean`` or ``attention``.
    heads : int
        Of the attention.

    Notes
    -----
    States ``[S, d]`` and one block per layer; result ``[M, out_dim]`` with M the seeds of the query.
    """

    def __init__(
        self, dim: int, out_dim: int, layers: int, kinds: int, degrees: int, aggregator: str, heads: int = 4
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for i in range(layers):
            last = i == layers - 1
            mix: MeanAggregator | AttentionAggregator = (
                MeanAggregator(dim, kinds) if aggregator == "mean" else AttentionAggregator(dim, kinds, heads)
            )
            self.layers.append(SageLayer(dim, out_dim if last else dim, kinds, degrees, mix, last))

    def forward(self, states: Tensor, blocks: Sequence[Block]) -> Tensor:
        """``[S, d] -> [M, out_dim]``."""
        for layer, block in zip(self.layers, blocks, strict=True):
            states = layer(states, block)
        return states
