"""Stores of vectors: the same contract for each, crash, truncation and version pinning."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from memberwise.errors import DataError
from memberwise.project import Project
from memberwise.recommender import Recommender
from memberwise.serving.lmdb_store import LmdbStore
from memberwise.serving.redis_store import RedisStore
from memberwise.serving.stores import Snapshot, VectorStore, publish

RNG = np.random.default_rng(3)
KEYS = RNG.integers(1, 2**64, 500, dtype=np.uint64)
VECTORS = RNG.normal(size=(500, 64)).astype(np.float32)


@pytest.fixture(params=["lmdb", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[VectorStore]:
    if request.param == "lmdb":
        found = LmdbStore(tmp_path / "vectors")
        yield found
        found.close()
        return
    import redis

    url = request.getfixturevalue("redis_url").removesuffix("/0") + "/1"
    redis.Redis.from_url(url).flushdb()
    yield RedisStore(url)


def test_gives_what_was_put_and_zero_for_the_rest(store: VectorStore) -> None:
    store.put_many("item", "1", KEYS[:400], VECTORS[:400])
    found, there = store.get_many("item", "1", KEYS[::-1])
    assert there.tolist() == [False] * 100 + [True] * 400
    np.testing.assert_array_equal(found[100:], VECTORS[:400][::-1])
    assert not found[:100].any()
    found, _ = store.get_many("item", "1", np.repeat(KEYS[:1], 3))
    np.testing.assert_array_equal(found, VECTORS[[0, 0, 0]])
    assert len(store.get_many("item", "1", KEYS[:0])[0]) == 0


def test_versions_do_not_mix(store: VectorStore) -> None:
    store.put_many("item", "1", KEYS, VECTORS)
    store.put_many("item", "2", KEYS[:10], -VECTORS[:10])
    store.put_many("member", "2", KEYS[:10], VECTORS[10:20])
    _, there = store.get_many("item", "2", KEYS)
    assert there.sum() == 10
    assert (store.versions("item"), store.versions("member")) == (["1", "2"], ["2"])
    with pytest.raises(DataError, match="no version '3'"):
        store.get_many("item", "3", KEYS)
    store.drop("item", "1")
    assert store.versions("item") == ["2"]
    with pytest.raises(DataError, match="no version '1'"):
        store.keys("item", "1")


def test_deleting_forgets_everywhere(store: VectorStore) -> None:
    store.put_many("item", "1", KEYS, VECTORS)
    store.put_many("member", "1", KEYS, VECTORS)
    assert store.delete(KEYS[:3]) == 6
    for feature in ("item", "member"):
        assert store.get_many(feature, "1", KEYS)[1].sum() == 497


def test_a_snapshot_says_the_same(store: VectorStore) -> None:
    store.put_many("item", "7", KEYS[:300], VECTORS[:300])
    snapshot = Snapshot.of(store, "item", "7")
    mine, theirs = snapshot.get_many(KEYS), store.get_many("item", "7", KEYS)
    np.testing.assert_array_equal(mine[0], theirs[0])
    np.testing.assert_array_equal(mine[1], theirs[1])
    store.put_many("item", "8", KEYS, VECTORS)
    assert snapshot.version == "7"
    assert snapshot.get_many(KEYS)[1].sum() == 300


def test_publishes_the_vectors_of_a_version(store: VectorStore, fitted: Project) -> None:
    rec = Recommender.load(fitted.bundles)
    for version in ("000001", "000002", "000003"):
        assert publish(rec, store, version) == ["vector(item)"]
    assert store.versions("vector(item)") == ["000002", "000003"]
    timeline = rec.pipeline.vectors["vector(item)"]
    found, there = store.get_many("vector(item)", "000003", timeline.keys)
    assert there.all()
    np.testing.assert_array_equal(found, timeline.vectors)


def test_redis_is_asked_once(redis_url: str) -> None:
    import redis

    store, database = RedisStore(redis_url), redis.Redis.from_url(redis_url)
    store.put_many("item", "1", KEYS, VECTORS)
    database.config_resetstat()
    store.get_many("item", "1", KEYS)
    stats = database.info("commandstats")
    assert stats["cmdstat_hmget"]["calls"] == 1
    assert set(stats) <= {"cmdstat_hmget", "cmdstat_config|resetstat", "cmdstat_info"}


@pytest.mark.parametrize("size", [0, 100, 8192, 12288, 60_000])
def test_a_truncated_file_is_an_error_and_no_crash(tmp_path: Path, size: int) -> None:
    store = LmdbStore(tmp_path)
    store.put_many("item", "1", KEYS, VECTORS)
    store.close()
    os.truncate(tmp_path / "data.mdb", size)
    with pytest.raises(DataError, match=r"truncated|cannot be opened"):
        LmdbStore(tmp_path, readonly=True)


def test_kill_minus_nine_while_writing_leaves_the_version_before(tmp_path: Path) -> None:
    script = f"""
import numpy as np, sys
from pathlib import Path
from memberwise.serving.lmdb_store import LmdbStore
store = LmdbStore(Path({str(tmp_path)!r}))
keys = np.arange(1, 2001, dtype=np.uint64)
k = 0
while True:
    k += 1
    store.put_many("item", "1", keys, np.full((2000, 16), k, np.float32))
    if k == 2: print("ready", flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    store = LmdbStore(tmp_path, readonly=True)
    found, there = store.get_many("item", "1", np.arange(1, 2001, dtype=np.uint64))
    store.close()
    assert there.all()
    assert len(np.unique(found)) == 1  # of one write, whole
