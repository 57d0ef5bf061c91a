"""One thread that does the work of many requests, in turn, and says no before it is too late."""

from __future__ import annotations

import asyncio
import math
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from memberwise.serving.messages import Problem, Refused

T = TypeVar("T")


class Lane:
    """A thread with a bounded queue, fed from an event loop.

    What it holds is touched by this thread alone and needs no locks; the loop stays free to answer health
    checks, and to refuse, while the thread multiplies.

    Parameters
    ----------
    name
        Of the thread.
    places
        Works that may wait.
    patience
        Seconds that a work may wait; one that would wait longer is refused at once.
    """

    def __init__(self, name: str, places: int, patience: float) -> None:
        self.name, self.places, self.patience = name, places, patience
        self.service = 0.0
        """Seconds that a work takes, smoothed."""
        self._waiting = 0  # changed by the loop's thread alone
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._go, name=name, daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Works that wait or are being done."""
        return self._waiting

    async def run(self, work: Callable[[], T]) -> T:
        """Do a work in the thread.

        Raises
        ------
        Refused
            503 where there is no place, or its turn would not come (or did not come) in time.
        """
        if self._waiting >= self.places or self._waiting * self.service > self.patience:
            raise self._busy()
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        until = time.monotonic() + self.patience
        self._waiting += 1
        self._queue.put(lambda: self._do(work, done, loop, until))
        try:
            return await done
        finally:
            self._waiting -= 1

    def post(self, work: Callable[[], None]) -> None:
        """Do a work between others, without a limit and without an answer."""
        self._queue.put(work)

    def stop(self, timeout: float = 5.0) -> None:
        """End the thread after what waits."""
        self._queue.put(None)
        self._thread.join(timeout)

    def _busy(self) -> Refused:
        seconds = max(1, math.ceil(self._waiting * self.service))
        return Refused(503, Problem("the server is busy", fix="try again later"), retry_after=seconds)

    def _do(
        self,
        work: Callable[[], T],
        done: asyncio.Future[T],
        loop: asyncio.AbstractEventLoop,
        until: float,
    ) -> None:
        started = time.monotonic()
        value: Any = None
        error: Exception | None = None
        if started > until:
            error = self._busy()
        else:
            try:
                value = work()
            except Exception as raised:  # goes to whoever awaits it
                error = raised
            taken = time.monotonic() - started
            self.service = taken if not self.service else 0.9 * self.service + 0.1 * taken
        loop.call_soon_threadsafe(_settle, done, value, error)

    def _go(self) -> None:
        while (work := self._queue.get()) is not None:
            work()


def _settle(done: asyncio.Future[Any], value: Any, error: Exception | None) -> None:
    if done.done():  # the client is gone
        return
    if error is None:
        done.set_result(value)
    else:
        done.set_exception(error)
