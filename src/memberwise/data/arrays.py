"""Named groups of arrays in one file: the state of everything that is not a tensor of the ranker."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from memberwise.errors import BundleError

Arrays = dict[str, npt.NDArray[Any]]


def save_arrays(path: Path, parts: Mapping[str, Arrays]) -> None:
    """Write named groups of arrays as one safetensors file."""
    flat = {
        f"{part}|{name}": np.ascontiguousarray(a)
        for part, arrays in parts.items()
        for name, a in arrays.items()
    }
    save_file(flat, path)


def load_arrays(path: Path) -> dict[str, Arrays]:
    """Read what `save_arrays` wrote.

    Raises
    ------
    BundleError
        If the file is missing or damaged.
    """
    try:
        flat = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise BundleError(f"cannot be read: {error}", where=str(path)) from error
    parts: dict[str, Arrays] = {}
    for key, array in flat.items():
        part, _, name = key.rpartition("|")
        parts.setdefault(part, {})[name] = array
    return parts
