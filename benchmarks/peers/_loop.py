"""What the three peers have in common: data in memory, an epoch over prepared batches, scores on disk.

Each peer's script makes a `Peer` and serves `setup`, `train` and `score`. Batches are prepared once, outside
the measured call, in the form that the peer's own epoch loop takes; the loop itself is the peer's.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

import _child
import _criteo

EMBEDDING, CROSS_LAYERS, HIDDEN = 16, 3, [256, 128]
NUMERIC_NAMES = [f"n{i}" for i in range(_criteo.NUMERIC)]
CATEGORICAL_NAMES = [f"c{i}" for i in range(_criteo.CATEGORICAL)]


class Peer(ABC):
    """One system that learns on the synthetic log.

    Attributes
    ----------
    package : str
        Name of its distribution.
    """

    package: str

    @abstractmethod
    def build(self, sizes: list[int], rate: float, seed: int, embedded_numbers: bool) -> None:
        """Make the model and its Adam optimiser.

        ``embedded_numbers`` asks for 39 x 16 = 624 inputs; otherwise numbers enter as they are and the width
        is 26 x 16 + 13 = 429.
        """

    @abstractmethod
    def batch(self, numeric: np.ndarray, ids: np.ndarray, labels: np.ndarray) -> Any:
        """Rows in the form that the epoch loop takes."""

    @abstractmethod
    def epoch(self, batches: list[Any]) -> None:
        """The peer's own loop over prepared batches."""

    @abstractmethod
    def predict(self, batch: Any) -> np.ndarray:
        """Probabilities of one batch."""


class NumberEmbedding(torch.nn.Module):
    """A learned vector per number, times the number: [B, 13] to [B, 13, 16]."""

    def __init__(self) -> None:
        super().__init__()
        self.vectors = torch.nn.Parameter(torch.randn(_criteo.NUMERIC, EMBEDDING) / 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.unsqueeze(2) * self.vectors


def serve(peer: Peer) -> None:
    """Answer `setup`, `train` and `score` until the parent is done."""
    torch.set_num_threads(1)
    state: dict[str, Any] = {}

    def batches(part: str) -> list[Any]:
        data, size = _criteo.load(state["folder"], part), state["batch"]
        starts = range(0, len(data["labels"]), size)
        return [peer.batch(*(data[k][s : s + size] for k in ("numeric", "ids", "labels"))) for s in starts]

    def setup(
        folder: str, batch: int, rate: float, seed: int, embedded_numbers: bool = True
    ) -> dict[str, str]:
        state.update(folder=folder, batch=batch)
        torch.manual_seed(seed)
        peer.build(_criteo.meta(folder)["vocabularies"], rate, seed, embedded_numbers)
        prepared = batches("train")
        np.random.default_rng(seed).shuffle(prepared)
        state.update(train=prepared, turn=itertools.cycle(range(len(prepared))))
        return {peer.package: version(peer.package), "torch": torch.__version__}

    def take(count: int) -> Iterator[Any]:
        return (state["train"][i] for i in itertools.islice(state["turn"], count))

    def train(count: int) -> int:
        peer.epoch(list(take(count)))
        return count * int(state["batch"])

    def score(path: str, part: str = "test") -> None:
        np.save(path, np.concatenate([peer.predict(batch) for batch in batches(part)]))

    _child.serve({"setup": setup, "train": train, "score": score})
