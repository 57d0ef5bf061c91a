"""Versions in a store: what they are called there, and how their vectors come in and go."""

from __future__ import annotations

import hashlib
from pathlib import Path
from urllib.parse import urlsplit

from memberwise import bundle
from memberwise.data import tombstones
from memberwise.errors import ConfigError, DataError
from memberwise.project import Project
from memberwise.recommender import Recommender
from memberwise.serving.stores import VectorStore

FOLDER = "vectors"
"""Of the embedded store, in the project's output."""


def pin(folder: Path) -> str:
    """Name of a saved version in a store: its number, and a digest of everything in it.

    Another project, another fit or a rewritten version may have the same number; it has another pin.
    """
    files = bundle.read_manifest(folder).files
    told = "\n".join(f"{name} {files[name]['sha256']}" for name in sorted(files))
    return f"{folder.name}-{hashlib.sha256(told.encode()).hexdigest()[:12]}"


def publish(rec: Recommender, store: VectorStore, version: str, keep: int = 2) -> list[str]:
    """Fill a store with the newest vectors of a version's features, unless it holds the version already.

    Members who were to be forgotten are left out.

    Parameters
    ----------
    rec
        The version.
    store
        Where to.
    version
        Its `pin`.
    keep
        Versions that stay, this one among them; older ones go.

    Returns
    -------
    list of str
        The features.
    """
    gone = tombstones.read(rec.project.output)
    lines = {n: v.without(gone) if v.entity == "member" else v for n, v in rec.pipeline.vectors.items()}
    if store.fill(version, lines):
        others = [v for v in store.versions() if v != version]
        for old in others[: len(others) - keep + 1]:
            _drop(store, old)
    return list(lines)


def refill(project: Project, store: VectorStore) -> str | None:
    """Empty a store, then fill it with the current version: what is to be forgotten is gone.

    Returns
    -------
    str or None
        The pin of the current version, if there is one.
    """
    for version in store.versions():
        _drop(store, version)
    if bundle.current(project.bundles) is None:
        return None
    rec = Recommender.load(project.bundles)
    version = pin(bundle.resolve(project.bundles))
    publish(rec, store, version)
    return version


def _drop(store: VectorStore, version: str) -> None:
    """Drop a version, unless another process was faster."""
    try:
        store.drop(version)
    except DataError:
        if version in store.versions():
            raise


def open_store(project: Project, address: str) -> VectorStore | None:
    """The store of an address: ``memory`` (none), ``lmdb`` (in the project's output), or that of a Redis.

    Raises
    ------
    ConfigError
        If there is no such store, or its library is not installed.
    DataError
        If it is damaged.
    """
    if address == "memory":
        return None
    kind = urlsplit(address).scheme
    try:
        if address == "lmdb":
            from memberwise.serving.lmdb_store import LmdbStore

            return LmdbStore(project.output / FOLDER)
        if kind in ("redis", "rediss", "unix"):
            from memberwise.serving.redis_store import RedisStore

            return RedisStore(address, project.config.name)
    except ImportError as error:
        raise ConfigError(
            f"{error.name} is not installed",
            where="--store",
            fix="pip install 'memberwise[serve,redis]'",
        ) from error
    raise ConfigError(
        "is no store", where=f"--store {address}", fix="use memory, lmdb, or redis://HOST:PORT/DB"
    )
