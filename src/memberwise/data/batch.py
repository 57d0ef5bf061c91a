"""A batch: the tensors that a ranker sees."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from memberwise.data.layout import Layout


@dataclass(frozen=True)
class HistoryBatch:
    """The last events of each row's member, newest first.

    Attributes
    ----------
    items, actions : Tensor of int32, [B, N]
        Rows of their tables; -1 behind the last event. Items of a hashed table: [B, 4 N], four rows each.
    ages : Tensor of float32, [B, N]
        Days.
    """

    items: Tensor
    actions: Tensor
    ages: Tensor


@dataclass(frozen=True)
class Batch:
    """Rows as tensors.

    Attributes
    ----------
    ids : Tensor of int32, [B, C]
        Rows of the embedding tables by field (`Layout.ids`); -1 in unused places.
    dense : Tensor of float32, [B, d]
        Normalised numbers and missing-indicators.
    histories : dict of HistoryBatch
        By name.
    vectors : dict of Tensor float32, [B, dim]
        Entity embeddings by feature; zero where an entity has none.
    labels, weights : Tensor of float32, [B, T], or None
        A label is NaN where its task is not defined.
    """

    ids: Tensor
    dense: Tensor
    histories: dict[str, HistoryBatch]
    vectors: dict[str, Tensor]
    labels: Tensor | None = None
    weights: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], layout: Layout) -> Batch:
        """Wrap arrays (owned by the caller, writable) as tensors without a copy."""

        def tensor(name: str) -> Tensor:
            return torch.from_numpy(arrays[name])

        histories = {
            h.name: HistoryBatch(*(tensor(f"{h.name}.{part}") for part in ("items", "actions", "ages")))
            for h in layout.histories
        }
        labels, weights = (tensor(k) if k in arrays else None for k in ("labels", "weights"))
        vectors = {v.name: tensor(v.name) for v in layout.vectors}
        return cls(tensor("ids"), tensor("dense"), histories, vectors, labels, weights)

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""

        def move(t: Tensor | None) -> Tensor | None:
            return None if t is None else t.to(device, non_blocking=True)

        histories = {
            k: HistoryBatch(h.items.to(device), h.actions.to(device), h.ages.to(device))
            for k, h in self.histories.items()
        }
        vectors = {k: v.to(device) for k, v in self.vectors.items()}
        return Batch(
            self.ids.to(device),
            self.dense.to(device),
            histories,
            vectors,
            move(self.labels),
            move(self.weights),
        )
