"""Files that are accounted for: forced to disk, and known by their SHA-256.

A directory that is published holds a manifest with ``{"sha256", "bytes"}`` of each of its files. It is
written under another name, all of it is synced, and one rename puts it in place: what is there is whole.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from memberwise.errors import BundleError


def sha256(path: Path) -> str:
    """Checksum of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Force a file, or the names in a directory, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def seal(path: Path) -> dict[str, Any]:
    """Force a file to disk; returns its entry in the manifest."""
    sync(path)
    return {"sha256": sha256(path), "bytes": path.stat().st_size}


def check(path: Path, entry: Mapping[str, Any], fix: str, *, deep: bool = True) -> None:
    """Compare a file with its entry in the manifest.

    Parameters
    ----------
    path
        The file.
    entry
        What `seal` returned.
    fix
        What to do about a file that is not as it was.
    deep
        Whether to read it all; without, only a missing or truncated file is found.

    Raises
    ------
    BundleError
        If it is missing, truncated, or altered.
    """
    if not path.is_file():
        raise BundleError("the file is missing", where=str(path), fix=fix)
    size = path.stat().st_size
    if size != entry["bytes"]:
        raise BundleError(f"has {size:,} bytes instead of {entry['bytes']:,}", where=str(path), fix=fix)
    if deep and sha256(path) != entry["sha256"]:
        raise BundleError("the checksum does not agree: the file was altered", where=str(path), fix=fix)
