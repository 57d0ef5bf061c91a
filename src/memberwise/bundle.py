"""A bundle: one saved version, a directory whose every file is accounted for.

``bundles/000003/`` holds a manifest with the SHA-256 of each file. A version is written under another name,
forced to disk and renamed, and only then does the pointer ``current`` move: a crash at any moment leaves the
version before it in service. A file that did not change is a hard link to the one of the version before.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from memberwise.data.sealed import check, seal, sha256, sync
from memberwise.errors import BundleError
from memberwise.formats import check_format
from memberwise.locks import alone

FORMAT = 1
_ABANDONED = 600.0
"""Seconds after which what nobody can be asked about belongs to a writer that is no more."""
MANIFEST = "manifest.json"
CURRENT = "current"
_VERSION = re.compile(r"^\d{6}$")


@dataclass(frozen=True)
class Manifest:
    """What a bundle says of itself.

    Attributes
    ----------
    version
        Name of its directory.
    created
        ISO time, UTC.
    parent
        The version it came from, or None.
    files : dict
        Name to ``{"sha256", "bytes"}``.
    info : dict
        What the maker wants to be known without loading it: metrics, as-of time, package versions.
    """

    version: str
    created: str
    parent: str | None
    files: dict[str, dict[str, Any]]
    info: dict[str, Any]


@contextmanager
def writer(bundles: Path, wait: float = 0.0) -> Iterator[None]:
    """Inside, no other process that asks for this moves the versions on; a crash lets go by itself.

    Also clears away what writers that were killed have left behind.

    Parameters
    ----------
    bundles : Path
        Directory of all versions.
    wait
        Seconds to wait for another writer.

    Raises
    ------
    BundleError
        If another writer is still at work.
    """
    refusal = BundleError(
        "another update is at work on these versions",
        where=str(bundles),
        fix="wait until it has ended, or let this one wait: --wait 60",
    )
    with alone(bundles / ".writer", refusal, wait):
        _clear(bundles)
        yield


def _clear(bundles: Path) -> None:
    """Remove half-written versions and pointers that nobody works on any more."""
    old = time.time() - _ABANDONED
    for path in bundles.glob(".partial-*"):
        with suppress(OSError):  # gone, or became a version
            held = os.open(path, os.O_RDONLY)
            try:
                if _free(held, old):
                    shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(held)
    for path in bundles.glob(f".{CURRENT}-*"):
        with suppress(OSError):
            if path.lstat().st_mtime < old:
                path.unlink()


def _free(folder: int, old: float) -> bool:
    """Whether an open folder's writer is no more; takes its lock. Without locks, age decides."""
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return os.fstat(folder).st_mtime < old
    return True


@contextmanager
def _draft(bundles: Path) -> Iterator[Path]:
    """A new folder to write a version in, locked while its writer lives; removed if left over."""
    while True:
        partial = bundles / f".partial-{uuid.uuid4().hex}"
        partial.mkdir()
        try:
            held = os.open(partial, os.O_RDONLY)
        except FileNotFoundError:
            continue
        try:
            with suppress(OSError):  # no locks here
                fcntl.flock(held, fcntl.LOCK_EX)
            if not partial.is_dir():  # cleared away before it was locked
                continue
            yield partial
            return
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            os.close(held)


def publish(
    bundles: Path,
    write: Callable[[Path], None],
    info: Mapping[str, Any],
    parent: Path | None = None,
    accept: Callable[[Mapping[str, Mapping[str, Any]]], None] = lambda files: None,
) -> Path:
    """Save a new version and make it the current one.

    Parameters
    ----------
    bundles : Path
        Directory of all versions.
    write
        Writes the files of the version into the directory it is given.
    info
        For the manifest.
    parent : Path, optional
        The version before, whose unchanged files are linked.
    accept
        Looks at the names and sizes of the files before anything is published; what it raises stops it.

    Returns
    -------
    Path
        The new version's directory.
    """
    bundles.mkdir(parents=True, exist_ok=True)
    with _draft(bundles) as partial:
        write(partial)
        before = read_manifest(parent) if parent is not None and parent.is_dir() else None
        files = {}
        for path in sorted(p for p in partial.rglob("*") if p.is_file()):
            name = path.relative_to(partial).as_posix()
            shared = before is not None and parent is not None and _linked(parent / name, path)
            if before is not None and shared and name in before.files:
                files[name] = before.files[name]  # the maker shared it
                continue
            checksum = sha256(path)
            files[name] = {"sha256": checksum, "bytes": path.stat().st_size}
            same = before is not None and before.files.get(name) == files[name]
            if not (same and parent is not None and _link(parent / name, path, checksum)):
                sync(path)
        accept(files)
        created = datetime.now(UTC).isoformat(timespec="seconds")
        _sign(partial, created, before.version if before is not None else None, files, info)
        version = _claim(bundles, partial)
    point(bundles, version.name)
    return version


