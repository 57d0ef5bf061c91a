"""A Redis stream as a source of events, read by a consumer group."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import msgspec
import redis

from memberwise.errors import ConfigError, DataError
from memberwise.serving.sources import Event, Piece, Position


class RedisStream:
    """Entries of a stream, each with a field ``event`` that holds JSON: an object or a list of objects.

    The group says what other consumers may have; the position, which stands in the published version, says
    what has taken effect: after a crash, entries that were delivered and not acknowledged come again, and
    those before the position are acknowledged without being counted again.

    Parameters
    ----------
    url : str
        ``redis://host:port/db``.
    stream, group, consumer : str
        Names.

    Raises
    ------
    ConfigError
        If the server cannot be reached.
    """

    def __init__(self, url: str, stream: str, group: str = "memberwise", consumer: str = "follower") -> None:
        self.stream, self.group, self.consumer = stream, group, consumer
        where = urlsplit(url)  # without a password: positions stand in manifests
        self.name = f"{where.scheme}://{where.hostname or ''}:{where.port or ''}{where.path}?stream={stream}"
        self._redis = redis.Redis.from_url(url)
        self._given = "0-0"
        self._first, self._pending = True, True  # first what was delivered before a crash
        try:
            self._redis.xgroup_create(stream, group, id="0", mkstream=True)
        except redis.ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise
        except redis.RedisError as error:
            raise ConfigError(f"cannot be reached: {error}", where=url) from error

    def read(self, position: Position, limit: int) -> Piece:
        """See `EventSource`."""
        last = str(position.get("id", "0-0"))
        if self._first:  # from the published version: what stands in it needs no second delivery
            self._acknowledge(last)
            self._first = False
        # A step that failed after it had read asks again for what the group has delivered by now.
        self._pending = self._pending or _number(last) < _number(self._given)
        entries = self._entries(last if self._pending else ">", limit)
        if self._pending and not entries:
            self._pending = False
            entries = self._entries(">", limit)
        events: list[Event] = []
        broken: list[str] = []
        for name, fields in entries:
            if _number(name) <= _number(last):
                continue
            last = name
            try:
                found = msgspec.json.decode(fields.get(b"event", b""), type=list[Event] | Event)
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
                broken.append(f"{self.stream} {name}: {error}")
                continue
            events.extend(found if isinstance(found, list) else [found])
        self._given = max(self._given, last, key=_number)
        return Piece(events, {"id": last}, broken)

    def settled(self, position: Position) -> None:
        """Acknowledge everything before the position."""
        self._acknowledge(str(position.get("id", "0-0")))

    def _acknowledge(self, last: str) -> None:
        try:
            waiting = self._redis.xpending_range(self.stream, self.group, "-", last, 100_000, self.consumer)
            names = [entry["message_id"] for entry in waiting]
            if names:
                self._redis.xack(self.stream, self.group, *names)
        except redis.RedisError as error:
            raise DataError(f"cannot be reached: {error}", where=f"stream {self.stream}") from error

    def _entries(self, start: str, limit: int) -> list[tuple[str, dict[bytes, bytes]]]:
        try:
            found: Any = self._redis.xreadgroup(
                self.group, self.consumer, {self.stream: start}, count=limit, block=None
            )
        except redis.RedisError as error:
            raise DataError(f"cannot be read: {error}", where=f"stream {self.stream}") from error
        parts = found.values() if isinstance(found, dict) else [rows for _, rows in found or []]
        entries: list[tuple[str, dict[bytes, bytes]]] = []
        for rows in parts:
            for row in rows[0] if rows and isinstance(rows[0], list) else rows:
                entries.append((row[0].decode(), row[1] or {}))
        return entries


def _number(name: str) -> tuple[int, int]:
    """Entries are ordered by time, then by number."""
    time, _, place = name.partition("-")
    return int(time), int(place or 0)
