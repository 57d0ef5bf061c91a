"""A member who is forgotten is new to every version, and nobody else notices."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from typer.testing import CliRunner

from memberwise import bundle
from memberwise.cli import app
from memberwise.data import tombstones
from memberwise.data.hashing import hash_text
from memberwise.errors import ConfigError, DataError
from memberwise.project import Project
from memberwise.recommender import Recommender, removal
from memberwise.recommender.forgetting import forget, remains
from memberwise.recommender.removal import refuse_forgotten, remove
from memberwise.serving.forgotten import Forgotten
from support.projects import make

GONE, STAYS = "m3", "m5"
ITEMS = [f"i{k}" for k in range(8)]
SETTINGS = {
    "aggregates": [
        {"by": "m", "delay": "none", "recency": True},
        {"by": ["m", "cat"], "delay": "none", "window": "40d"},
        {"by": ["item.v2", "m"], "delay": "none", "distinct": ["cat"]},
        {"by": "i", "delay": "none"},
        {"by": "m", "half_life": "9d"},
    ],
    "features": [
        {"kind": "categorical", "column": "m", "min_count": 1},
        {"kind": "categorical", "column": "i", "min_count": 1},
        {"kind": "categorical", "column": "cat", "min_count": 1},
        {"kind": "history", "length": 4, "delay": "none"},
    ],
    "effects": {},
    "incremental": {},
    "exploration": {"rank": 4},
    "training": {"epochs": 2},
}


def project_of(folder: Path, log: pl.DataFrame) -> Project:
    project = make(folder, log, **SETTINGS)
    table = pl.DataFrame({"i": [f"i{k}" for k in range(15)], "v2": [f"kind{k % 3}" for k in range(15)]})
    table.write_parquet(folder / "items.parquet")
    return Project.from_dict(project.to_dict(), folder)


@pytest.fixture(scope="module")
def versions(early: pl.DataFrame, late: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory):
    """A project with two versions on disk, an inbox and rejected rows."""
    folder = tmp_path_factory.mktemp("forget")
    project = project_of(folder, early)
    rec = Recommender.fit(project)
    rec.save()
    newer = rec.update(late)
    newer.save()
    return project, rec, newer


def ask(rec: Recommender, member: str, log: pl.DataFrame) -> np.ndarray:
    row = log.row(0, named=True)
    context = {k: row[k] for k in row if k not in ("m", "i", "t")}
    found = rec.rank(member, ITEMS, None, context=context)
    return found.sort("item").select("y", "z").to_numpy()


def hashes(*members: str) -> np.ndarray:
    return np.sort(np.array([hash_text(m) for m in members], np.uint64))


def test_a_forgotten_member_is_ranked_as_somebody_new_and_nobody_else_moves(versions, late: pl.DataFrame):
    _, _, rec = versions
    assert remains(rec, hashes(GONE))
    before = ask(rec, GONE, late), ask(rec, STAYS, late)
    newer = forget(rec, hashes(GONE))
    assert not remains(newer, hashes(GONE))
    np.testing.assert_array_equal(ask(newer, GONE, late), ask(newer, "never seen", late))
    assert not np.allclose(ask(newer, GONE, late), before[0])
    np.testing.assert_allclose(ask(newer, STAYS, late), before[1], atol=1e-6)
    # The version itself has not changed.
    np.testing.assert_array_equal(ask(rec, GONE, late), before[0])


def test_the_features_of_others_go_on_as_if_nothing_had_happened(versions, late: pl.DataFrame):
    _, rec, _ = versions
    newer = forget(rec, hashes(GONE), None)
    others = late.filter(pl.col("m") != GONE)
    one, other = (r.observe(others).increment for r in (rec, newer))
    np.testing.assert_allclose(one.arrays["dense"], other.arrays["dense"], atol=1e-6)
    for name in ("history.items", "history.ages", "ids"):
        np.testing.assert_array_equal(one.arrays[name], other.arrays[name])


def test_nothing_on_disk_holds_the_hash_of_the_member(versions, tmp_path: Path):
    _, _, rec = versions
    hashed = np.uint64(hash_text(GONE))
    needles = hashed.tobytes(), str(hashed).encode(), f"{hashed:016x}".encode()

    def holds(folder: Path) -> list[str]:
        return [
            p.name for p in folder.rglob("*") if p.is_file() and any(n in p.read_bytes() for n in needles)
        ]

    rec.save(tmp_path / "before")
    assert holds(tmp_path / "before")
    newer = forget(rec, hashes(GONE))
    newer.version = None
    newer.save(tmp_path / "after")
    assert holds(tmp_path / "after") == []
    text = GONE.encode()
    state = (tmp_path / "after" / "000001" / "project.json").read_bytes()
    assert b'"' + text + b'"' not in state


def test_the_ranker_and_its_memory_lose_the_members_own_rows(versions):
    _, _, rec = versions
    newer = forget(rec, hashes(GONE))
    vocabulary = rec.pipeline.vocabularies["m"]
    row = int(vocabulary.encode(hashes(GONE))[0])
    for old, new in zip(rec.ranker.sparse_tables, newer.ranker.sparse_tables, strict=True):
        if "m" in old.offsets:
            at, unseen = old.offsets["m"] + row, old.offsets["m"]
            assert not np.allclose(old.weight[at], old.weight[unseen])
            assert np.allclose(new.weight[at], old.weight[unseen])
    memory = newer.parts["incremental"].memory
    assert all(
        (f.tables[n][1 + row] == 0).all() for f in (memory.cold, memory.last) for n in f.tables if n == "wide"
    )
    members = newer.parts["incremental"].recent["member"]
    assert not np.isin(members, hashes(GONE)).any()


def test_the_removal_cleans_every_version_file_and_log(
    early: pl.DataFrame, late: pl.DataFrame, tmp_path: Path
):
    project = project_of(tmp_path, early)
    rec = Recommender.fit(project)
    rec.save(info={"follow": {"at": {}, "held": [{"m": GONE, "i": "i1"}, {"m": STAYS, "i": "i1"}]}})
    rec.update(late).save()
    inbox = project.output / "inbox"
    inbox.mkdir()
    lines = [
        {"m": GONE, "i": "i1", "t": 5},
        [{"m": GONE, "i": "i2", "t": 6}, {"m": STAYS, "i": "i2", "t": 6}],
    ]
    file = inbox / "1-1.jsonl"
    file.write_bytes(
        b"".join(json.dumps(x, separators=(",", ":")).encode() + b"\n" for x in lines) + b'{"m": "tor'
    )
    size = file.stat().st_size
    pl.DataFrame({"m": [GONE, STAYS], "reason": ["?", "?"]}).write_parquet(project.output / "rejects.parquet")
    follower = project.output / "rejects.follow.jsonl"
    follower.write_text(
        "".join(json.dumps({"reason": "late", "event": {"m": m}}) + "\n" for m in (GONE, STAYS))
    )
    done = remove(project, [GONE])
    assert (done.published, done.rewritten, done.removed) == ("000003", ["000001", "000002"], [])
    for path in bundle.versions(project.bundles):
        bundle.verify(path)
        loaded = Recommender.load(path)
        assert not remains(loaded, hashes(GONE))
        np.testing.assert_array_equal(ask(loaded, GONE, late), ask(loaded, "never seen", late))
    assert file.stat().st_size == size
    kept = [json.loads(line) for line in file.read_bytes().splitlines()[:2]]
    assert kept == [[], [{"m": STAYS, "i": "i2", "t": 6}]]
    assert pl.read_parquet(project.output / "rejects.parquet")["m"].to_list() == [STAYS]
    assert not list((project.output / "run").rglob("*.safetensors"))
    assert not (project.output / "cache").exists()
    assert done.outside == [str(tmp_path / "log.parquet")]
    assert done.unknown == []
    assert [json.loads(x)["event"] for x in follower.read_text().splitlines()] == [{"m": STAYS}]
    held = bundle.read_manifest(project.bundles / "000001").info["follow"]["held"]
    assert held == [{"m": STAYS, "i": "i1"}]
    assert len(done.traces) == 3
    # Asked again, there is nothing left to do; and the versions stay.
    again = remove(Project.from_dict(project.to_dict(), tmp_path))
    assert (again.published, again.rewritten) == ("000003", [])


def test_what_was_interrupted_is_completed_by_the_next_call(
    early: pl.DataFrame, late: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    project = project_of(tmp_path, early)
    rec = Recommender.fit(project)
    rec.save()
    rec.update(late).save()

    def full(*arguments: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(bundle, "rewrite", full)
        with pytest.raises(OSError, match="no space"):
            remove(project, [GONE])
    # The version in service is clean, an older one is not, and cannot be gone back to.
    assert not remains(Recommender.load(project.bundles), hashes(GONE))
    with pytest.raises(DataError, match="memberwise forget"):
        refuse_forgotten(project, project.bundles / "000001")
    (tmp_path / "project.yaml").write_text(yaml.safe_dump(project.to_dict()))
    back = ["bundles", "rollback", str(tmp_path), "000001"]
    assert isinstance(CliRunner().invoke(app, back).exception, DataError)
    done = CliRunner().invoke(app, ["forget", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "2 earlier versions rewritten" in done.output
    assert "Traces that remain" in done.output
    assert CliRunner().invoke(app, back).exit_code == 0


def test_reading_the_log_again_does_not_bring_the_member_back(
    early: pl.DataFrame, late: pl.DataFrame, tmp_path: Path
):
    project = project_of(tmp_path, early)
    tombstones.add(project.output, [GONE])
    project = Project.from_dict(project.to_dict(), tmp_path)
    rec = Recommender.fit(project)
    assert not remains(rec, hashes(GONE))
    newer = rec.update(late)
    assert not remains(newer, hashes(GONE))
    np.testing.assert_array_equal(ask(newer, GONE, late), ask(newer, "never seen", late))
    rejects = project.output / "rejects.parquet"
    assert not rejects.exists() or GONE not in pl.read_parquet(rejects)["m"].to_list()


def test_a_version_that_still_knows_is_not_rolled_back_to(versions):
    project, *_ = versions
    version = bundle.versions(project.bundles)[0]
    refuse_forgotten(project, version)
    tombstones.add(project.output, [GONE])
    with pytest.raises(DataError, match="memberwise forget"):
        refuse_forgotten(project, version)
    (project.output / tombstones.FILE).unlink()


def test_the_list_survives_a_torn_line_and_names_nobody(tmp_path: Path):
    tombstones.add(tmp_path, ["a", "b"])
    with (tmp_path / tombstones.FILE).open("ab") as file:
        file.write(b'{"member": "00')
    tombstones.add(tmp_path, ["c", "a"])
    assert (tombstones.read(tmp_path) == hashes("a", "b", "c")).all()


def test_a_member_never_seen_is_told_apart_from_one_who_is_known_anywhere(
    early: pl.DataFrame, late: pl.DataFrame, tmp_path: Path
):
    project = project_of(tmp_path, early.filter(pl.col("m") != "m7"))
    (tmp_path / "project.yaml").write_text(yaml.safe_dump(project.to_dict()))
    Recommender.fit(project).save()
    late.with_columns(m=pl.when(pl.col("m") == STAYS).then(pl.lit("m7")).otherwise("m")).write_parquet(
        tmp_path / "new.parquet"
    )
    late.filter(pl.col("m") != STAYS).write_parquet(tmp_path / "clean.parquet")
    updated = CliRunner().invoke(app, ["update", str(tmp_path), str(tmp_path / "new.parquet"), "--force"])
    assert updated.exit_code == 0, updated.output
    # m7 came with the update alone; its events are in a file that the project does not name.
    both = ["forget", str(tmp_path), "--member", "m7", "--member", "m7x"]
    refused = CliRunner().invoke(app, both)
    assert isinstance(refused.exception, ConfigError)
    assert "knows 'm7x'" in str(refused.exception)
    assert not len(tombstones.read(project.output))
    assert len(bundle.versions(project.bundles)) == 2
    assert (project.output / "cache").exists()
    said = CliRunner().invoke(app, [*both, "--unseen"])
    assert said.exit_code == 0, said.output
    text = " ".join(said.output.split())
    assert "Never seen, and blocked: 'm7x'" in text
    assert "'m7'" not in text
    assert "Yours to clean" in text
    assert "memberwise fit" not in text  # none of the rows that the version was fitted on is gone
    listed = [line for line in said.output.splitlines() if line.endswith(".parquet")]
    assert listed == [f"- {tmp_path / 'new.parquet'}"]
    # Asked again for somebody on the list, nothing is amiss.
    assert CliRunner().invoke(app, ["forget", str(tmp_path), "--member", "m7x"]).exit_code == 0


def test_a_log_that_has_changed_is_not_taken_for_members_who_were_forgotten(
    early: pl.DataFrame, tmp_path: Path
):
    project = project_of(tmp_path, early)
    Recommender.fit(project).save()
    early.with_columns(i=pl.col("i") + "x").write_parquet(tmp_path / "log.parquet")
    with pytest.raises(DataError, match="log has changed since this version was fitted") as changed:
        Recommender.load(project.bundles).evaluate()
    assert "forgotten" not in str(changed.value)


def test_who_is_named_in_no_version_but_in_a_file_is_no_stranger(early: pl.DataFrame, tmp_path: Path):
    project = project_of(tmp_path, early)
    rec = Recommender.fit(project)
    file = tmp_path / "update.parquet"
    early.head(2).with_columns(m=pl.lit("updated")).write_parquet(file)
    info = {"update": {"files": [str(file), str(tmp_path / "gone.parquet")]}}
    rec.save(info={"follow": {"at": {}, "held": [{"m": "waits", "i": "i1"}]}, **info})
    inbox = project.output / "inbox"
    inbox.mkdir()
    (inbox / "1-1.jsonl").write_text('[{"m": "sent", "i": "i1"}]\n{"m": "tor')
    rejected = {"reason": "late", "event": {"m": "late", "i": "i1"}}
    (project.output / "rejects.follow.jsonl").write_text(json.dumps(rejected) + "\n")
    pl.DataFrame({"m": ["bad"], "reason": ["?"]}).write_parquet(project.output / "rejects.parquet")
    for member in ("waits", "sent", "late", "bad", "updated"):
        assert remove(project, [member]).unknown == []
    with pytest.raises(ConfigError, match="knows 'Sent'"):
        remove(project, ["Sent"])


def test_a_block_can_be_lifted_and_set_again(early: pl.DataFrame, late: pl.DataFrame, tmp_path: Path):
    project = project_of(tmp_path, early)
    (tmp_path / "project.yaml").write_text(yaml.safe_dump(project.to_dict()))
    rec = Recommender.fit(project)
    rec.save()
    server = Forgotten(project.output)
    forget_it = ["forget", str(tmp_path), "--member", GONE]
    done = CliRunner().invoke(app, forget_it)
    assert done.exit_code == 0, done.output
    assert f"memberwise fit {tmp_path} before you evaluate" in " ".join(done.output.split())
    with pytest.raises(DataError, match="members were forgotten since this version was fitted") as gone:
        Recommender.load(project.bundles).evaluate()
    assert "has changed" not in str(gone.value)
    server.look()
    assert GONE in server
    undone = CliRunner().invoke(app, [*forget_it, "--undo"])
    assert undone.exit_code == 0, undone.output
    server.look()
    assert GONE not in server
    assert not len(tombstones.read(project.output))
    assert not remains(Recommender.load(project.bundles), hashes(GONE))
    again = Project.load(tmp_path)
    newer = Recommender.load(project.bundles)
    newer = Recommender(
        again, newer.ranker, newer.pipeline, newer.seen, newer.negatives, {}, [], 0.0, newer.parts
    )
    assert "aggregate 'm'" in remains(newer.update(late), hashes(GONE))
    twice = CliRunner().invoke(app, [*forget_it, "--undo"])
    assert "not on the list" in str(twice.exception)
    tombstones.add(project.output, [GONE])
    assert (tombstones.read(project.output) == hashes(GONE)).all()


def test_who_is_to_be_forgotten_must_be_said(versions):
    project, *_ = versions
    with pytest.raises(ConfigError, match="nobody"):
        remove(project)
    with pytest.raises(ConfigError, match="empty"):
        remove(project, [""])


def test_a_version_that_cannot_be_read_goes_and_a_fault_of_ours_is_seen(
    early: pl.DataFrame, late: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    project = project_of(tmp_path, early)
    rec = Recommender.fit(project)
    rec.save()
    rec.update(late).save()
    damaged = project.bundles / "000001" / "fit.json"
    damaged.unlink()  # it may be one file with that of the next version
    damaged.write_text("{")

    def fault(*arguments: object) -> None:
        raise AttributeError("a fault of ours")

    with monkeypatch.context() as patch:
        patch.setattr(removal, "known", fault)
        with pytest.raises(AttributeError, match="fault of ours"):
            remove(project, ["who"])
    load = Recommender.load

    def faulty(path: Path) -> Recommender:
        if path.name == "000001":
            raise AttributeError("a fault of ours")
        return load(path)

    with monkeypatch.context() as patch:
        patch.setattr(Recommender, "load", faulty)
        with pytest.raises(AttributeError, match="fault of ours"):
            remove(project, [GONE])
    assert (project.bundles / "000001").is_dir()
    done = remove(project, [GONE])
    assert [name.split(" (")[0] for name in done.removed] == ["000001"]
    assert "bytes" in done.removed[0]
