"""Batches ahead of time: threads sample while the model trains."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Request = TypeVar("Request")
Answer = TypeVar("Answer")


def ahead(
    answer: Callable[[Request], Answer], requests: Iterable[Request], workers: int, depth: int = 2
) -> Iterator[Answer]:
    """Answers in the order of the requests, computed by threads up to `depth` each ahead.

    Kernels release the interpreter's lock, so that threads sample while the model trains.

    Parameters
    ----------
    answer
        Makes a batch; called from several threads at once.
    requests
        What is wanted, in order.
    workers
        Threads; 0 computes each answer when it is asked for.
    depth
        Answers per thread that may wait.
    """
    if not workers:
        yield from map(answer, requests)
        return
    waiting: deque[Future[Answer]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="sampler") as pool:
        try:
            for request in requests:
                waiting.append(pool.submit(answer, request))
                if len(waiting) > workers * depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
