"""DCN with matrix parameters (DCN-M, the full cross of DCNv2) on DeepCTR-Torch."""

from __future__ import annotations

import sys
import types
from typing import Any

import _loop
import numpy as np
import torch

# The package asks the network for its newest version at import, by a library that is not installed here.
_utils = types.ModuleType("deepctr_torch.utils")
_utils.check_version = lambda version: None  # type: ignore[attr-defined]
sys.modules["deepctr_torch.utils"] = _utils

from deepctr_torch.inputs import DenseFeat, SparseFeat  # noqa: E402
from deepctr_torch.models import DCN, basemodel  # noqa: E402

WIDTH = (len(_loop.NUMERIC_NAMES) + len(_loop.CATEGORICAL_NAMES)) * _loop.EMBEDDING


class EmbeddedNumbersDCN(DCN):  # type: ignore[misc]
    """`DCN` whose numbers are embedded like ids: the same 624 inputs as the other systems."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.numbers = _loop.NumberEmbedding()

    def compute_input_dim(self, feature_columns: list[Any], **kwargs: Any) -> int:
        """39 fields of 16."""
        return WIDTH

    def input_from_feature_columns(
        self, x: torch.Tensor, columns: list[Any], tables: Any
    ) -> tuple[list[Any], list[Any]]:
        """Embeddings of ids and of numbers, nothing raw."""
        embedded, raw = super().input_from_feature_columns(x, columns, tables)
        return [*embedded, self.numbers(torch.cat(raw, dim=1)).flatten(1).unsqueeze(1)], []


class DeepCTR(_loop.Peer):
    """`BaseModel.fit`, whose `DataLoader` is replaced by the prepared batches."""

    package = "deepctr-torch"

    def build(self, sizes: list[int], rate: float, seed: int, embedded_numbers: bool) -> None:
        """Without the separate linear part and without L2, which the other systems do not have."""
        columns = [
            SparseFeat(name, size, embedding_dim=_loop.EMBEDDING)
            for name, size in zip(_loop.CATEGORICAL_NAMES, sizes, strict=True)
        ] + [DenseFeat(name, 1) for name in _loop.NUMERIC_NAMES]
        kind = EmbeddedNumbersDCN if embedded_numbers else DCN
        self.model = kind(
            [],
            columns,
            cross_num=_loop.CROSS_LAYERS,
            cross_parameterization="matrix",
            dnn_hidden_units=tuple(_loop.HIDDEN),
            l2_reg_linear=0,
            l2_reg_embedding=0,
            l2_reg_cross=0,
            seed=seed,
        )
        self.model.compile(torch.optim.Adam(self.model.parameters(), lr=rate), "binary_crossentropy")

    def batch(
        self, numeric: np.ndarray, ids: np.ndarray, labels: np.ndarray
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """All columns in one float64 matrix, as `fit` concatenates them; columns in the model's order."""
        table = np.concatenate([ids, numeric], axis=1, dtype=np.float64)
        return torch.from_numpy(table), torch.from_numpy(labels)

    def epoch(self, batches: list[Any]) -> None:
        """One epoch of `fit` over the batches."""
        basemodel.DataLoader = lambda dataset, shuffle, batch_size: batches
        table, labels = batches[0]
        self.model.fit([table[:2].numpy()], labels[:2].numpy(), batch_size=len(labels), epochs=1, verbose=0)

    def predict(self, batch: Any) -> np.ndarray:
        """The model in evaluation mode."""
        self.model.eval()
        with torch.no_grad():
            return np.asarray(self.model(batch[0].float()).reshape(-1))


if __name__ == "__main__":
    _loop.serve(DeepCTR())
