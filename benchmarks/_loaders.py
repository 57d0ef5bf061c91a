"""Three ways from a log to shuffled batches, in one process: our stream, our cache, a row-wise `Dataset`.

Serves ``setup``, ``stream``, ``cached``, ``rowwise`` and ``waiting`` to `loader_throughput`.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import _child
import _criteo
from memberwise.data.batch import Batch
from memberwise.data.loader import Loader, Position
from memberwise.data.prepare import Prepared, prepare
from memberwise.nn.cross import LowRankCrossNet
from memberwise.nn.embedding import FusedEmbedding
from memberwise.nn.mlp import MLP
from memberwise.nn.sparse import RowwiseAdagrad
from memberwise.schema import Categorical, Entity, Events, Numeric, Schema, Task

NUMBERS = [f"n{i}" for i in range(_criteo.NUMERIC)]
IDS = [f"c{i}" for i in range(_criteo.CATEGORICAL)]


def schema(path: str) -> Schema:
    """The log's meaning: 39 features; two of the id columns are member and item."""
    features = [Categorical(column=name) for name in IDS] + [Numeric(column=name) for name in NUMBERS]
    return Schema(
        events=Events(path=path, time="time", time_unit="s"),
        entities={"member": Entity(id=IDS[-1]), "item": Entity(id=IDS[-2])},
        tasks=[Task(name="click", label="label")],
        features=features,
    )


class RowDataset(Dataset[tuple[Any, Any, Any]]):
    """What a careful user writes first: arrays in memory, one row per index."""

    def __init__(self, prepared: Prepared) -> None:
        rows = prepared.packed.rows("train")
        self.ids, self.dense, self.labels = (np.array(rows[name]) for name in ("ids", "dense", "labels"))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> tuple[Any, Any, Any]:
        return self.ids[i], self.dense[i], self.labels[i]


class Ranker(nn.Module):
    """The fastest ranker of `ranker_throughput`, on this log's batches: the hardest one to keep fed."""

    def __init__(self, rows: list[int], dense: int) -> None:
        super().__init__()
        self.table = FusedEmbedding({str(i): n for i, n in enumerate(rows)}, 16)
        self.offsets = torch.tensor(list(self.table.offsets.values()), dtype=torch.int32)
        self.numbers = nn.Linear(dense, 208)
        self.cross = LowRankCrossNet(624, 3, 64)
        self.mlp = MLP(624, [256, 128])
        self.head = nn.Linear(624 + 128, 1)

    def forward(self, batch: Batch) -> Tensor:
        """Logits ``[B]``."""
        x = torch.cat([self.table(batch.ids + self.offsets).flatten(1), self.numbers(batch.dense)], dim=1)
        return self.head(torch.cat([self.cross(x), self.mlp(x)], dim=1)).squeeze(1)


class Session:
    """What the process remembers between calls."""

    def setup(self, log: str, work: str, batch: int) -> int:
        """Pack the log once, so that `cached`, `rowwise` and `waiting` start warm; rows of train."""
        self.log, self.work, self.size = log, Path(work), batch
        self.prepared = prepare(schema(log), self.work / "kept")
        self.loader = self._loader(self.prepared)
        self.rowwise_data = RowDataset(self.prepared)
        self.epochs = 0
        return self.loader.rows

    def stream(self) -> int:
        """From Parquet to the last shuffled batch of the first epoch; rows of the whole log."""
        with tempfile.TemporaryDirectory(dir=self.work) as folder:
            prepared = prepare(schema(self.log), Path(folder) / "work")
            _exhaust(self._loader(prepared).epoch())
            rows = len(prepared.packed)
            shutil.rmtree(prepared.packed.path)
        return rows

    def cached(self, epochs: int) -> int:
        """Shuffled batches from the packed rows; rows."""
        return sum(_exhaust(self._next_epoch()) for _ in range(epochs))

    def rowwise(self, batches: int) -> int:
        """Shuffled batches from `RowDataset` by `DataLoader`; rows."""
        stream = iter(DataLoader(self.rowwise_data, self.size, shuffle=True))
        return sum(len(next(stream)[0]) for _ in range(batches))

    def waiting(self, batches: int) -> dict[str, float]:
        """Train on shuffled batches; seconds in all, and seconds until the next batch was there."""
        torch.manual_seed(0)
        layout = self.prepared.pipeline.layout
        rows = [self.prepared.pipeline.vocabularies[field.table].rows for field in layout.ids]
        model = Ranker(rows, self.loader.arrays["dense"].shape[1])
        dense = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
        sparse = RowwiseAdagrad([model.table])
        stream, waited, start = self._next_epoch(), 0.0, 0.0
        for number in range(batches + 2):
            if number == 2:  # Behind the first steps, which allocate and compile.
                waited, start = 0.0, time.perf_counter()
            asked = time.perf_counter()
            batch = next(stream)
            waited += time.perf_counter() - asked
            _step(model, dense, sparse, batch)
        return {"seconds": time.perf_counter() - start, "waited": waited}

    def _loader(self, prepared: Prepared) -> Loader:
        return Loader(prepared.packed.rows("train"), prepared.pipeline.layout, self.size, seed=0)

    def _next_epoch(self) -> Iterator[Batch]:
        self.epochs += 1
        return self.loader.epoch(Position(self.epochs))


def _exhaust(batches: Iterator[Batch]) -> int:
    """Take all batches; rows."""
    return sum(len(batch) for batch in batches)


def _step(model: Ranker, dense: torch.optim.Optimizer, sparse: RowwiseAdagrad, batch: Batch) -> None:
    assert batch.labels is not None
    loss = nn.functional.binary_cross_entropy_with_logits(model(batch), batch.labels[:, 0])
    loss.backward()
    dense.step()
    dense.zero_grad()
    sparse.step()


if __name__ == "__main__":
    torch.set_num_threads(1)
    session = Session()
    served: dict[str, Callable[..., Any]] = {
        name: getattr(session, name) for name in ("setup", "stream", "cached", "rowwise", "waiting")
    }
    _child.serve(served)
