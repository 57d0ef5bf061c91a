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
from memberwise.data.layers import AnyArray, Layered, Views
from memberwise.data.times import I64
from memberwise.errors import BundleError

Parts = Mapping[str, Views] | Mapping[str, Arrays]
ROWS, VALUES, TAIL = "~rows", "~values", "~tail"
_SMALL = 4096
"""Bytes below which an array is told whole."""


def changes(old: Parts, new: Parts) -> dict[str, Arrays]:
    """What turns the old groups into the new ones (`applied`); a group that is the same is left out.

    Groups and arrays that are gone cannot be told: both must have the same names.
    """
    found: dict[str, Arrays] = {}
    for part, arrays in new.items():
        before = old.get(part, {})
        told: Arrays = {}
        for name, array in arrays.items():
            told |= _change(name, before.get(name), array)
        if told:
            found[part] = told
    return found


def applied(base: Mapping[str, Arrays], segment: Mapping[str, Arrays]) -> dict[str, Arrays]:
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


def _change(name: str, old: AnyArray | Layered | None, new: AnyArray | Layered) -> Arrays:
    if old is None or old.dtype != new.dtype or old.shape[1:] != new.shape[1:] or len(new) < len(old):
        return {name: np.ascontiguousarray(new)}
    if new.nbytes < _SMALL:
        one, other = np.asarray(old), np.ascontiguousarray(new)
        return {} if len(one) == len(other) and np.array_equal(_bits(one), _bits(other)) else {name: other}
    rows, values, tail = _layers_between(old, new) or _between(np.asarray(old), np.asarray(new))
    told: Arrays = {}
    if len(rows):
        told |= {f"{name}{ROWS}": rows, f"{name}{VALUES}": np.ascontiguousarray(values)}
    if len(tail):
        told[f"{name}{TAIL}"] = np.ascontiguousarray(tail)
    much = sum(a.nbytes for a in told.values()) > new.nbytes // 2
    return {name: np.ascontiguousarray(new)} if much else told


def _between(old: AnyArray, new: AnyArray) -> tuple[I64, AnyArray, AnyArray]:
    """Rows that differ, what they are now, and what came behind the old end."""
    if _same_memory(old, new):
        return np.zeros(0, np.int64), new[:0], new[:0]
    kept = new[: len(old)]
    rows = np.flatnonzero(_differ(old, kept))
    return rows, kept[rows], new[len(old) :]


def _layers_between(
    old: AnyArray | Layered, new: AnyArray | Layered
) -> tuple[I64, AnyArray, AnyArray] | None:
    """The same of two arrays that share their base; None if they do not."""
    one, other = Layered.of(old), Layered.of(new)
    if not _same_memory(one.base, other.base):
        return None
    candidates = np.union1d(one.rows, other.rows)
    before, after = one.at(candidates), other.at(candidates)
    differ = _differ(before, after)
    rows, values, tail = _between(one.tail, other.tail)
    return (
        np.concatenate([candidates[differ], rows + len(one.base)]),
        np.concatenate([after[differ], values]),
        tail,
    )


def _changed(old: AnyArray, told: Arrays, name: str, part: str) -> AnyArray:
    new = old
    if f"{name}{ROWS}" in told:
        rows = told[f"{name}{ROWS}"]
        if len(rows) and int(rows[-1]) >= len(old):
            raise BundleError(f"a segment does not fit '{part}|{name}'", where="state")
        new = old.copy()
        new[rows] = told[f"{name}{VALUES}"]
    return np.concatenate([new, told[f"{name}{TAIL}"]]) if f"{name}{TAIL}" in told else new


def _differ(old: AnyArray, new: AnyArray) -> npt.NDArray[np.bool_]:
    """Rows that differ in any bit."""
    differ = _bits(old) != _bits(new)
    return differ.any(axis=tuple(range(1, differ.ndim)))


def _same_memory(old: AnyArray, new: AnyArray) -> bool:
    """Two views of one memory: what versions share without a copy."""
    return old.shape == new.shape and old.strides == new.strides and old.ctypes.data == new.ctypes.data


def _bits(array: AnyArray) -> AnyArray:
    """The same memory as integers: not-a-number equals itself, and zero is not minus zero."""
    whole = np.ascontiguousarray(array)
    return whole.view(f"u{whole.dtype.itemsize}") if whole.dtype.kind == "f" else whole
