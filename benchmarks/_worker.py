"""The measuring side: start a process per system, call it, interleave the calls."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from _environment import BENCHMARKS, ROOT

ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS", "POLARS_MAX_THREADS"),
    "1",
)


@dataclass(frozen=True)
class Reply:
    """What a call returned and what it cost.

    Attributes
    ----------
    result : Any
        The function's JSON value.
    cpu_seconds, wall_seconds : float
        Of the call, all threads of the process.
    peak_mb : float
        Peak resident memory of the process since its start.
    """

    result: Any
    cpu_seconds: float
    wall_seconds: float
    peak_mb: float


class Worker:
    """A process that serves one system under measurement (see `_child.serve`).

    Parameters
    ----------
    script : str
        File below ``benchmarks/``.
    python : path, optional
        Interpreter; the running one if not given.

    Examples
    --------
    >>> with Worker("_ours.py") as worker:  # doctest: +SKIP
    ...     worker.call("train", count=8).cpu_seconds
    """

    def __init__(self, script: str, python: Path | None = None) -> None:
        self.script = script
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed with the process)
        self._process = subprocess.Popen(
            [str(python or sys.executable), str(BENCHMARKS / script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env={
                **os.environ,
                **ONE_THREAD,
                "PYTHONPATH": os.pathsep.join([str(BENCHMARKS), str(ROOT / "src")]),
            },
        )

    def call(self, function: str, **arguments: Any) -> Reply:
        """Call a function of the process and wait for its reply.

        Raises
        ------
        RuntimeError
            If the function raised or the process died; the message holds its traceback.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"call": function, "arguments": arguments}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.script} died in {function}:\n{self._tail()}")
        reply = json.loads(line)
        if "error" in reply:
            raise RuntimeError(f"{self.script} failed in {function}:\n{reply['error']}")
        return Reply(**reply)

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()

    def _tail(self) -> str:
        self._process.wait()
        self._log.seek(0)
        return self._log.read()[-4000:]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def interleave(rounds: int, calls: Mapping[str, Callable[[], Reply]]) -> dict[str, list[Reply]]:
    """Make every call once a round, in turn, so that a noisy neighbour disturbs all of them alike.

    Parameters
    ----------
    rounds : int
        How often.
    calls : mapping
        Name to call.

    Returns
    -------
    dict
        Name to one reply per round.
    """
    replies: dict[str, list[Reply]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            replies[name].append(call())
    return replies
