"""The vectors of a request: from the version in memory, or from a store that other processes write to."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from memberwise.data.hashing import U64
from memberwise.data.timeline import EmbeddingTimeline
from memberwise.errors import DataError
from memberwise.serving.stores import Flags, VectorStore

log = logging.getLogger("memberwise.serving")
F32 = npt.NDArray[np.float32]
PAUSE = 1.0
"""Seconds in which a store that has failed is not asked: requests must not wait for it one by one."""


class VectorReader:
    """Reads the vectors of requests.

    With a store, all features of a request are asked for in one round trip; what the store does not have, or
    cannot say at the moment, comes from the version.

    Parameters
    ----------
    timelines
        Of the version, by feature.
    store, version
        Where newer vectors of the same version may stand, and its name there.
    """

    def __init__(
        self, timelines: Mapping[str, EmbeddingTimeline], store: VectorStore | None = None, version: str = ""
    ) -> None:
        self.timelines, self.store, self.version = timelines, store, version
        self.missed: dict[str, int] = {}
        """Entities of the last request whose vector the store did not have, by feature."""
        self.failed: str | None = None
        """Why the last request was answered without the store, if it was."""
        self._again = 0.0

    def read(self, keys: Mapping[str, U64], moment: int) -> dict[str, F32]:
        """Vectors ``[n, d]`` of each feature at a moment; zero where there is none.

        Parameters
        ----------
        keys : dict of ndarray of uint64, [n]
            By feature; 0 for an id that is missing.
        moment
            Microseconds.
        """
        if self.store is None:
            return {name: self._own(name, k, moment) for name, k in keys.items()}
        self.missed = {}
        stored = self._ask(self.store, keys, moment)
        out = {}
        for name, k in keys.items():
            if name not in stored:
                out[name] = self._own(name, k, moment)
                continue
            vectors, there = stored[name]
            if not there.all():
                vectors[~there] = self._own(name, k[~there], moment)
            out[name] = vectors
        return out

    def _own(self, name: str, keys: U64, moment: int) -> F32:
        line = self.timelines[name]
        return line.gather(line.rows(keys, np.full(len(keys), moment)))

    def _ask(self, store: VectorStore, keys: Mapping[str, U64], moment: int) -> dict[str, tuple[F32, Flags]]:
        if not keys:
            self.failed = None
            return {}
        if time.monotonic() < self._again:
            return {}
        try:
            # A request's rows often have one key: its member's.
            distinct = {name: np.unique(k, return_inverse=True) for name, k in keys.items()}
            found = store.get_many(self.version, {name: d[0] for name, d in distinct.items()}, moment)
            for name, (vectors, _) in found.items():
                if vectors.shape[1] != (dim := self.timelines[name].dim):
                    raise DataError(f"{name} has width {vectors.shape[1]} in the store, not {dim}")
        except (DataError, OSError) as error:
            self.failed, self._again = str(error), time.monotonic() + PAUSE
            log.warning("the store is not read", extra={"fields": {"reason": str(error)}})
            return {}
        self.failed = None
        for name, (_, there) in found.items():
            self.missed[name] = int((~there & (distinct[name][0] != 0)).sum())
        return {name: (v[distinct[name][1]], there[distinct[name][1]]) for name, (v, there) in found.items()}
