"""One batch as seen by one kind of entity: which rows are whose, and their columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import scipy.sparse

from memberwise.bayes.inputs import InputError

_NO_INDPTR, _NO_INDICES = np.zeros(0, np.int64), np.zeros(0, np.int32)
_NO_FLOATS = np.zeros(0)


@dataclass(frozen=True)
class GroupedRows:
    """Rows sorted by entity, with a dense or a CSR design.

    Parameters
    ----------
    ids : list of str
        The distinct entities of the batch.
    row_ptr : int64 [E + 1]
        Entity e owns rows ``order[row_ptr[e]:row_ptr[e + 1]]``.
    order : int64 [n]
        Row numbers sorted by entity; within an entity in their own order.
    design : float array [n, p] or CSR array [n, p]
        The columns that an effect multiplies.
    """

    ids: list[str]
    row_ptr: npt.NDArray[np.int64]
    order: npt.NDArray[np.int64]
    design: Any

    @classmethod
    def build(cls, ids: Any, design: Any, n: int, what: str) -> GroupedRows:
        """Group rows by id.

        Parameters
        ----------
        ids : array-like [n]
            Strings or integers; 17 and "17" are one entity.
        design : float array or CSR array [n, p]
            Columns of the effect.
        n : int
            Number of rows expected.
        what : str
            Name of the effect, for messages.

        Raises
        ------
        InputError
            Wrong length, missing ids, or a design that is not finite.
        """
        codes, distinct = encode_ids(ids, what)
        if codes.size != n:
            raise InputError(f"effect {what!r}: {codes.size} ids for {n} rows")
        if design.shape[0] != n:
            raise InputError(f"effect {what!r}: the design has {design.shape[0]} rows, expected {n}")
        if not np.isfinite(design.data if scipy.sparse.issparse(design) else design).all():
            raise InputError(f"effect {what!r}: the design holds NaN or infinity")
        order = np.argsort(codes, kind="stable")
        counts = np.bincount(codes, minlength=len(distinct))
        row_ptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return cls(distinct, row_ptr, order, design)

    @property
    def n_entities(self) -> int:
        """Number of distinct entities."""
        return len(self.ids)

    @property
    def n_columns(self) -> int:
        """Number of columns p of the design."""
        return int(self.design.shape[1])

    def arrays(self) -> tuple[Any, ...]:
        """The design as the kernels take it, ``Z, indptr, indices, data, n_columns``.

        Always of the same types, so that the kernels compile once.
        """
        if scipy.sparse.issparse(self.design):
            d = self.design
            indptr, indices = d.indptr.astype(np.int64, copy=False), d.indices.astype(np.int32, copy=False)
            return np.zeros((0, 0)), indptr, indices, d.data.astype(np.float64, copy=False), self.n_columns
        return np.ascontiguousarray(self.design), _NO_INDPTR, _NO_INDICES, _NO_FLOATS, self.n_columns


def encode_ids(ids: Any, what: str) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Return a code for each row, [n], and the ids that the codes stand for, as text.

    Raises
    ------
    InputError
        An id is missing, or is neither text nor an integer.
    """
    array = ids.to_arrow() if hasattr(ids, "to_arrow") else pa.array(_plain(np.asarray(ids)))
    if array.null_count:
        raise InputError(
            f"effect {what!r}: {array.null_count} ids are missing", fix="drop those rows or name them"
        )
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if not (
        pa.types.is_integer(array.type)
        or pa.types.is_string(array.type)
        or pa.types.is_large_string(array.type)
        or pa.types.is_string_view(array.type)
    ):
        raise InputError(f"effect {what!r}: ids are of type {array.type}", fix="use text or integers")
    if pa.types.is_string_view(array.type):
        array = pc.cast(array, pa.large_string())
    encoded = array.dictionary_encode()
    return encoded.indices.to_numpy().astype(np.int64), pc.cast(encoded.dictionary, pa.string()).to_pylist()


def _plain(ids: npt.NDArray[Any]) -> Any:
    """Return numbers as they are and anything else as Python objects, whose types Arrow then finds."""
    return ids if ids.dtype.kind in "iu" else ids.tolist()
