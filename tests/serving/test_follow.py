"""The follower: each event takes effect once, whatever happens between two instructions."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from memberwise import bundle
from memberwise.cli import app
from memberwise.errors import BundleError
from memberwise.fresh import update as fresh_update
from memberwise.fresh.reference import fit_info
from memberwise.project import Project
from memberwise.recommender import Recommender
from memberwise.serving.follow import Follower, Step, position_of, source_of
from memberwise.serving.sources import Directory, Event, Piece, Position
from support.server import write_project


def rows(table: pl.DataFrame) -> list[Event]:
    """A log as the journal writes it."""
    return table.with_columns(pl.col("t").dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ")).to_dicts()


def write(path: Path, events: list[Event]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.writelines(msgspec.json.encode(e) + b"\n" for e in events)


def same_state(one: Recommender, other: Recommender) -> None:
    """Two versions know exactly the same."""
    a, b = one.pipeline.to_arrays(), other.pipeline.to_arrays()
    assert a.keys() == b.keys()
    for part in a:
        for name in a[part]:
            np.testing.assert_array_equal(a[part][name], b[part][name], err_msg=f"{part} {name}")


@pytest.fixture
def inbox(project: Project) -> Path:
    return project.output / "inbox"


def drain(follower: Follower) -> int:
    counted = 0
    while (done := follower.step()).version is not None:
        counted += done.counted
    return counted


def test_counts_what_an_update_counts(project: Project, inbox: Path, late: pl.DataFrame) -> None:
    expected = Recommender.load(project.bundles).update(late)
    write(inbox / "a.jsonl", rows(late))
    assert drain(Follower(project, Directory(inbox))) == len(late)
    same_state(Recommender.load(project.bundles), expected)


def test_pieces_make_the_same_as_a_whole(project: Project, inbox: Path, late: pl.DataFrame) -> None:
    expected = Recommender.load(project.bundles).update(late)
    moments = late["t"].unique().sort()
    cuts = [moments[0], moments[len(moments) // 3], moments[2 * len(moments) // 3], None]
    follower = Follower(project, Directory(inbox))
    for k, (start, end) in enumerate(itertools.pairwise(cuts)):
        piece = late.filter((pl.col("t") >= start) & ((pl.col("t") < end) if end else True))
        if k == 1:
            piece.write_parquet(inbox / "b.parquet")
        else:
            write(inbox / f"{'ac'[k // 2]}.jsonl", rows(piece))
        assert drain(follower) == len(piece)
    known = Recommender.load(project.bundles)
    assert known.as_of == expected.as_of
    args: dict[str, Any] = {"context": {"num": 0.5, "cat": "u", "tags": ["g1"]}, "k": None}
    assert known.rank("m1", ["i1", "i2"], **args).equals(expected.rank("m1", ["i1", "i2"], **args))


def test_sources_that_take_turns_keep_their_places(
    project: Project, inbox: Path, late: pl.DataFrame, tmp_path: Path
) -> None:
    expected = Recommender.load(project.bundles).update(late)
    other = tmp_path / "elsewhere"
    moments = late["t"].unique().sort()
    cuts = [moments[len(moments) * k // 5] for k in range(5)] + [None]
    for k, (start, end) in enumerate(itertools.pairwise(cuts)):
        piece = late.filter((pl.col("t") >= start) & ((pl.col("t") < end) if end else True))
        folder = other if k % 2 else inbox
        write(folder / f"{k}.jsonl", rows(piece))
        # A follower of its own each time, as with --once.
        done = Follower(project, Directory(folder)).step()
        assert (done.counted, done.left_out) == (len(piece), {})
    for folder in (inbox, other):
        assert Follower(project, Directory(folder)).step() == Step()
    found = Recommender.load(project.bundles)
    assert found.as_of == expected.as_of
    assert not (project.output / "rejects.follow.jsonl").exists()
    names = position_of(project.bundles, found.version)["sources"]
    assert set(names) == {inbox.relative_to(project.base).as_posix(), str(other)}


def test_a_version_that_knew_one_position_goes_on_from_there(
    project: Project, inbox: Path, late: pl.DataFrame
) -> None:
    write(inbox / "a.jsonl", rows(late[:50]))
    at = Directory(inbox).read({}, 1000).position
    newer = Recommender.load(project.bundles).update(late[:50])
    newer.save(project.bundles, info={"follow": {"at": at, "held": []}})
    write(inbox / "b.jsonl", rows(late[50:]))
    done = Follower(project, Directory(inbox)).step()
    assert (done.counted, done.left_out) == (len(late) - 50, {})


def test_half_a_line_waits_for_its_end(project: Project, inbox: Path, late: pl.DataFrame) -> None:
    events = rows(late)
    line = msgspec.json.encode(events[:5]) + b"\n"
    inbox.mkdir()
    (inbox / "a.jsonl").write_bytes(line[:-30])
    follower = Follower(project, Directory(inbox))
    assert follower.step().version is None
    with (inbox / "a.jsonl").open("ab") as file:
        file.write(line[-30:])
    assert follower.step().counted == 5


def test_what_cannot_be_used_is_kept_with_the_reason(
    project: Project, inbox: Path, late: pl.DataFrame
) -> None:
    good, old = rows(late[:40]), rows(late.with_columns(pl.col("t") - pl.duration(days=30)))[:3]
    bad = {**good[-1], "m": None}
    write(inbox / "a.jsonl", [*old, *good, bad])
    with (inbox / "a.jsonl").open("ab") as file:
        file.write(b"{no json\n")
    done = Follower(project, Directory(inbox)).step()
    assert done.counted == 40
    assert done.left_out == {
        "older than what the version has seen": 3,
        "member id is missing": 1,
        "no event": 1,
    }
    kept = [
        msgspec.json.decode(x) for x in (project.output / "rejects.follow.jsonl").read_bytes().splitlines()
    ]
    assert len(kept) == 5
    assert [k["event"] for k in kept if k["reason"].startswith("older")] == old
    assert {"reason": "member id is missing", "event": bad} in kept


def test_what_cannot_be_used_is_kept_once_however_often_a_follower_starts(
    project: Project, inbox: Path, late: pl.DataFrame, gate: dict[str, list[str]]
) -> None:
    good = rows(late)
    bad = {**good[0], "m": None}
    write(inbox / "a.jsonl", [bad, bad, {**bad, "i": "i3"}])  # nothing to publish: the position stays

    def kept() -> list[Any]:
        file = project.output / "rejects.follow.jsonl"
        return [msgspec.json.decode(line)["event"] for line in file.read_bytes().splitlines()]

    def left_out() -> int:
        return sum(Follower(project, Directory(inbox)).step().left_out.values())

    assert [left_out(), left_out()] == [3, 0]
    write(inbox / "a.jsonl", [bad, *good])  # the same mistake once more, and a version that is refused
    gate["why"] = ["y: log-loss grows"]
    assert [left_out(), left_out()] == [1, 0]
    gate["why"] = []
    assert left_out() == 0
    assert bundle.current(project.bundles) == "000002"
    assert kept() == [bad, bad, {**bad, "i": "i3"}, bad]
    write(inbox / "a.jsonl", [bad])
    assert [left_out(), left_out()] == [1, 0]
    bundle.point(project.bundles, "000001")  # a rollback reads, and tells, all of it again
    assert left_out() == 5


def test_the_command_counts_what_it_left_out(project: Project, inbox: Path, late: pl.DataFrame) -> None:
    path, good = write_project(project), rows(late)
    write(inbox / "a.jsonl", [*good, {**good[0], "m": None}])
    run = CliRunner().invoke(app, ["follow", str(path), "--once", "--settle", "0"])
    assert run.exit_code == 0
    assert "1 event left out: member id is missing" in " ".join(run.output.split())


def test_young_events_wait_and_are_not_lost(project: Project, inbox: Path, late: pl.DataFrame) -> None:
    events = rows(late)
    newest = late["t"].cast(pl.Datetime("us")).to_physical()
    now = [int(newest[len(newest) // 2])]
    write(inbox / "a.jsonl", events)
    follower = Follower(project, Directory(inbox), settle=0.0, clock=lambda: now[0])
    first = follower.step()
    assert 0 < first.counted < len(events)
    assert first.counted + first.held == len(events)
    again = Follower(project, Directory(inbox), settle=0.0, clock=lambda: now[0])  # after a crash
    assert again.step().version is None
    now[0] = int(newest[-1])
    assert again.step().counted == first.held
    assert Recommender.load(project.bundles).as_of == late["t"].dt.replace_time_zone("UTC")[-1]


@pytest.mark.parametrize("moment", ["before the update", "before the rename", "after the rename"])
def test_a_crash_at_any_moment_counts_nothing_twice(
    project: Project, inbox: Path, late: pl.DataFrame, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = Recommender.load(project.bundles).update(late)
    write(inbox / "a.jsonl", rows(late))

    class Crash(BaseException):
        pass

    def crash(*_: Any, **__: Any) -> Any:
        raise Crash

    follower = Follower(project, Directory(inbox))
    with monkeypatch.context() as patch:
        if moment == "before the update":
            follower.update = crash
        elif moment == "before the rename":
            patch.setattr(bundle, "_claim", crash)
        else:
            patch.setattr(follower.source, "settled", crash)
        with pytest.raises(Crash):
            follower.step()
    drain(Follower(project, Directory(inbox)))
    same_state(Recommender.load(project.bundles), expected)


def test_a_rollback_also_goes_back_in_the_source(project: Project, inbox: Path, late: pl.DataFrame) -> None:
    cut = late["t"][len(late) // 2]
    follower = Follower(project, Directory(inbox))
    write(inbox / "a.jsonl", rows(late.filter(pl.col("t") < cut)))
    drain(follower)
    write(inbox / "a.jsonl", rows(late.filter(pl.col("t") >= cut)))
    drain(follower)
    whole = Recommender.load(project.bundles)
    bundle.point(project.bundles, "000002")
    assert drain(follower) == len(late.filter(pl.col("t") >= cut))
    assert Recommender.load(project.bundles).as_of == whole.as_of
    bundle.point(project.bundles, "000001")
    assert drain(follower) == len(late)


def test_a_policy_may_decline(project: Project, inbox: Path, late: pl.DataFrame) -> None:
    write(inbox / "a.jsonl", rows(late))
    assert Follower(project, Directory(inbox), update=lambda rec, events: None).step().version is None
    assert drain(Follower(project, Directory(inbox))) == len(late)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """What the gate of the project finds against any version; nothing unless a test says so."""
    found: dict[str, list[str]] = {"why": []}
    monkeypatch.setattr(fresh_update, "_check", lambda *_: found["why"])
    return found


def test_events_of_a_refused_version_wait_for_the_next(
    project: Project, inbox: Path, late: pl.DataFrame, gate: dict[str, list[str]]
) -> None:
    expected = Recommender.load(project.bundles).update(late)
    cut = late["t"][len(late) // 2]
    first, second = late.filter(pl.col("t") < cut), late.filter(pl.col("t") >= cut)
    follower, asked = Follower(project, Directory(inbox)), []
    policy = follower.update
    follower.update = lambda rec, events: asked.append(len(events)) or policy(rec, events)  # type: ignore[func-returns-value]
    gate["why"] = ["y: log-loss grows by 9.0 % (300 rows)"]
    write(inbox / "a.jsonl", [*rows(first), {"m": "no time"}])
    done = follower.step()
    assert done.refused is not None
    assert "log-loss grows by 9.0 %" in done.refused
    assert (done.version, done.counted, done.held) == (None, 0, len(first))
    assert bundle.current(project.bundles) == "000001"
    kept = (project.output / "rejects.follow.jsonl").read_bytes()
    assert kept.count(b"\n") == 1
    # The same events are not tried again, nor what is no event written down again.
    again = follower.step()
    assert (again.refused, again.held, asked) == (None, len(first), [len(first)])
    assert (project.output / "rejects.follow.jsonl").read_bytes() == kept
    # With more of them they are: the gate judges all together, and each counts once.
    gate["why"] = []
    write(inbox / "a.jsonl", rows(second))
    assert follower.step().counted == len(late)
    assert asked == [len(first), len(late)]
    same_state(Recommender.load(project.bundles), expected)
    assert drain(Follower(project, Directory(inbox))) == 0


def test_a_crash_after_a_refusal_loses_nothing(
    project: Project, inbox: Path, late: pl.DataFrame, gate: dict[str, list[str]]
) -> None:
    gate["why"] = ["y: log-loss grows"]
    write(inbox / "a.jsonl", rows(late))
    assert Follower(project, Directory(inbox)).step().refused is not None
    gate["why"] = []
    assert drain(Follower(project, Directory(inbox))) == len(late)


def test_files_that_grow_too_much_are_refused_with_the_limits_of_today(
    project: Project, inbox: Path, late: pl.DataFrame
) -> None:
    write(inbox / "a.jsonl", rows(late))
    values = project.to_dict()
    strict = Project.from_dict(values | {"fresh": {"size": 1.0001}}, project.base)
    done = Follower(strict, Directory(inbox)).step()
    assert done.refused is not None
    assert "its files grow" in done.refused
    assert bundle.current(project.bundles) == "000001"
    assert drain(Follower(project, Directory(inbox))) == len(late)


def test_versions_of_a_follower_carry_the_profile_that_drift_is_measured_against(
    project: Project, inbox: Path, late: pl.DataFrame
) -> None:
    rec = Recommender.load(project.bundles)
    rec.save(project.bundles, info=fit_info(rec))
    fitted = bundle.read_manifest(project.bundles / "000002").info["profile"]
    write(inbox / "a.jsonl", rows(late))
    assert Follower(project, Directory(inbox)).step().version == "000003"
    assert bundle.read_manifest(project.bundles / "000003").info["profile"] == fitted


def test_the_command_says_that_a_version_was_refused(
    project: Project, inbox: Path, late: pl.DataFrame, gate: dict[str, list[str]]
) -> None:
    path = write_project(project)
    gate["why"] = ["y: log-loss grows"]
    write(inbox / "a.jsonl", rows(late))
    command = ["follow", str(path), "--once", "--settle", "0"]
    run = CliRunner().invoke(app, command)
    assert run.exit_code == 1
    assert "log-loss grows" in run.output
    assert f"{len(late):,} events kept waiting" in " ".join(run.output.split())
    gate["why"] = []
    assert CliRunner().invoke(app, command).exit_code == 0
    assert bundle.current(project.bundles) == "000002"


def test_a_source_of_ones_own(project: Project, late: pl.DataFrame) -> None:
    class Memory:
        name = "memory"

        def __init__(self) -> None:
            self.settled_at: Position = {}

        def read(self, position: Position, limit: int) -> Piece:
            at = int(position.get("offset", 0))
            return Piece(rows(late)[at:], {"offset": len(late)})

        def settled(self, position: Position) -> None:
            self.settled_at = position

    source = Memory()
    assert drain(Follower(project, source)) == len(late)
    assert source.settled_at == {"offset": len(late)}
    assert position_of(project.bundles, "000002")["sources"] == {"memory": {"offset": len(late)}}
    assert position_of(project.bundles, "000001") == {}


@pytest.mark.slow
def test_kill_minus_nine_at_random_moments(project: Project, late: pl.DataFrame) -> None:
    """Events are written while followers are killed; in the end each has counted once."""
    expected = Recommender.load(project.bundles).update(late)
    path, rng = write_project(project), np.random.default_rng(7)
    inbox = project.output / "inbox"
    moments = late["t"].unique().sort()
    command = [
        sys.executable,
        "-m",
        "memberwise.cli",
        "follow",
        str(path),
        "--pause",
        "0.05",
        "--settle",
        "0",
    ]
    for k in range(6):
        lo, hi = len(moments) * k // 6, len(moments) * (k + 1) // 6
        piece = late.filter(pl.col("t").is_in(moments[lo:hi].implode()))
        write(inbox / f"{k}.jsonl", rows(piece))
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        time.sleep(4.0 + 3.0 * rng.random())  # starting takes about four seconds
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    drain(Follower(project, Directory(inbox)))
    bundle.verify(bundle.resolve(project.bundles))
    found = Recommender.load(project.bundles)
    assert found.as_of == expected.as_of
    args: dict[str, Any] = {"context": {"num": 0.5, "cat": "u", "tags": ["g1"]}, "k": None}
    assert found.rank("m1", ["i1", "i2"], **args).equals(expected.rank("m1", ["i1", "i2"], **args))


def test_reads_a_redis_stream_once(
    project: Project, late: pl.DataFrame, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import redis

    database = redis.Redis.from_url(redis_url)
    events = rows(late)
    for k in range(0, len(events), 50):
        database.xadd("events", {"event": msgspec.json.encode(events[k : k + 50])})
    database.xadd("events", {"event": b"no json"})
    expected = Recommender.load(project.bundles).update(late)
    where = f"{redis_url}?stream=events"
    crashed = Follower(project, source_of(project, where))
    stop: Callable[..., None] = lambda position: (_ for _ in ()).throw(KeyboardInterrupt)  # noqa: E731
    monkeypatch.setattr(crashed.source, "settled", stop)
    with pytest.raises(KeyboardInterrupt):
        crashed.step()
    assert database.xpending("events", "memberwise")["pending"] > 0
    follower = Follower(project, source_of(project, where))
    assert drain(follower) == 0  # all of it stands in the version already
    assert database.xpending("events", "memberwise")["pending"] == 0
    same_state(Recommender.load(project.bundles), expected)


def test_a_redis_stream_gives_again_what_a_failed_step_had_read(
    project: Project, late: pl.DataFrame, redis_url: str, gate: dict[str, list[str]]
) -> None:
    import redis

    database = redis.Redis.from_url(redis_url)
    events, cut = rows(late), late["t"][len(late) // 2]
    first = len(late.filter(pl.col("t") < cut))
    follower = Follower(project, source_of(project, f"{redis_url}?stream=failing"))
    policy = follower.update

    def fail(*_: Any) -> None:
        raise BundleError("the disk is full")

    database.xadd("failing", {"event": msgspec.json.encode(events[:first])})
    follower.update = fail
    with pytest.raises(BundleError):
        follower.step()
    follower.update, gate["why"] = policy, ["y: log-loss grows"]
    assert follower.step().refused is not None
    gate["why"] = []
    database.xadd("failing", {"event": msgspec.json.encode(events[first:])})
    assert follower.step().counted == len(late)
    assert database.xpending("failing", "memberwise")["pending"] == 0
