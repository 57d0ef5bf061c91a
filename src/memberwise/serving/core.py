"""The dense part of a ranker, with the request's side computed once: what is exported and run.

For the first matrix of every block, ``W x0 = W_s x_s + W_o x_o``: the shared side costs one row instead of
one per candidate.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from memberwise.nn.cross import CrossNet, LowRankCrossNet
from memberwise.nn.mlp import MLP
from memberwise.nn.multitask import HardSharing
from memberwise.ranking.ranker import Ranker
from memberwise.serving.plan import Plan


class DenseCore(nn.Module):
    """From the two sides of x0 to logits.

    Parameters
    ----------
    ranker
        Whose weights are used; it is not changed.
    plan
        Which columns are shared.
    hidden
        Also return what enters the last layer, ``[n, D]`` (``[n, T, D]`` where tasks differ): parts beside
        the ranker read it.

    Notes
    -----
    Takes ``shared [1, ds], own [n, do], wide [n, T], candidate [n, D]``, the numbers of both sides that go
    into curves, ``[1, ks], [n, ko]``, then items, actions, ages and mask of each history, ``[1, N, ...]``.
    Gives logits ``[n, T]``, before the calibration curves where these depend on the row's features, else
    after them.
    """

    order: Tensor
    back: Tensor

    def __init__(self, ranker: Ranker, plan: Plan, hidden: bool = False) -> None:
        super().__init__()
        self.hidden = hidden
        self.encoders = nn.ModuleList(ranker.histories[h.name] for h, _, _ in plan.histories)
        self.looks = [looks for _, _, looks in plan.histories]
        pooled = [columns for _, columns, looks in plan.histories if not looks]
        looked = [columns for _, columns, looks in plan.histories if looks]
        shared, own = plan.shared, plan.own
        self.shared_columns = shared.columns + shared.curves + [c for columns in pooled for c in columns]
        self.own_columns = own.columns + own.curves + [c for columns in looked for c in columns]
        self.curves_of = nn.ModuleList(
            _some_columns(ranker.numbers, side.dense) if side.curves else nn.Identity()
            for side in (shared, own)
        )
        self.curved = [bool(side.curves) for side in (shared, own)]
        columns = self.shared_columns + self.own_columns + list(range(plan.width, ranker.in_dim))
        order = torch.empty(len(columns), dtype=torch.long)
        order[torch.tensor(columns)] = torch.arange(len(columns))
        self.register_buffer("order", order)
        self.split = _splittable(ranker)
        if self.split:
            at = torch.tensor(columns)
            first = len(self.shared_columns)
            self.blocks = nn.ModuleList(_split(b, at, first) for b in ranker.blocks)
            self.head = nn.Parameter(_head_columns(ranker, at))
            self.register_buffer("back", _back(ranker, order), persistent=False)
        else:
            self.ranker = ranker
        self.wide_bias = nn.Parameter(ranker.wide_bias.detach().clone())
        self.padding = ranker.in_dim - plan.width
        self.curves = ranker.curves if ranker.curve_effects is None else None

    def forward(
        self,
        shared: Tensor,
        own: Tensor,
        wide: Tensor,
        candidate: Tensor,
        numbers_shared: Tensor,
        numbers_own: Tensor,
        *histories: Tensor,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """See the class."""
        if self.curved[0]:
            shared = torch.cat([shared, self.curves_of[0](numbers_shared)], 1)
        if self.curved[1]:
            own = torch.cat([own, self.curves_of[1](numbers_own)], 1)
        shared, own = self._with_histories(shared, own, candidate, histories)
        n = own.shape[0]
        own = F.pad(own, (0, self.padding)) if self.padding else own
        x0 = torch.cat([shared.expand(n, -1), own], 1)
        if self.split:
            mixed = torch.cat([block(shared, own, x0) for block in self.blocks], 1)
            logits = mixed @ self.head.t() + self.wide_bias
            seen = mixed.index_select(1, self.back) if self.hidden else mixed
        else:
            r = self.ranker
            parted = r.heads(r.mix(x0.index_select(1, self.order)))
            logits = (parted * r.head_weight).sum(-1) + self.wide_bias
            seen = parted
        logits = logits + wide
        logits = logits if self.curves is None else self.curves(logits)
        return (logits, seen) if self.hidden else logits

    def _with_histories(
        self, shared: Tensor, own: Tensor, candidate: Tensor, histories: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        once, each = [shared], [own]
        for k, encoder in enumerate(self.encoders):
            items, actions, ages, mask = histories[4 * k : 4 * k + 4]
            if not self.looks[k]:
                once.append(encoder(items, actions, ages, mask, candidate))
                continue
            n = own.shape[0]
            parts = (t.expand(n, *t.shape[1:]) for t in (items, actions, ages, mask))
            each.append(encoder(*parts, candidate))
        return torch.cat(once, 1), torch.cat(each, 1)


class SplitLinear(nn.Module):
    """``W_s x_s + W_o x_o + b``: the columns of a matrix, parted."""

    def __init__(self, weight: Tensor, bias: Tensor | None, at: Tensor, shared: int) -> None:
        super().__init__()
        weight = weight.detach().index_select(1, at)
        self.shared = nn.Parameter(weight[:, :shared].clone())
        self.own = nn.Parameter(weight[:, shared:].clone())
        self.bias = nn.Parameter(bias.detach().clone()) if bias is not None else None

    def forward(self, shared: Tensor, own: Tensor) -> Tensor:
        """``[1, ds], [n, do] -> [n, d]``."""
        return F.linear(own, self.own) + F.linear(shared, self.shared, self.bias)


class SplitCross(nn.Module):
    """A cross network, full or of low rank, on sorted columns."""

    def __init__(self, block: CrossNet | LowRankCrossNet, at: Tensor, shared: int) -> None:
        super().__init__()
        self.low_rank = isinstance(block, LowRankCrossNet)
        if isinstance(block, LowRankCrossNet):
            downs, ups = list(block.down), list(block.up)
            self.first = SplitLinear(downs[0].weight, None, at, shared)  # type: ignore[arg-type]
            self.downs = nn.ModuleList(_moved(d, at, True, False) for d in downs[1:])
            self.ups = nn.ModuleList(_moved(u, at, False, True) for u in ups)
        else:
            layers = list(block.layers)
            first = _moved(layers[0], at, False, True)
            self.first = SplitLinear(first.weight, first.bias, at, shared)
            self.ups = nn.ModuleList(_moved(layer, at, True, True) for layer in layers[1:])

    def forward(self, shared: Tensor, own: Tensor, x0: Tensor) -> Tensor:
        """``-> [n, d]``, in sorted columns."""
        first = self.first(shared, own)
        if not self.low_rank:
            x = x0 * first + x0
            for layer in self.ups:
                x = x0 * layer(x) + x
            return x
        x = x0 * self.ups[0](first) + x0
        for down, up in zip(self.downs, list(self.ups)[1:], strict=True):
            x = x0 * up(down(x)) + x
        return x


class SplitMLP(nn.Module):
    """A perceptron whose first matrix is parted."""

    def __init__(self, block: MLP, at: Tensor, shared: int) -> None:
        super().__init__()
        layers = list(block.layers)
        first = layers[0]
        self.first = SplitLinear(first.weight, first.bias, at, shared)  # type: ignore[arg-type]
        self.rest = nn.Sequential(*layers[1:])

    def forward(self, shared: Tensor, own: Tensor, x0: Tensor) -> Tensor:
        """``-> [n, d]``."""
        return self.rest(self.first(shared, own))


def _splittable(ranker: Ranker) -> bool:
    """Whether all blocks see x0 itself, are of a kind that can be parted, and meet in one head."""
    heads = ranker.heads
    return (
        (not ranker.config.stacked or len(ranker.blocks) == 1)
        and all(isinstance(b, CrossNet | LowRankCrossNet | MLP) for b in ranker.blocks)
        and isinstance(heads, HardSharing)
        and heads.out_dim == ranker.out_dim
        and not list(heads.parameters())
    )


def _split(block: nn.Module, at: Tensor, shared: int) -> nn.Module:
    if isinstance(block, MLP):
        return SplitMLP(block, at, shared)
    assert isinstance(block, CrossNet | LowRankCrossNet)
    return SplitCross(block, at, shared)


def _moved(linear: nn.Module, at: Tensor, inputs: bool, outputs: bool) -> nn.Linear:
    """A copy of a layer that reads and writes sorted columns."""
    assert isinstance(linear, nn.Linear)
    weight, bias = linear.weight.detach(), linear.bias
    weight = weight.index_select(1, at) if inputs else weight
    weight = weight.index_select(0, at) if outputs else weight
    copy = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    copy.weight = nn.Parameter(weight.clone())
    if bias is not None:
        copy.bias = nn.Parameter((bias.detach().index_select(0, at) if outputs else bias.detach()).clone())
    return copy


def _some_columns(numbers: nn.Module | None, columns: Sequence[int]) -> nn.Module:
    """The curves of some of the numbers: every tensor of the layer has a row for each number."""
    assert numbers is not None
    some = copy.deepcopy(numbers)
    at = torch.tensor(columns)
    for name, value in list(some.named_parameters()):
        setattr(some, name, nn.Parameter(value.detach().index_select(0, at)))
    for name, buffer in list(some.named_buffers()):
        setattr(some, name, buffer.index_select(0, at))
    return some


def _head_columns(ranker: Ranker, at: Tensor) -> Tensor:
    """Weights of the head, the columns of cross networks sorted. ``[T, out_dim]``"""
    parts, start = [], 0
    for block in ranker.blocks:
        width = int(block.out_dim)  # type: ignore[arg-type]
        piece = ranker.head_weight.detach()[:, start : start + width]
        parts.append(piece if isinstance(block, MLP) else piece.index_select(1, at))
        start += width
    return torch.cat(parts, 1)


def _back(ranker: Ranker, order: Tensor) -> Tensor:
    """Where each column of the last hidden layer stands when cross networks write sorted columns."""
    parts, start = [], 0
    for block in ranker.blocks:
        width = int(block.out_dim)  # type: ignore[arg-type]
        parts.append(start + (torch.arange(width) if isinstance(block, MLP) else order))
        start += width
    return torch.cat(parts)
