"""A server whose vectors come from a store: what is written near-line is seen, and nothing is mixed up."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from memberwise.data.hashing import hash_text
from memberwise.data.timeline import EmbeddingTimeline
from memberwise.project import Project
from memberwise.recommender import Recommender
from memberwise.serving import vectors
from memberwise.serving.app import Server, create_app
from memberwise.serving.lmdb_store import LmdbStore
from memberwise.serving.settings import ServingSettings
from memberwise.serving.stores import VectorStore
from support.logs import impressions
from support.server import Running

ITEMS = [f"i{k}" for k in range(20)]
CONTEXT = {"num": 0.5, "cat": "u", "tags": ["g1", "g2"]}
GENERAL = CONTEXT | {"num": [0.5] * 20}
"""One value per candidate: not for the hot path."""
FEATURE = "graph(item)"
MISSES = f'memberwise_vector_misses_total{{feature="{FEATURE}"}}'


@pytest.fixture(params=["lmdb", "redis"])
def address(request: pytest.FixtureRequest) -> str:
    if request.param == "lmdb":
        return "lmdb"
    import redis

    url = str(request.getfixturevalue("redis_url").removesuffix("/0") + "/2")
    redis.Redis.from_url(url).flushdb()
    return url


@pytest.fixture
def copied(personalised: Project, tmp_path: Path) -> Project:
    shutil.copytree(personalised.base, tmp_path / "project", symlinks=True)
    return Project(personalised.config, tmp_path / "project")


@contextmanager
def served(project: Project, address: str) -> Iterator[tuple[TestClient, Server]]:
    server = Server(project, ServingSettings(engine="torch", clock="log", store=address))
    with TestClient(create_app(server)) as client:
        yield client, server


def ask(client: TestClient, context: dict[str, Any] = CONTEXT) -> dict[str, float]:
    body = {"member": "m3", "candidates": ITEMS, "context": context, "k": 20}
    answer = client.post("/rank", json=body)
    assert answer.status_code == 200, answer.text
    return {i["item"]: i["probabilities"]["y"] for i in answer.json()["items"]}


def counted(client: TestClient, name: str) -> float:
    lines = client.get("/metrics").text.splitlines()
    return next((float(x.rpartition(" ")[2]) for x in lines if x.startswith(name)), 0.0)


def store_of(server: Server) -> VectorStore:
    assert server.vectors is not None
    return server.vectors


def same(one: dict[str, float], other: dict[str, float]) -> None:
    assert one.keys() == other.keys()
    np.testing.assert_allclose([one[k] for k in other], list(other.values()), atol=2e-6)


def oracle(rec: Recommender, feature: str = "", key: str = "", vector: Any = None) -> dict[str, float]:
    """What the recommender says, one vector changed."""
    if feature:
        line = rec.pipeline.vectors[feature]
        rows = line.vectors.copy()
        rows[line.keys == np.uint64(hash_text(key))] = vector
        rec.pipeline.attach(feature, replace(line, vectors=rows))
    ranked = rec.rank("m3", ITEMS, None, context=CONTEXT)
    return dict(zip(ranked["item"], ranked["y"], strict=True))


@pytest.mark.parametrize("context", [CONTEXT, GENERAL], ids=["hot path", "general path"])
def test_what_is_written_near_line_is_seen_by_the_next_request(
    copied: Project, address: str, context: dict[str, Any]
) -> None:
    with served(copied, address) as (client, server):
        same(ask(client, context), oracle(Recommender.load(copied.bundles)))
        assert counted(client, MISSES) == 0
        assert counted(client, 'memberwise_fallbacks_total{reason="store"}') == 0
        version = client.get("/version").json()["vectors"]
        for feature, key in ((FEATURE, "i4"), ("graph(member)", "m3")):
            width = Recommender.load(copied.bundles).pipeline.vectors[feature].dim
            new = np.full((1, width), 0.7, np.float32)
            before = ask(client, context)
            store_of(server).put_many(version, feature, np.array([hash_text(key)], np.uint64), new)
            after = ask(client, context)
            changed = {i for i in ITEMS if abs(after[i] - before[i]) > 1e-5}
            assert changed == {"i4"} if feature == FEATURE else len(changed) > 10
            store_of(server).drop(version)
            same(ask(client, context), before)  # the version's own again
            server.keeper.served.vectors._again = 0.0  # type: ignore[union-attr]
            server.keeper._fill(server.keeper.served, store_of(server))  # type: ignore[arg-type]
            store_of(server).put_many(version, feature, np.array([hash_text(key)], np.uint64), new)
            same(ask(client, context), oracle(Recommender.load(copied.bundles), feature, key, new))
            store_of(server).drop(version)
            server.keeper._fill(server.keeper.served, store_of(server))  # type: ignore[arg-type]


def test_misses_are_counted_and_answered_by_the_version(copied: Project, address: str) -> None:
    with served(copied, address) as (client, server):
        before = ask(client)
        gone = np.array([hash_text(i) for i in ITEMS[:7]], np.uint64)
        assert store_of(server).delete(FEATURE, gone) == 7
        same(ask(client), before)
        assert counted(client, MISSES) == 7
        same(ask(client, GENERAL), before)
        assert counted(client, MISSES) == 14


def when_in_service(client: TestClient, version: str) -> dict[str, Any]:
    """What the server says of itself once it has swapped: the swap waits for its turn between requests."""
    until = time.monotonic() + 30
    while (said := client.get("/version").json())["version"] != version:
        assert time.monotonic() < until, said
        time.sleep(0.02)
    found: dict[str, Any] = said
    return found


def test_the_next_version_starts_from_its_own_vectors(copied: Project, address: str) -> None:
    """What was written into a version stays with it; the next is in the store before it is in service."""
    late = impressions(40, seed=3, members=25, items=40, start=1_700_000_000_000_000)
    with served(copied, address) as (client, server):
        store = store_of(server)
        (first,) = store.versions()
        everything = store.keys(first, FEATURE)
        width = Recommender.load(copied.bundles).pipeline.vectors[FEATURE].dim
        store.put_many(first, FEATURE, everything, np.ones((len(everything), width), np.float32))
        wrong = ask(client)
        newer = Recommender.load(copied.bundles).update(late)
        newer.save(copied.bundles)
        server.keeper.look()
        now = when_in_service(client, "000002")
        assert now["vectors"].startswith("000002-")
        assert store.versions() == [first, now["vectors"]]
        right = ask(client)
        same(right, oracle(Recommender.load(copied.bundles)))
        assert max(abs(right[i] - wrong[i]) for i in ITEMS) > 1e-4
        assert counted(client, MISSES) == 0


def test_a_store_that_is_gone_delays_nobody(copied: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody listens at this address: the the version itself serves, and the store is not asked each time."""
    expected = oracle(Recommender.load(copied.bundles))
    with served(copied, "redis://127.0.0.1:1/0") as (client, server):
        asked: list[str] = []
        get_many = store_of(server).get_many

        def counting(version: str, *rest: Any) -> Any:
            asked.append(version)
            return get_many(version, *rest)

        monkeypatch.setattr(store_of(server), "get_many", counting)
        monkeypatch.setattr(vectors, "PAUSE", 60.0)
        server.keeper.served.vectors._again = 0.0  # type: ignore[union-attr]
        for _ in range(5):
            same(ask(client), expected)
        assert len(asked) == 1
        assert counted(client, 'memberwise_fallbacks_total{reason="store"}') >= 5


