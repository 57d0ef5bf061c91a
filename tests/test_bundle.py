"""A bundle is whole or not there, and says what is wrong with it."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memberwise import bundle
from memberwise.errors import BundleError


def files(**content: str) -> Callable[[Path], None]:
    """Writes files; two underscores in a name stand for a directory."""

    def write(folder: Path) -> None:
        for name, text in content.items():
            path = folder / name.replace("__", "/")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)

    return write


def test_versions_are_numbered_and_the_newest_is_current(tmp_path: Path):
    first = bundle.publish(tmp_path, files(a="1"), {"auc": 0.7})
    second = bundle.publish(tmp_path, files(a="2", sub__b="3"), {}, parent=first)
    assert [v.name for v in bundle.versions(tmp_path)] == ["000001", "000002"]
    assert bundle.current(tmp_path) == "000002"
    assert bundle.resolve(tmp_path) == bundle.resolve(tmp_path / "current") == second.resolve()
    manifest = bundle.verify(second)
    assert manifest.parent == "000001"
    assert set(manifest.files) == {"a", "sub/b"}
    assert bundle.read_manifest(first).info == {"auc": 0.7}
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_pointing_back_rolls_back(tmp_path: Path):
    for text in "123":
        bundle.publish(tmp_path, files(a=text), {})
    bundle.point(tmp_path, "000001")
    assert (bundle.resolve(tmp_path) / "a").read_text() == "1"
    assert bundle.publish(tmp_path, files(a="4"), {}).name == "000004"


def test_pointing_to_what_is_not_there_names_what_is(tmp_path: Path):
    bundle.publish(tmp_path, files(a="1"), {})
    with pytest.raises(BundleError, match=r"no version '000009'[\s\S]*known versions: 000001"):
        bundle.point(tmp_path, "000009")
    assert bundle.current(tmp_path) == "000001"


def test_unchanged_files_are_linked_and_changed_ones_are_not(tmp_path: Path):
    first = bundle.publish(tmp_path, files(a="same", sub__b="old"), {})
    second = bundle.publish(tmp_path, files(a="same", sub__b="new"), {}, parent=first)
    assert (first / "a").stat().st_ino == (second / "a").stat().st_ino
    assert (first / "sub/b").stat().st_ino != (second / "sub/b").stat().st_ino
    assert (first / "sub/b").read_text() == "old"


def test_a_damaged_parent_is_not_linked_to(tmp_path: Path):
    first = bundle.publish(tmp_path, files(a="same"), {})
    (first / "a").write_text("SAME")
    second = bundle.publish(tmp_path, files(a="same"), {}, parent=first)
    bundle.verify(second)


def test_without_hard_links_files_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: Any) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    first = bundle.publish(tmp_path, files(a="same"), {})
    second = bundle.publish(tmp_path, files(a="same"), {}, parent=first)
    assert set(bundle.verify(second).files) == {"a"}


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda p: (p / "a").write_bytes(b"hellO"), "a: the checksum does not agree"),
        (lambda p: (p / "a").write_bytes(b"hel"), "a: has 3 bytes instead of 5"),
        (lambda p: (p / "a").unlink(), "a: the file is missing"),
        (lambda p: (p / "manifest.json").unlink(), "the manifest cannot be read"),
        (lambda p: (p / "manifest.json").write_text("{"), "the manifest cannot be read"),
        (lambda p: (p / "manifest.json").write_text("[]"), "the manifest cannot be read"),
        (
            lambda p: (p / "manifest.json").write_text('{"format": 1, "files": {"a": {}}}'),
            "the manifest cannot be read",
        ),
    ],
)
def test_damage_is_found_and_named(tmp_path: Path, harm: Callable[[Path], object], says: str):
    version = bundle.publish(tmp_path, files(a="hello"), {})
    harm(version)
    with pytest.raises(BundleError, match=says) as caught:
        bundle.verify(version)
    assert str(version) in str(caught.value)


def test_a_newer_format_asks_for_a_newer_package(tmp_path: Path):
    version = bundle.publish(tmp_path, files(a="1"), {})
    manifest = json.loads((version / "manifest.json").read_text())
    (version / "manifest.json").write_text(json.dumps(manifest | {"format": bundle.FORMAT + 1}))
    with pytest.raises(BundleError, match="install a newer memberwise"):
        bundle.verify(version)


def test_a_directory_that_is_no_bundle(tmp_path: Path):
    with pytest.raises(BundleError, match="is not a bundle"):
        bundle.resolve(tmp_path)
    with pytest.raises(BundleError, match="is not a bundle"):
        bundle.resolve(tmp_path / "nowhere")
    (tmp_path / "current").symlink_to("000007")
    with pytest.raises(BundleError):
        bundle.read_manifest(bundle.resolve(tmp_path))


def test_publishers_at_once_each_get_a_version(tmp_path: Path):
    together, failed = threading.Barrier(6), []

    def publish(text: str) -> None:
        def write(folder: Path) -> None:
            (folder / "a").write_text(text)
            together.wait(timeout=30)  # all are in the middle of writing
            (folder / "b").write_text(text)

        try:
            bundle.publish(tmp_path, write, {"who": text})
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=publish, args=(f"text {k}",)) for k in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failed
    versions = bundle.versions(tmp_path)
    assert len(versions) == 6
    for version in versions:
        who = bundle.verify(version).info["who"]
        assert (version / "a").read_text() == (version / "b").read_text() == who
    assert bundle.current(tmp_path) in {v.name for v in versions}


class Crash(BaseException):
    """The machine stops here."""


@pytest.fixture
def crash_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[str]]:
    """Stops at the k-th call that touches the disk; cleaning up does not happen either."""
    steps = [(os, n) for n in ("replace", "rename", "fsync", "link", "symlink", "mkdir", "unlink", "rmdir")]
    real = {name: getattr(module, name) for module, name in steps}

    def arm(k: int) -> list[str]:
        calls: list[str] = []

        def wrap(name: str) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                calls.append(name)
                if len(calls) >= k:
                    raise Crash(name)
                return real[name](*arguments, **options)

            return call

        for module, name in steps:
            monkeypatch.setattr(module, name, wrap(name))
        return calls

    return arm


def test_a_crash_at_any_step_leaves_a_whole_version_current(
    tmp_path: Path, crash_at: Callable[[int], list[str]], monkeypatch: pytest.MonkeyPatch
):
    finished = False
    for k in range(1, 60):
        folder = tmp_path / str(k)
        first = bundle.publish(folder, files(a="same", b="old"), {})
        crash_at(k)
        try:
            bundle.publish(folder, files(a="same", b="new", sub__c="c"), {}, parent=first)
            finished = True
        except Crash:
            pass
        monkeypatch.undo()
        current = bundle.resolve(folder)
        assert (current / "b").read_text() == ("new" if current.name == "000002" else "old")
        for version in bundle.versions(folder):
            bundle.verify(version)
        # The next publisher is not in the way of what the crash left.
        after = bundle.publish(folder, files(a="same", b="newest"), {}, parent=current)
        assert bundle.resolve(folder) == after.resolve()
        bundle.verify(after)
        if finished:
            break
    assert finished
    assert k > 10, "hardly a step was tried"


def test_files_are_forced_to_disk_before_the_version_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    order: list[str] = []
    sync, rename = os.fsync, os.rename

    def synced(handle: int) -> None:
        order.append(os.readlink(f"/proc/self/fd/{handle}"))
        sync(handle)

    def renamed(source: Any, target: Any, **options: Any) -> None:
        order.append(f"rename {Path(target).name}")
        rename(source, target, **options)

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc")
    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    bundle.publish(tmp_path, files(a="1", sub__b="2"), {})
    at = order.index("rename 000001")
    names = [Path(p).name for p in order[:at]]
    assert {"a", "b", "sub", "manifest.json"} <= set(names)
    assert any(n.startswith(".partial") for n in names)
    assert order[at + 1] == str(tmp_path)
