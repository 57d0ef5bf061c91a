"""What the workers of a queue make in tests: importable, since it is sent to other processes."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Maker:
    """Batches that say their number, and what may go wrong with some of them.

    Attributes
    ----------
    folder
        Where a worker that dies leaves a mark, so that the batch succeeds the next time.
    dies
        Batches that kill their worker: once, or always if `stubborn`.
    fails
        Batches that raise.
    large
        Batches ten times the size of the others.
    """

    folder: Path | None = None
    dies: tuple[int, ...] = ()
    stubborn: bool = False
    fails: tuple[int, ...] = ()
    large: tuple[int, ...] = ()
    sleep: float = 0.0
    size: int = 1_000

    def __call__(self, index: int) -> dict[str, np.ndarray]:
        time.sleep(self.sleep * (index % 3))
        if index in self.fails:
            raise ValueError(f"no batch {index} today")
        if index in self.dies:
            assert self.folder is not None
            mark = self.folder / str(index)
            if self.stubborn or not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        size = self.size * (10 if index in self.large else 1)
        return {
            "index": np.array(index),
            "values": np.full((size, 2), index, np.float32),
            "mask": np.arange(7) % 2 == index % 2,
            "empty": np.zeros((0, 3), np.int64),
            "worker": np.array(os.getpid()),
        }
