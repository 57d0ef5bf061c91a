"""Members who asked to be forgotten: whoever reads events afterwards leaves theirs out."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from memberwise.data.hashing import U64, hash_text

FILE = "forgotten.jsonl"
"""In the project's output; a line for each member, with the hash of the id and not the id."""


def read(output: Path) -> U64:
    """Hashed ids on the list, ascending. A line without its end is what a crash left, and is no entry."""
    path = output / FILE
    if not path.is_file():
        return np.zeros(0, np.uint64)
    with path.open("rb") as file:
        found = {int(json.loads(line)["member"], 16) for line in file if line.endswith(b"\n")}
    return np.array(sorted(found), np.uint64)


def add(output: Path, members: Iterable[str]) -> None:
    """Put members on the list; they are on disk when this returns."""
    known = set(read(output).tolist())
    lines = b""
    for member in members:
        if (hashed := hash_text(member)) not in known:
            known.add(hashed)
            lines += json.dumps({"member": f"{hashed:016x}", "time": int(time.time())}).encode() + b"\n"
    output.mkdir(parents=True, exist_ok=True)
    path = output / FILE
    if path.is_file() and (torn := len(path.read_bytes().rpartition(b"\n")[2])):
        os.truncate(path, path.stat().st_size - torn)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
    try:
        os.write(handle, lines)
        os.fsync(handle)
    finally:
        os.close(handle)
