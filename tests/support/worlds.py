"""A tiny world for meta learning, and what a person would write with a loop over entities."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from memberwise.meta.block import MetaBlock
from memberwise.meta.config import InnerConfig
from memberwise.meta.inner import InnerLoop, Segment

SIZES = (3, 0, 5, 1)
"""Support rows of the four entities."""


class World(nn.Module):
    """A global block that mixes z and x in a smooth way."""

    def __init__(self, p: int, d: int, labels: int = 1) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.first = nn.Parameter(torch.randn(p + d, 7, generator=generator, dtype=torch.float64))
        self.second = nn.Parameter(torch.randn(7, labels, generator=generator, dtype=torch.float64))

    def forward(self, z: Tensor, features: Tensor) -> Tensor:
        return torch.tanh(torch.cat([z, features], 1) @ self.first) @ self.second


def block(norm: bool = True) -> MetaBlock:
    """A block in double precision whose output layer is not zero."""
    made = MetaBlock(4, [6, 5], 3, norm=norm).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator, dtype=torch.float64))
    return made


def loop(variant: Any = "limaml", norm: bool = True, **settings: Any) -> InnerLoop:
    """An inner loop whose step sizes differ between layers."""
    values = {"steps": 3, "rate": 0.4, "clip_norm": 0.6, "shrinkage": 2.0} | settings
    made = InnerLoop(block(norm), InnerConfig(variant=variant, **values)).double()
    with torch.no_grad():
        made.log_rates.add_(torch.tensor([0.2, -0.3, 0.1], dtype=torch.float64))
    return made


def rows(sizes: tuple[int, ...] = SIZES, d: int = 2, labels: int = 1, seed: int = 0) -> Segment:
    """Rows of entities, with weights; with several labels some are not defined."""
    generator = torch.Generator().manual_seed(seed)
    n = sum(sizes)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    y = (torch.rand(n, labels, generator=generator) < 0.5).double()
    if labels > 1:
        y[torch.rand(n, labels, generator=generator) < 0.3] = torch.nan
    w = 0.5 + torch.rand(n, labels, generator=generator, dtype=torch.float64)
    owner = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    return Segment(x, y, w, owner)


def entities(tasks: int = len(SIZES)) -> Tensor:
    """Meta features."""
    return torch.randn(tasks, 4, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def twin(inner: InnerLoop, world: nn.Module, entity: Tensor, support: Segment) -> Tensor:
    """Adapted embeddings with a loop over entities, a whole block each."""
    return torch.stack([_one(inner, world, entity[i : i + 1], support, i) for i in range(len(entity))])


def _one(inner: InnerLoop, world: nn.Module, m: Tensor, support: Segment, i: int) -> Tensor:
    mine = support.owner == i
    x, y, w = support.features[mine], support.labels[mine], support.weights
    w = torch.ones_like(y) if w is None else w[mine]
    there = ~torch.isnan(y)
    n, config = int(there.any(1).sum()), inner.config
    second = config.variant in ("limaml", "anil", "cavia")
    theta: dict[str, Tensor] = dict(inner.block.named_parameters())
    names = _moving(inner, list(theta))
    for _ in range(config.steps if n else 0):
        z = functional_call(inner.block, theta, (m,))
        logits = world(z.expand(len(x), -1), x)
        loss = torch.zeros((), dtype=torch.float64)
        for t in range(y.shape[1]):
            d = there[:, t]
            if d.any():
                each = F.binary_cross_entropy_with_logits(logits[d, t], y[d, t], reduction="none")
                loss = loss + (each * w[d, t]).sum() / d.sum()
        grads = torch.autograd.grad(loss, [theta[k] for k in names], create_graph=second)
        grads = grads if second else tuple(g.detach() for g in grads)
        norm = torch.stack([g.square().sum() for g in grads]).sum() ** 0.5
        shrink = n / (n + inner.log_shrinkage.exp()) if inner.log_shrinkage is not None else 1.0
        size = shrink * torch.clamp(config.clip_norm / norm, max=1.0)
        theta = theta | {
            k: theta[k] - size * inner.log_rates[int(k.split(".")[1])].exp() * g
            for k, g in zip(names, grads, strict=True)
        }
    return functional_call(inner.block, theta, (m,))[0]


def _moving(inner: InnerLoop, names: list[str]) -> list[str]:
    """Parameters that a variant adapts."""
    last = inner.block.layers - 1
    match inner.config.variant:
        case "anil":
            return [f"weights.{last}", f"biases.{last}"]
        case "cavia":
            return [f"biases.{last}"]
        case _:
            return names
