"""Events on disk before the client is told: one line per request, whole or not at all.

``inbox/<time>-<process>.jsonl``: a line holds one event or a list of events. A line without its end is what a
crash left of a request that nobody was told had succeeded; readers leave it alone. A server never appends to
the file of another.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import msgspec

from memberwise.errors import DataError

SEGMENT_BYTES = 64_000_000
INBOX = "inbox"
"""Below the project's output: where the server writes and the follower reads."""


class StorageError(DataError):
    """Events could not be written; nothing of them is on disk."""


class Journal:
    """Appends events durably; what arrives while the disk is busy shares its next turn.

    Parameters
    ----------
    folder : Path
        Where the segments stand; made on the first event.
    segment_bytes : int
        A new segment begins after so many.
    """

    def __init__(self, folder: Path, segment_bytes: int = SEGMENT_BYTES) -> None:
        self.folder, self.segment_bytes = folder, segment_bytes
        self._handle: int | None = None
        self._size = 0
        self._queue: queue.SimpleQueue[tuple[bytes, Future[None]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._go, name="journal", daemon=True)
        self._thread.start()

    def append(self, events: Sequence[Mapping[str, Any]]) -> Future[None]:
        """Write events of one request; the future is done when they are safe.

        The future raises `StorageError` if they are not, and then nothing of them is on disk.
        """
        line = msgspec.json.encode(events[0] if len(events) == 1 else events) + b"\n"
        done: Future[None] = Future()
        self._queue.put((line, done))
        return done

    def close(self) -> None:
        """Write what waits and close the segment."""
        self._queue.put(None)
        self._thread.join()

    def _go(self) -> None:
        while (first := self._queue.get()) is not None:
            group, end = [first], False
            while not self._queue.empty():
                following = self._queue.get()
                if following is None:
                    end = True
                    break
                group.append(following)
            self._write(group)
            if end:
                break
        self._leave()

    def _write(self, group: Sequence[tuple[bytes, Future[None]]]) -> None:
        data = b"".join(line for line, _ in group)
        try:
            handle = self._segment()
            written = 0
            while written < len(data):
                written += os.write(handle, data[written:])
            os.fsync(handle)
            self._size += len(data)
        except OSError as error:
            self._undo()
            for _, done in group:
                done.set_exception(
                    StorageError(
                        f"the events were not stored: {error.strerror or error}",
                        fix="send them again when there is room on the disk",
                    )
                )
        else:
            for _, done in group:
                done.set_result(None)

    def _segment(self) -> int:
        """Handle of the segment to write to, a new one when the last is full."""
        if self._handle is not None and self._size >= self.segment_bytes:
            self._leave()
        if self._handle is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / f"{time.time_ns():020d}-{os.getpid()}.jsonl"
            self._handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o640)
            self._size = 0
            folder = os.open(self.folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        return self._handle

    def _undo(self) -> None:
        """Cut off what a failed write left, and go on in another file: this one cannot be trusted."""
        if self._handle is not None:
            os.ftruncate(self._handle, self._size)
            self._leave()

    def _leave(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
