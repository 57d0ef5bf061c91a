"""Memory that processes share: a file without a name, so that nothing is left behind however they end."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing import reduction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from memberwise.errors import MemberwiseError

Arrays = Mapping[str, npt.NDArray[Any]]
Layout = list[tuple[str, str, tuple[int, ...], int]]
"""Name, dtype, shape and offset of every array of a slot."""

_ALIGN = 64
_SHM = Path("/dev/shm")


class SharedBuffer:
    """Slots of equal size in one shared mapping.

    The file lies in ``/dev/shm`` where there is one and never has a name: when the last process that maps it
    ends, by itself or by ``kill -9``, the memory is free. All of it is reserved at the start: what does not
    fit is an error now, and not a bus error at the first write.

    Parameters
    ----------
    slots, slot_bytes : int
        Number and size of the slots.
    folder : Path, optional
        Where the file lies.

    Raises
    ------
    MemberwiseError
        If there is not enough room.
    """

    def __init__(self, slots: int, slot_bytes: int, folder: Path | None = None) -> None:
        self.slot_bytes = -(-slot_bytes // _ALIGN) * _ALIGN
        self.size = slots * self.slot_bytes
        folder = folder or (_SHM if _SHM.is_dir() else Path(tempfile.gettempdir()))
        with tempfile.TemporaryFile(dir=folder) as file:
            try:
                os.posix_fallocate(file.fileno(), 0, self.size)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.ENOMEM, errno.EFBIG):
                    raise
                raise MemberwiseError(
                    f"{slots} slots of {self.slot_bytes / 1e6:,.1f} MB do not fit: "
                    f"{shutil.disk_usage(folder).free / 1e6:,.0f} MB are free",
                    where=str(folder),
                    fix="use fewer slots, smaller batches or threads; in a container raise --shm-size",
                ) from error
            self._file = os.dup(file.fileno())
        self._memory = mmap.mmap(self._file, self.size)

    def __reduce__(self) -> tuple[Any, ...]:
        """For a child that is being started: it gets the file itself."""
        return _attach, (reduction.DupFd(self._file), self.size, self.slot_bytes)

    def write(self, slot: int, arrays: Arrays) -> Layout | None:
        """Copy arrays into a slot; None if they do not fit."""
        layout, at = [], 0
        for name, array in arrays.items():
            layout.append((name, array.dtype.str, array.shape, at))
            at += -(-array.nbytes // _ALIGN) * _ALIGN
        if at > self.slot_bytes:
            return None
        for (_, _, _, offset), array in zip(layout, arrays.values(), strict=True):
            self._view(slot, array.dtype.str, array.shape, offset)[...] = array
        return layout

    def read(self, slot: int, layout: Layout) -> dict[str, npt.NDArray[Any]]:
        """Views of the arrays in a slot."""
        return {name: self._view(slot, dtype, shape, at) for name, dtype, shape, at in layout}

    def _view(self, slot: int, dtype: str, shape: tuple[int, ...], at: int) -> npt.NDArray[Any]:
        return np.ndarray(shape, dtype, self._memory, slot * self.slot_bytes + at)

    def close(self) -> None:
        """Let go of the memory; views that are still in use keep it until they end."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        with suppress(BufferError):  # a view is alive: the mapping ends with the last of them
            self._memory.close()


def _attach(file: Any, size: int, slot_bytes: int) -> SharedBuffer:
    buffer = object.__new__(SharedBuffer)
    buffer.size, buffer.slot_bytes = size, slot_bytes
    buffer._file = file.detach()
    buffer._memory = mmap.mmap(buffer._file, size)
    return buffer


def nbytes(arrays: Arrays) -> int:
    """Bytes that arrays take in a slot."""
    return sum(-(-a.nbytes // _ALIGN) * _ALIGN for a in arrays.values())
