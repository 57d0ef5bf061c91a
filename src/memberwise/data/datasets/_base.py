"""What every data set is: a name, a licence, and files whose checksums were verified."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from memberwise.data.sealed import sha256, sync
from memberwise.errors import DataError


@dataclass(frozen=True)
class Dataset:
    """Files of one data set, verified.

    Attributes
    ----------
    name : str
        Short name.
    description : str
        One sentence: who did what, when, and how many rows.
    licence : str
        Under which terms the files may be used.
    files : Mapping[str, Path]
        Table name to path.
    """

    name: str
    description: str
    licence: str
    files: Mapping[str, Path]


def verified(path: Path, expected: str) -> Path:
    """Give the path back if its bytes are the expected ones.

    Raises
    ------
    DataError
        If the file is missing or its SHA-256 differs.
    """
    if not path.is_file():
        raise DataError("the file is missing", where=str(path), fix="reinstall memberwise")
    if sha256(path) != expected:
        raise DataError(
            "the file is damaged: its SHA-256 differs", where=str(path), fix="reinstall memberwise"
        )
    return path


def cache_directory() -> Path:
    """Where rebuilt data sets are kept: ``$XDG_CACHE_HOME/memberwise``, else ``~/.cache/memberwise``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "memberwise"


def publish(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file so that a reader sees the whole of it or nothing.

    Parameters
    ----------
    path : Path
        The final name; its directory is made.
    write : callable
        Writes the content under the temporary name that it is given.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
