"""Forgetting in a whole project: no byte is left in any file, and kill -9 leaves nothing half done."""

from __future__ import annotations

import json
import multiprocessing
import random
import shutil
import signal
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import polars as pl
import pytest
import yaml
from typer.testing import CliRunner

from memberwise import bundle
from memberwise.cli import app
from memberwise.data import tombstones
from memberwise.data.hashing import hash_text
from memberwise.errors import ConfigError
from memberwise.project import Project
from memberwise.recommender import Recommender
from memberwise.recommender.forgetting import remains
from memberwise.serving.lmdb_store import LmdbStore
from memberwise.serving.publishing import pin, publish
from support.killing import forget_and_die
from support.logs import impressions
from support.projects import personal

GONE = "someone-whom-no-other-text-names"
ASK: dict[str, Any] = {"cat": "u", "tags": ["g1"], "num": 0.0}
EVERYTHING: dict[str, Any] = {
    "effects": {},
    "incremental": {},
    "exploration": {"rank": 4},
    "aggregates": [{"by": "m", "recency": True}, {"by": ["m", "cat"]}, {"by": "i", "distinct": ["m"]}],
}
MOMENTS = 14


@pytest.fixture(scope="session")
def log() -> pl.DataFrame:
    raw = impressions(700, members=25, items=40)
    return raw.with_columns(pl.col("m").replace("m3", GONE))


@pytest.fixture(scope="session")
def known(log: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Two versions with every part, caches, checkpoints, rejects, an inbox and a store that know a member."""
    folder = tmp_path_factory.mktemp("known")
    split = log["t"][600]
    project = personal(folder, log.filter(pl.col("t") < split), **EVERYTHING)
    (folder / "project.yaml").write_text(yaml.safe_dump(project.to_dict()))
    rec = Recommender.fit(project)
    rec.save(info={"follow": {"at": {}, "held": [{"m": GONE, "i": "i1"}, {"m": "m5", "i": "i1"}]}})
    rec.update(log.filter(pl.col("t") >= split)).save()
    output = project.output
    (output / "inbox").mkdir()
    lines = [{"m": GONE, "i": "i1"}, [{"m": "m5", "i": "i2"}, {"m": GONE, "i": "i2"}]]
    (output / "inbox" / "1-1.jsonl").write_bytes(b"".join(json.dumps(x).encode() + b"\n" for x in lines))
    rejected = [{"reason": "late", "event": {"m": m, "i": "i1"}} for m in (GONE, "m5")]
    (output / "rejects.follow.jsonl").write_text("".join(json.dumps(x) + "\n" for x in rejected))
    pl.DataFrame({"m": [GONE, "m5"], "reason": ["?", "?"]}).write_parquet(output / "rejects.parquet")
    store = LmdbStore(output / "vectors")
    for version in bundle.versions(project.bundles):
        publish(Recommender.load(version), store, pin(version))
    store.close()
    return project


@pytest.fixture
def project(known: Project, tmp_path: Path) -> Project:
    return copied(known, tmp_path / "project")


def copied(project: Project, place: Path) -> Project:
    shutil.copytree(project.base, place, symlinks=True)
    return Project.load(place)


def traces(folder: Path) -> list[str]:
    """Files that hold the member's id or its hash in any form, compressed ones looked into."""
    hashed = np.uint64(hash_text(GONE))
    needles = GONE.encode(), hashed.tobytes(), hashed.tobytes()[::-1], str(hashed).encode()
    needles += (f"{hashed:016x}".encode(),)
    found = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()):
        if path.name == tombstones.FILE:  # the list of the forgotten: a hash, by design
            continue
        read = path.read_bytes()
        if path.suffix in (".arrow", ".parquet"):
            table = (pl.read_ipc if path.suffix == ".arrow" else pl.read_parquet)(path)
            read += "\n".join(str(table[c].to_list()) for c in table.columns).encode()
        if any(needle in read for needle in needles):
            found.append(str(path.relative_to(folder)))
    return found


