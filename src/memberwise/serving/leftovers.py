"""Events that a follower cannot use: kept on disk with the reason, each once."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

FILE, TOLD = "rejects.follow.jsonl", "rejects.follow.told.json"


class Leftovers:
    """What could not be used, as lines of JSON with ``reason`` and ``event``.

    A source is read again from the position of the current version whenever a follower starts. What it has
    written since that version was published is known by digests in a file beside, so that it is not written
    again.

    Parameters
    ----------
    output : Path
        Of the project.
    """

    def __init__(self, output: Path) -> None:
        self.path, self._beside = output / FILE, output / TOLD
        self._version: str | None = None
        self._told: Counter[str] = Counter()
        self._again: Counter[str] = Counter()
        """Digests of what will come again, because another process has read it before."""

    def add(self, version: str | None, rejected: Sequence[tuple[str, Any]]) -> Counter[str]:
        """Write what is new since a version was published; returns how much, by reason."""
        if version != self._version:
            self._version, self._told = version, self._read(version)
            self._again = self._told.copy()
        lines, reasons = [], Counter[str]()
        for reason, event in rejected:
            line = msgspec.json.encode({"reason": reason, "event": event}, enc_hook=str)
            digest = hashlib.sha256(line).hexdigest()[:24]
            if self._again[digest]:
                self._again[digest] -= 1
                continue
            self._told[digest] += 1
            reasons[reason] += 1
            lines.append(line + b"\n")
        if lines:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.writelines(lines)
            spare = self._beside.with_name(f".{self._beside.name}")
            spare.write_text(json.dumps({"version": version, "told": self._told}))
            spare.replace(self._beside)
        return reasons

    def settled(self, version: str | None) -> None:
        """A version is published behind everything so far: nothing of it will be read again."""
        self._version, self._told, self._again = version, Counter(), Counter()
        self._beside.unlink(missing_ok=True)

    def _read(self, version: str | None) -> Counter[str]:
        try:
            said = json.loads(self._beside.read_text())
            return Counter(said["told"]) if said["version"] == version else Counter()
        except (OSError, ValueError, KeyError, TypeError):
            return Counter()
