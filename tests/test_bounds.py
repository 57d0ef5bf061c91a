"""The run with bounds checking checks bounds: a kernel that reads behind its array must raise there."""

from __future__ import annotations

import os

import numpy as np
import pytest
from numba import njit


@njit(nogil=True)
def behind(values: np.ndarray, at: int) -> float:
    return values[at]


@pytest.mark.skipif(os.environ.get("NUMBA_BOUNDSCHECK") != "1", reason="runs with NUMBA_BOUNDSCHECK=1")
def test_a_bad_kernel_raises():
    with pytest.raises(IndexError):
        behind(np.zeros(3), 3)
