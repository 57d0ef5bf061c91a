"""The measured side of a benchmark: a process that does what it is told and says what it cost.

A script defines functions and ends with ``serve({"train": train, ...})``. Each line of standard input is a
call, ``{"call": name, "arguments": {...}}``; each line of standard output is the reply. Only the standard
library is imported here, since every peer's environment uses this file.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any


def serve(functions: Mapping[str, Callable[..., Any]]) -> None:
    """Answer calls until standard input ends.

    A reply holds ``result``, the CPU seconds of this process (all threads) and the wall seconds of the call,
    and the peak of resident memory so far in megabytes; or ``error`` with the traceback.
    """
    # Libraries print progress: what they write to standard output must not mix with the replies.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        replies.write(json.dumps(_answer(functions, request)) + "\n")
        replies.flush()


def _answer(functions: Mapping[str, Callable[..., Any]], request: dict[str, Any]) -> dict[str, Any]:
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        result = functions[request["call"]](**request["arguments"])
    except Exception:  # The parent raises it: here it would only end in a log that nobody reads.
        return {"error": traceback.format_exc()}
    return {
        "result": result,
        "cpu_seconds": time.process_time() - cpu,
        "wall_seconds": time.perf_counter() - wall,
        "peak_mb": peak_mb(),
    }


def peak_mb() -> float:
    """Peak resident memory of this process in megabytes (10^6 bytes).

    Linux' ``VmHWM`` starts anew at exec; ``ru_maxrss`` may carry the parent's peak over.
    """
    try:
        with open("/proc/self/status") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024 / 1e6
    except FileNotFoundError:
        pass
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
