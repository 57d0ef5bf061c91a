"""The version in service, and its successor: loaded and warmed beside it, then put in its place."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from memberwise import bundle
from memberwise.errors import BundleError, DataError, MemberwiseError
from memberwise.serving.publishing import pin, publish
from memberwise.serving.served import Served
from memberwise.serving.settings import ServingSettings
from memberwise.serving.stores import VectorStore

log = logging.getLogger("memberwise.serving")


def no_version(bundles: Path) -> BundleError:
    """The error where nothing was ever published."""
    return BundleError("there is no version to serve", where=str(bundles), fix="memberwise fit PROJECT")


class Keeper:
    """Watches which version is current and serves the newest that loads.

    A request takes `served` once and keeps it: no answer mixes versions, and a version that was replaced
    goes when its last request ends.

    Parameters
    ----------
    bundles : Path
        Directory of all versions.
    settings
        Of the server.
    switch
        Called with each new version to put it in service between requests; default: at once.
    besides
        What else to look at, each time.
    store
        Where the vectors of requests come from, and are put before a version is in service; default: from
        the version itself.
    """

    def __init__(
        self,
        bundles: Path,
        settings: ServingSettings,
        switch: Callable[[Callable[[], None]], None] = lambda put: put(),
        besides: Callable[[], None] = lambda: None,
        store: VectorStore | None = None,
    ) -> None:
        self.bundles, self.settings, self._switch, self._besides = bundles, settings, switch, besides
        self.store = store
        self.served: Served | None = None
        self.refused: dict[str, str] = {}
        """Versions that could not be loaded, with the reason."""
        self.swaps = 0
        self._looked: str | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def open(self) -> Served:
        """Load the current version, or the newest older one that loads.

        Raises
        ------
        BundleError
            If no version can be served.
        """
        now = self._looked = bundle.current(self.bundles)
        if now is None:
            raise no_version(self.bundles)
        names = [now, *(v.name for v in reversed(bundle.versions(self.bundles)) if v.name < now)]
        for name in names:
            found = self._load(name)
            if found is not None:
                self.served = found
                return found
        reasons = "; ".join(f"{name}: {reason}" for name, reason in self.refused.items())
        raise BundleError(f"no version can be served: {reasons}", where=str(self.bundles))

    def look(self) -> None:
        """Follow the pointer once: load what became current, or report why not."""
        now = bundle.current(self.bundles)
        if now is None or now == self._looked:
            return
        self._looked = now
        if self.served is not None and now == self.served.version:
            return
        found = self._load(now)
        if found is None:
            return

        def put() -> None:
            self.served = found
            self.swaps += 1
            log.info("swapped", extra={"fields": {"version": found.version}})

        self._switch(put)

    def watch(self) -> None:
        """Look again and again, in a thread, until `close`."""
        self._thread = threading.Thread(target=self._go, name="keeper", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop to watch."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(self.settings.watch + 5)

    def _go(self) -> None:
        while not self._stop.wait(self.settings.watch):
            try:
                self.look()
                self._besides()
            except Exception:  # whatever it is, the version in service goes on
                log.exception("the current version cannot be looked at")

    def _load(self, name: str) -> Served | None:
        try:
            found = Served.load(self.bundles / name, self.settings)
            found.warm()
            if self.store is not None:
                self._fill(found, self.store)
        except (MemberwiseError, OSError, ValueError, KeyError, RuntimeError) as error:
            self.refused[name] = str(error)
            log.error("refused", extra={"fields": {"version": name, "reason": str(error)}})
            return None
        self.refused.pop(name, None)
        return found

    def _fill(self, found: Served, store: VectorStore) -> None:
        """Put a version's vectors into the store; where that fails, requests take the version's own."""
        version = pin(self.bundles / found.version)
        try:
            publish(found.rec, store, version)
        except (DataError, OSError) as error:
            log.error("the store is not filled", extra={"fields": {"version": version, "reason": str(error)}})
        found.read_from(store, version)
