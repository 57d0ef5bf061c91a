"""DCNv2 of FuxiCTR's layers and its own training loop, on ids and numbers, with settings to tune."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import torch

# Only its preprocessing and its Parquet loader use ray, but importing the layers imports the preprocessing.
for _name in ("ray", "ray.data", "ray.data.datasource", "ray.data.datasource.filename_provider"):
    sys.modules[_name] = MagicMock()

from fuxictr.features import FeatureMap  # noqa: E402
from fuxictr.pytorch.layers import CrossNetV2, FeatureEmbedding, MLP_Block  # noqa: E402
from fuxictr.pytorch.models import BaseModel  # noqa: E402

BATCH, HIDDEN = 1024, [256, 128]
Arrays = dict[str, np.ndarray]


class DCNv2(BaseModel):  # type: ignore[misc]
    """Parallel cross network and MLP over all embedded fields, as in FuxiCTR's model zoo."""

    def __init__(self, columns: FeatureMap, setting: dict[str, Any], root: str) -> None:
        super().__init__(
            columns,
            model_id="DCNv2",
            gpu=-1,
            verbose=0,
            model_root=root,
            metrics=["logloss", "AUC"],
            monitor="logloss",
            monitor_mode="min",
            early_stop_patience=2,
            eval_steps=setting["eval_steps"],
            embedding_regularizer=setting["embedding_regularizer"],
        )
        dim = setting["embedding_dim"]
        width = columns.sum_emb_out_dim()
        self.embedding_layer = FeatureEmbedding(columns, dim)
        self.crossnet = CrossNetV2(width, setting["cross_layers"])
        self.parallel_dnn = MLP_Block(
            width, hidden_units=HIDDEN, hidden_activations="ReLU", dropout_rates=setting["dropout"]
        )
        self.fc = torch.nn.Linear(width + HIDDEN[-1], 1)
        self.compile("adam", "binary_crossentropy", setting["rate"])
        self.reset_parameters()
        self.model_to_device()

    def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        x = self.embedding_layer(self.get_inputs(inputs), flatten_emb=True)
        logits = self.fc(torch.cat([self.crossnet(x), self.parallel_dnn(x)], dim=-1))
        return {"y_pred": self.output_activation(logits)}


class Batches:
    """Batches of rows in memory, in another order every epoch; what `BaseModel.fit` iterates over."""

    def __init__(self, rows: Arrays, seed: int | None) -> None:
        self.columns = _columns(rows)
        self.seed, self.rows = seed, len(rows["label"])
        self.order = np.random.default_rng(seed)

    def __len__(self) -> int:
        return -(-self.rows // BATCH)

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        order = np.arange(self.rows) if self.seed is None else self.order.permutation(self.rows)
        for start in range(0, self.rows, BATCH):
            take = torch.from_numpy(order[start : start + BATCH])
            yield {name: column[take] for name, column in self.columns.items()}


def _columns(rows: Arrays) -> dict[str, torch.Tensor]:
    """One tensor a feature; several values of a field are a sequence, whose padding is 0."""
    fields, ids, dense = rows["fields"], rows["ids"] + 1, rows["dense"]
    found = {}
    for f in np.unique(fields):
        block = torch.from_numpy(ids[:, fields == f].astype(np.int64))
        found[f"c{f}"] = block if block.shape[1] > 1 else block[:, 0]
    found |= {f"n{i}": torch.from_numpy(dense[:, i].copy()) for i in range(dense.shape[1])}
    return found | {"label": torch.from_numpy(rows["label"].astype(np.float32))}


def _feature_map(rows: Arrays, dim: int) -> FeatureMap:
    fields, sizes = rows["fields"], rows["sizes"]
    columns = FeatureMap("quality", "")
    features: dict[str, dict[str, Any]] = {}
    for f in np.unique(fields):
        spec = {"type": "categorical", "source": "", "vocab_size": int(sizes[f]) + 1, "padding_idx": 0}
        if (width := int((fields == f).sum())) > 1:
            spec |= {"type": "sequence", "max_len": width}
            spec |= {"feature_encoder": "layers.MaskedAveragePooling()"}
        features[f"c{f}"] = spec
    features |= {f"n{i}": {"type": "numeric", "source": ""} for i in range(rows["dense"].shape[1])}
    columns.features = OrderedDict(features)
    columns.labels, columns.default_emb_dim = ["label"], dim
    columns.num_fields = columns.get_num_fields()
    columns.set_column_index()
    return columns


def fit(data: dict[str, Arrays], setting: dict[str, Any], seed: int) -> dict[str, np.ndarray]:
    """Train with FuxiCTR's `fit`: early stopping and learning-rate drops by the log-loss on valid."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    train = Batches(data["train"], seed)
    with TemporaryDirectory() as root:
        (Path(root) / "quality").mkdir()  # where `BaseModel` keeps its best weights
        setting = {"eval_steps": max(1, len(train) // 2)} | setting
        model = DCNv2(_feature_map(data["train"], setting["embedding_dim"]), setting, root)
        model.fit(train, epochs=setting["epochs"], validation_data=Batches(data["valid"], None))
        return {part: np.asarray(model.predict(Batches(data[part], None))) for part in ("valid", "test")}