def forget(project: Project, *options: str) -> str:
    done = CliRunner().invoke(app, ["forget", str(project.base), *options])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return " ".join(done.output.split())


def test_no_byte_of_a_member_is_left(project: Project) -> None:
    """Every bundle with graph, meta, effects, increments and exploration; caches, rejects, inbox, store."""
    before = traces(project.output)
    for kind in ("bundles/000001/", "bundles/000002/", "vectors/", "inbox/", "rejects.", "cache/"):
        assert any(name.startswith(kind) for name in before), (kind, before)
    for part in ("/parts/graph/", "/parts/incremental/", "/vectors/meta(member)"):
        assert any(part in name for name in before), (part, before)
    said = forget(project, "--member", GONE)
    assert "vectors: emptied, and filled again" in said
    assert traces(project.output) == []
    for version in bundle.versions(project.bundles):
        bundle.verify(version)
        rec = Recommender.load(version)
        scores = [rec.rank(m, ["i1", "i2"], context=ASK)["y"].to_list() for m in (GONE, "never seen", "m5")]
        assert scores[0] == scores[1] != scores[2]
        assert rec.rank(GONE, context=ASK, k=None)["item"].n_unique() == 40  # nothing is found by its vector
    store = LmdbStore(project.output / "vectors")
    now = bundle.resolve(project.bundles)
    assert store.versions() == [pin(now)]
    timeline = Recommender.load(now).pipeline.vectors["graph(member)"].latest()
    found, there = store.get_many(pin(now), {"graph(member)": timeline.keys})["graph(member)"]
    assert there.all()
    np.testing.assert_array_equal(found, timeline.vectors)
    store.close()


def killed(project: Project, moment: int | None) -> int:
    """A removal killed at its so-manieth touch of a file of the project; without a moment, how many."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["memberwise.recommender.removal", "memberwise.cli"])
    mine, theirs = context.Pipe(duplex=False)
    arguments = (str(project.base), GONE, (str(project.output),), moment, theirs)
    process = context.Process(target=forget_and_die, args=arguments)
    process.start()
    theirs.close()
    process.join()
    assert process.exitcode == (0 if moment is None else -signal.SIGKILL)
    return int(mine.recv()) if moment is None else moment


@pytest.mark.slow
def test_kill_minus_nine_leaves_all_or_nothing(known: Project, tmp_path: Path) -> None:
    """At random moments: the project loads; after the command is given again, nobody remembers."""
    touches = killed(copied(known, tmp_path / "whole"), None)
    assert touches > 200
    rng, begun = random.Random(4), 0
    width = touches / MOMENTS
    for k in range(MOMENTS):
        project = copied(known, tmp_path / str(k))
        killed(project, 1 + int(width * (k + rng.random())))
        rec = Recommender.load(project.bundles)  # what is in service loads and ranks
        assert len(rec.rank("m5", ["i1", "i2"], context=ASK)) == 2
        hashed = np.array([hash_text(GONE)], np.uint64)
        if len(tombstones.read(project.output)):
            begun += 1
            forget(project)
            assert traces(project.output) == [], k
        else:  # it had not begun: nothing is forgotten, and there is nothing to complete
            assert remains(rec, hashed)
            with pytest.raises(ConfigError, match="nobody"):
                forget(project)
        for version in bundle.versions(project.bundles):
            bundle.verify(version)
            assert len(Recommender.load(version).rank("m5", ["i1"], context=ASK)) == 1
        shutil.rmtree(project.base)
    assert begun >= MOMENTS - 3


def test_a_removed_environment_is_no_leak(tmp_path: Path) -> None:
    """LMDB alone would keep a deleted value in a free page: only a version that is dropped is gone."""
    env = lmdb.open(str(tmp_path / "plain"), map_size=1 << 24)
    with env.begin(write=True) as transaction:
        transaction.put(b"key", GONE.encode() * 10)
    with env.begin(write=True) as transaction:
        transaction.delete(b"key")
    env.close()
    assert traces(tmp_path) == ["plain/data.mdb"]
