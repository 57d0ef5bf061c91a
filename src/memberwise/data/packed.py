"""Arrays of all rows on disk, memory-mapped: packed once, read in every epoch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from memberwise.errors import DataError

RawArrays = Mapping[str, npt.NDArray[Any]]


class PackedRows:
    """Memory-mapped arrays with one row per event, in time order.

    Attributes
    ----------
    arrays : dict of memory maps
        See `memberwise.data.pipeline.FeaturePipeline.encode`.
    splits : dict of (first, last + 1)
        Row ranges of train, valid and test.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            meta = json.loads((path / "packed.json").read_text())
            self.arrays = {k: np.load(path / f, mmap_mode="r") for k, f in meta["arrays"].items()}
        except (OSError, ValueError, KeyError) as error:
            raise DataError(
                f"packed rows cannot be read: {error}", where=str(path), fix="delete this directory"
            ) from error
        self.splits: dict[str, tuple[int, int]] = {k: (v[0], v[1]) for k, v in meta["splits"].items()}

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def rows(self, split: str) -> dict[str, npt.NDArray[Any]]:
        """Views of all arrays, rows of one split."""
        first, last = self.splits[split]
        return {k: a[first:last] for k, a in self.arrays.items()}

    @property
    def nbytes(self) -> int:
        """Size on disk."""
        return sum(a.nbytes for a in self.arrays.values())


class PackedWriter:
    """Writes packed rows chunk by chunk, lets them be revised in place, and publishes them whole.

    Parameters
    ----------
    path : Path
        Directory to make. It appears when `publish` is called; a crash leaves nothing under this name.
    rows
        Number of rows that will be written.
    """

    def __init__(self, path: Path, rows: int) -> None:
        self.path, self.rows = path, rows
        self._partial = path.with_name(path.name + ".partial")
        shutil.rmtree(self._partial, ignore_errors=True)
        self._partial.mkdir(parents=True)
        self.arrays: dict[str, npt.NDArray[Any]] = {}
        self._at = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self._partial, ignore_errors=True)

    def append(self, chunk: RawArrays) -> None:
        """Write the next rows."""
        size = len(next(iter(chunk.values())))
        for name, values in chunk.items():
            if name not in self.arrays:
                file = self._partial / f"{len(self.arrays)}.npy"
                self.arrays[name] = np.lib.format.open_memmap(
                    file, mode="w+", dtype=values.dtype, shape=(self.rows, *values.shape[1:])
                )
            self.arrays[name][self._at : self._at + size] = values
        self._at += size

    def add(self, name: str, dtype: npt.DTypeLike, width: int) -> npt.NDArray[Any]:
        """A further array, zero, to be filled in place."""
        file = self._partial / f"{len(self.arrays)}.npy"
        self.arrays[name] = np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=(self.rows, width))
        return self.arrays[name]

    def publish(self, splits: Mapping[str, tuple[int, int]], leave_out: tuple[str, ...] = ()) -> PackedRows:
        """Make the directory visible under its name.

        Nothing is forced to disk: it is a cache, and whoever keeps it over a restart of the machine must make
        it again (`memberwise.recommender.fitting.prepared_rows` does).
        """
        names = {name: f"{i}.npy" for i, name in enumerate(self.arrays)}
        for name in leave_out:
            (self._partial / names.pop(name)).unlink()
        self.arrays.clear()
        meta = {"arrays": names, "splits": {k: list(v) for k, v in splits.items()}}
        (self._partial / "packed.json").write_text(json.dumps(meta))
        shutil.rmtree(self.path, ignore_errors=True)
        self._partial.rename(self.path)
        return PackedRows(self.path)
