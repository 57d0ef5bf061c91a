"""`Part`: what the recommender needs of a piece that stands beside the ranker."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from memberwise.data.hashing import U64
from memberwise.data.pipeline import FeaturePipeline
from memberwise.data.prepare import Prepared, Progress
from memberwise.data.timeline import EmbeddingTimeline
from memberwise.nn.run_folder import Watcher
from memberwise.project import Project, ProjectConfig
from memberwise.ranking.ranker import Ranker

Arrays = Mapping[str, npt.NDArray[Any]]
Logits = npt.NDArray[np.float32]


@dataclass
class Fitting:
    """A fit under way.

    Attributes
    ----------
    project, prepared
        What is fitted, and its packed rows.
    ranker
        Trained; None while parts of the stage ``before`` are fitted.
    parts
        Those fitted so far, by name.
    resume
        Go on from what an interrupted fit left in the run folder.
    """

    project: Project
    prepared: Prepared
    resume: bool = False
    watchers: Sequence[Watcher] = ()
    progress: Progress = lambda what, done, of: None
    ranker: Ranker | None = None
    parts: dict[str, Part] = field(default_factory=dict)

    @property
    def run(self) -> Path:
        """Folder for logs and checkpoints."""
        return self.project.output / "run"


@dataclass(frozen=True)
class Setting:
    """A whole version around a part: what it may look at."""

    project: Project
    pipeline: FeaturePipeline
    ranker: Ranker


@dataclass(frozen=True)
class Retrained:
    """A ranker that has learned from new events within an update, and rows to settle on it anew.

    Attributes
    ----------
    ranker
        With new weights.
    arrays
        The latest rows, those of the update included, as `Increment.arrays`.
    logits : ndarray of float32, shape [n, T]
        Of the new ranker on these rows.
    """

    ranker: Ranker
    arrays: Arrays
    logits: Logits


@dataclass(frozen=True)
class Increment:
    """New events, each row as the version before saw it at that moment.

    Attributes
    ----------
    key
        Names the content: the same events have the same key, whatever file they come in.
    events
        Checked, in time order.
    arrays
        Features, ``labels``, ``weights``, ``time``, ``member``, ``item``: one row per event
        (`FeaturePipeline.encode`), normalised, vectors gathered.
    logits : ndarray of float32, shape [n, T]
        Of the ranker before this update, and of the parts that stand before the one that is updated.
    train
        Whether the ranker is to learn; None leaves it to the settings.
    retrained
        Set as soon as the ranker has changed within this update: what was found on top of the old one does
        not fit the new one, and is found again on these rows.
    """

    key: str
    events: pl.DataFrame
    arrays: Arrays
    logits: Logits
    train: bool | None = None
    retrained: Retrained | None = None

    def __len__(self) -> int:
        return len(self.logits)

    def rows(self, first: int, last: int, train: bool | None = None) -> Increment:
        """Some of the rows, under a key of their own."""
        arrays = {k: a[first:last] for k, a in self.arrays.items()}
        key = f"{self.key}[{first}:{last}]"
        return replace(
            self,
            key=key,
            events=self.events[first:last],
            arrays=arrays,
            logits=self.logits[first:last],
            train=train,
        )


class Part(ABC):
    """A piece of a version beside the ranker: it makes vectors for it, or moves its logits.

    Parts do not change: `update` and `forget` return new ones.

    Attributes
    ----------
    name
        Section of the project file that asks for it, and its folder in a bundle.
    stage
        Whether it is fitted before the ranker, after it, or first after it because it trains it further.
    reads_hidden
        Whether `read_hidden` wants what enters the ranker's last layer.
    format
        Number of the format of its files; raised when what is in them comes to mean something else.
    """

    name: ClassVar[str]
    stage: ClassVar[Literal["before", "along", "after"]] = "after"
    reads_hidden: ClassVar[bool] = False
    format: ClassVar[int] = 1

    @classmethod
    def wanted(cls, config: ProjectConfig) -> bool:
        """Whether a project asks for it."""
        return getattr(config, cls.name, None) is not None

    @classmethod
    @abstractmethod
    def fit(cls, fitting: Fitting) -> Self:
        """Learn from train; vectors for the ranker go in through `Prepared.attach`."""

    def vectors(self) -> Mapping[str, EmbeddingTimeline]:
        """The vector features that it makes, by name."""
        return {}

    def read_hidden(self, hidden: npt.NDArray[np.float32]) -> Arrays:
        """What it needs of the ranker's last hidden layer, ``[n, T, D]``, as further arrays of the rows."""
        return {}

    def adjust(self, arrays: Arrays, logits: Logits) -> Logits:
        """Logits of rows, given those of the ranker and of the parts before. ``[n, T] -> [n, T]``"""
        return logits

    def candidates(self, member: str, moment: int) -> pl.Series | None:
        """Items to rank for a member (ids as text), if it can find some; None if not."""
        return None

    def similarities(self, member: str, items: Sequence[str], moment: int) -> npt.NDArray[np.float32] | None:
        """How near it sees each item to a member, ``[n]``, NaN where it cannot say; None if it never can."""
        return None

    def ready(self) -> None:  # noqa: B027 - most parts have nothing to prepare
        """Make now what the first request for candidates would wait for."""

    def items(self) -> pl.Series | None:
        """Items that it knows by their ids; None if it knows none."""
        return None

    @abstractmethod
    def update(self, increment: Increment, setting: Setting) -> Self:
        """With what new events say; `setting` is the version that the new one will be, without its parts."""

    def retrained(self) -> Retrained | None:
        """The ranker that the last `update` made, if it made one."""
        return None

    @abstractmethod
    def forget(self, members: U64) -> Self:
        """Without anything that is known of these members (hashed ids)."""

    def within(self, setting: Setting) -> Self:
        """The same part in a version whose ranker or features have changed without an update."""
        return self

    def state(self) -> Mapping[str, npt.NDArray[Any]]:
        """Large arrays of which an update changes little: saved with those of the features, as segments."""
        return {}

    def with_state(self, state: Arrays) -> Self:
        """The part that was read, with what `state` gave when it was written."""
        return self

    @abstractmethod
    def write(self, folder: Path) -> None:
        """Write all that `read` needs but `state`; `vectors` are saved with the pipeline."""

    @classmethod
    @abstractmethod
    def read(cls, folder: Path, setting: Setting) -> Self:
        """The inverse of `write`.

        Raises
        ------
        BundleError
            If the files do not fit together.
        """
