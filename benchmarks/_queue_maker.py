"""What the producers of the queues' benchmark make: 10 MB of arrays, copied from ready ones."""

from __future__ import annotations

import numpy as np

_READY = {f"array{i}": np.random.default_rng(i).random((625, 500), np.float32) for i in range(8)}


def make(index: int) -> dict[str, np.ndarray]:
    """Batch `index`: 10 MB; making it costs one write, so that handing it over is what is measured."""
    batch = dict(_READY)
    batch["array0"] = _READY["array0"] + np.float32(index)
    return batch


def pickled(queue: object, first: int, last: int, step: int) -> None:
    """Put batches into a queue of `multiprocessing`."""
    for index in range(first, last, step):
        queue.put((index, make(index)))  # type: ignore[attr-defined]


def tensors(queue: object, done: object, first: int, last: int, step: int) -> None:
    """Put batches into a queue of `torch.multiprocessing`, which hands over shared tensors."""
    import torch

    for index in range(first, last, step):
        batch = {name: torch.from_numpy(a) for name, a in make(index).items()}
        queue.put((index, batch))  # type: ignore[attr-defined]
    done.wait()  # type: ignore[attr-defined]
