"""Delta segments: what has changed in large arrays since they were saved, so that saving costs what changed.

Named groups of arrays (`memberwise.data.arrays`) are compared row by row, bit by bit. An array of which few
rows differ is told as these rows, and the rows that came behind its old end; any other that differs is told
whole.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from memberwise.data.arrays import Arrays
from memberwise.errors import BundleError

Parts = Mapping[str, Arrays]
ROWS, VALUES, TAIL = "~rows", "~values", "~tail"
_SMALL = 4096
"""Bytes below which an array is told whole."""


def changes(old: Parts, new: Parts) -> dict[str, Arrays]:
    """What turns the old groups into the new ones (`applied`); a group that is the same is left out.

    Groups and arrays that are gone cannot be told: both must have the same names.
    """
    found: dict[str, Arrays] = {}
    for part, arrays in new.items():
        told: Arrays = {}
        for name, array in arrays.items():
            told |= _change(name, old.get(part, {}).get(name), array)
        if told:
            found[part] = told
    return found


def applied(base: Parts, segment: Parts) -> dict[str, Arrays]:
    """The groups after a segment.

    Raises
    ------
    BundleError
        If the segment was not made for these groups.
    """
    found = {part: dict(arrays) for part, arrays in base.items()}
    for part, told in segment.items():
        arrays = found.setdefault(part, {})
        for name in {key.partition("~")[0] for key in told}:
            if name in told:
                arrays[name] = told[name]
            elif name in arrays:
                arrays[name] = _changed(arrays[name], told, name, part)
            else:
                raise BundleError(f"a segment changes '{part}|{name}', which is not there", where="state")
    return found


def size(parts: Parts) -> int:
    """Bytes of all arrays."""
    return sum(a.nbytes for arrays in parts.values() for a in arrays.values())


def _change(name: str, old: npt.NDArray[np.generic] | None, new: npt.NDArray[np.generic]) -> Arrays:
    new = np.ascontiguousarray(new)
    if old is None or old.dtype != new.dtype or old.shape[1:] != new.shape[1:] or len(new) < len(old):
        return {name: new}
    if _same_memory(old, new):
        return {}
    kept = new[: len(old)]
    if new.nbytes < _SMALL:
        return {} if len(new) == len(old) and np.array_equal(_bits(old), _bits(new)) else {name: new}
    rows = np.flatnonzero(_differ(old, kept))
    told: Arrays = {}
    if len(rows):
        told |= {f"{name}{ROWS}": rows.astype(np.int64), f"{name}{VALUES}": np.ascontiguousarray(kept[rows])}
    if len(new) > len(old):
        told[f"{name}{TAIL}"] = new[len(old) :]
    whole = sum(a.nbytes for a in told.values()) > new.nbytes // 2
    return {name: new} if whole else told


def _changed(old: npt.NDArray[np.generic], told: Arrays, name: str, part: str) -> npt.NDArray[np.generic]:
    new = old
    if f"{name}{ROWS}" in told:
        rows = told[f"{name}{ROWS}"]
        if len(rows) and int(rows[-1]) >= len(old):
            raise BundleError(f"a segment does not fit '{part}|{name}'", where="state")
        new = old.copy()
        new[rows] = told[f"{name}{VALUES}"]
    return np.concatenate([new, told[f"{name}{TAIL}"]]) if f"{name}{TAIL}" in told else new


def _differ(old: npt.NDArray[np.generic], new: npt.NDArray[np.generic]) -> npt.NDArray[np.bool_]:
    """Rows that differ in any bit."""
    differ = _bits(old) != _bits(new)
    return differ.any(axis=tuple(range(1, differ.ndim)))


def _same_memory(old: npt.NDArray[np.generic], new: npt.NDArray[np.generic]) -> bool:
    """Two views of one memory: what versions share without a copy."""
    return old.shape == new.shape and old.strides == new.strides and old.ctypes.data == new.ctypes.data


def _bits(array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """The same memory as integers: not-a-number equals itself, and zero is not minus zero."""
    whole = np.ascontiguousarray(array)
    return whole.view(f"u{whole.dtype.itemsize}") if whole.dtype.kind == "f" else whole
