"""Entity embeddings: an id, a vector, who made it and what it had seen.

Whatever produces vectors for members or items writes this table, and the ranker reads it without knowing
who made it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from memberwise.data.hashing import U64, HashIndex, hash_values
from memberwise.errors import DataError

F32 = npt.NDArray[np.float32]
_KIND = "entity-embeddings-1"


@dataclass(frozen=True)
class EntityEmbeddings:
    """Vectors of one kind of entity, from one model, as of one moment.

    Attributes
    ----------
    entity
        ``member``, ``item``, ...
    ids : polars.Series of str, shape [n]
        Distinct and not empty.
    vectors : ndarray of float32, shape [n, d]
        Finite.
    version
        Of the model that made them; vectors of different versions do not mix.
    cutoff
        Microseconds: every event that the vectors know happened strictly before this moment.

    Raises
    ------
    DataError
        If ids repeat or are missing, or vectors are not finite or not one per id.
    """

    entity: str
    ids: pl.Series
    vectors: F32
    version: str
    cutoff: int

    def __post_init__(self) -> None:
        where = f"embeddings of {self.entity}"
        if self.vectors.ndim != 2 or len(self.vectors) != len(self.ids):
            raise DataError(f"{len(self.ids)} ids but vectors of shape {self.vectors.shape}", where=where)
        if not np.isfinite(self.vectors).all():
            raise DataError("a vector is not finite", where=where, fix="drop the entity: it gets the default")
        hashes = hash_values(self.ids)
        if (hashes == 0).any():
            raise DataError("an id is missing", where=where)
        index = HashIndex(hashes)
        if len(index) != len(hashes):
            raise DataError(f"{len(hashes) - len(index)} ids repeat", where=where)
        object.__setattr__(self, "_index", index)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def dim(self) -> int:
        """Width of a vector."""
        return int(self.vectors.shape[1])

    def rows(self, hashes: U64) -> npt.NDArray[np.int32]:
        """Row of each hashed id, -1 where there is no vector."""
        return self._index.find(hashes)  # type: ignore[attr-defined]

    def gather(self, rows: npt.NDArray[np.int32]) -> F32:
        """Vectors by row; row -1 is the zero vector. Shape [len(rows), d]."""
        out: F32 = np.take(self.vectors, np.maximum(rows, 0), axis=0)
        out[rows < 0] = 0.0
        return out

    def write(self, path: str | Path) -> None:
        """Write an Arrow file with fixed-size lists; it appears whole or not at all."""
        ids = {"id": self.ids.cast(pl.String).to_arrow().cast(pa.string())}
        meta = {"entity": self.entity, "version": self.version, "cutoff": str(self.cutoff)}
        write_vectors(path, ids, self.vectors, _KIND, **meta)

    @classmethod
    def read(cls, path: str | Path) -> EntityEmbeddings:
        """Read what `write` wrote.

        Raises
        ------
        DataError
            If the file is missing, damaged or something else.
        """
        table, meta = read_vectors(path, _KIND)
        ids = pl.Series("id", table["id"])
        vectors = vector_column(table).astype(np.float32, copy=False)
        return cls(meta["entity"], ids, vectors, meta["version"], int(meta["cutoff"]))

    @classmethod
    def from_column(cls, entity: str, ids: pl.Series, lists: pl.Series, name: str) -> EntityEmbeddings:
        """Vectors that stand in a list column of the entity's table. Rows without one are left out."""
        if not isinstance(lists.dtype, pl.List | pl.Array):
            raise DataError(f"holds {lists.dtype}, a list of numbers is expected", where=f"column {name!r}")
        if not lists.dtype.inner.is_numeric():
            raise DataError(
                f"holds lists of {lists.dtype.inner}, numbers are expected",
                where=f"column {name!r}",
                fix="for a list of ids use kind: categorical with max_values",
            )
        frame = pl.DataFrame({"id": ids.cast(pl.String), "v": lists.cast(pl.List(pl.Float32))}).drop_nulls()
        widths = frame["v"].list.len().unique().to_list()
        if len(widths) > 1:
            raise DataError(f"vectors of different widths: {sorted(widths)}", where=f"column {name!r}")
        dim = widths[0] if widths else 0
        vectors = frame["v"].explode().to_numpy().reshape(-1, dim) if dim else np.zeros((0, 1), np.float32)
        return cls(entity, frame["id"], np.ascontiguousarray(vectors, np.float32), "column", 0)


def write_vectors(
    path: str | Path, columns: Mapping[str, pa.Array], vectors: npt.NDArray[Any], kind: str, **meta: str
) -> None:
    """Write columns and a column ``vector`` of fixed-size lists as one Arrow file, whole or not at all.

    Parameters
    ----------
    path
        The file.
    columns
        One value per vector each.
    vectors : ndarray, shape [n, d]
        Float32 or float16.
    kind
        What the file is, checked by `read_vectors`.
    **meta
        Text that goes with it.
    """
    path = Path(path)
    dim = vectors.shape[1]
    flat = pa.array(np.ascontiguousarray(vectors).ravel())
    lists = pa.FixedSizeListArray.from_arrays(flat, max(dim, 1))
    table = pa.table({**columns, "vector": lists}).replace_schema_metadata({"memberwise": kind, **meta})
    partial = path.with_name(path.name + ".partial")
    with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    with partial.open("rb") as f:
        os.fsync(f.fileno())
    partial.replace(path)


def read_vectors(path: str | Path, kind: str) -> tuple[pa.Table, dict[str, str]]:
    """Table and metadata of a file of `write_vectors`.

    Raises
    ------
    DataError
        If the file is missing, damaged or of another kind.
    """
    try:
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"entity embeddings cannot be read: {error}", where=str(path)) from error
    meta = {k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
    if meta.get("memberwise") != kind:
        raise DataError("is not a table of entity embeddings", where=str(path))
    return table, meta


def vector_column(table: pa.Table) -> npt.NDArray[Any]:
    """The vectors of a table of `read_vectors`, ``[n, d]``, owned by the caller."""
    column = table["vector"].combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks else pa.array([], column.type)
    vectors: npt.NDArray[Any] = column.flatten().to_numpy().reshape(len(table), column.type.list_size)
    return vectors.copy()
