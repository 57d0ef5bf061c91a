"""What production does to a server, done to a real one: its own process, real sockets, real signals."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import re
import resource
import shutil
import signal
import socket
import threading
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2 as httpx
import msgspec
import numpy as np
import polars as pl
import psutil
import pytest
from typer.testing import CliRunner

from memberwise import bundle
from memberwise.cli import app
from memberwise.errors import BundleError
from memberwise.project import Project
from memberwise.recommender import Recommender
from memberwise.serving.follow import Follower
from memberwise.serving.journal import Journal, StorageError
from memberwise.serving.sources import Directory
from support.server import Running, write_project

TORCH = ("--engine", "torch", "--clock", "log")


def event(num: float = 1.0) -> dict[str, Any]:
    """Something that happens now; on the clock of a log an event says so itself."""
    now = datetime.now(UTC).isoformat()
    return {"t": now, "m": "m1", "i": "i2", "cat": "u", "tags": ["g1"], "num": num, "y": 1}


def stored(inbox: Path) -> list[dict[str, Any]]:
    """Whole events on disk, as the follower reads them."""
    return list(Directory(inbox).read({}, 10**9).events)


def test_a_server_swaps_refuses_keeps_events_and_stops_gracefully(
    project: Project, late: pl.DataFrame
) -> None:
    """One server through a day of its life."""
    with Running(project, *TORCH) as server:
        assert server.rank().json()["version"] == "000001"

        # A newer version is taken without a failed request and without an answer that mixes versions.
        answers: list[tuple[int, str, tuple[str, ...]]] = []
        stop = threading.Event()

        def ask() -> None:
            with httpx.Client(base_url=server.url, timeout=20) as client:
                body = {"member": "m1", "candidates": ["i1", "i2", "i3"]}
                body["context"] = {"num": 0.5, "cat": "u", "tags": ["g1"]}  # type: ignore[assignment]
                while not stop.is_set():
                    answer = client.post("/rank", json=body)
                    found = answer.json()
                    scores = tuple(str(i["utility"]) for i in found["items"])
                    answers.append((answer.status_code, found["version"], scores))
                    time.sleep(0.02)

        asking = threading.Thread(target=ask)
        asking.start()
        time.sleep(0.3)
        Recommender.load(project.bundles).update(late).save(project.bundles)
        server.wait_version("000002")
        time.sleep(0.3)
        stop.set()
        asking.join()
        assert {status for status, _, _ in answers} == {200}
        assert len({(version, scores) for _, version, scores in answers}) == 2
        versions = [version for _, version, _ in answers]
        assert versions == sorted(versions)

        # A version that is damaged is refused and named; the one before goes on.
        shutil.copytree(project.bundles / "000002", project.bundles / "000003")
        (project.bundles / "000003" / "ranker.safetensors").write_bytes(b"\0" * 100)
        bundle.point(project.bundles, "000003")
        until = time.monotonic() + 20
        while "000003" not in server.client.get("/version").json()["refused"] and time.monotonic() < until:
            time.sleep(0.1)
        about = server.client.get("/version").json()
        assert about["version"] == "000002"
        assert "bytes" in about["refused"]["000003"]
        assert server.rank().status_code == 200
        assert "memberwise_refused_versions 1.0" in server.client.get("/metrics").text

        # Slow clients are sent away, and do not keep others waiting.
        assert server.client.post("/events", json=event()).json() == {"accepted": 1}

        # An open request is answered when the server is told to stop.
        with httpx.Client(base_url=server.url, timeout=20) as client:
            many = {"member": "m1", "candidates": [f"i{k % 15}" for k in range(9000)]}
            many["context"] = {"num": 0.5, "cat": "u", "tags": ["g1"]}  # type: ignore[assignment]
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                open_request = pool.submit(client.post, "/rank", json=many)
                time.sleep(0.02)
                server.process.send_signal(signal.SIGTERM)
                with contextlib.suppress(httpx.TransportError):  # the signal may come before the request
                    assert open_request.result(20).status_code == 200
        assert server.process.wait(20) in (0, -signal.SIGTERM)
    assert [e["i"] for e in stored(project.output / "inbox")] == ["i2"]
    log = server.log.read_text()
    assert not re.search(r"\bm1\b|\bi2\b", log), "the log names a member or an item"


def test_a_slow_client_is_sent_away_and_a_wrong_one_too(fitted: Project, tmp_path: Path) -> None:
    from memberwise.serving.app import Server, create_app
    from memberwise.serving.run import PatientProtocol
    from memberwise.serving.settings import ServingSettings

    uvicorn = pytest.importorskip("uvicorn")
    settings = ServingSettings(engine="torch", clock="log", read_timeout=0.4)

    class Impatient(PatientProtocol):
        read_timeout = 0.4

    app = create_app(Server(fitted, settings))
    config = uvicorn.Config(app, port=0, http=Impatient, log_config=None, access_log=False, ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]

    def talk(*pieces: bytes, pause: float = 0.15) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as s:
            try:
                for piece in pieces:
                    s.sendall(piece)
                    time.sleep(pause)
                return s.recv(4096)
            except (ConnectionError, BrokenPipeError):
                return b""

    head = b"POST /rank HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    try:
        assert talk(b"") == b""  # says nothing
        assert talk(*(bytes([b]) for b in head[:12])) == b""  # a byte now and then
        slow_body = talk(head + b"Content-Length: 50\r\n\r\n", *([b"x"] * 8))
        assert slow_body.startswith((b"HTTP/1.1 408", b"")), slow_body
        assert b" 200 " not in slow_body
        assert b" 400 " in talk(b"\x16\x03\x01\x02\x00garbage\r\n\r\n", pause=0)
        wrong = (
            b"POST /rank HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"
        )
        assert b" 400 " in talk(wrong, pause=0)
        context = {"num": 1, "cat": "u", "tags": []}
        body = msgspec.json.encode({"member": "m1", "candidates": ["i1"], "context": context})
        good = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
        assert b" 200 " in talk(good, pause=0)
    finally:
        server.should_exit = True
        thread.join(20)


def test_a_full_disk_is_told_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    """The limit on file sizes makes a write fail part of the way, as a full disk does."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    journal = Journal(tmp_path)
    events = [{"m": f"member {k}", "text": "x" * 500} for k in range(10)]
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, old[1]))
        outcomes = []
        for _ in range(5):
            error = journal.append(events).exception(10)
            assert error is None or (isinstance(error, StorageError) and "not stored" in str(error))
            outcomes.append(error is None)
        assert outcomes[:3] == [True, True, True]
        assert False in outcomes
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, previous)
    journal.append(events[:1]).result(10)  # there is room again
    journal.close()
    assert len(stored(tmp_path)) == 10 * sum(outcomes) + 1
    for file in tmp_path.iterdir():
        assert file.read_bytes().endswith(b"\n")