def _sign(
    partial: Path, created: str, parent: str | None, files: Mapping[str, Any], info: Mapping[str, Any]
) -> None:
    """Write the manifest of a version, the last of its files, and force the names of all of them to disk."""
    manifest = {
        "format": FORMAT, "created": created, "parent": parent, "files": files, "info": dict(info),
    }  # fmt: skip
    path = partial / MANIFEST
    path.write_text(json.dumps(manifest, indent=1))
    sync(path)
    for folder in (*(p for p in partial.rglob("*") if p.is_dir()), partial):
        sync(folder)


def _linked(old: Path, new: Path) -> bool:
    """Whether both names are one file."""
    return old.is_file() and os.path.samefile(old, new)


def rewrite(path: Path, write: Callable[[Path], None], info: Mapping[str, Any]) -> None:
    """Replace the files of a version that is not in service; it keeps its number, parent and date.

    Nothing is shared with what stood there before. A crash leaves the version as it was, as it is to be, or,
    between the two renames, not at all.

    Parameters
    ----------
    path : Path
        The version.
    write
        Writes its new files into the directory it is given.
    info
        For the manifest.
    """
    before = read_manifest(path)
    with _draft(path.parent) as partial:
        write(partial)
        files = {}
        for file in sorted(p for p in partial.rglob("*") if p.is_file()):
            files[file.relative_to(partial).as_posix()] = seal(file)
        _sign(partial, before.created, before.parent, files, info)
        old = path.parent / f".partial-{uuid.uuid4().hex}"
        path.rename(old)
        partial.rename(path)
        sync(path.parent)
        shutil.rmtree(old, ignore_errors=True)


def _link(old: Path, new: Path, checksum: str) -> bool:
    """Replace a file by a hard link to an equal one, if that is still intact and can be linked."""
    spare = new.with_name(new.name + ".link")
    try:
        if sha256(old) != checksum:
            return False
        os.link(old, spare)
        spare.replace(new)
    except OSError:  # gone, or on a file system without links
        spare.unlink(missing_ok=True)
        return False
    return True


def _claim(bundles: Path, partial: Path) -> Path:
    """Rename to the next free number; another writer may take one first."""
    while True:
        target = bundles / f"{max([0, *(int(v.name) for v in versions(bundles))]) + 1:06d}"
        try:
            partial.rename(target)
        except OSError:
            if not target.exists():
                raise
            continue
        sync(bundles)
        return target


def point(bundles: Path, version: str) -> None:
    """Make a version the current one, at once for whoever opens it next.

    Raises
    ------
    BundleError
        If there is no such version.
    """
    if not (bundles / version / MANIFEST).is_file():
        known = ", ".join(v.name for v in versions(bundles)) or "none"
        raise BundleError(
            f"there is no version {version!r}", where=str(bundles), fix=f"known versions: {known}"
        )
    pointer = bundles / f".{CURRENT}-{uuid.uuid4().hex}"
    pointer.symlink_to(version)
    try:
        pointer.replace(bundles / CURRENT)
    finally:
        pointer.unlink(missing_ok=True)
    sync(bundles)


def versions(bundles: Path) -> list[Path]:
    """All versions, oldest first."""
    if not bundles.is_dir():
        return []
    return sorted(
        p for p in bundles.iterdir() if p.is_dir() and _VERSION.match(p.name) and not p.is_symlink()
    )


def current(bundles: Path) -> str | None:
    """Name of the current version, if there is one."""
    pointer = bundles / CURRENT
    return os.readlink(pointer) if pointer.is_symlink() else None


def resolve(path: Path) -> Path:
    """The directory of one version: of a version, of ``bundles/current``, or of a bundles directory.

    Raises
    ------
    BundleError
        If there is none.
    """
    path = path.resolve() if path.is_symlink() else path
    if (path / MANIFEST).is_file():
        return path
    if (path / CURRENT).is_symlink():
        return (path / CURRENT).resolve()
    raise BundleError("is not a bundle", where=str(path), fix="make one with: memberwise fit PROJECT")


def read_manifest(path: Path) -> Manifest:
    """The manifest of a version.

    Raises
    ------
    BundleError
        If it is missing, damaged or of a newer format.
    """
    try:
        raw = json.loads((path / MANIFEST).read_text())
        check_format(raw["format"], FORMAT, path)
        files = {
            str(n): {"sha256": str(f["sha256"]), "bytes": int(f["bytes"])} for n, f in raw["files"].items()
        }
        return Manifest(path.name, raw["created"], raw["parent"], files, raw["info"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"the manifest cannot be read: {error}", where=str(path / MANIFEST)) from error


def verify(path: Path) -> Manifest:
    """Check every file of a version against its SHA-256.

    Raises
    ------
    BundleError
        Names the file that is missing, truncated or altered.
    """
    manifest = read_manifest(path)
    for name, entry in manifest.files.items():
        check(path / name, entry, fix="use another version: memberwise bundles list PROJECT")
    return manifest
