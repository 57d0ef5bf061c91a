"""Publishing in segments: what is written, and that a chain of versions reads as the last one was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from memberwise import bundle
from memberwise.data.arrays import load_arrays, save_arrays
from memberwise.errors import BundleError
from memberwise.project import Project
from memberwise.recommender import Recommender, storing
from memberwise.recommender.parts.effects import EffectsPart
from support.projects import make


def state(rec: Recommender) -> dict[str, np.ndarray]:
    return {f"{p}|{n}": a for p, arrays in rec.pipeline.to_arrays().items() for n, a in arrays.items()}


def same_state(one: Recommender, other: Recommender) -> bool:
    mine, theirs = state(one), state(other)
    return mine.keys() == theirs.keys() and all(
        np.array_equal(a, theirs[n], equal_nan=a.dtype.kind == "f") for n, a in mine.items()
    )


def pieces(late: pl.DataFrame, count: int) -> list[pl.DataFrame]:
    moments = late["t"].unique().sort()
    cuts = [moments[len(moments) * k // count] for k in range(1, count)]
    group = np.searchsorted(np.array(cuts), late["t"].to_numpy(), side="right")
    return [late.filter(pl.Series(group == k)) for k in range(count)]


@pytest.fixture
def large(rec: Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recommender:
    """A saved version whose state is large beside one update, as real ones are."""
    whole = storing._state

    def padded(rec: Recommender) -> dict[str, Any]:
        return whole(rec) | {"padding": {"zeros": np.zeros(300_000)}}

    monkeypatch.setattr(storing, "_state", padded)
    again = Recommender.load(rec.save(tmp_path / "first"))
    again.version = again.stored = None
    again.save(tmp_path / "bundles")
    return again


def test_updates_append_segments_and_share_the_rest(large: Recommender, late: pl.DataFrame) -> None:
    assert large.stored is not None
    bundles, now = large.stored.folder.parent, large
    for piece in pieces(late, 3):
        now = now.update(piece)
        now.save(bundles)
    folders = bundle.versions(bundles)
    assert len(folders) == 4
    assert sorted(p.name for p in folders[-1].glob("state*")) == [
        "state-1.safetensors", "state-2.safetensors", "state-3.safetensors", "state.safetensors",
    ]  # fmt: skip
    for name in ("state.safetensors", "ranker.safetensors", "entities/item.arrow"):
        assert len({(f / name).stat().st_ino for f in folders}) == 1, name
    for folder in folders:
        bundle.verify(folder)
    assert same_state(Recommender.load(bundles), now)
    # Older versions can go: every file stands in each version that needs it.
    for folder in folders[:-1]:
        shutil.rmtree(folder)
    again = Recommender.load(bundles)
    assert same_state(again, now)


def test_a_version_that_was_read_goes_on_with_segments(large: Recommender, late: pl.DataFrame) -> None:
    assert large.stored is not None
    bundles = large.stored.folder.parent
    one, two = pieces(late, 2)
    large.update(one).save(bundles)
    read = Recommender.load(bundles)
    read.update(two).save(bundles)
    names = sorted(p.name for p in (bundles / "000003").glob("state*"))
    assert names == ["state-1.safetensors", "state-2.safetensors", "state.safetensors"]
    assert same_state(Recommender.load(bundles), large.update(one).update(two))


def test_many_segments_are_written_as_one(
    large: Recommender, late: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storing, "MAX_SEGMENTS", 2)
    assert large.stored is not None
    bundles, now, counts = large.stored.folder.parent, large, []
    for piece in pieces(late, 4):
        now = now.update(piece)
        counts.append(len(list(now.save(bundles).glob("state-*"))))
    assert counts == [1, 2, 0, 1]
    assert same_state(Recommender.load(bundles), now)


def test_much_change_is_written_whole(rec: Recommender, late: pl.DataFrame, tmp_path: Path) -> None:
    """Segments of the tiny log soon hold half as much as its state."""
    now = Recommender.load(rec.save(tmp_path))
    counts = []
    for piece in pieces(late, 3):
        now = now.update(piece)
        counts.append(len(list(now.save(tmp_path).glob("state-*"))))
    assert 0 in counts
    assert same_state(Recommender.load(tmp_path), now)


def test_other_directories_and_forgetting_write_everything(large: Recommender, late: pl.DataFrame) -> None:
    assert large.stored is not None
    elsewhere = large.stored.folder.parent.parent / "elsewhere"
    newer = large.update(late.head(30))
    assert [p.name for p in newer.save(elsewhere).glob("state*")] == ["state.safetensors"]
    other = large.update(late.head(30))
    other.stored = None
    assert [p.name for p in other.save(large.stored.folder.parent).glob("state*")] == ["state.safetensors"]


def test_a_lost_file_of_the_version_before_does_not_harm_the_next(
    large: Recommender, late: pl.DataFrame
) -> None:
    assert large.stored is not None
    bundles = large.stored.folder.parent
    (large.stored.folder / "state.safetensors").unlink()
    newer = large.update(late)
    newer.save(bundles)
    assert same_state(Recommender.load(bundles), newer)


def test_a_moved_project_finds_its_log_again(early: pl.DataFrame, tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "far" / "there"
    rec = Recommender.fit(make(here, early, output=".", name="moved"))
    before = rec.evaluate(draws=20).metrics
    assert rec.save() == here / "bundles" / "000001"
    shutil.copytree(here, there, symlinks=True)
    shutil.rmtree(here)
    cache = [p.stat().st_mtime_ns for p in sorted((there / "cache").rglob("*")) if p.is_file()]
    moved = Recommender.load(there / "bundles")
    assert moved.project.base == there.resolve()
    assert moved.evaluate(draws=20).metrics == before
    assert cache == [p.stat().st_mtime_ns for p in sorted((there / "cache").rglob("*")) if p.is_file()]


def test_versions_kept_elsewhere_know_the_place_of_their_project(
    rec: Recommender, project: Project, tmp_path: Path
) -> None:
    rec.save(tmp_path / "elsewhere")
    shutil.copytree(tmp_path / "elsewhere", tmp_path / "copy" / "bundles", symlinks=True)
    assert Recommender.load(tmp_path / "copy" / "bundles").project.base == project.base.resolve()


def test_settings_of_another_memberwise_are_told_from_a_mistake(rec: Recommender, tmp_path: Path) -> None:
    folder = rec.save(tmp_path / "old")
    saved = json.loads((folder / "project.json").read_text())
    saved["config"]["meta"] = {"tasks": [{"by": "member", "steps_of_old": 3}]}
    (folder / "project.json").write_text(json.dumps(saved))
    with pytest.raises(BundleError, match=r"settings are of another memberwise.*steps_of_old") as found:
        storing.read(folder)
    assert found.value.where == str(folder)
    assert "fit again" in str(found.value)


def test_files_of_another_format_are_refused_and_not_read_with_todays_meaning(
    rec: Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = rec.save(tmp_path / "old")
    saved = json.loads((folder / "project.json").read_text())
    assert saved["formats"] == storing.FORMATS
    monkeypatch.setitem(storing.FORMATS, "vectors", 2)
    with pytest.raises(BundleError, match=r"vectors has format 1.*would mean something else") as older:
        storing.read(folder)
    assert older.value.where == str(folder)
    assert "fit again" in str(older.value)
    monkeypatch.setitem(storing.FORMATS, "vectors", 0)
    with pytest.raises(BundleError, match="install a newer memberwise"):
        storing.read(folder)
    # From before there were numbers: the first format of everything.
    monkeypatch.setitem(storing.FORMATS, "vectors", 1)
    del saved["formats"]
    (folder / "project.json").write_text(json.dumps(saved))
    storing.read(folder)
    monkeypatch.setitem(storing.FORMATS, "ranker", 2)
    with pytest.raises(BundleError, match="ranker has format 1"):
        storing.read(folder)


def test_a_part_of_another_format_is_refused(
    early: pl.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Recommender.fit(make(tmp_path, early, effects={})).save()
    storing.read(folder)
    monkeypatch.setattr(EffectsPart, "format", 2)
    with pytest.raises(BundleError, match="parts/effects has format 1"):
        storing.read(folder)


@pytest.mark.parametrize("lost", ["state", "setting"])
def test_files_that_do_not_fit_together_are_our_error(rec: Recommender, tmp_path: Path, lost: str) -> None:
    folder = rec.save(tmp_path / "old")
    if lost == "state":
        parts = load_arrays(folder / "state.safetensors")
        del parts["seen"]
        save_arrays(folder / "state.safetensors", parts)
    else:
        saved = json.loads((folder / "project.json").read_text())
        del saved["train_end"]
        (folder / "project.json").write_text(json.dumps(saved))
    with pytest.raises(BundleError, match=r"do not fit together.*KeyError") as found:
        storing.read(folder)
    assert "fit again" in str(found.value)
