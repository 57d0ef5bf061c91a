"""Settings of exploration: the project's section ``exploration``."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from memberwise.schema import Duration, Model


class ExplorationConfig(Model):
    """Let the ranker know what it does not know, and rank by it when asked to explore."""

    rank: int | None = Field(
        64, ge=1, description="Directions of the last layer that stay uncertain; null: all of them."
    )
    items: bool = Field(True, description="An uncertain constant for every item beside the last layer.")
    half_life: Duration | None = Field(
        None, description="Age at which half of what was learned is forgotten: 90d."
    )
    temperature: float | dict[str, float] = Field(
        1.0, description="Width of the draws, for all tasks or by task; 0 does not explore."
    )
    draws: int = Field(1000, ge=1, description="Draws behind a propensity that has no closed form.")
    policy: Literal["thompson", "ucb"] = Field(
        "thompson", description="thompson, or ucb: mean plus temperature deviations."
    )

    def temperatures(self, tasks: tuple[str, ...]) -> npt.NDArray[np.float64]:
        """One temperature per task."""
        if isinstance(self.temperature, dict):
            return np.array([self.temperature.get(t, 1.0) for t in tasks])
        return np.full(len(tasks), float(self.temperature))
