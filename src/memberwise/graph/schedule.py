"""Adaptive neighbour sampling: few neighbours at first, more when validation no longer gets better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import Field

from memberwise.schema import Model


class AdaptiveFanOut(Model):
    """Settings of the schedule.

    References
    ----------
    LiGNN (Borisyuk et al., 2024), section 6.1: 24 % less time.
    """

    start: int = Field(5, ge=1, description="Neighbours per node at first.")
    stride: int = Field(10, ge=1, description="How many more each time.")
    tolerance: float = Field(1e-3, ge=0, description="Gain of the validation metric that counts as one.")
    decay: float = Field(0.9, gt=0, le=1, description="Of the tolerance, at every validation.")


@dataclass
class FanOutSchedule:
    """How many neighbours training samples now.

    ``if m <= m_last + tol: k <- min(k + stride, cap)``, then ``tol <- decay * tol``, ``m_last <- m``

    Validation must always sample the same number, or the metric moves because k did.

    Parameters
    ----------
    settings
        Start, stride, tolerance, decay; None for the cap from the start.
    cap : int
        Most neighbours.
    """

    settings: AdaptiveFanOut | None
    cap: int

    def __post_init__(self) -> None:
        self.now = self.cap if self.settings is None else min(self.settings.start, self.cap)
        self.tolerance = 0.0 if self.settings is None else self.settings.tolerance
        self.last = float("-inf")

    @property
    def at_cap(self) -> bool:
        """Whether it cannot grow any more."""
        return self.now >= self.cap

    def observe(self, metric: float) -> bool:
        """Take note of a validation (higher is better); returns whether the number has changed."""
        if self.settings is None:
            return False
        before = self.now
        if metric <= self.last + self.tolerance:
            self.now = min(self.now + self.settings.stride, self.cap)
        self.tolerance *= self.settings.decay
        self.last = metric
        return self.now != before

    def state(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {"now": self.now, "tolerance": self.tolerance, "last": self.last}

    def load(self, state: dict[str, Any]) -> None:
        """The inverse of `state`."""
        self.now, self.tolerance, self.last = state["now"], state["tolerance"], state["last"]
