"""Our side of `meta_throughput`, served like the peers' scripts."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import _child
from memberwise.data.layout import IdField, Layout, Table, VectorField
from memberwise.data.normalise import DenseColumn
from memberwise.data.timeline import EmbeddingTimeline
from memberwise.meta import InnerConfig, InnerLoop, MetaBlock, generate
from memberwise.meta.episodes import Tasks
from memberwise.meta.generate import CHUNK_ROWS, chunks
from memberwise.meta.learner import frozen
from memberwise.meta.rows import TensorRows, entity_features, segment
from memberwise.meta.stacked import Stacked, adapt, stack, stacked_module
from memberwise.ranking.config import RankerConfig
from memberwise.ranking.ranker import Ranker
from memberwise.recommender.parts.meta_rows import EntityColumns, RankerBlock, RankerRows

torch.set_num_threads(1)
SUPPORT, STEPS, DIM = 32, 3, 32
POOL = 100_000
"""Distinct support rows: members draw theirs from these, so that memory is that of generation alone."""


def setup(path: str) -> dict[str, str]:
    """Read the tasks that the peers read."""
    DATA.update({k: torch.from_numpy(v) for k, v in np.load(path).items()})
    return {"torch": torch.__version__}


def run(peer: str, steps: int, rate: float, second_order: bool) -> dict[str, Any]:
    """One outer step over all tasks, by stacked parameters or by `vmap`."""
    layers = sum(k.startswith("biases.") for k in DATA)
    block = MetaBlock(
        DATA["x"].shape[2], [len(DATA[f"biases.{i}"]) for i in range(layers - 1)], 1, norm=False
    )
    block.load_state_dict({k: v for k, v in DATA.items() if k.split(".")[0] in ("weights", "biases")})
    named = dict(block.named_parameters())
    apply = block.apply_stacked if peer == "stacked" else stacked_module(block)

    def loss(theta: Stacked, x: Tensor, y: Tensor) -> Tensor:
        logits = apply(theta, x)
        return F.binary_cross_entropy_with_logits(logits, y, reduction="none").flatten(1).mean(1)

    theta = adapt(
        lambda p: loss(p, DATA["x"], DATA["y"]),
        stack(named, len(DATA["x"])),
        dict.fromkeys(named, rate),
        steps=steps,
        second_order=second_order,
    )
    total = loss(theta, DATA["qx"], DATA["qy"]).mean()
    total.backward()
    order = [p for i in range(layers) for p in (block.weights[i], block.biases[i])]
    gradient = torch.cat([p.grad.reshape(-1) for p in order if p.grad is not None])
    return {"loss": float(total.detach()), "gradient": gradient.tolist()}


class SmallWorld(nn.Module):
    """The small global block: an MLP 64-64-1 on ``[z, x]``."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2 * DIM, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, z: Tensor, x: Tensor) -> Tensor:
        return self.net(torch.cat([z, x], 1))


def _members(count: int, pool: int = POOL, seed: int = 0) -> Tasks:
    rng = np.random.default_rng(seed)
    order = rng.integers(0, pool, count * SUPPORT)
    ends = np.arange(1, count + 1) * SUPPORT
    return Tasks(
        order, np.stack([ends - SUPPORT, ends], 1), np.stack([ends, ends], 1), np.zeros(count, np.int64)
    )


def _loop(dim: int, hidden: list[int]) -> InnerLoop:
    torch.manual_seed(0)
    block = MetaBlock(dim, hidden, DIM)
    nn.init.normal_(block.weights[-1], std=0.1)
    return InnerLoop(block, InnerConfig(steps=STEPS))


def small(count: int, dim: int = 32, hidden: tuple[int, ...] = (64, 64)) -> dict[str, Any]:
    """Generate embeddings with a small global block; peak memory is that of this process."""
    torch.manual_seed(0)
    rows = TensorRows(torch.randn(POOL, DIM), torch.randn(POOL, dim), (torch.rand(POOL, 1) < 0.3).float())
    inner, world, tasks = _loop(dim, list(hidden)), SmallWorld(), _members(count)
    generate(inner, world, rows, tasks.pick(np.arange(256)))
    start = time.process_time()
    z = generate(inner, world, rows, tasks)
    used = time.process_time() - start
    size = sum(p.numel() for p in inner.block.parameters())
    return {"cpu_seconds": used, "parameters": size, "norm": float(np.linalg.norm(z, axis=1).mean())}


