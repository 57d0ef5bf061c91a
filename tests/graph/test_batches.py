"""Queues of batches: every batch once and in order, whatever happens to the workers."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from memberwise.errors import ConfigError, MemberwiseError
from memberwise.graph.batches import SharedMemoryQueue, ThreadQueue
from support.batch_makers import Maker

SHM = Path("/dev/shm")


def collect(queue: SharedMemoryQueue) -> list[dict[str, np.ndarray]]:
    with queue:
        return [{name: a.copy() for name, a in batch.items()} for batch in queue]


def check(batches: list[dict[str, np.ndarray]], numbers, large: tuple[int, ...] = ()) -> None:
    assert [int(b["index"]) for b in batches] == list(numbers)
    for batch in batches:
        index = int(batch["index"])
        assert batch["values"].shape == (10_000 if index in large else 1_000, 2)
        assert (batch["values"] == index).all()
        assert batch["mask"].tolist() == [k % 2 == index % 2 for k in range(7)]
        assert batch["empty"].shape == (0, 3)
        assert batch["empty"].dtype == np.int64


def test_every_batch_once_and_in_order_from_several_workers():
    batches = collect(SharedMemoryQueue(Maker(sleep=0.002), 20, workers=3, start=4))
    check(batches, range(4, 20))
    workers = {int(b["worker"]) for b in batches}
    assert len(workers) > 1
    assert os.getpid() not in workers


def test_a_killed_worker_costs_no_batch_and_doubles_none(tmp_path):
    queue = SharedMemoryQueue(Maker(tmp_path, dies=(0, 5, 6)), 12, workers=2, slot_bytes=10_000)
    check(collect(queue), range(12))
    assert queue.restarts == 3


def test_a_worker_killed_from_outside_is_replaced():
    with SharedMemoryQueue(Maker(sleep=0.01), 30, workers=2) as queue:
        seen = []
        for batch in queue:
            seen.append(int(batch["index"]))
            if len(seen) == 5:
                os.kill(int(batch["worker"]), signal.SIGKILL)
        assert seen == list(range(30))
        assert queue.restarts == 1


def test_a_batch_that_always_kills_its_worker_ends_the_queue(tmp_path):
    queue = SharedMemoryQueue(Maker(tmp_path, dies=(2,), stubborn=True), 8, slot_bytes=10_000, retries=1)
    with pytest.raises(MemberwiseError, match="batch 2 lost its worker 2 times, last by signal SIGKILL"):
        collect(queue)


def test_a_failing_batch_is_raised_with_its_traceback():
    seen = []
    with (
        pytest.raises(MemberwiseError, match=r"(?s)batch 3 cannot be made.*ValueError: no batch 3 today"),
        SharedMemoryQueue(Maker(fails=(3,)), 8, workers=1) as queue,
    ):
        seen.extend(int(batch["index"]) for batch in queue)
    assert seen == list(range(len(seen)))


def test_a_slow_consumer_holds_the_workers_back():
    with SharedMemoryQueue(Maker(), 12, workers=2, slots=3) as queue:
        for number, batch in enumerate(queue):
            kept = batch["values"]
            if number in (0, 5):
                time.sleep(0.3)  # time enough to overwrite every slot, if they did not wait
            assert (kept == number).all()


def test_batches_larger_than_a_slot_go_through_the_pipe():
    queue = SharedMemoryQueue(Maker(large=(1, 3)), 6, workers=2)
    check(collect(queue), range(6), large=(1, 3))
    assert queue.oversized == 2


def test_too_little_shared_memory_is_said_before_anything_starts():
    whole = shutil.disk_usage(SHM).total
    with pytest.raises(
        MemberwiseError, match=r"(?s)/dev/shm.*slots of .* MB do not fit.*MB are free.*--shm-size"
    ):
        SharedMemoryQueue(Maker(), 5, slots=4, slot_bytes=whole)
    with pytest.raises(ConfigError, match="workers is 0"):
        SharedMemoryQueue(Maker(), 5, workers=0)


def test_nothing_is_left_behind_when_the_consumer_stops_early():
    with SharedMemoryQueue(Maker(size=1_000_000), 50, workers=2) as queue:
        workers = [w.process for w in queue._workers]
        file = os.fstat(queue._buffer._file)
        assert file.st_nlink == 0  # no name: it ends with the last process that holds it
        assert file.st_blocks * 512 >= 4 * 8_000_000  # all of it is reserved
        for batch in queue:
            assert batch["values"][0, 0] == 0
            break
        del batch
        pids = [w.pid for w in workers]
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    with pytest.raises(ValueError, match="closed"):
        queue._buffer._memory[0]


CONSUMER = """
import sys
from memberwise.graph.batches import SharedMemoryQueue
from support.batch_makers import Maker
if __name__ == "__main__":
    with SharedMemoryQueue(Maker(size=3_000_000, sleep=0.01), 1000, workers=2) as queue:
        for batch in queue:
            print(*(w.process.pid for w in queue._workers), flush=True)
"""


def test_nothing_is_left_behind_when_the_consumer_is_killed(tmp_path):
    script = tmp_path / "consumer.py"
    script.write_text(CONSUMER)
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    process = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert process.stdout is not None
    pids = [int(p) for p in process.stdout.readline().split()]
    assert len(pids) == 2
    process.kill()
    process.wait()
    process.stdout.close()
    until = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_threads_make_every_batch_once_in_order_and_not_too_many_ahead():
    made, lock = [], threading.Lock()

    def make(index: int) -> int:
        time.sleep(0.001 * (index % 3))
        with lock:
            made.append(index)
        return index

    seen = []
    for batch in ThreadQueue(make, 30, workers=4, depth=3, start=5):
        seen.append(batch)
        assert len(made) <= len(seen) + 4
    assert seen == list(range(5, 30))
    assert sorted(made) == seen


def test_a_failing_thread_is_raised_and_a_consumer_may_stop_early():
    def make(index: int) -> int:
        if index == 3:
            raise ValueError("no batch 3 today")
        return index

    seen = []
    with pytest.raises(ValueError, match="no batch 3 today"):
        seen.extend(ThreadQueue(make, 8))
    before = threading.active_count()
    for batch in ThreadQueue(make, 3, workers=2):
        assert batch == 0
        break
    assert threading.active_count() <= before + 2
    with pytest.raises(ConfigError, match="depth is 0"):
        ThreadQueue(make, 3, depth=0)
