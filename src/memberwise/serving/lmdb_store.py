"""A `VectorStore` in LMDB: embedded, one writer at a time, any number of reading processes, crash-safe."""

from __future__ import annotations

from pathlib import Path

import lmdb
import numpy as np

from memberwise.data.hashing import U64
from memberwise.errors import DataError
from memberwise.serving.stores import F32, Flags, no_version

_MAP = 1 << 38  # address space, not memory or disk
_FILE = "data.mdb"


class LmdbStore:
    """A directory with an LMDB environment; one database per feature and version.

    Parameters
    ----------
    folder : Path
        Made if it is not there (unless `readonly`).
    readonly
        For processes that only read.

    Raises
    ------
    DataError
        If the file is truncated or something else. (Reading beyond its end would kill the process.)
    """

    def __init__(self, folder: Path, readonly: bool = False) -> None:
        self.folder = folder
        _look_at(folder / _FILE)
        try:
            self._env = lmdb.open(
                str(folder), map_size=_MAP, max_dbs=1024, readonly=readonly, create=not readonly
            )
        except lmdb.Error as error:
            raise DataError(f"cannot be opened: {error}", where=str(folder)) from error
        size, info = (folder / _FILE).stat().st_size, self._env.info()
        if info["last_pgno"] > 1 and size < (info["last_pgno"] + 1) * self._env.stat()["psize"]:
            self._env.close()
            raise DataError("the file is truncated", where=str(folder / _FILE), fix="publish it again")

    def close(self) -> None:
        """Let go of the environment."""
        self._env.close()

    def get_many(self, feature: str, version: str, keys: U64) -> tuple[F32, Flags]:
        """See `VectorStore`."""
        try:
            database = self._env.open_db(_name(feature, version), create=False)
        except lmdb.NotFoundError:
            raise no_version(feature, version) from None
        wanted = _bytes(keys)
        with self._env.begin(database, buffers=False) as transaction, transaction.cursor() as cursor:
            found = dict(cursor.getmulti(wanted))
            width = len(transaction.get(b"width") or b"")  # as many bytes as a vector has numbers
        there = np.fromiter((k in found for k in wanted), np.bool_, len(wanted))
        out: F32 = np.zeros((len(wanted), width), np.float32)
        if there.any():
            packed = b"".join(found[k] for k in wanted if k in found)
            out[there] = np.frombuffer(packed, np.float32).reshape(-1, width)
        return out, there

    def put_many(self, feature: str, version: str, keys: U64, vectors: F32) -> None:
        """See `VectorStore`."""
        name, order = _name(feature, version), np.argsort(keys)
        rows = np.ascontiguousarray(vectors, np.float32)
        with self._env.begin(write=True) as transaction:
            database = self._env.open_db(name, transaction)
            transaction.put(b"width", bytes(rows.shape[1]), db=database)
            with transaction.cursor(database) as cursor:
                names = _bytes(keys)
                cursor.putmulti((names[i], rows[i].tobytes()) for i in order)

    def delete(self, keys: U64) -> int:
        """See `VectorStore`."""
        gone = 0
        names = _bytes(keys)
        with self._env.begin(write=True) as transaction:
            for name in self._databases(transaction):
                database = self._env.open_db(name, transaction, create=False)
                gone += sum(transaction.delete(k, db=database) for k in names)
        return gone

    def versions(self, feature: str) -> list[str]:
        """See `VectorStore`."""
        with self._env.begin() as transaction:
            names = [n.decode().rpartition("@") for n in self._databases(transaction)]
        return sorted(version for name, _, version in names if name == feature)

    def drop(self, feature: str, version: str) -> None:
        """See `VectorStore`."""
        with self._env.begin(write=True) as transaction:
            try:
                database = self._env.open_db(_name(feature, version), transaction, create=False)
            except lmdb.NotFoundError:
                raise no_version(feature, version) from None
            transaction.drop(database)

    def keys(self, feature: str, version: str) -> U64:
        """See `VectorStore`."""
        try:
            database = self._env.open_db(_name(feature, version), create=False)
        except lmdb.NotFoundError:
            raise no_version(feature, version) from None
        with self._env.begin(database) as transaction, transaction.cursor() as cursor:
            packed = b"".join(k for k in cursor.iternext(keys=True, values=False) if len(k) == 8)
        return np.frombuffer(packed, ">u8").astype(np.uint64)

    @staticmethod
    def _databases(transaction: lmdb.Transaction) -> list[bytes]:
        with transaction.cursor() as cursor:
            return [bytes(n) for n in cursor.iternext(keys=True, values=False)]


def _look_at(file: Path) -> None:
    """LMDB writes two pages before anything else: a shorter file is none of its own."""
    if file.is_file() and file.stat().st_size < 8192:
        raise DataError("the file is truncated", where=str(file), fix="publish it again")


def _name(feature: str, version: str) -> bytes:
    return f"{feature}@{version}".encode()


def _bytes(keys: U64) -> list[bytes]:
    """Keys as big-endian bytes: LMDB keeps them in the order of the numbers."""
    packed = keys.astype(">u8").tobytes()
    return [packed[i : i + 8] for i in range(0, len(packed), 8)]
