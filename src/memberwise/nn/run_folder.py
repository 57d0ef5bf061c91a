"""The folder of one training: its log, its last checkpoint, its best weights, and exact resume.

==========================  ==============================================================================
``log.jsonl``               a record per report and per evaluation
``checkpoint.safetensors``  all that the training needs to go on exactly where it stood, from time to time
``best.safetensors``        the weights with the best metric so far
==========================  ==============================================================================
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from memberwise.errors import ConfigError
from memberwise.nn.checkpoint import load_tensors, save_tensors

FORMAT = 2
"""Of checkpoints; raised when the weights of any training come to mean something else (2: recurrence)."""


class Watcher(Protocol):
    """Sees a training go by: a progress bar, TensorBoard."""

    def record(self, record: Mapping[str, Any]) -> None:
        """One record of the log; its ``split`` says of what, or is ``resume`` where a training goes on."""

    def progress(self, step: int, steps: int, rows: int) -> None:
        """After every step."""


class RunFolder:
    """The files of one training, and who watches it.

    Parameters
    ----------
    folder : Path
        Where they lie.
    fixed
        What must not change between a stop and its resume, by name: settings, seed, data.
    every
        Seconds between checkpoints.
    watchers
        Told of every record.
    writes
        Whether this process writes; of several that train one model, only the first does.

    Attributes
    ----------
    records
        The log so far.
    """

    def __init__(
        self,
        folder: Path,
        fixed: Mapping[str, Any],
        every: float,
        watchers: Sequence[Watcher] = (),
        writes: bool = True,
    ) -> None:
        self.folder, self.every = folder, every
        self.fixed = {"format of checkpoints": FORMAT, **fixed}
        self.watchers, self.writes = list(watchers), writes
        self.records: list[dict[str, Any]] = []
        self._began = time.process_time()
        self._saved = time.monotonic()

    @property
    def checkpoint(self) -> Path:
        """File of the last checkpoint."""
        return self.folder / "checkpoint.safetensors"

    @property
    def best(self) -> Path:
        """File of the best weights."""
        return self.folder / "best.safetensors"

    @property
    def log(self) -> Path:
        """File of the records."""
        return self.folder / "log.jsonl"

    @property
    def cpu_seconds(self) -> float:
        """CPU time of the training so far, that of earlier runs included."""
        return time.process_time() - self._began

    # -- begin and go on --------------------------------------------------------------------------

    def begin(self) -> None:
        """Start anew: what an earlier training left is removed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.writes:
            for old in (self.checkpoint, self.best, self.log):
                old.unlink(missing_ok=True)
        self.records, self._began, self._saved = [], time.process_time(), time.monotonic()

    def resume(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The tensors and the state of the last checkpoint; None if there is none.

        The log is cut where the checkpoint was made: what came after it comes again.

        Raises
        ------
        ConfigError
            If the checkpoint was made with other settings, another seed or other data, or by another
            memberwise.
        BundleError
            If it is damaged.
        """
        if not self.checkpoint.exists():
            return None
        tensors, state = load_tensors(self.checkpoint)
        for name, value in self.fixed.items():
            if state.get(name) != value:
                raise ConfigError(
                    f"the checkpoint was made with other {name}",
                    where=str(self.checkpoint),
                    fix="run without --resume, or restore what was changed",
                )
        lines = self.log.read_text().splitlines()[: state["records"]] if self.log.exists() else []
        self.records = [json.loads(line) for line in lines]
        if self.writes:
            self.log.write_text("".join(line + "\n" for line in lines))
        self._began, self._saved = time.process_time() - state["cpu_seconds"], time.monotonic()
        return tensors, state

    # -- on the way -------------------------------------------------------------------------------

    def record(self, **values: Any) -> None:
        """Append a record to the log, and tell the watchers."""
        self.records.append(values)
        if not self.writes:
            return
        with self.log.open("a") as file:
            file.write(json.dumps(values) + "\n")
        self.tell(**values)

    def tell(self, **values: Any) -> None:
        """Tell the watchers alone."""
        for watcher in self.watchers:
            watcher.record(values)

    def progress(self, step: int, steps: int, rows: int) -> None:
        """Tell the watchers of a step."""
        for watcher in self.watchers:
            watcher.progress(step, steps, rows)

    @property
    def due(self) -> bool:
        """Whether it is time for a checkpoint."""
        return time.monotonic() - self._saved >= self.every

    def save(self, tensors: Mapping[str, Tensor], **state: Any) -> None:
        """Write a checkpoint, which appears whole or not at all."""
        if not self.writes:
            return
        state |= {"records": len(self.records), "cpu_seconds": self.cpu_seconds, **self.fixed}
        save_tensors(self.checkpoint, tensors, state)
        self._saved = time.monotonic()

    def keep_best(self, tensors: Mapping[str, Tensor], **values: Any) -> None:
        """Write the best weights so far, with their metrics."""
        if self.writes:
            save_tensors(self.best, tensors, values)

    def best_weights(self) -> dict[str, Tensor]:
        """What `keep_best` wrote last."""
        return load_tensors(self.best)[0]


def below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Tensors whose name begins with a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
