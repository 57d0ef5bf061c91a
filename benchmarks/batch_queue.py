"""How fast batches of 10 MB come from producers to the consumer, who reads one value of every array.

Two producers each: `SharedMemoryQueue` (slots that are written again and again), `ThreadQueue` (the same
process), `torch.multiprocessing.Queue` (a new shared tensor for every array) and `multiprocessing.Queue`
(pickled). Waits for a queue do not show in CPU seconds: the rates are of wall time, interleaved, medians,
with the consumer's CPU seconds beside them. Two producers and a consumer share two cores.

``--quick`` hands over a few batches; its numbers mean nothing.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

import _queue_maker
from _harness import Report, Target, quick_asked
from memberwise.graph.batches import SharedMemoryQueue, ThreadQueue

BATCHES, ROUNDS, WORKERS, DEPTH = 200, 5, 2, 4
TARGETS = (
    Target("ratio_torch", 5, "shared slots: at least five times torch.multiprocessing.Queue at 10 MB"),
    Target("threads_to_slots", 1, "threads: at least as fast as the slots"),
)


def _drain(batches: object, count: int, warm: int) -> float:
    """Batches a second of wall time, from the first `warm` ones on."""
    started, seen = time.perf_counter(), 0
    total = 0.0
    for batch in batches:  # type: ignore[attr-defined]
        total += sum(float(a[0, 0]) for a in batch.values())
        seen += 1
        if seen == warm:
            started = time.perf_counter()
    assert seen == count
    assert np.isfinite(total)
    return (count - warm) / (time.perf_counter() - started)


def slots(count: int, warm: int) -> float:
    """Our shared-memory queue."""
    with SharedMemoryQueue(_queue_maker.make, count, WORKERS, WORKERS + DEPTH) as queue:
        return _drain(queue, count, warm)


def threads(count: int, warm: int) -> float:
    """Our thread queue."""
    return _drain(ThreadQueue(_queue_maker.make, count, WORKERS, DEPTH), count, warm)


def _of_processes(context: object, target: Callable[..., None], extra: tuple, count: int, warm: int) -> float:
    queue = context.Queue(DEPTH)  # type: ignore[attr-defined]
    workers = [
        context.Process(target=target, args=(queue, *extra, w, count, WORKERS), daemon=True)  # type: ignore[attr-defined]
        for w in range(WORKERS)
    ]
    for worker in workers:
        worker.start()
    rate = _drain((queue.get()[1] for _ in range(count)), count, warm)
    for event in extra:
        event.set()
    for worker in workers:
        worker.join()
    return rate


def torch_queue(count: int, warm: int) -> float:
    """torch.multiprocessing.Queue."""
    context = torch.multiprocessing.get_context("forkserver")
    return _of_processes(context, _queue_maker.tensors, (context.Event(),), count, warm)


def pickled(count: int, warm: int) -> float:
    """multiprocessing.Queue."""
    return _of_processes(multiprocessing.get_context("forkserver"), _queue_maker.pickled, (), count, warm)


def main() -> None:
    """Run, print, compare."""
    quick = quick_asked(__doc__ or "")
    count, rounds = (12, 1) if quick else (BATCHES, ROUNDS)
    multiprocessing.get_context("forkserver").set_forkserver_preload(
        ["memberwise.graph.batches.shared", "_queue_maker", "torch"]
    )
    report = Report("batch_queue", TARGETS)
    report.versions |= {"torch": torch.__version__, "numpy": np.__version__}
    arms = {"slots": slots, "threads": threads, "torch": torch_queue, "pickled": pickled}
    rates: dict[str, list[float]] = {name: [] for name in arms}
    cpu: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(rounds):
        for name, arm in arms.items():
            length = count if name in ("slots", "threads") else max(count // 4, 10)
            before = os.times()
            rates[name].append(arm(length, 4))
            after = os.times()
            cpu[name].append((sum(after[:4]) - sum(before[:4])) / length)
    medians = {name: statistics.median(r) for name, r in rates.items()}
    report.table(
        f"10 MB batches, {WORKERS} producers, median of {rounds}",
        ["queue", "batches / s (wall)", "least", "most", "CPU s of the consumer / batch"],
        [(n, medians[n], min(rates[n]), max(rates[n]), statistics.median(cpu[n])) for n in arms],
    )
    report.measures |= medians
    report.measures["ratio_torch"] = statistics.median(
        a / b for a, b in zip(rates["slots"], rates["torch"], strict=True)
    )
    report.measures["ratio_pickled"] = statistics.median(
        a / b for a, b in zip(rates["slots"], rates["pickled"], strict=True)
    )
    report.measures["threads_to_slots"] = medians["threads"] / medians["slots"]
    report.finish()


if __name__ == "__main__":
    main()
