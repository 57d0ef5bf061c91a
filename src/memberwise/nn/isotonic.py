"""Isotonic calibration inside the network: a monotone curve per task that learns along with it."""

from __future__ import annotations

import math

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from memberwise.schema import Model


class IsotonicCalibration(nn.Module):
    """A monotone, piecewise linear curve of the logit, one per task.

    ``y_cali = y + b + sum_i (relu(w_i + e_i) - 1) v_i``, ``v_i = clamp(y - lower - i step, 0, step)``

    This is equation 1 of the paper, ``sum_{i <= k} relu(w_i + e_i) v_i + b`` over buckets of width `step`,
    told as a departure from the identity: bucket i has slope ``relu(w_i + e_i)``, outside of
    ``[lower, upper]`` the slope is 1, so that no logit loses its gradient, and a new layer (w = 1, e = 0,
    b = 0) returns its input exactly.

    Parameters
    ----------
    tasks : int
        Number of curves T.
    lower, upper : float
        Range of the buckets, in logits. `upper` grows to the next whole bucket.
    step : float
        Width of a bucket: 0.1 to 0.25 for small data, 0.05 for large.
    pull : float
        Weight of the penalty that pulls every w to 1. It settles how much of a scale belongs to the curve and
        how much to the network, and it brings back a bucket whose slope has fallen to zero, which the data
        no longer can.

    Attributes
    ----------
    buckets : int
        K, the width of ``e``.
    auxiliary_loss : Tensor, scalar
        ``pull * step * sum_{t,i} (w_ti - 1)^2``, to be added to the training loss. As an integral over the
        range it means the same for narrow and for wide buckets.

    Notes
    -----
    ``[B, T] -> [B, T]``. Without ``e`` a curve is rank-neutral, but for the ties that a slope of zero makes:
    a gain of AUC can only come from ``e`` or from training together. ``e`` is the sum of a row of K values
    per calibration feature (device, channel, ...) from a table that starts at zero; with features of very
    many values it becomes a ranker.

    Raises
    ------
    ValueError
        If `upper` is not above `lower`, or the step is not positive.

    References
    ----------
    LiRank (Borisyuk et al., 2024), section 3.4, equation 1.
    """

    def __init__(
        self, tasks: int, lower: float = -10.0, upper: float = 6.0, step: float = 0.25, pull: float = 3e-4
    ) -> None:
        super().__init__()
        if not lower < upper or step <= 0:
            raise ValueError(f"no buckets of width {step} between {lower} and {upper}")
        self.buckets = max(1, math.ceil((upper - lower) / step - 1e-6))
        self.lower, self.step, self.pull = lower, step, pull
        self.weight = nn.Parameter(torch.ones(tasks, self.buckets))
        self.bias = nn.Parameter(torch.zeros(tasks))

    def extra_repr(self) -> str:
        """Sizes, for ``print``."""
        return f"tasks={len(self.weight)}, lower={self.lower}, step={self.step}, buckets={self.buckets}"

    @property
    def upper(self) -> float:
        """Where the last bucket ends."""
        return self.lower + self.step * self.buckets

    @property
    def auxiliary_loss(self) -> Tensor:
        """The penalty on slopes away from 1."""
        return self.pull * self.step * (self.weight - 1.0).square().sum()

    def forward(self, logits: Tensor, effects: Tensor | None = None) -> Tensor:
        """Calibrated logits.

        Parameters
        ----------
        logits : Tensor, [B, T]
            With one task also [B].
        effects : Tensor, [B, T, K], optional
            What the calibration features add to the weights of a row's curves; [B, K] adds the same to all.

        Returns
        -------
        Tensor, in the shape of `logits`
        """
        y = logits if logits.dim() == 2 else logits.unsqueeze(1)
        t = (y - self.lower).clamp(0.0, self.step * self.buckets)
        if effects is None:
            correction = self._by_sums(t)
        else:
            correction = self._by_buckets(t, effects if effects.dim() == 3 else effects.unsqueeze(1))
        return (y + correction + self.bias).view_as(logits)

    def _by_sums(self, t: Tensor) -> Tensor:
        """One look-up per logit: what the buckets below add up to, and the share of its own."""
        extra = F.relu(self.weight) - 1.0
        below = self.step * (extra.cumsum(1) - extra)
        # Rounding may put a logit on an edge into either bucket: both give the same value there.
        k = (t / self.step).long().clamp(0, self.buckets - 1)
        inside = t - k.to(t.dtype) * self.step
        return below.t().gather(0, k) + extra.t().gather(0, k) * inside

    def _by_buckets(self, t: Tensor, effects: Tensor) -> Tensor:
        """The sum written out, since every row has its own curve."""
        edges = torch.arange(self.buckets, device=t.device, dtype=t.dtype) * self.step
        inside = (t.unsqueeze(-1) - edges).clamp(0.0, self.step)
        return ((F.relu(self.weight + effects) - 1.0) * inside).sum(-1)


class IsotonicConfig(Model):
    """An isotonic calibration layer for every task."""

    lower: float = Field(-10.0, description="Logit where the buckets begin.")
    upper: float = Field(6.0, description="Logit where they end; beyond, the curve goes on with slope 1.")
    step: float = Field(0.25, gt=0, description="Width of a bucket; 0.05 for large data.")
    pull: float = Field(3e-4, ge=0, description="Weight of the penalty that pulls the slopes to 1.")

    @model_validator(mode="after")
    def _in_order(self) -> IsotonicConfig:
        if not self.lower < self.upper:
            raise ValueError(f"lower ({self.lower}) must lie below upper ({self.upper})")
        return self

    def build(self, tasks: int) -> IsotonicCalibration:
        """The layer for this many tasks."""
        return IsotonicCalibration(tasks, self.lower, self.upper, self.step, self.pull)
