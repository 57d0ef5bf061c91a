"""A `VectorStore` in Redis: shared by machines, one round trip per call."""

from __future__ import annotations

from typing import Any

import numpy as np
import redis

from memberwise.data.hashing import U64
from memberwise.errors import DataError
from memberwise.serving.stores import F32, Flags, no_version

_WIDTH = b"width"


class RedisStore:
    """Hashes ``memberwise:FEATURE@VERSION`` with one field per entity.

    Parameters
    ----------
    url : str
        ``redis://host:port/db``.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._redis = redis.Redis.from_url(url)

    def get_many(self, feature: str, version: str, keys: U64) -> tuple[F32, Flags]:
        """See `VectorStore`."""
        fields: list[Any] = [_WIDTH, *_bytes(keys)]
        width, *found = self._ask("hmget", _name(feature, version), fields)
        if width is None:
            raise no_version(feature, version)
        there = np.fromiter((v is not None for v in found), np.bool_, len(found))
        out: F32 = np.zeros((len(found), int(width)), np.float32)
        if there.any():
            packed = b"".join(v for v in found if v is not None)
            out[there] = np.frombuffer(packed, np.float32).reshape(-1, int(width))
        return out, there

    def put_many(self, feature: str, version: str, keys: U64, vectors: F32) -> None:
        """See `VectorStore`; one transaction."""
        rows = np.ascontiguousarray(vectors, np.float32)
        values: dict[Any, Any] = {k: rows[i].tobytes() for i, k in enumerate(_bytes(keys))}
        values[_WIDTH] = rows.shape[1]
        try:
            with self._redis.pipeline(transaction=True) as pipe:
                pipe.hset(_name(feature, version), mapping=values)
                pipe.sadd("memberwise:names", _name(feature, version))
                pipe.execute()
        except redis.RedisError as error:
            raise DataError(f"cannot be written: {error}", where=self.url) from error

    def delete(self, keys: U64) -> int:
        """See `VectorStore`."""
        names = _bytes(keys)
        return sum(int(self._ask("hdel", name, *names)) for name in self._names()) if names else 0

    def versions(self, feature: str) -> list[str]:
        """See `VectorStore`."""
        parts = [n.decode().removeprefix("memberwise:").rpartition("@") for n in self._names()]
        return sorted(version for name, _, version in parts if name == feature)

    def drop(self, feature: str, version: str) -> None:
        """See `VectorStore`."""
        name = _name(feature, version)
        if not self._ask("delete", name):
            raise no_version(feature, version)
        self._ask("srem", "memberwise:names", name)

    def keys(self, feature: str, version: str) -> U64:
        """See `VectorStore`."""
        packed = b"".join(k for k in self._ask("hkeys", _name(feature, version)) if len(k) == 8)
        if not packed and version not in self.versions(feature):
            raise no_version(feature, version)
        return np.sort(np.frombuffer(packed, ">u8").astype(np.uint64))

    def _names(self) -> list[bytes]:
        return sorted(self._ask("smembers", "memberwise:names"))

    def _ask(self, command: str, *arguments: Any) -> Any:
        try:
            return getattr(self._redis, command)(*arguments)
        except redis.RedisError as error:
            raise DataError(f"cannot be read: {error}", where=self.url) from error


def _name(feature: str, version: str) -> bytes:
    return f"memberwise:{feature}@{version}".encode()


def _bytes(keys: U64) -> list[bytes]:
    packed = keys.astype(">u8").tobytes()
    return [packed[i : i + 8] for i in range(0, len(packed), 8)]
