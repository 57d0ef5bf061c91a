"""Random numbers for kernels: one stream per row, so that results depend on neither threads nor chunks.

The stream is splitmix64: a counter in steps of an odd constant, each value mixed. Source: G. Steele, D. Lea,
C. Flood, Fast splittable pseudorandom number generators, 2014.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from memberwise.data.hashing import mix64
from memberwise.graph.types import Whole

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@njit(cache=True, nogil=True, inline="always")
def stream(seed: Whole, row: Whole) -> np.uint64:
    """First state of the stream of a row."""
    return mix64(np.uint64(seed) ^ mix64(np.uint64(row) * np.uint64(0xD1342543DE82EF95) + GOLDEN))


@njit(cache=True, nogil=True, inline="always")
def below(state: np.uint64, bound: Whole) -> Any:
    """A whole number in [0, bound) from a state, bound < 2**31; its bias is below bound / 2**32."""
    return np.int64(((mix64(state) >> np.uint64(32)) * np.uint64(bound)) >> np.uint64(32))


@njit(cache=True, nogil=True, inline="always")
def uniform(state: np.uint64) -> float:
    """A number in (0, 1) from a state."""
    return (np.float64(mix64(state) >> np.uint64(11)) + 0.5) * (1.0 / 9007199254740992.0)