def test_a_store_that_comes_back_is_asked_again(copied: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "PAUSE", 0.0)
    with served(copied, "lmdb") as (client, server):
        store, version = store_of(server), client.get("/version").json()["vectors"]
        before = ask(client)
        store.drop(version)
        same(ask(client), before)
        assert counted(client, 'memberwise_fallbacks_total{reason="store"}') == 1
        server.keeper._fill(server.keeper.served, store)  # type: ignore[arg-type]
        store.put_many(version, FEATURE, np.array([hash_text("i4")], np.uint64), np.ones((1, 16), np.float32))
        assert abs(ask(client)["i4"] - before["i4"]) > 1e-6
        assert counted(client, 'memberwise_fallbacks_total{reason="store"}') == 1


def test_vectors_of_another_width_are_not_taken(copied: Project) -> None:
    with served(copied, "lmdb") as (client, server):
        before, version = ask(client), client.get("/version").json()["vectors"]
        store_of(server).drop(version)
        keys = np.array([hash_text(i) for i in ITEMS], np.uint64)
        features = Recommender.load(copied.bundles).pipeline.vectors
        narrow = EmbeddingTimeline.at("", keys, np.ones((20, 3), np.float32), "", 0)
        store_of(server).fill(version, dict.fromkeys(features, narrow))
        same(ask(client), before)
        assert counted(client, 'memberwise_fallbacks_total{reason="store"}') == 1


def test_processes_share_a_store(copied: Project) -> None:
    """Two servers, and a third process that writes: both see it, the version is in the store once."""
    raw = {"candidates": ITEMS, "context": CONTEXT, "k": 20, "member": "m3"}
    options = ("--engine", "torch", "--clock", "log", "--store", "lmdb")
    with Running(copied, *options) as one, Running(copied, *options) as other:
        version = one.client.get("/version").json()["vectors"]
        assert other.client.get("/version").json()["vectors"] == version
        before = one.rank(**raw).json()["items"]
        assert other.rank(**raw).json()["items"] == before
        store = LmdbStore(copied.output / "vectors")
        assert store.versions() == [version]
        store.put_many(version, FEATURE, np.array([hash_text("i4")], np.uint64), np.ones((1, 16), np.float32))
        after = one.rank(**raw).json()["items"]
        assert other.rank(**raw).json()["items"] == after != before


def test_vectors_in_the_store_make_no_version_slow(copied: Project) -> None:
    """The probe compares the two paths on the version's own vectors, whatever stands in the store."""
    with served(copied, "lmdb") as (client, server):
        version = client.get("/version").json()["vectors"]
        store_of(server).put_many(
            version, FEATURE, np.array([hash_text("i4")], np.uint64), np.ones((1, 16), np.float32)
        )
    with served(copied, "lmdb") as (client, _):
        assert client.get("/version").json()["slow"] is None
        ask(client)
        assert counted(client, "memberwise_fallbacks_total") == 0
