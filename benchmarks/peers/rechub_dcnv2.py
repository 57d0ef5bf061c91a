"""DCNv2 with full cross layers on torch-rechub."""

from __future__ import annotations

from typing import Any

import _loop
import numpy as np
import torch
from torch_rechub.basic.features import DenseFeature, SparseFeature
from torch_rechub.models.ranking import DCNv2
from torch_rechub.trainers import CTRTrainer


class EmbeddedNumbers(torch.nn.Module):
    """The package's `EmbeddingLayer` for ids, and numbers embedded beside them."""

    def __init__(self, ids: torch.nn.Module) -> None:
        super().__init__()
        self.ids, self.numbers = ids, _loop.NumberEmbedding()

    def forward(self, x: dict[str, torch.Tensor], features: list[Any], squeeze_dim: bool) -> torch.Tensor:
        sparse = [feature for feature in features if isinstance(feature, SparseFeature)]
        numbers = torch.stack([x[name] for name in _loop.NUMERIC_NAMES], dim=1)
        return torch.cat([self.ids(x, sparse, squeeze_dim=True), self.numbers(numbers).flatten(1)], dim=1)


class TorchRechub(_loop.Peer):
    """`CTRTrainer.train_one_epoch` on the dictionaries of columns that its data loader makes."""

    package = "torch-rechub"

    def build(self, sizes: list[int], rate: float, seed: int, embedded_numbers: bool) -> None:
        """Adam without the trainer's default weight decay, which the other systems do not have."""
        width = _loop.EMBEDDING if embedded_numbers else 1
        features = [
            SparseFeature(name, size, embed_dim=_loop.EMBEDDING)
            for name, size in zip(_loop.CATEGORICAL_NAMES, sizes, strict=True)
        ] + [DenseFeature(name, embed_dim=width) for name in _loop.NUMERIC_NAMES]
        mlp = {"dims": _loop.HIDDEN, "activation": "relu", "dropout": 0}
        model = DCNv2(features, _loop.CROSS_LAYERS, mlp, use_low_rank_mixture=False)
        if embedded_numbers:
            model.embedding = EmbeddedNumbers(model.embedding)
        self.trainer = CTRTrainer(model, optimizer_params={"lr": rate})

    def batch(
        self, numeric: np.ndarray, ids: np.ndarray, labels: np.ndarray
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """A tensor per column."""
        x = {name: torch.from_numpy(numeric[:, i].copy()) for i, name in enumerate(_loop.NUMERIC_NAMES)}
        for i, name in enumerate(_loop.CATEGORICAL_NAMES):
            x[name] = torch.from_numpy(ids[:, i].astype(np.int64))
        return x, torch.from_numpy(labels)

    def epoch(self, batches: list[Any]) -> None:
        """The epoch of `CTRTrainer`."""
        self.trainer.train_one_epoch(batches)

    def predict(self, batch: Any) -> np.ndarray:
        """`CTRTrainer.predict`."""
        return np.array(self.trainer.predict(self.trainer.model, [batch]))


if __name__ == "__main__":
    _loop.serve(TorchRechub())
