"""A `VectorStore` in Redis: shared by machines, one round trip per request."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np
import redis

from memberwise.data.hashing import U64
from memberwise.data.timeline import ALWAYS, EmbeddingTimeline
from memberwise.errors import DataError
from memberwise.serving.stores import F32, LATEST, Flags, no_version, packed, unpacked

T = TypeVar("T")
_WIDTH = b"width"
_PIECE = 10_000
_ABANDONED = 3600


class RedisStore:
    """A hash ``memberwise:SPACE:VERSION:FEATURE`` with one field per entity.

    Parameters
    ----------
    url : str
        ``redis://host:port/db``.
    space : str
        Keeps projects in one database apart.
    patience
        Seconds that a request waits for an answer.
    """

    def __init__(self, url: str, space: str = "vectors", patience: float = 0.25) -> None:
        self._redis = redis.Redis.from_url(url, socket_timeout=patience, socket_connect_timeout=patience)
        self._patient = redis.Redis.from_url(url, socket_timeout=60.0, socket_connect_timeout=5.0)
        parts = urlsplit(url)
        self.where = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        """Its address without a password."""
        self._space = f"memberwise:{space}"
        self._versions = f"{self._space}:versions"

    def close(self) -> None:
        """Let go of the connections."""
        self._redis.close()
        self._patient.close()

    def fill(self, version: str, vectors: Mapping[str, EmbeddingTimeline]) -> bool:
        """See `VectorStore`; written beside, then named in one transaction."""
        return self._told("written", lambda: self._fill(version, vectors))

    def _fill(self, version: str, vectors: Mapping[str, EmbeddingTimeline]) -> bool:
        if self._patient.sismember(self._versions, version):
            return False
        spares = {feature: f"{self._space}:filling:{uuid.uuid4().hex}" for feature in vectors}
        try:
            for feature, timeline in vectors.items():
                self._write(spares[feature], timeline.latest(), feature)
            with self._patient.pipeline() as pipe:
                while True:
                    pipe.watch(self._versions)
                    if pipe.sismember(self._versions, version):  # another process was faster
                        return False
                    pipe.multi()
                    for feature, spare in spares.items():
                        pipe.persist(spare)
                        pipe.rename(spare, self._name(version, feature))
                        pipe.sadd(self._features(version), feature)
                    pipe.sadd(self._versions, version)
                    try:
                        pipe.execute()
                        return True
                    except redis.WatchError:
                        continue
        finally:
            self._patient.unlink(*spares.values()) if spares else None

    def _write(self, name: str, new: EmbeddingTimeline, feature: str) -> None:
        fields = _bytes(new.keys)
        values = packed(new.keys, new.cutoffs, new.vectors.astype(np.float32), new.dim, feature)
        self._patient.hset(name, _WIDTH, str(new.dim))
        self._patient.expire(name, _ABANDONED)  # should this process be killed
        for first in range(0, len(fields), _PIECE):
            part = slice(first, first + _PIECE)
            mapping: dict[Any, Any] = dict(zip(fields[part], values[part], strict=True))
            self._patient.hset(name, mapping=mapping)

    def get_many(
        self, version: str, asked: Mapping[str, U64], moment: int = LATEST
    ) -> dict[str, tuple[F32, Flags]]:
        """See `VectorStore`."""
        with self._redis.pipeline(transaction=False) as pipe:
            for feature, keys in asked.items():
                pipe.hmget(self._name(version, feature), [_WIDTH, *_bytes(keys)])
            answers = self._told("read", pipe.execute)
        out: dict[str, tuple[F32, Flags]] = {}
        for feature, (width, *found) in zip(asked, answers, strict=True):
            if width is None:
                raise no_version(version, feature)
            out[feature] = unpacked(found, int(width), moment)
        return out

    def put_many(self, version: str, feature: str, keys: U64, vectors: F32, since: int = ALWAYS) -> None:
        """See `VectorStore`; one command."""
        name = self._name(version, feature)
        width = self._told("read", lambda: self._patient.hget(name, _WIDTH))
        if width is None:
            raise no_version(version, feature)
        values = packed(keys, since, vectors, int(width), feature)
        mapping: dict[Any, Any] = dict(zip(_bytes(keys), values, strict=True))
        if mapping:
            self._told("written", lambda: self._patient.hset(name, mapping=mapping))

    def delete(self, feature: str, keys: U64) -> int:
        """See `VectorStore`."""
        fields, patient = _bytes(keys), self._patient
        if not fields:
            return 0
        names = [self._name(version, feature) for version in self.versions()]
        return self._told("written", lambda: sum(int(patient.hdel(n, *fields)) for n in names))

    def versions(self) -> list[str]:
        """See `VectorStore`."""
        found: Any = self._told("read", lambda: self._patient.smembers(self._versions))
        return sorted(name.decode() for name in found)

    def drop(self, version: str) -> None:
        """See `VectorStore`."""
        features: Any = self._told("read", lambda: self._patient.smembers(self._features(version)))
        with self._patient.pipeline(transaction=True) as pipe:
            pipe.srem(self._versions, version)
            pipe.unlink(self._features(version), *(self._name(version, f.decode()) for f in features))
            known, _ = self._told("written", pipe.execute)
        if not known:
            raise no_version(version)

    def keys(self, version: str, feature: str) -> U64:
        """See `VectorStore`."""
        found: Any = self._told("read", lambda: self._patient.hkeys(self._name(version, feature)))
        if not found:
            raise no_version(version, feature)
        return np.sort(np.frombuffer(b"".join(k for k in found if k != _WIDTH), ">u8").astype(np.uint64))

    def _told(self, done: str, work: Callable[[], T]) -> T:
        """Do it; a fault of Redis names its address, without a password."""
        try:
            return work()
        except redis.RedisError as error:
            raise DataError(f"cannot be {done}: {error}", where=self.where) from error

    def _name(self, version: str, feature: str) -> str:
        return f"{self._space}:{version}:{feature}"

    def _features(self, version: str) -> str:
        return f"{self._space}:{version}"


def _bytes(keys: U64) -> list[bytes]:
    packed = keys.astype(">u8").tobytes()
    return [packed[i : i + 8] for i in range(0, len(packed), 8)]
