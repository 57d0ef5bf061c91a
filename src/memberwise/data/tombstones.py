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
"""In the project's output; a line for each member, with the hash of the id and not the id.

Lines are only ever added, since a server may be adding one at the same time: who is taken off the list again
has a later line that says ``back``.
"""


def read(output: Path) -> U64:
    """Hashed ids on the list, ascending. A line without its end is what a crash left, and is no entry."""
    path = output / FILE
    if not path.is_file():
        return np.zeros(0, np.uint64)
    found: set[int] = set()
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            said = json.loads(line)
            (found.discard if said.get("back") else found.add)(int(said["member"], 16))
    return np.array(sorted(found), np.uint64)


def add(output: Path, members: Iterable[str]) -> None:
    """Put members on the list; they are on disk when this returns."""
    known = set(read(output).tolist())
    _append(output, [hashed for m in dict.fromkeys(members) if (hashed := hash_text(m)) not in known], {})


def take_off(output: Path, members: Iterable[str]) -> None:
    """Let events of these members count again, from now on; what was erased does not come back."""
    known = set(read(output).tolist())
    gone = [hashed for m in dict.fromkeys(members) if (hashed := hash_text(m)) in known]
    _append(output, gone, {"back": True})


def _append(output: Path, hashes: Iterable[int], more: dict[str, bool]) -> None:
    said = [{"member": f"{hashed:016x}", "time": int(time.time()), **more} for hashed in hashes]
    lines = b"".join(json.dumps(line).encode() + b"\n" for line in said)
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
