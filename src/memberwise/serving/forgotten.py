"""Members who asked to be forgotten: from that moment on nobody is ranked by what is known of them."""

from __future__ import annotations

from pathlib import Path

from memberwise.data import tombstones
from memberwise.data.hashing import hash_text


class Forgotten:
    """The list of `memberwise.data.tombstones`, for every request: each process and each restart honours it.

    Parameters
    ----------
    output : Path
        Of the project.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self._hashes: frozenset[int] = frozenset()
        self._size = -1
        self.look()

    def __contains__(self, member: str | int) -> bool:
        return bool(self._hashes) and hash_text(str(member)) in self._hashes

    def add(self, member: str) -> None:
        """Put a member on the list; it is on disk when this returns."""
        tombstones.add(self.output, [member])
        self.look()

    def look(self) -> None:
        """See what other processes have added."""
        path = self.output / tombstones.FILE
        size = path.stat().st_size if path.is_file() else 0
        if size != self._size:
            self._hashes = frozenset(tombstones.read(self.output).tolist())
            self._size = size
