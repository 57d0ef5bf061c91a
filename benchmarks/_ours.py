"""Our side of the ranker's benchmark: the same DCNv2 from `memberwise.nn`, and the floor of its products.

Serves `setup`, `train` and `score` like a peer, and `floor`: only the matrix products of the same steps.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import _child
import _criteo
from memberwise.nn.cross import CrossNet, LowRankCrossNet
from memberwise.nn.embedding import FusedEmbedding
from memberwise.nn.mlp import MLP
from memberwise.nn.numeric import NumericEmbedding
from memberwise.nn.sparse import RowwiseAdagrad

EMBEDDING, CROSS_LAYERS, HIDDEN = 16, 3, [256, 128]
WIDTH = (_criteo.NUMERIC + _criteo.CATEGORICAL) * EMBEDDING

Batch = tuple[Tensor, Tensor, Tensor]


class DCNv2(nn.Module):
    """39 embedded fields, cross network beside an MLP, one logit.

    Parameters
    ----------
    sizes : list of int
        Ids of each field.
    rank : int or None
        Rank of the cross matrices; full ones if None.
    """

    def __init__(self, sizes: list[int], rank: int | None) -> None:
        super().__init__()
        self.ids = FusedEmbedding({str(i): size for i, size in enumerate(sizes)}, EMBEDDING)
        self.numbers = NumericEmbedding(_criteo.NUMERIC, EMBEDDING)
        full, low = CrossNet, LowRankCrossNet
        self.cross = full(WIDTH, CROSS_LAYERS) if rank is None else low(WIDTH, CROSS_LAYERS, rank)
        self.mlp = MLP(WIDTH, HIDDEN)
        self.head = nn.Linear(WIDTH + HIDDEN[-1], 1)

    def forward(self, numeric: Tensor, rows: Tensor) -> Tensor:
        """Logits ``[B]`` of numbers ``[B, 13]`` and rows of the fused table ``[B, 26]``."""
        x = torch.cat([self.ids(rows).flatten(1), self.numbers(numeric).flatten(1)], dim=1)
        return self.head(torch.cat([self.cross(x), self.mlp(x)], dim=1)).squeeze(1)


def train(model: DCNv2, dense: torch.optim.Optimizer, sparse: RowwiseAdagrad, batches: list[Batch]) -> None:
    """Our training step over prepared batches."""
    model.train()
    for numeric, rows, labels in batches:
        loss = nn.functional.binary_cross_entropy_with_logits(model(numeric, rows), labels)
        loss.backward()
        dense.step()
        dense.zero_grad()
        sparse.step()


def matrix_products(batch: int, rank: int | None) -> Callable[[], None]:
    """One step's matrix products alone, forward and both gradients, into memory that is there already."""
    cross = [(WIDTH, WIDTH)] if rank is None else [(WIDTH, rank), (rank, WIDTH)]
    shapes = cross * CROSS_LAYERS + list(itertools.pairwise([WIDTH, *HIDDEN])) + [(WIDTH + HIDDEN[-1], 1)]
    operands = [
        (torch.randn(batch, n), torch.randn(m, n), torch.randn(batch, m), torch.empty(batch, m))
        for n, m in shapes
    ]
    gradients = [(torch.empty(batch, n), torch.empty(m, n)) for n, m in shapes]

    def run() -> None:
        for (x, weight, upstream, y), (dx, dweight) in zip(operands, gradients, strict=True):
            torch.mm(x, weight.t(), out=y)
            torch.mm(upstream, weight, out=dx)
            torch.mm(upstream.t(), x, out=dweight)

    return run


class Session:
    """What the process remembers between calls."""

    def setup(
        self,
        folder: str,
        batch: int,
        rate: float,
        seed: int,
        rank: int | None = None,
        table_rate: float = 0.02,
    ) -> dict[str, str]:
        """Read the log into memory and make model and optimisers; the versions in use."""
        torch.manual_seed(seed)
        sizes = _criteo.meta(folder)["vocabularies"]
        self.folder, self.size = folder, batch
        self.model = DCNv2(sizes, rank)
        self.offsets = np.array(list(self.model.ids.offsets.values()), np.int32)
        self.dense = torch.optim.Adam(self.model.parameters(), lr=rate, fused=True)
        self.sparse = RowwiseAdagrad([self.model.ids], lr=table_rate)
        self.batches = self._read("train")
        np.random.default_rng(seed).shuffle(self.batches)
        self.turn = itertools.cycle(self.batches)
        self.products = matrix_products(batch, rank)
        return {"memberwise": _version(), "torch": torch.__version__, "numpy": np.__version__}

    def train(self, count: int) -> int:
        """Train on the next batches; the number of rows."""
        train(self.model, self.dense, self.sparse, list(itertools.islice(self.turn, count)))
        return count * self.size

    def floor(self, count: int) -> int:
        """Do the matrix products of as many steps, and nothing else; the number of rows."""
        for _ in range(count):
            self.products()
        return count * self.size

    @torch.no_grad()
    def score(self, path: str, part: str = "test") -> None:
        """Write the probabilities of a part's rows to a .npy file."""
        self.model.eval()
        logits = [self.model(numeric, rows) for numeric, rows, _ in self._read(part)]
        np.save(path, torch.sigmoid(torch.cat(logits)).numpy())

    def _read(self, part: str) -> list[Batch]:
        """Packed batches: float32 numbers, int32 rows of the fused table, float32 labels."""
        data = _criteo.load(self.folder, part)
        arrays = data["numeric"], data["ids"] + self.offsets, data["labels"]
        parts = [torch.from_numpy(array).split(self.size) for array in arrays]
        return list(zip(*parts, strict=True))


def _version() -> str:
    try:
        return version("memberwise")
    except PackageNotFoundError:  # Run from a source tree that is not installed.
        return "source"


if __name__ == "__main__":
    torch.set_num_threads(1)
    session = Session()
    served: dict[str, Callable[..., Any]] = {
        "setup": session.setup,
        "train": session.train,
        "floor": session.floor,
        "score": session.score,
    }
    _child.serve(served)
