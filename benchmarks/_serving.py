"""One process of `serving_latency`: the pieces of an answer, measured by themselves in CPU time."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from _child import serve
from _serving_project import make
from memberwise.data.timeline import EmbeddingTimeline
from memberwise.nn.embedding import FusedEmbedding
from memberwise.nn.rowwise_int8 import HALVES, gather_int8, quantise_rows
from memberwise.project import Project
from memberwise.ranking.predict import predict_logits
from memberwise.recommender import Recommender
from memberwise.serving.compress import compress
from memberwise.serving.engine import OnnxEngine, TorchEngine, core_of, example, folder_of, prepare
from memberwise.serving.fast import FastScorer
from memberwise.serving.lmdb_store import LmdbStore
from memberwise.serving.plan import make_plan
from memberwise.serving.scoring import GeneralScorer, finish
from memberwise.serving.stores import Snapshot

CANDIDATES = 256
torch.set_num_threads(1)


def milliseconds(work: Callable[[], Any], times: int = 200) -> float:
    """Median CPU time of this thread."""
    for _ in range(10):
        work()
    taken = []
    for _ in range(times):
        started = time.thread_time()
        work()
        taken.append(time.thread_time() - started)
    return float(np.median(taken)) * 1e3


def prepared(folder: str, quick: bool) -> dict[str, Any]:
    """Make the project, export, try int8."""
    place = Path(folder)
    if not (place / "project.yaml").is_file():
        sizes = {"rows": 6_000, "members": 2_000, "items": 2_000} if quick else {}
        make(place, **sizes)
    found = compress(Project.load(place / "project.yaml"), 200 if quick else 4_000)
    return {"int8_auc_change": found[1].change[0]}


def engines(folder: str, times: int) -> dict[str, float]:
    """CPU milliseconds of 256 candidates: each engine, the whole ranker in eager torch, one by one."""
    rec, bundle, plan = _version(folder)
    inputs = [t.numpy() for t in example(rec.ranker, plan, CANDIDATES)]
    path = prepare(rec, bundle)
    float32, int8 = OnnxEngine(path, "float32"), OnnxEngine(folder_of(rec) / "int8.onnx", "int8")
    core = TorchEngine(core_of(rec))
    arrays = _arrays(rec)
    one = {k: v[:1].copy() for k, v in arrays.items()}
    eager = milliseconds(lambda: predict_logits(rec.ranker, arrays), times)
    loop = milliseconds(lambda: predict_logits(rec.ranker, one), times) * CANDIDATES
    return {
        "width": float(rec.ranker.in_dim),
        "float32": milliseconds(lambda: float32(inputs), times),
        "int8": milliseconds(lambda: int8(inputs), times),
        "split torch": milliseconds(lambda: core(inputs), times),
        "eager": eager,
        "loop": loop,
    }


def answers(folder: str, times: int) -> dict[str, float]:
    """CPU milliseconds from ids to probabilities, on the hot path and on the general one."""
    rec, bundle, _ = _version(folder)
    items = [f"i{k}" for k in range(CANDIDATES)]
    moment = (rec.pipeline.last_event or 0) + 1
    found = {}
    for engine in ("float32", "int8"):
        fast = FastScorer.load(Recommender.load(bundle), bundle, engine)
        found[engine] = milliseconds(lambda f=fast: finish(f.rec, f.look("m5", items, moment, {})), times)  # type: ignore[misc]
        assert fast.engine.name == engine, "the gate has refused int8"
    general = GeneralScorer(rec)
    found["general"] = milliseconds(lambda: finish(rec, general.look("m5", items, moment, {})), times // 4)
    return found


def tables(rows: int, times: int) -> dict[str, float]:
    """Sizes and look-ups of int8 tables against the float32 look-up that the ranker does."""
    found = {}
    rng = np.random.default_rng(0)
    for dim in (16, 64):
        table = FusedEmbedding({"ids": rows}, dim, std=0.05).eval()
        weight = table.weight.numpy()
        packed = quantise_rows(weight)
        ids = rng.integers(1, rows, 106_000).astype(np.int32)
        asked, out = torch.from_numpy(ids), np.empty((len(ids), dim), np.float32)
        pairs = [
            (
                milliseconds(lambda t=table, a=asked: t(a), times),  # type: ignore[misc]
                milliseconds(lambda p=packed, i=ids, o=out: gather_int8(p, i, HALVES, o), times),  # type: ignore[misc]
            )
            for _ in range(3)
        ]
        found[f"share {dim}"] = packed.nbytes / weight.nbytes
        found[f"speed {dim}"] = float(np.median([a / b for a, b in pairs]))
    return found


def stores(times: int) -> dict[str, float]:
    """CPU milliseconds of 500 vectors of 64 numbers, of 100,000; of Redis the time on the clock."""
    rng = np.random.default_rng(0)
    keys = np.unique(rng.integers(1, 2**64, 100_000, dtype=np.uint64))
    vectors = rng.normal(size=(len(keys), 64)).astype(np.float32)
    line = EmbeddingTimeline.at("item", keys, vectors, "1", 0)
    asked = rng.choice(keys, 500)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        store = LmdbStore(Path(folder))
        store.fill("1", {"item": line})
        found["lmdb"] = milliseconds(lambda: store.get_many("1", {"item": asked}), times)
        snapshot = Snapshot.of(store, "1", "item")
        found["snapshot"] = milliseconds(lambda: snapshot.get_many(asked), times)
        store.close()
        binary = shutil.which("redis-server")
        if binary is not None:
            found |= _redis(binary, folder, keys[:5000], line, times)
    return found


def _redis(binary: str, folder: str, keys: Any, line: EmbeddingTimeline, times: int) -> dict[str, float]:
    import redis

    from memberwise.serving.redis_store import RedisStore

    socket = f"{folder}/redis.sock"
    command = [binary, "--port", "0", "--unixsocket", socket, "--dir", folder, "--save", ""]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        database = redis.Redis.from_url(f"unix://{socket}")
        for _ in range(200):
            try:
                database.ping()
                break
            except redis.ConnectionError:
                time.sleep(0.05)
        store = RedisStore(f"unix://{socket}")
        store.fill("1", {"item": line})
        asked = np.random.default_rng(1).choice(keys, 500)
        taken = milliseconds(lambda: store.get_many("1", {"item": asked}), times)
        database.config_resetstat()
        store.get_many("1", {"item": asked})
        trips = database.info("commandstats")["cmdstat_hmget"]["calls"]
        return {"redis": taken, "redis trips": float(trips)}
    finally:
        process.terminate()
        process.wait(10)


def _version(folder: str) -> tuple[Recommender, Path, Any]:
    bundle = (Project.load(Path(folder)).bundles / "current").resolve()
    rec = Recommender.load(bundle)
    return rec, bundle, make_plan(rec.pipeline, rec.ranker)


def _arrays(rec: Recommender) -> dict[str, Any]:
    general = GeneralScorer(rec)
    items = [f"i{k}" for k in range(CANDIDATES)]
    looked = general.look("m5", items, (rec.pipeline.last_event or 0) + 1, {})
    return {k: np.array(v) for k, v in looked.arrays.items()}


if __name__ == "__main__":
    serve(globals())
