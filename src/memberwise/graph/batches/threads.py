"""Batches made ahead by threads: the default, since the sampling kernels release the interpreter's lock."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from memberwise.errors import ConfigError

T = TypeVar("T")


class ThreadQueue(Generic[T]):
    """Batches ``make(start), ..., make(count - 1)`` in order, up to `depth` of them in advance.

    Parameters
    ----------
    make : callable
        From the number of a batch to the batch; called in a thread. What it returns depends on the number
        alone, so that a run resumed at `start` sees the same batches.
    count : int
        Number of batches.
    workers : int
        Threads.
    depth : int
        Batches under way or waiting; more memory, fewer waits.
    start : int
        First batch, when a run is resumed.

    Raises
    ------
    ConfigError
        If a number cannot be.

    Examples
    --------
    >>> list(ThreadQueue(lambda i: i * i, 5, start=2))
    [4, 9, 16]
    """

    def __init__(
        self, make: Callable[[int], T], count: int, workers: int = 1, depth: int = 4, start: int = 0
    ) -> None:
        check_sizes(count, workers, depth, start)
        self.make, self.count, self.workers, self.depth, self.start = make, count, workers, depth, start

    def __len__(self) -> int:
        return max(self.count - self.start, 0)

    def __iter__(self) -> Iterator[T]:
        waiting: deque[Future[T]] = deque()
        pool = ThreadPoolExecutor(self.workers, "memberwise-batches")
        try:
            for index in range(self.start, self.count):
                waiting.append(pool.submit(self.make, index))
                if len(waiting) > self.depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # also when the consumer stops early or a batch failed
            pool.shutdown(wait=True, cancel_futures=True)


def check_sizes(count: int, workers: int, depth: int, start: int) -> None:
    """Refuse numbers that cannot be."""
    for name, value, least in (
        ("count", count, 0),
        ("workers", workers, 1),
        ("depth", depth, 1),
        ("start", start, 0),
    ):
        if value < least:
            raise ConfigError(f"{name} is {value}, at least {least} is needed", where="queue of batches")
