"""Batches made ahead by processes, handed over through slots of shared memory.

The consumer is the only one who decides: it gives every worker, over a pipe of its own, the number of a batch
and the slot to put it into, and takes word when the slot is full. There is no lock that a killed worker could
hold and no list that it could leave half written: what it was given is known, and is given to another. A
batch gets its slot when it gets its number, lowest first, so that later batches never fill all slots while an
earlier one waits for room.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import connection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from memberwise.errors import MemberwiseError
from memberwise.graph.batches.buffer import Arrays, SharedBuffer, nbytes
from memberwise.graph.batches.threads import check_sizes

_AHEAD = 2
"""Batches a worker is given: one to work on, one to go on with."""
_PATIENCE = 5.0
"""Seconds that a worker gets to end by itself."""


@dataclass
class _Worker:
    process: Any
    pipe: connection.Connection
    given: dict[int, int] = field(default_factory=dict)
    """Slot of each batch that it was given and has not finished."""


class SharedMemoryQueue:
    """Batches ``make(start), ..., make(count - 1)`` in order, each exactly once, made by processes.

    For transforms in Python, which threads cannot run side by side; else `ThreadQueue` is as fast and
    simpler. Iterate inside of ``with``. The arrays of a batch are views of a slot: they hold until the next
    batch is asked for, so copy what must stay (as a move to a device does).

    Parameters
    ----------
    make : callable
        From the number of a batch to its arrays by name; it is sent to the workers. What it returns depends
        on the number alone: a batch that is lost with its worker is made again by another.
    count : int
        Number of batches.
    workers : int
        Processes.
    slots : int, optional
        Batches that are being made, wait or are in use; at least one more than workers; default: two more.
    slot_bytes : int, optional
        Size of a slot; default: that of the first batch and a quarter. A batch that is larger goes through
        the pipe instead, which is slower (see `oversized`).
    start : int
        First batch, when a run is resumed.
    retries : int
        How often a batch may lose its worker before the queue gives up.
    start_method : str
        Of `multiprocessing`.
    folder : Path, optional
        Where the memory lies; default ``/dev/shm``.

    Attributes
    ----------
    oversized : int
        Batches so far that did not fit into a slot.
    restarts : int
        Workers so far that died and were replaced.

    Raises
    ------
    MemberwiseError
        If the memory is not there, a batch fails in `make`, or a batch loses its worker too often.
    """

    def __init__(
        self,
        make: Callable[[int], Arrays],
        count: int,
        workers: int = 1,
        slots: int | None = None,
        slot_bytes: int | None = None,
        start: int = 0,
        retries: int = 2,
        start_method: str = "forkserver",
        folder: Path | None = None,
    ) -> None:
        slots = workers + 2 if slots is None else slots
        check_sizes(count, workers, slots - workers, start)
        if slot_bytes is None:
            slot_bytes = nbytes(make(start)) * 5 // 4 if start < count else 1
        self.make, self.count, self.start, self.retries = make, count, start, retries
        self.oversized = self.restarts = 0
        self._context: Any = multiprocessing.get_context(start_method)
        if start_method == "forkserver":  # children are copies of a process that has imported all this
            self._context.set_forkserver_preload([__name__, type(make).__module__])
        self._next = start
        self._buffer = SharedBuffer(slots, max(slot_bytes, 1), folder)
        self._free = deque(range(slots))
        self._again: deque[tuple[int, int]] = deque()
        self._lost: dict[int, int] = {}
        self._workers: list[_Worker] = []
        try:
            for _ in range(min(workers, max(count - start, 1))):
                self._workers.append(self._hire())
        except BaseException:
            self.close()
            raise

    def __len__(self) -> int:
        return max(self.count - self.start, 0)

    def __enter__(self) -> SharedMemoryQueue:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[dict[str, npt.NDArray[Any]]]:
        ready: dict[int, tuple[int, dict[str, npt.NDArray[Any]]]] = {}
        for index in range(self.start, self.count):
            self._give()
            while index not in ready:
                ready |= self._take()
                self._give()
            slot, arrays = ready.pop(index)
            yield arrays
            del arrays
            self._free.append(slot)

    def close(self) -> None:
        """End the workers and let go of the memory."""
        for worker in self._workers:
            with suppress(OSError):  # it is gone already
                worker.pipe.send(None)
        until = time.monotonic() + _PATIENCE
        for worker in self._workers:
            worker.process.join(max(until - time.monotonic(), 0.0))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.pipe.close()
            worker.process.close()
        self._workers.clear()
        self._buffer.close()

    def _hire(self) -> _Worker:
        mine, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_work, args=(theirs, self._buffer, self.make), name="memberwise-batches", daemon=True
        )
        process.start()
        theirs.close()
        return _Worker(process, mine)

    def _give(self) -> None:
        """Hand out batches, lowest number first, to whoever has least to do."""
        while True:
            idle = min(self._workers, key=lambda w: len(w.given))
            if len(idle.given) >= _AHEAD:
                return
            if self._again:
                index, slot = self._again.popleft()
            elif self._free and self._next < self.count:
                index, slot = self._next, self._free.popleft()
                self._next += 1
            else:
                return
            idle.given[index] = slot
            with suppress(OSError):  # it died: `_take` will see that, and what it was given
                idle.pipe.send((index, slot))

    def _take(self) -> dict[int, tuple[int, dict[str, npt.NDArray[Any]]]]:
        """Wait for word of the workers: batches that are ready, by number."""
        signals = [w.pipe for w in self._workers] + [w.process.sentinel for w in self._workers]
        happened = connection.wait(signals)
        ready = {}
        for worker in list(self._workers):
            if worker.pipe in happened or worker.process.sentinel in happened:
                with suppress(EOFError, OSError):  # the end of a dead worker's pipe: handled below
                    while worker.pipe.poll():
                        index, arrays = self._receive(worker)
                        ready[index] = (worker.given.pop(index), arrays)
            if worker.process.sentinel in happened:
                self._replace(worker)
        return ready

    def _receive(self, worker: _Worker) -> tuple[int, dict[str, npt.NDArray[Any]]]:
        index, layout, detail = worker.pipe.recv()
        if layout is not None:
            return index, self._buffer.read(worker.given[index], layout)
        if isinstance(detail, str):
            raise MemberwiseError(f"batch {index} cannot be made:\n{detail}", where="worker")
        self.oversized += 1
        return index, {
            name: np.frombuffer(worker.pipe.recv_bytes(), dtype).reshape(shape)
            for name, dtype, shape in detail
        }

    def _replace(self, worker: _Worker) -> None:
        """Another worker for one that died; its batches are made again."""
        self._workers.remove(worker)
        worker.process.join()
        code = worker.process.exitcode
        worker.pipe.close()
        worker.process.close()
        self.restarts += 1
        if worker.given:
            first = min(worker.given)
            self._lost[first] = self._lost.get(first, 0) + 1
            if self._lost[first] > self.retries:
                raise MemberwiseError(
                    f"batch {first} lost its worker {self._lost[first]} times, last by {_cause(code)}",
                    where="queue of batches",
                    fix="it may need too much memory, or crash a library; make it in the main process",
                )
        self._again = deque(sorted([*self._again, *worker.given.items()]))
        self._workers.append(self._hire())


def _cause(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"


def _work(pipe: connection.Connection, buffer: SharedBuffer, make: Callable[[int], Arrays]) -> None:
    """A worker: make what it is told until it is told to stop, or until nobody is there to tell."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the consumer ends its workers itself
    parent = multiprocessing.parent_process()
    assert parent is not None
    while pipe in connection.wait([pipe, parent.sentinel]):
        try:
            task = pipe.recv()
        except EOFError:
            return
        if task is None:
            return
        index, slot = task
        try:
            arrays = {name: np.asarray(a, order="C") for name, a in make(index).items()}
            layout = buffer.write(slot, arrays)
        except Exception:  # it is raised where the batch is wanted
            pipe.send((index, None, traceback.format_exc()))
            continue
        if layout is not None:
            pipe.send((index, layout, None))
        else:
            pipe.send((index, None, [(n, a.dtype.str, a.shape) for n, a in arrays.items()]))
            for array in arrays.values():
                pipe.send_bytes(array.tobytes())