def _ranker() -> Ranker:
    """A ranker as large as the demo's: 12 categorical columns of 16, 26 numbers, cross and MLP 256-128."""
    fields = tuple(IdField(f"c{i}", f"c{i}", i, 1) for i in range(12))
    tables = tuple(Table(f"c{i}") for i in range(12))
    dense = tuple(DenseColumn(f"n{i}") for i in range(26))
    vectors = (VectorField("meta(member)", ("m",), made=True),)
    layout = Layout(("y",), tables, fields, dense, (), vectors)
    return Ranker(layout, {t.name: 1000 for t in tables}, {"meta(member)": DIM}, RankerConfig())


def ranker(count: int) -> dict[str, float]:
    """Generate with a whole ranker, interleaved with K passes over the same rows, which nothing can avoid."""
    torch.manual_seed(0)
    model, pool = _ranker(), 20_000
    rng = np.random.default_rng(0)
    arrays = {
        "ids": rng.integers(0, 1000, (pool, 12)).astype(np.int32),
        "dense": rng.normal(size=(pool, 26)).astype(np.float32),
        "labels": (rng.random((pool, 1)) < 0.3).astype(np.float32),
        "weights": np.ones((pool, 1), np.float32),
    }
    world = RankerBlock(model, "meta(member)")
    rows = RankerRows(world, arrays, EntityColumns(tuple(range(26)), (), ()))
    inner, tasks = _loop(26, [64, 64]), _members(count, pool)
    parts = [tasks.pick(np.arange(s.start, s.stop)) for s in chunks(tasks.support_sizes, CHUNK_ROWS)]
    ours = floor = 0.0
    for i, part in enumerate(parts):
        start = time.process_time()
        generate(inner, world, rows, part)
        middle = time.process_time()
        with frozen(list(model.parameters())):
            made = segment(rows, part, "support")
            ready = time.process_time()
            for _ in range(STEPS):
                z = torch.zeros(len(made.owner), DIM, requires_grad=True)
                loss = F.binary_cross_entropy_with_logits(world(z, made.features), made.labels)
                torch.autograd.grad(loss, z)
        if i:  # the first is warm-up
            ours, floor = ours + middle - start, floor + time.process_time() - ready
    return {
        "cpu_seconds": ours,
        "floor_seconds": floor,
        "members": float(count * (len(parts) - 1) / len(parts)),
    }


def serve(count: int, lookups: int) -> dict[str, float]:
    """Publish half-precision embeddings of many members, open them again and look members up."""
    rng = np.random.default_rng(0)
    keys = np.sort(rng.choice(np.uint64(2) ** np.uint64(62), count, replace=False).astype(np.uint64))
    few = rng.normal(size=(4096, DIM)).astype(np.float16)
    vectors = few[np.arange(count) % 4096]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "member.arrow"
        start = time.process_time()
        EmbeddingTimeline.at("member", keys, vectors, "v", 0).write(path)
        written = time.process_time() - start
        size = path.stat().st_size
        table = EmbeddingTimeline.read(path)
        asked = rng.choice(keys, (lookups, 1))
        now = np.ones(1, np.int64)
        table.gather(table.rows(asked[0], now))
        start = time.process_time()
        for one in asked:
            table.gather(table.rows(one, now))
        each = (time.process_time() - start) / lookups
    return {
        "publish_cpu_seconds": written,
        "file_mb": size / 1e6,
        "vector_mb": vectors.nbytes / 1e6,
        "lookup_us": 1e6 * each,
    }


def parity(count: int) -> float:
    """Largest difference between generated embeddings and those of the training graph."""
    torch.manual_seed(0)
    rows = TensorRows(torch.randn(POOL, DIM), torch.randn(POOL, 32), (torch.rand(POOL, 1) < 0.3).float())
    inner, world, tasks = _loop(32, [64, 64]), SmallWorld(), _members(count)
    found = generate(inner, world, rows, tasks)
    graph = inner(world, entity_features(rows, tasks), segment(rows, tasks, "support")).detach().numpy()
    return float(np.abs(found - graph).max())


DATA: dict[str, Tensor] = {}

if __name__ == "__main__":
    _child.serve(
        {"setup": setup, "run": run, "small": small, "ranker": ranker, "serve": serve, "parity": parity}
    )
