"""A request of 256 candidates, from the socket to the answer, and what happens beside it.

A log like Criteo's: 39 fields of width 16 (624 inputs), two cross layers of rank 64, an MLP 256-128; 13 of
the fields are the member's. The server is `memberwise serve` with one worker in a process of its own; clients
send JSON over the loopback and wait for each answer (a closed loop). CPU time is the server process's, all
threads; wall time is only worth reading on an idle machine.

Then: a new version is published while 50 requests a second go in; and for a minute far more goes in than it
can answer. ``--quick`` is a smoke run; its numbers mean nothing.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnxruntime
import psutil
import torch

from _harness import ONE_THREAD, ROOT, Report, Target, Worker, quick_asked
from memberwise.project import Project

TARGETS = (
    Target("engine_float32_ms", 3.4, "the dense part of 256 candidates in float32, CPU ms", at_most=True),
    Target("engine_against_eager", 1.5, "and that many times faster than the ranker in eager torch"),
    Target("engine_against_loop", 10, "and than one candidate at a time"),
    Target("request_float32_ms", 5, "a whole request in float32, CPU ms of the server", at_most=True),
    Target("request_int8_ms", 4, "a whole request with the int8 dense part, CPU ms", at_most=True),
    Target("wall_p99_ms", 15, "99 of 100 answers at one connection, wall ms", at_most=True),
    Target("overhead_ms", 0.6, "HTTP, JSON, threads: CPU ms beside features and ranker", at_most=True),
    Target("int8_share_64", 0.30, "int8 tables of width 64 against float32", at_most=True),
    Target("int8_share_16", 0.32, "int8 tables of width 16 against float32", at_most=True),
    Target("int8_lookup_speed", 1.0, "look-ups in them against float32, the slower width"),
    Target("lmdb_ms", 1.0, "500 vectors of 64 from LMDB, CPU ms", at_most=True),
    Target("snapshot_ms", 0.1, "500 vectors of 64 from a snapshot, CPU ms", at_most=True),
    Target("redis_round_trips", 1, "commands that Redis sees for 500 vectors", at_most=True),
    Target("swap_failed", 0, "requests that fail while a version is swapped at 50/s", at_most=True),
    Target("swap_mixed", 0, "answers that mix versions", at_most=True),
    Target("swap_p99_ratio", 3, "p99 during the swap against before", at_most=True),
    Target("overload_other", 0, "answers under overload that are neither 200 nor 503", at_most=True),
    Target("overload_growth_mb", 20, "memory that an overload of a minute adds, MB", at_most=True),
    Target("overload_recovery_s", 5, "seconds until all is well after it", at_most=True),
)
CANDIDATES = [f"i{k}" for k in range(256)]
BODY = json.dumps({"member": "m5", "candidates": CANDIDATES})
HEADERS = {"Content-Type": "application/json"}


class Server:
    """``memberwise serve`` on a port of the loopback."""

    def __init__(self, folder: Path, *options: str) -> None:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        command = [sys.executable, "-m", "memberwise.cli", "serve", str(folder), "--port", str(self.port)]
        self.log = (folder / "serve.log").open("wb")
        environment = os.environ | ONE_THREAD
        self.process = subprocess.Popen(
            [*command, "--clock", "log", *options], stderr=self.log, env=environment
        )
        self.usage = psutil.Process(self.process.pid)
        until = time.monotonic() + 120
        while time.monotonic() < until:
            try:
                if self.get("/ready")[0] == 200:
                    return
            except OSError:
                pass
            time.sleep(0.1)
        raise RuntimeError("the server is not ready; see serve.log")

    def cpu(self) -> float:
        """CPU seconds so far."""
        times = self.usage.cpu_times()
        return float(times.user + times.system)

    def score_cpu(self) -> float:
        """CPU seconds from ids to probabilities so far, as the server's own thread counts them."""
        name = b"memberwise_score_cpu_seconds_total "
        lines = self.get("/metrics")[1].splitlines()
        return next(float(line.removeprefix(name)) for line in lines if line.startswith(name))

    def get(self, path: str) -> tuple[int, bytes]:
        """GET."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(30)
        self.log.close()


def closed_loop(server: Server, connections: int, requests: int) -> tuple[float, list[float]]:
    """CPU ms of the server per request, and wall ms of each."""
    share = requests // connections
    walls: list[float] = []

    def ask() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        for _ in range(share):
            started = time.perf_counter()
            connection.request("POST", "/rank", BODY, HEADERS)
            answer = connection.getresponse()
            body = answer.read()
            assert answer.status == 200, body
            walls.append((time.perf_counter() - started) * 1e3)
        connection.close()

    before = server.cpu()
    threads = [threading.Thread(target=ask) for _ in range(connections)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return (server.cpu() - before) * 1e3 / len(walls), walls


def requests(report: Report, folder: Path, engine: str, count: int) -> float:
    """Table of one engine; CPU ms at one connection."""
    server = Server(folder, "--engine", engine, "--timeout", "10")
    rows, first = [], 0.0
    try:
        closed_loop(server, 1, max(20, count // 10))
        for connections in (1, 4, 16):
            scored = server.score_cpu()
            cpu, walls = closed_loop(server, connections, count)
            scored = (server.score_cpu() - scored) * 1e3 / len(walls)
            p50, p99 = np.percentile(walls, [50, 99])
            rows.append((connections, cpu, scored, float(p50), float(p99)))
            if connections == 1:
                first = cpu
                report.measures[f"overhead_{engine}_ms"] = cpu - scored
                report.measures[f"wall_p50_{engine}_ms"] = float(p50)
                if engine == "float32":
                    report.measures["wall_p99_ms"] = float(p99)
    finally:
        server.stop()
    title = f"{count:,} requests of 256 candidates, {engine} dense part"
    report.table(title, ["connections", "CPU ms", "of it scoring", "wall p50 ms", "wall p99 ms"], rows)
    return first


def swap(report: Report, folder: Path, seconds: float) -> None:
    """Publish while 50 requests a second go in."""
    server = Server(folder, "--timeout", "10")
    answers: list[tuple[float, float, int, str, str]] = []

    def ask(lane: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        start = time.monotonic()
        for k in range(int(seconds * 50 / 4)):
            time.sleep(max(0.0, start + (k * 4 + lane) / 50 - time.monotonic()))
            asked = time.monotonic()
            connection.request("POST", "/rank", BODY, HEADERS)
            answer = connection.getresponse()
            found = json.loads(answer.read())
            items = str([(i["item"], i["utility"]) for i in found.get("items", [])])
            taken = (time.monotonic() - asked) * 1e3
            answers.append((asked, taken, answer.status, found.get("version", ""), items))

    try:
        closed_loop(server, 1, 50)
        threads = [threading.Thread(target=ask, args=(k,)) for k in range(4)]
        for t in threads:
            t.start()
        time.sleep(seconds / 3)
        began = time.monotonic()
        project = Project.load(folder)
        publish = [sys.executable, "-c", _PUBLISH, str(folder)]
        subprocess.run(publish, check=True, env=os.environ | ONE_THREAD)
        for t in threads:
            t.join()
        assert json.loads(server.get("/version")[1])["swaps"] == 1
    finally:
        server.stop()
    newest = project.bundles.joinpath("current").resolve().name
    ended = min((a[0] for a in answers if a[3] == newest), default=answers[-1][0])
    calm = [a[1] for a in answers if a[0] < began]
    busy = [a[1] for a in answers if began <= a[0] <= ended + 1.0]
    report.measures |= {
        "swap_failed": float(sum(a[2] != 200 for a in answers)),
        "swap_mixed": float(len({(a[3], a[4]) for a in answers}) - len({a[3] for a in answers})),
        "swap_p99_ratio": float(np.percentile(busy, 99) / np.percentile(calm, 99)),
        "swap_p99_before_ms": float(np.percentile(calm, 99)),
        "swap_p99_during_ms": float(np.percentile(busy, 99)),
        "swap_requests": float(len(answers)),
    }


_PUBLISH = """
import sys
from pathlib import Path
import polars as pl
from memberwise.project import Project
from memberwise.recommender import Recommender
project = Project.load(Path(sys.argv[1]))
rec = Recommender.load(project.bundles)
last = int(rec.as_of.timestamp())
new = pl.DataFrame({"time": [last + 60], "member": ["m5"], "item": ["i5"], "click": [1]})
rec.update(new).save(project.bundles)
"""


def overload(report: Report, folder: Path, seconds: float) -> None:
    """More than it can do, from 32 connections at once."""
    server = Server(folder, "--timeout", "0.1")
    body = json.dumps({"member": "m5", "candidates": CANDIDATES * 8})
    statuses: Counter[int] = Counter()
    stop = threading.Event()

    def ask() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        while not stop.is_set():
            connection.request("POST", "/rank", body, HEADERS)
            answer = connection.getresponse()
            answer.read()
            statuses[answer.status] += 1
            if answer.status == 503:
                time.sleep(0.02)
        connection.close()

    try:
        threads = [threading.Thread(target=ask) for _ in range(32)]
        for t in threads:
            t.start()
        time.sleep(seconds / 4)
        early = server.usage.memory_info().rss
        time.sleep(seconds * 3 / 4)
        later = server.usage.memory_info().rss
        stop.set()
        for t in threads:
            t.join()
        ended = time.monotonic()
        while closed_loop(server, 1, 5)[1][-1] > 100:
            pass
        recovery = time.monotonic() - ended
    finally:
        server.stop()
    report.table("Overload", ["status", "answers"], [(k, v) for k, v in sorted(statuses.items())])
    report.measures |= {
        "overload_other": float(sum(v for k, v in statuses.items() if k not in (200, 503))),
        "overload_refused": float(statuses[503]),
        "overload_growth_mb": (later - early) / 1e6,
        "overload_recovery_s": recovery,
    }


def pieces(report: Report, folder: Path, quick: bool) -> None:
    """Engines, answers, tables and stores in a process of their own."""
    times = 20 if quick else 200
    with Worker("_serving.py") as worker:
        made = worker.call("prepared", folder=str(folder), quick=quick).result
        engines = worker.call("engines", folder=str(folder), times=times).result
        answers = worker.call("answers", folder=str(folder), times=times).result
        tables = worker.call("tables", rows=20_000 if quick else 1_000_000, times=5 if quick else 15).result
        stores = worker.call("stores", times=times).result
    width = engines.pop("width")
    report.table(f"{width:.0f} inputs, 256 candidates, CPU ms", ["", "CPU ms"], list(engines.items()))
    report.table("From ids to probabilities, CPU ms", ["", "CPU ms"], list(answers.items()))
    report.table("Int8 tables", ["", ""], list(tables.items()))
    report.table("500 x 64 vectors, CPU ms", ["", ""], list(stores.items()))
    report.measures |= {
        "engine_float32_ms": engines["float32"],
        "engine_int8_ms": engines["int8"],
        "engine_against_eager": engines["eager"] / engines["float32"],
        "engine_against_loop": engines["loop"] / engines["float32"],
        "answer_float32_ms": answers["float32"],
        "answer_int8_ms": answers["int8"],
        "answer_general_ms": answers["general"],
        "int8_share_64": tables["share 64"],
        "int8_share_16": tables["share 16"],
        "int8_lookup_speed": min(tables["speed 16"], tables["speed 64"]),
        "int8_engine_auc_change": made["int8_auc_change"],
        "lmdb_ms": stores["lmdb"],
        "snapshot_ms": stores["snapshot"],
    }
    if "redis" in stores:
        report.measures |= {"redis_ms": stores["redis"], "redis_round_trips": stores["redis trips"]}


def main() -> None:
    """Measure, print, compare."""
    quick = quick_asked(__doc__ or "")
    report = Report("serving_latency", TARGETS)
    report.versions |= {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__}
    folder = ROOT / ".cache" / ("serving-quick" if quick else "serving")
    pieces(report, folder, quick)
    count = 64 if quick else 3_000
    report.measures["request_float32_ms"] = requests(report, folder, "float32", count)
    report.measures["request_int8_ms"] = requests(report, folder, "int8", count)
    # Of the same requests in the same process: a loop over the scoring alone would have warmer caches.
    report.measures["overhead_ms"] = max(report.measures[f"overhead_{e}_ms"] for e in ("float32", "int8"))
    swap(report, folder, 20 if quick else 30)
    overload(report, folder, 4 if quick else 60)
    report.finish()


if __name__ == "__main__":
    main()
