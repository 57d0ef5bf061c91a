"""DCNv2 on FuxiCTR: its wheel has no model zoo, so the model is composed of its layers as the zoo does."""

from __future__ import annotations

import logging
import sys
from collections import OrderedDict
from typing import Any
from unittest.mock import MagicMock

import _loop
import numpy as np
import torch

# Only its preprocessing and its Parquet loader use ray, but importing the layers imports the preprocessing.
for _name in ("ray", "ray.data", "ray.data.datasource", "ray.data.datasource.filename_provider"):
    sys.modules[_name] = MagicMock()

from fuxictr.features import FeatureMap  # noqa: E402
from fuxictr.pytorch.layers import CrossNetV2, FeatureEmbedding, MLP_Block  # noqa: E402
from fuxictr.pytorch.models import BaseModel  # noqa: E402


class DCNv2(BaseModel):  # type: ignore[misc]
    """Parallel cross network and MLP over all embedded fields, numbers included."""

    def __init__(self, feature_map: FeatureMap, rate: float) -> None:
        super().__init__(feature_map, model_id="DCNv2", gpu=-1, verbose=0, model_root="", metrics=["AUC"])
        width = feature_map.sum_emb_out_dim()
        self.embedding_layer = FeatureEmbedding(feature_map, _loop.EMBEDDING)
        self.crossnet = CrossNetV2(width, _loop.CROSS_LAYERS)
        self.parallel_dnn = MLP_Block(width, hidden_units=_loop.HIDDEN, hidden_activations="ReLU")
        self.fc = torch.nn.Linear(width + _loop.HIDDEN[-1], 1)
        self.compile("adam", "binary_crossentropy", rate)
        self.reset_parameters()
        self.model_to_device()

    def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        x = self.embedding_layer(self.get_inputs(inputs), flatten_emb=True)
        logits = self.fc(torch.cat([self.crossnet(x), self.parallel_dnn(x)], dim=-1))
        return {"y_pred": self.output_activation(logits)}


class FuxiCTR(_loop.Peer):
    """`BaseModel.train_epoch` on the dictionaries of column views that its collator makes."""

    package = "fuxictr"

    def build(self, sizes: list[int], rate: float, seed: int, embedded_numbers: bool) -> None:
        """FuxiCTR always embeds numbers."""
        if not embedded_numbers:
            raise ValueError("FuxiCTR embeds numbers")
        columns = FeatureMap("synthetic", "")
        columns.features = OrderedDict(
            [(name, {"type": "numeric", "source": ""}) for name in _loop.NUMERIC_NAMES]
            + [
                (name, {"type": "categorical", "source": "", "vocab_size": size})
                for name, size in zip(_loop.CATEGORICAL_NAMES, sizes, strict=True)
            ]
        )
        columns.labels, columns.default_emb_dim = ["label"], _loop.EMBEDDING
        columns.num_fields = columns.get_num_fields()
        columns.set_column_index()
        self.model = DCNv2(columns, rate)
        # What `fit` sets before its first epoch; no evaluation between epochs.
        self.model._max_gradient_norm, self.model._stop_training = 10.0, False
        self.model._total_steps, self.model._eval_steps = 0, 1 << 60

    def batch(self, numeric: np.ndarray, ids: np.ndarray, labels: np.ndarray) -> dict[str, torch.Tensor]:
        """Columns of one float64 matrix, as `NpzDataset` and `BatchCollator` give them."""
        table = torch.from_numpy(np.column_stack([numeric, ids, labels]).astype(np.float64))
        names = [*_loop.NUMERIC_NAMES, *_loop.CATEGORICAL_NAMES, "label"]
        return {name: table[:, i] for i, name in enumerate(names)}

    def epoch(self, batches: list[Any]) -> None:
        """The epoch of `BaseModel`, gradient clipping included."""
        self.model.train_epoch(batches)

    def predict(self, batch: Any) -> np.ndarray:
        """`BaseModel.predict`."""
        return np.asarray(self.model.predict([batch]))


if __name__ == "__main__":
    logging.disable(logging.INFO)
    _loop.serve(FuxiCTR())
