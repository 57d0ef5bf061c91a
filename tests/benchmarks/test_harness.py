"""The harness measures what it says, and every benchmark runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks_on_the_path(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


CHILD = """
import time
import _child

def burn(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
    print("a library's progress bar")
    return "done"

def grow(megabytes):
    bytes(bytearray(b"x" * (megabytes * 10**6)))

def rest():
    time.sleep(0.2)

def fail():
    raise ValueError("no such column")

def die():
    import os
    os._exit(3)

_child.serve({"burn": burn, "grow": grow, "fail": fail, "die": die, "rest": rest})
"""


@pytest.fixture
def worker(tmp_path: Path):
    from _worker import Worker

    script = tmp_path / "child.py"
    script.write_text(CHILD)
    with Worker(str(script)) as running:
        yield running


def test_a_reply_tells_cpu_from_wall_time(worker):
    slept, burnt = worker.call("rest"), worker.call("burn", seconds=0.2)
    assert slept.wall_seconds > 0.19
    assert slept.cpu_seconds < 0.1
    assert burnt.result == "done"
    assert 0.19 < burnt.cpu_seconds < 0.5
    assert burnt.wall_seconds >= 0.19


def test_peak_memory_is_of_the_child_alone(worker):
    before = worker.call("burn", seconds=0.0).peak_mb
    assert before < 100
    assert worker.call("grow", megabytes=50).peak_mb > before + 40


def test_an_error_in_the_child_is_raised_with_its_traceback(worker):
    with pytest.raises(RuntimeError, match="no such column"):
        worker.call("fail")
    assert worker.call("burn", seconds=0.0).result == "done"


def test_a_dead_child_is_noticed(worker):
    with pytest.raises(RuntimeError, match="died in die"):
        worker.call("die")


def test_calls_take_turns():
    from _worker import interleave

    order: list[str] = []
    interleave(2, {name: lambda name=name: order.append(name) for name in "ab"})
    assert order == ["a", "b", "a", "b"]


def test_targets_have_a_side():
    from _report import Target

    assert Target("x", 2.0, "").holds({"x": 2.0})
    assert not Target("x", 2.0, "").holds({"x": 1.9})
    assert Target("x", 2.0, "", at_most=True).holds({"x": 1.9})
    assert not Target("x", 2.0, "", at_most=True).holds({"x": 2.1})
    assert not Target("x", 2.0, "").holds({})


def test_a_report_ends_with_one_line_of_json(capsys: pytest.CaptureFixture[str]):
    from _report import Report, Target

    report = Report("demo", [Target("speed", 1.0, "fast")])
    report.table("A table", ["name", "value"], [("a", 1234.5), ("b", 0.12345)])
    report.measures["speed"] = 1.23456
    report.finish()
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(line) == ["benchmark", "measures", "targets", "holds", "seconds", "versions", "date"]
    assert line["measures"] == {"speed": 1.235}
    assert line["targets"] == {"speed": 1.0}
    assert line["holds"] is True


def test_the_synthetic_log_has_a_known_truth_and_popular_ids(tmp_path: Path):
    import _criteo

    meta = _criteo.write(tmp_path, {"train": 20_000, "test": 20_000}, seed=3)
    assert sum(meta["vocabularies"]) == 611_694
    train, test = _criteo.load(tmp_path, "train"), _criteo.load(tmp_path, "test")
    for part in (train, test):
        assert part["numeric"].shape == (20_000, 13)
        assert part["ids"].shape == (20_000, 26)
        assert (part["ids"].max(axis=0) < np.array(meta["vocabularies"])).all()
        assert part["ids"].min() == 0
        assert 0.2 < part["labels"].mean() < 0.35
    # The label follows the logits in both parts: observed over expected is 1 within four standard errors.
    for name, part in (("train", train), ("test", test)):
        expected = 1 / (1 + np.exp(-np.load(tmp_path / f"{name}-logits.npy")))
        assert part["labels"].mean() == pytest.approx(expected.mean(), abs=4 * 0.5 / np.sqrt(20_000))
    # Half of the rows hold one of the most popular 3 % of the ids of the largest field.
    counts = np.sort(np.bincount(train["ids"][:, -1]))[::-1]
    assert counts[: 221_000 // 33].sum() > 10_000


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "ranker_throughput",
        "loader_throughput",
        "aggregate_throughput",
        "meta_throughput",
        "meta_quality",
    ],
)
def test_a_benchmark_runs_quickly(name: str):
    run = subprocess.run(
        [sys.executable, str(BENCHMARKS / f"{name}.py"), "--quick"],
        capture_output=True,
        text=True,
        check=True,
        timeout=900,
    )
    line = json.loads(run.stdout.splitlines()[-1])
    assert line["benchmark"] == name
    assert set(line["targets"]) <= set(line["measures"])
