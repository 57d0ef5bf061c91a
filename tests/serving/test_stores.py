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

from memberwise import bundle
from memberwise.data import tombstones
from memberwise.data.hashing import U64, hash_text
from memberwise.data.timeline import EmbeddingTimeline
from memberwise.errors import ConfigError, DataError
from memberwise.project import Project
from memberwise.recommender import Recommender
from memberwise.serving.lmdb_store import LmdbStore
from memberwise.serving.publishing import open_store, pin, publish, refill
from memberwise.serving.redis_store import RedisStore
from memberwise.serving.stores import F32, Snapshot, VectorStore

RNG = np.random.default_rng(3)
KEYS = RNG.integers(1, 2**64, 500, dtype=np.uint64)
VECTORS = RNG.normal(size=(500, 64)).astype(np.float32)
NOTHING = KEYS[:0], VECTORS[:0]


@pytest.fixture(params=["lmdb", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[VectorStore]:
    found: VectorStore
    if request.param == "lmdb":
        found = LmdbStore(tmp_path / "vectors")
    else:
        import redis

        url = request.getfixturevalue("redis_url").removesuffix("/0") + "/1"
        redis.Redis.from_url(url).flushdb()
        found = RedisStore(url)
    yield found
    found.close()


def line(keys: U64, vectors: F32, since: int = 0) -> EmbeddingTimeline:
    return EmbeddingTimeline.at("thing", keys, vectors, "model 1", since)


def get(store: VectorStore, version: str, feature: str, keys: U64) -> tuple[F32, np.ndarray]:
    return store.get_many(version, {feature: keys})[feature]


def test_gives_what_was_put_and_zero_for_the_rest(store: VectorStore) -> None:
    assert store.fill("1", {"item": line(KEYS[:400], VECTORS[:400])})
    found, there = get(store, "1", "item", KEYS[::-1])
    assert there.tolist() == [False] * 100 + [True] * 400
    np.testing.assert_array_equal(found[100:], VECTORS[:400][::-1])
    assert not found[:100].any()
    found, _ = get(store, "1", "item", np.repeat(KEYS[:1], 3))
    np.testing.assert_array_equal(found, VECTORS[[0, 0, 0]])
    assert len(get(store, "1", "item", KEYS[:0])[0]) == 0
    np.testing.assert_array_equal(store.keys("1", "item"), np.sort(KEYS[:400]))


def test_features_of_one_version_are_asked_for_together(store: VectorStore) -> None:
    store.fill(
        "1",
        {"item": line(KEYS, VECTORS), "member": line(KEYS[:7], VECTORS[:7, :3]), "new": line(*NOTHING)},
    )
    found = store.get_many("1", {"item": KEYS[:5], "member": KEYS[:9], "new": KEYS[:2]})
    np.testing.assert_array_equal(found["item"][0], VECTORS[:5])
    np.testing.assert_array_equal(found["member"][0][:7], VECTORS[:7, :3])
    assert found["member"][1].tolist() == [True] * 7 + [False] * 2
    assert (found["new"][0].shape, found["new"][1].any()) == ((2, 64), False)
    with pytest.raises(DataError, match="no feature 'genre'"):
        store.get_many("1", {"item": KEYS[:5], "genre": KEYS[:5]})


def test_versions_do_not_mix(store: VectorStore) -> None:
    store.fill("1", {"item": line(KEYS, VECTORS)})
    store.fill("2", {"item": line(KEYS[:10], -VECTORS[:10]), "member": line(KEYS[:10], VECTORS[10:20])})
    found, there = get(store, "2", "item", KEYS)
    assert there.sum() == 10
    np.testing.assert_array_equal(found[:10], -VECTORS[:10])
    assert store.versions() == ["1", "2"]
    for version in ("3", "1"):
        with pytest.raises(DataError, match="no "):
            get(store, version, "member", KEYS)
    store.drop("1")
    assert store.versions() == ["2"]
    for work in (
        lambda: store.keys("1", "item"),
        lambda: store.drop("1"),
        lambda: get(store, "1", "item", KEYS),
    ):
        with pytest.raises(DataError, match="no "):
            work()


def test_a_version_is_made_once_and_then_written_into(store: VectorStore) -> None:
    with pytest.raises(DataError, match="fill it first"):
        store.put_many("1", "item", KEYS[:3], VECTORS[:3])
    store.fill("1", {"item": line(KEYS, VECTORS)})
    store.put_many("1", "item", KEYS[:3], -VECTORS[:3])
    assert not store.fill("1", {"item": line(KEYS, np.zeros_like(VECTORS))})  # what came in between stays
    np.testing.assert_array_equal(get(store, "1", "item", KEYS[:5])[0], [*-VECTORS[:3], *VECTORS[3:5]])
    with pytest.raises(DataError, match="width 64"):
        store.put_many("1", "item", KEYS[:3], VECTORS[:3, :9])
    with pytest.raises(DataError, match="not finite"):
        store.put_many("1", "item", KEYS[:1], np.full((1, 64), np.nan, np.float32))
    with pytest.raises(DataError, match="no feature 'other'"):
        store.put_many("1", "other", KEYS[:3], VECTORS[:3])
    # A version that was dropped comes back without what was written into it.
    store.drop("1")
    assert store.fill("1", {"item": line(KEYS, VECTORS)})
    np.testing.assert_array_equal(get(store, "1", "item", KEYS)[0], VECTORS)


def test_a_vector_is_not_known_before_its_time(store: VectorStore) -> None:
    """Of two moments the newest is kept; who asks as of an earlier one does not find it."""
    store.fill("1", {"item": line(KEYS, VECTORS, 10).append(KEYS[:3], -VECTORS[:3], 20)})
    for moment, known in ((9, 0), (19, 497), (20, 500)):
        found, there = store.get_many("1", {"item": KEYS}, moment)["item"]
        assert there.sum() == known
        assert not found[~there].any()
    np.testing.assert_array_equal(found, [*-VECTORS[:3], *VECTORS[3:]])
    store.put_many("1", "item", KEYS[:2], VECTORS[:2], since=30)
    store.put_many("1", "item", KEYS[5:6], VECTORS[:1])  # at once
    assert store.get_many("1", {"item": KEYS}, 29)["item"][1].sum() == 498
    assert store.get_many("1", {"item": KEYS}, 0)["item"][1].tolist() == [k == 5 for k in range(500)]


def test_deleting_forgets_in_every_version_of_a_feature(store: VectorStore) -> None:
    """A member and an item may have the same id: only the feature that is named forgets."""
    for version in ("1", "2"):
        store.fill(version, {"item": line(KEYS, VECTORS), "member": line(KEYS, VECTORS)})
    assert store.delete("member", KEYS[:3]) == 6
    for version in ("1", "2"):
        assert get(store, version, "member", KEYS)[1].sum() == 497
        assert get(store, version, "item", KEYS)[1].all()


def test_a_snapshot_says_the_same(store: VectorStore) -> None:
    store.fill("7", {"item": line(KEYS[:300], VECTORS[:300])})
    snapshot = Snapshot.of(store, "7", "item")
    mine, theirs = snapshot.get_many(KEYS), get(store, "7", "item", KEYS)
    np.testing.assert_array_equal(mine[0], theirs[0])
    np.testing.assert_array_equal(mine[1], theirs[1])
    store.fill("8", {"item": line(KEYS, VECTORS)})
    assert snapshot.version == "7"
    assert snapshot.get_many(KEYS)[1].sum() == 300


def test_publishes_the_vectors_of_a_version(store: VectorStore, fitted: Project) -> None:
    rec = Recommender.load(fitted.bundles)
    for version in ("000001", "000002", "000003"):
        assert publish(rec, store, version) == ["vector(item)"]
    assert store.versions() == ["000002", "000003"]
    timeline = rec.pipeline.vectors["vector(item)"]
    found, there = get(store, "000003", "vector(item)", timeline.keys)
    assert there.all()
    np.testing.assert_array_equal(found, timeline.vectors)
    publish(rec, store, "000001")  # back to an older one: it stays, and the newest other one
    assert store.versions() == ["000001", "000003"]


def test_two_servers_publish_at_once(
    store: VectorStore, fitted: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process drops an old version first: this one's is filled all the same."""
    rec = Recommender.load(fitted.bundles)
    for version in ("000001", "000002"):
        publish(rec, store, version)
    drop = store.drop

    def twice(version: str) -> None:
        drop(version)
        drop(version)

    monkeypatch.setattr(store, "drop", twice)
    publish(rec, store, "000003")
    assert store.versions() == ["000002", "000003"]


def test_a_pin_names_what_a_version_holds(fitted: Project, project: Project) -> None:
    path = project.bundles / "000001"
    before = pin(path)
    assert before.startswith("000001-")
    assert pin(fitted.bundles / "000001") == before  # a copy is the same
    rec = Recommender.load(path)
    rec.seen = rec.seen.of({"member": KEYS[:5], "item": KEYS[:5]})
    rec.save(project.base / "elsewhere")
    assert (project.base / "elsewhere" / "000001").is_dir()
    assert pin(project.base / "elsewhere" / "000001") != before  # the same number, another fit


def test_emptied_and_filled_again(store: VectorStore, project: Project) -> None:
    rec = Recommender.load(project.bundles)
    now = pin(bundle.resolve(project.bundles))
    publish(rec, store, now)
    store.put_many(now, "vector(item)", KEYS[:5], np.ones((5, 2), np.float32))
    assert refill(project, store) == now
    assert not get(store, now, "vector(item)", KEYS[:5])[1].any()
    assert len(store.keys(now, "vector(item)")) == 15


def test_projects_in_one_redis_stay_apart(redis_url: str) -> None:
    feed, jobs = (RedisStore(redis_url, space) for space in ("feed", "jobs"))
    feed.fill("000001", {"item": line(KEYS, VECTORS)})
    assert jobs.versions() == []
    jobs.fill("000001", {"item": line(KEYS, -VECTORS)})
    np.testing.assert_array_equal(get(feed, "000001", "item", KEYS)[0], VECTORS)
    feed.drop("000001")
    assert get(jobs, "000001", "item", KEYS)[1].all()


def test_redis_is_asked_once(redis_url: str) -> None:
    import redis

    store, database = RedisStore(redis_url, "asked"), redis.Redis.from_url(redis_url)
    store.fill("1", {"item": line(KEYS, VECTORS), "member": line(KEYS, VECTORS[:, :8])})
    store.get_many("1", {"item": KEYS})  # says hello first
    database.config_resetstat()
    store.get_many("1", {"item": KEYS})
    stats = database.info("commandstats")
    assert stats["cmdstat_hmget"]["calls"] == 1
    assert set(stats) <= {"cmdstat_hmget", "cmdstat_config|resetstat", "cmdstat_info"}
    # Several features are one write to the socket and one wait: a pipeline.
    reads = []
    connection = store._redis.connection_pool.get_connection()
    send = connection.send_packed_command
    connection.send_packed_command = lambda *a, **k: reads.append(1) or send(*a, **k)  # type: ignore[func-returns-value, method-assign]
    store._redis.connection_pool.release(connection)
    found = store.get_many("1", {"item": KEYS, "member": KEYS[:9]})
    assert (len(reads), found["member"][0].shape) == (1, (9, 8))


def test_an_error_names_no_password() -> None:
    store = RedisStore("redis://someone:s3cret@127.0.0.1:1/0", patience=0.1)
    with pytest.raises(DataError) as raised:
        get(store, "1", "item", KEYS[:1])
    assert "127.0.0.1:1" in str(raised.value)
    assert "s3cret" not in str(raised.value)


def test_addresses(project: Project) -> None:
    assert open_store(project, "memory") is None
    lmdb = open_store(project, "lmdb")
    assert isinstance(lmdb, LmdbStore)
    assert lmdb.folder == project.output / "vectors"
    assert isinstance(open_store(project, "redis://localhost:1/0"), RedisStore)
    with pytest.raises(ConfigError, match="use memory, lmdb, or redis"):
        open_store(project, "mysql://x")


@pytest.mark.parametrize("size", [0, 100, 8192, 12288, 60_000])
def test_a_truncated_file_is_an_error_and_no_crash(tmp_path: Path, size: int) -> None:
    store = LmdbStore(tmp_path)
    store.fill("1", {"item": line(KEYS, VECTORS)})
    store.close()
    os.truncate(tmp_path / "1" / "data.mdb", size)
    with pytest.raises(DataError, match=r"truncated|cannot be opened"):
        get(store, "1", "item", KEYS)
    assert store.fill("1", {"item": line(KEYS, VECTORS)})  # who loads the version next mends it
    assert get(store, "1", "item", KEYS)[1].all()


def test_another_process_sees_what_is_written_and_replaced(tmp_path: Path) -> None:
    """Readers keep a version open; they find what was put in it, and what stands in its place."""
    store = LmdbStore(tmp_path)
    store.fill("1", {"item": line(KEYS, VECTORS)})
    assert get(store, "1", "item", KEYS)[1].all()
    script = """
import sys
from pathlib import Path
import numpy as np
from memberwise.data.timeline import EmbeddingTimeline
from memberwise.serving.lmdb_store import LmdbStore
store = LmdbStore(Path(sys.argv[1]))
keys = np.arange(1, 11, dtype=np.uint64)
for line in sys.stdin:
    if line == "put\\n":
        store.put_many("1", "item", keys, np.full((10, 64), 5, np.float32))
    else:
        store.drop("1")
        vectors = np.full((10, 64), 7, np.float32)
        store.fill("1", {"item": EmbeddingTimeline.at("item", keys, vectors, "", 0)})
    print("done", flush=True)
"""
    command = [sys.executable, "-c", script, str(tmp_path)]
    keys = np.arange(1, 11, dtype=np.uint64)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        for say, value, others in (("put", 5, True), ("replace", 7, False)):
            other.stdin.write(say + "\n")
            other.stdin.flush()
            assert other.stdout.readline() == "done\n"
            found, there = get(store, "1", "item", keys)
            assert there.all()
            assert (found == value).all()
            assert get(store, "1", "item", KEYS)[1].any() == others
        other.stdin.close()
    store.put_many("1", "item", KEYS[:1], VECTORS[:1])  # into what stands there now
    assert get(store, "1", "item", KEYS)[1].sum() == 1
    assert not list(tmp_path.glob(".away-*"))


@pytest.mark.parametrize("moment", ["put", "fill"])
def test_kill_minus_nine_while_writing_leaves_a_whole_version(tmp_path: Path, moment: str) -> None:
    script = f"""
import numpy as np
from pathlib import Path
from memberwise.data.timeline import EmbeddingTimeline
from memberwise.serving.lmdb_store import LmdbStore
store = LmdbStore(Path({str(tmp_path)!r}))
keys = np.arange(1, 2001, dtype=np.uint64)
k = 0
while True:
    k += 1
    vectors = np.full((2000, 16), k, np.float32)
    if {moment!r} == "put" and k > 1:
        store.put_many("1", "item", keys, vectors)
    else:
        store.fill(str(k), {{"item": EmbeddingTimeline.at("item", keys, vectors, "", 0)}})
    if k == 2: print("ready", flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    store, keys = LmdbStore(tmp_path), np.arange(1, 2001, dtype=np.uint64)
    assert len(store.versions()) >= (1 if moment == "put" else 2)
    for version in store.versions():
        found, there = get(store, version, "item", keys)
        assert there.all()
        assert len(np.unique(found)) == 1  # of one write, whole
    store.close()


def test_what_killed_writers_leave_is_removed_and_what_living_ones_write_is_not(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path)
    (tmp_path / ".away-left").mkdir()
    (tmp_path / ".away-left" / "data.mdb").write_bytes(b"x")
    with store._draft() as spare:
        LmdbStore(tmp_path)
        assert spare.is_dir()
        assert not (tmp_path / ".away-left").exists()
    assert not list(tmp_path.iterdir())


def test_versions_that_others_drop_are_let_go(tmp_path: Path) -> None:
    """A server that lives for many versions holds none of them open."""
    store = LmdbStore(tmp_path)
    for k in range(1, 6):
        store.fill(str(k), {"item": line(KEYS, VECTORS)})
        if k > 1:  # as another process would
            os.rename(tmp_path / str(k - 1), tmp_path / f".away-{k}")
        assert get(store, str(k), "item", KEYS)[1].all()
    assert list(store._open) == ["5"]


def test_members_who_are_forgotten_are_not_published(store: VectorStore, personalised: Project) -> None:
    """An item of the same id stays."""
    rec = Recommender.load(personalised.bundles)
    gone = np.array([hash_text("m3")], np.uint64)
    publish(rec, store, "before")
    assert get(store, "before", "graph(member)", gone)[1].all()
    tombstones.add(personalised.output, ["m3", "i3"])
    try:
        publish(rec, store, "after")
    finally:
        (personalised.output / tombstones.FILE).unlink()
    assert not get(store, "after", "graph(member)", gone)[1].any()
    assert not get(store, "after", "meta(member)", gone)[1].any()
    assert get(store, "after", "graph(item)", np.array([hash_text("i3")], np.uint64))[1].all()