def test_a_full_disk_is_answered_with_507(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastapi.testclient import TestClient

    from memberwise.serving import journal
    from memberwise.serving.app import Server, create_app
    from memberwise.serving.settings import ServingSettings

    def full(handle: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with TestClient(create_app(Server(project, ServingSettings(engine="torch")))) as client:
        with monkeypatch.context() as patch:
            patch.setattr(journal.os, "write", full)
            answer = client.post("/events", json=event())
            assert answer.status_code == 507
            assert "No space left" in answer.text
        assert client.post("/events", json=event()).json() == {"accepted": 1}
    assert len(stored(project.output / "inbox")) == 1


def test_a_damaged_newest_version_does_not_keep_a_server_from_starting(project: Project) -> None:
    from memberwise.serving.keeper import Keeper
    from memberwise.serving.settings import ServingSettings

    shutil.copytree(project.bundles / "000001", project.bundles / "000002")
    os.truncate(project.bundles / "000002" / "state.safetensors", 1000)
    bundle.point(project.bundles, "000002")
    keeper = Keeper(project.bundles, ServingSettings(engine="torch"))
    assert keeper.open().version == "000001"
    assert list(keeper.refused) == ["000002"]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_who_starts_a_server_without_a_version_is_told(project: Project, workers: str) -> None:
    shutil.rmtree(project.bundles)
    command = ["serve", str(write_project(project)), "--port", "0", "--workers", workers]
    done = CliRunner().invoke(app, command)
    assert isinstance(done.exception, BundleError)
    assert "memberwise fit PROJECT" in str(done.exception)


@pytest.mark.slow
def test_kill_minus_nine_loses_no_event_that_was_accepted(project: Project) -> None:
    accepted = 0
    rng = np.random.default_rng(5)
    for _ in range(3):
        with Running(project, *TORCH) as server:
            ends = time.monotonic() + 0.5 + rng.random()
            killer = threading.Timer(ends - time.monotonic(), server.process.kill)
            killer.start()
            try:
                while True:
                    events = [event(float(accepted + k)) for k in range(5)]
                    if server.client.post("/events", json=events).status_code == 200:
                        accepted += 5
            except httpx.TransportError:
                pass
            killer.join()
    found = Counter(e["num"] for e in stored(project.output / "inbox"))
    assert set(found) >= {float(k) for k in range(accepted)}
    assert len(found) <= accepted + 5 * 3  # a request that was under way may be there, whole
    assert accepted >= 15


@pytest.mark.slow
def test_several_workers_answer_count_store_and_swap_as_one(project: Project, late: pl.DataFrame) -> None:
    with Running(project, *TORCH, "--workers", "2") as server:
        answers = []
        for _ in range(40):
            with httpx.Client(base_url=server.url, timeout=20) as client:  # a connection each
                body = {"member": "m1", "candidates": ["i1", "i2", "i3"]}
                body["context"] = {"num": 0.5, "cat": "u", "tags": ["g1"]}  # type: ignore[assignment]
                answers.append(client.post("/rank", json=body).json()["items"])
                assert client.post("/events", json=event()).json() == {"accepted": 1}
        assert all(a == answers[0] for a in answers)
        text = server.client.get("/metrics").text  # of both workers, whoever is asked
        counted = re.search(r'memberwise_requests_total\{route="/rank",status="200"\} ([0-9.]+)', text)
        assert counted is not None
        assert float(counted[1]) == 40
        Recommender.load(project.bundles).update(late).save(project.bundles)
        until, versions = time.monotonic() + 90, set()
        while versions != {"000002"}:
            assert time.monotonic() < until
            time.sleep(0.2)
            versions = {httpx.get(f"{server.url}/version").json()["version"] for _ in range(12)}
    assert len(stored(project.output / "inbox")) == 40


@pytest.mark.slow
def test_the_loop_closes(project: Project) -> None:
    """Events go in over HTTP, a follower lets a version see them, the server serves it."""
    with Running(project, "--engine", "torch") as server:
        before = server.client.get("/version").json()["as_of"]
        assert server.client.post("/events", json=[event() for _ in range(3)]).json() == {"accepted": 3}
        follower = Follower(project, Directory(project.output / "inbox"), settle=0.0)
        assert follower.step().counted == 3
        server.wait_version("000002")
        assert server.client.get("/version").json()["as_of"] > before
        past = server.client.get("/members/m1/history").json()
        assert past[0]["events"][0]["item"] == "i2"


@pytest.mark.slow
def test_overload_is_refused_and_forgotten(project: Project) -> None:
    """Far more than it can do for 60 s: only 200 and 503, flat memory, and well again in five seconds."""
    body = {"member": "m1", "candidates": [f"i{k % 15}" for k in range(8000)]}
    body["context"] = {"num": 0.5, "cat": "u", "tags": ["g1"]}  # type: ignore[assignment]
    content, statuses, stop = msgspec.json.encode(body), Counter[int](), threading.Event()
    with Running(project, *TORCH, "--timeout", "0.3") as server:
        process = psutil.Process(server.process.pid)

        def ask() -> None:
            with httpx.Client(base_url=server.url, timeout=30) as client:
                while not stop.is_set():
                    answer = client.post("/rank", content=content)
                    statuses[answer.status_code] += 1
                    if answer.status_code == 503:
                        assert int(answer.headers["retry-after"]) >= 1

        threads = [threading.Thread(target=ask) for _ in range(24)]
        for t in threads:
            t.start()
        time.sleep(15)
        early = process.memory_info().rss
        time.sleep(45)
        later = process.memory_info().rss
        stop.set()
        for t in threads:
            t.join()
        assert set(statuses) == {200, 503}, statuses
        assert statuses[503] > 50
        assert later < early * 1.1 + 20e6
        until = time.monotonic() + 5
        while server.rank().status_code != 200:
            assert time.monotonic() < until
        started = time.monotonic()
        assert server.rank().status_code == 200
        assert time.monotonic() - started < 1
