"""Training of the ranker within updates, as a part of a version."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
import torch

from memberwise.data.arrays import load_arrays, save_arrays
from memberwise.data.hashing import U64
from memberwise.data.layout import Layout
from memberwise.data.loader import Loader
from memberwise.errors import BundleError
from memberwise.project import Project
from memberwise.ranking.incremental import IncrementalConfig, Memory, increment
from memberwise.ranking.predict import predict_logits
from memberwise.recommender.loading import loader
from memberwise.recommender.parts.base import Arrays, Fitting, Increment, Part, Retrained, Setting


@dataclass(frozen=True)
class IncrementalPart(Part):
    """The ranker's memory, and the latest rows: those that it has not learned yet, and some before.

    Attributes
    ----------
    config
        How often, and how.
    memory
        What holds the weights.
    recent : dict of arrays
        The latest rows, oldest first.
    waiting : tuple of (str, int)
        Key and number of rows of each update since the last increment: the end of `recent`.
    """

    config: IncrementalConfig
    memory: Memory
    recent: Arrays
    waiting: tuple[tuple[str, int], ...] = ()
    outcome: Retrained | None = None
    name: ClassVar[str] = "incremental"

    @property
    def due(self) -> bool:
        """Whether the next update is one in which the ranker learns."""
        return len(self.waiting) + 1 >= self.config.every

    @classmethod
    def fit(cls, fitting: Fitting) -> Self:
        """How firmly train has settled each weight."""
        config = fitting.project.config.incremental
        assert config is not None
        assert fitting.ranker is not None
        seed = _seed(fitting.project, 0)
        train = loader(fitting.prepared, "train", config.batch_size)
        return cls(config, Memory.of(fitting.ranker, train, _weights(fitting.project), config, seed), {})

    def update(self, increment: Increment, setting: Setting) -> Self:
        """Keep the rows; learn from all that have waited, if it is time."""
        own = {k: np.asarray(increment.arrays[k]) for k in _columns(setting.pipeline.layout)}
        recent = _joined(self.recent, own)
        waiting = (*self.waiting, (increment.key, len(increment)))
        learn = self.due if increment.train is None else increment.train
        part = replace(self, recent=recent, waiting=waiting, outcome=None)
        return (part._learned(setting) if learn else part)._trimmed()

    def _learned(self, setting: Setting) -> Self:
        """With a ranker that has learned the rows that wait."""
        n = sum(rows for _, rows in self.waiting)
        key = hashlib.sha256("".join(k for k, _ in self.waiting).encode()).hexdigest()
        seed = _seed(setting.project, len(self.memory.applied) + 1)
        some = {k: a[len(a) - n :] for k, a in self.recent.items()}
        rows = Loader(some, setting.pipeline.layout, self.config.batch_size, seed, shuffle=True)
        weights = _weights(setting.project)
        ranker, memory = increment(setting.ranker, self.memory, rows, self.config, weights, key, seed)
        part = replace(self, memory=memory, waiting=())._trimmed()
        outcome = Retrained(ranker, part.recent, predict_logits(ranker, part.recent))
        return replace(part, outcome=outcome)

    def _trimmed(self) -> Self:
        keep = max(self.config.recent_rows, sum(rows for _, rows in self.waiting))
        return replace(self, recent={k: a[max(0, len(a) - keep) :] for k, a in self.recent.items()})

    def retrained(self) -> Retrained | None:
        """What the last update learned."""
        return self.outcome

    def forget(self, members: U64) -> Self:
        """Without these members' rows. What they taught the weights stays: it is a sum over all."""
        if not self.recent:
            return self
        kept = ~np.isin(np.asarray(self.recent["member"]), members)
        waiting, end = [], len(kept)
        for key, rows in reversed(self.waiting):
            waiting.append((key, int(kept[end - rows : end].sum())))
            end -= rows
        recent = {k: a[kept] for k, a in self.recent.items()}
        return replace(self, recent=recent, waiting=tuple(reversed(waiting)), outcome=None)

    def write(self, folder: Path) -> None:
        """``cold.safetensors``, ``last.safetensors``, ``recent.safetensors`` and ``waiting.json``."""
        self.memory.write(folder)
        save_arrays(folder / "recent.safetensors", {"recent": dict(self.recent)})
        (folder / "waiting.json").write_text(json.dumps(self.waiting))

    @classmethod
    def read(cls, folder: Path, setting: Setting) -> Self:
        """The inverse of `write`."""
        config = setting.project.config.incremental
        assert config is not None
        try:
            waiting = tuple((str(k), int(n)) for k, n in json.loads((folder / "waiting.json").read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise BundleError(f"cannot be read: {error}", where=str(folder / "waiting.json")) from error
        recent = load_arrays(folder / "recent.safetensors").get("recent", {})
        return cls(config, Memory.read(folder), recent, waiting)


def _columns(layout: Layout) -> list[str]:
    """Arrays that a ranker reads, and those that tell whose rows they are."""
    histories = [f"{h.name}.{part}" for h in layout.histories for part in ("items", "actions", "ages")]
    vectors = [v.name for v in layout.vectors]
    return ["ids", "dense", *histories, *vectors, "labels", "weights", "time", "member", "item"]


def _joined(past: Arrays, new: Arrays) -> dict[str, npt.NDArray[Any]]:
    if not past:
        return dict(new)
    return {k: np.concatenate([past[k], np.asarray(a)]) for k, a in new.items()}


def _weights(project: Project) -> torch.Tensor:
    return torch.tensor([t.loss_weight for t in project.config.tasks])


def _seed(project: Project, number: int) -> int:
    """A stream of its own for every increment."""
    return int(np.random.SeedSequence([project.config.seed, 0x1C4E, number]).generate_state(1)[0])
