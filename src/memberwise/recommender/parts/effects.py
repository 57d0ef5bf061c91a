"""Member and item effects as a part of a version."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from memberwise.data.hashing import U64
from memberwise.ranking.effects import Effects
from memberwise.ranking.predict import predict_all_logits
from memberwise.recommender.loading import loader
from memberwise.recommender.parts.base import Arrays, Fitting, Increment, Logits, Part, Setting


@dataclass(frozen=True)
class EffectsPart(Part):
    """What members and items have lately shown beyond the ranker, on top of its logits.

    The prior variances come from valid; the effects themselves start at zero and learn from updates alone.
    """

    effects: Effects
    name: ClassVar[str] = "effects"

    @classmethod
    def fit(cls, fitting: Fitting) -> Self:
        """Learn the prior variances from rows that the ranker was not trained on."""
        config = fitting.project.config
        assert config.effects is not None
        assert fitting.ranker is not None
        logits = predict_all_logits(fitting.ranker, loader(fitting.prepared, "valid", 8192))
        rows = fitting.prepared.packed.rows("valid")
        return cls(Effects.learned(config.effects, config.task_names, rows, logits.astype(np.float64)))

    def adjust(self, arrays: Arrays, logits: Logits) -> Logits:
        """Add the effects."""
        return self.effects.adjusted(arrays, logits.astype(np.float64)).astype(np.float32)

    def update(self, increment: Increment, setting: Setting) -> Self:
        """Absorb new rows; on a new ranker, whose errors are others, start again on the latest."""
        new = increment.retrained
        if new is not None:
            effects = self.effects.refitted(new.arrays, new.logits.astype(np.float64), increment.key)
        else:
            logits = increment.logits.astype(np.float64)
            effects = self.effects.updated(increment.arrays, logits, increment.key)
        return type(self)(effects)

    def forget(self, members: U64) -> Self:
        """Without these members' effects."""
        return type(self)(self.effects.forgotten("member", members.tolist()))

    def write(self, folder: Path) -> None:
        """The files of `Effects`."""
        self.effects.write(folder)

    @classmethod
    def read(cls, folder: Path, setting: Setting) -> Self:
        """The inverse of `write`."""
        config = setting.project.config
        assert config.effects is not None
        return cls(Effects.read(config.effects, config.task_names, folder))
