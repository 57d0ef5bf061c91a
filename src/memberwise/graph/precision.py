"""Half precision only where the device is faster with it: measured, not assumed."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch

_SIZE, _ROUNDS, _GAIN = 256, 5, 1.2


@cache
def half_precision(device: str) -> torch.dtype | None:
    """The half-precision type in which this device multiplies matrices at least 1.2 times faster, if any.

    On CPUs without bf16 instructions half precision is tens of times slower: a probe of milliseconds is
    cheaper than a wrong guess.
    """
    kind = torch.device(device)
    dtype = torch.float16 if kind.type == "cuda" and not torch.cuda.is_bf16_supported() else torch.bfloat16
    plain = _seconds(torch.float32, kind)
    try:
        half = _seconds(dtype, kind, limit=plain * _ROUNDS)
    except RuntimeError:  # the device has no such product
        return None
    return dtype if half * _GAIN < plain else None


def _seconds(dtype: torch.dtype, device: torch.device, limit: float | None = None) -> float:
    """Best time of a matrix product; stops early once it took longer than the limit.

    On a CPU the time of this thread counts: by the wall clock another job could decide, and the same seed
    would give other numbers.
    """
    clock = time.thread_time if device.type == "cpu" else time.perf_counter
    a = torch.ones(_SIZE, _SIZE, dtype=dtype, device=device)
    best, spent = float("inf"), 0.0
    for _ in range(_ROUNDS):
        started = clock()
        (a @ a).sum().item()
        best = min(best, clock() - started)
        spent += best
        if limit is not None and spent > limit and best > limit:
            break
    return best


def autocast(device: torch.device, wanted: bool) -> AbstractContextManager[object]:
    """Context in which the encoder runs; losses and scores stay in float32 outside of it."""
    dtype = half_precision(str(device)) if wanted else None
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)
