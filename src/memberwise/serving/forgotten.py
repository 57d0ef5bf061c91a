"""Members who asked to be forgotten: from that moment on nobody is ranked by what is known of them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec

from memberwise.data.hashing import hash_text

FILE = "forgotten.jsonl"


class Forgotten:
    """The list, on disk as hashes of ids, so that every process and every restart honours it.

    Parameters
    ----------
    output : Path
        Of the project.
    """

    def __init__(self, output: Path) -> None:
        self.path = output / FILE
        self._hashes: set[int] = set()
        self._size = 0
        self.look()

    def __contains__(self, member: str | int) -> bool:
        return bool(self._hashes) and hash_text(str(member)) in self._hashes

    def __len__(self) -> int:
        return len(self._hashes)

    def add(self, member: str | int) -> None:
        """Put a member on the list; it is on disk when this returns."""
        line = msgspec.json.encode({"member": f"{hash_text(str(member)):016x}", "time": int(time.time())})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        try:
            os.write(handle, line + b"\n")
            os.fsync(handle)
        finally:
            os.close(handle)
        self._hashes.add(hash_text(str(member)))

    def look(self) -> None:
        """See what other processes have added."""
        try:
            size = self.path.stat().st_size
        except OSError:
            return
        if size == self._size:
            return
        with self.path.open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    self._hashes.add(int(msgspec.json.decode(line)["member"], 16))
        self._size = size
