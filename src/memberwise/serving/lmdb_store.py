"""A `VectorStore` in LMDB: embedded, one writer at a time, any number of reading processes, crash-safe."""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import lmdb
import numpy as np

from memberwise.data.hashing import U64, hash_text
from memberwise.data.timeline import ALWAYS, EmbeddingTimeline, Vectors
from memberwise.errors import DataError
from memberwise.serving.stores import F32, LATEST, Flags, no_version, packed, unpacked

_MAP = 1 << 38  # address space, not memory or disk
_FILE = "data.mdb"
_NAME = np.dtype([("feature", ">u8"), ("key", ">u8")])
_AWAY = ".away-"
"""Before the names of directories that are no versions: not yet, or not any more."""


class LmdbStore:
    """A directory with an LMDB environment per version, made beside the others and renamed into place.

    Dropping a version removes its files: nothing of it stays in free pages. A process that has it open keeps
    reading what it has open, and finds what stands there now at its next call.

    Parameters
    ----------
    folder : Path
        Made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._open: dict[str, tuple[int, lmdb.Environment]] = {}
        self._lock = threading.RLock()
        self._sweep()

    def close(self) -> None:
        """Let go of the environments."""
        with self._lock:
            for _, env in self._open.values():
                env.close()
            self._open.clear()

    def fill(self, version: str, vectors: Mapping[str, EmbeddingTimeline]) -> bool:
        """See `VectorStore`. A version whose file is damaged is replaced."""
        if self._is_whole(version):
            return False
        try:
            with self._draft() as spare:
                return self._fill(version, vectors, spare)
        except (lmdb.Error, OSError) as error:
            raise DataError(f"cannot be written: {error}", where=str(self.folder / version)) from error

    def _fill(self, version: str, vectors: Mapping[str, EmbeddingTimeline], spare: Path) -> bool:
        env, place = _environment(spare, create=True), self.folder / version
        try:
            with env.begin(write=True) as transaction, transaction.cursor() as cursor:
                for feature, timeline in vectors.items():
                    new = timeline.latest()
                    transaction.put(_width(feature), str(new.dim).encode())
                    values = packed(new.keys, new.cutoffs, _single(new.vectors), new.dim, feature)
                    cursor.putmulti(zip(_names(feature, new.keys), values, strict=True))
        finally:
            env.close()
        with self._lock:
            if self._is_whole(version):  # another process was faster
                return False
            shutil.rmtree(place, ignore_errors=True)
            try:
                spare.rename(place)
            except OSError:
                if not self._is_whole(version):
                    raise
                return False
        _sync(self.folder)
        return True

    @contextmanager
    def _draft(self) -> Iterator[Path]:
        """A new directory, locked while its writer lives; removed if left over."""
        spare = self.folder / f"{_AWAY}{uuid.uuid4().hex}"
        spare.mkdir()
        held = os.open(spare, os.O_RDONLY)
        try:
            fcntl.flock(held, fcntl.LOCK_EX)
            yield spare
        finally:
            shutil.rmtree(spare, ignore_errors=True)
            os.close(held)

    def _sweep(self) -> None:
        """Remove what was put away, and what writers that were killed have left."""
        for left in self.folder.glob(f"{_AWAY}*"):
            with suppress(OSError):  # gone, or its writer lives
                held = os.open(left, os.O_RDONLY)
                try:
                    fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(left, ignore_errors=True)
                finally:
                    os.close(held)

    def get_many(
        self, version: str, asked: Mapping[str, U64], moment: int = LATEST
    ) -> dict[str, tuple[F32, Flags]]:
        """See `VectorStore`; one transaction."""
        out: dict[str, tuple[F32, Flags]] = {}
        with self._lock:
            env = self._environment(version)
            try:
                with env.begin() as transaction:
                    for feature, keys in asked.items():
                        width = _width_of(transaction, version, feature)
                        values = list(map(transaction.get, _names(feature, keys)))
                        out[feature] = unpacked(values, width, moment)
            except lmdb.Error as error:
                raise DataError(f"cannot be read: {error}", where=str(self.folder / version)) from error
        return out

    def put_many(self, version: str, feature: str, keys: U64, vectors: F32, since: int = ALWAYS) -> None:
        """See `VectorStore`."""
        try:
            with self._lock:
                while not self._put(version, feature, keys, vectors, since):
                    pass  # replaced while this process waited for its turn
        except lmdb.Error as error:
            raise DataError(f"cannot be written: {error}", where=str(self.folder / version)) from error

    def _put(self, version: str, feature: str, keys: U64, vectors: F32, since: int) -> bool:
        env = self._environment(version)
        with env.begin(write=True) as transaction, transaction.cursor() as cursor:
            if self._stands(version) != self._open[version][0]:
                return False
            width = _width_of(transaction, version, feature)
            values = packed(keys, since, _single(vectors), width, feature)
            cursor.putmulti(sorted(zip(_names(feature, keys), values, strict=True)))
        return True

    def delete(self, feature: str, keys: U64) -> int:
        """See `VectorStore`. (What is to leave no byte on disk goes with its whole version: `drop`.)"""
        gone, names = 0, _names(feature, keys)
        with self._lock:
            for version in self.versions():
                with self._environment(version).begin(write=True) as transaction:
                    gone += sum(transaction.delete(name) for name in names)
        return gone

    def versions(self) -> list[str]:
        """See `VectorStore`."""
        return sorted(p.name for p in self.folder.iterdir() if p.is_dir() and not p.name.startswith("."))

    def drop(self, version: str) -> None:
        """See `VectorStore`."""
        with self._lock:
            if (held := self._open.pop(version, None)) is not None:
                held[1].close()
            try:
                # Away in one step: nobody may open a half of it.
                (self.folder / version).rename(self.folder / f"{_AWAY}{uuid.uuid4().hex}")
            except FileNotFoundError:
                raise no_version(version) from None
        self._sweep()

    def keys(self, version: str, feature: str) -> U64:
        """See `VectorStore`."""
        start = hash_text(feature).to_bytes(8, "big")
        with self._lock, self._environment(version).begin() as transaction:
            _width_of(transaction, version, feature)
            packed = bytearray()
            with transaction.cursor() as cursor:
                if cursor.set_range(start):
                    for name in cursor.iternext(keys=True, values=False):
                        if name[:8] != start:
                            break
                        packed += name[8:16]
        return np.frombuffer(bytes(packed), ">u8").astype(np.uint64)

    def _is_whole(self, version: str) -> bool:
        try:
            self._environment(version)
        except DataError:
            return False
        return True

    def _stands(self, version: str) -> int | None:
        """Number of the file that stands for a version now."""
        try:
            return (self.folder / version / _FILE).stat().st_ino
        except FileNotFoundError:
            return None

    def _environment(self, version: str) -> lmdb.Environment:
        with self._lock:
            now, held = self._stands(version), self._open.get(version)
            if held is not None:
                if held[0] == now:
                    return held[1]
                held[1].close()
                del self._open[version]
            if now is None:
                raise no_version(version)
            for other in [v for v, (stood, _) in self._open.items() if self._stands(v) != stood]:
                self._open.pop(other)[1].close()  # dropped by another process: let go of its disk space
            env = _environment(self.folder / version, create=False)
            self._open[version] = now, env
            return env


def _environment(folder: Path, create: bool) -> lmdb.Environment:
    """An environment, if its file is whole: reading beyond its end would kill the process."""
    file, fix = folder / _FILE, "remove the directory: the next server that loads the version fills it again"
    # LMDB writes two pages before anything else: a shorter file is none of its own.
    if file.is_file() and file.stat().st_size < 8192:
        raise DataError("the file is truncated", where=str(file), fix=fix)
    try:
        env = lmdb.open(str(folder), map_size=_MAP, create=create)
    except lmdb.Error as error:
        raise DataError(f"cannot be opened: {error}", where=str(folder), fix=fix) from error
    last = env.info()["last_pgno"]
    if last > 1 and file.stat().st_size < (last + 1) * env.stat()["psize"]:
        env.close()
        raise DataError("the file is truncated", where=str(file), fix=fix)
    return env


def _width_of(transaction: lmdb.Transaction, version: str, feature: str) -> int:
    width = transaction.get(_width(feature))
    if width is None:
        raise no_version(version, feature)
    return int(width)


def _width(feature: str) -> bytes:
    return b"\0width of " + feature.encode() + b"\0" * 16  # longer than any key


def _names(feature: str, keys: U64) -> list[bytes]:
    """The feature's hash and the key, big-endian: LMDB keeps them in the order of the numbers."""
    rows = np.empty(len(keys), _NAME)
    rows["feature"], rows["key"] = hash_text(feature), keys
    whole = rows.tobytes()
    return [whole[i : i + 16] for i in range(0, len(whole), 16)]


def _single(vectors: Vectors) -> F32:
    return vectors.astype(np.float32, copy=False)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
