"""One identity for every value: the 64-bit hash of its text.

``17`` and ``"17"`` are the same id wherever they come from, an id above 2**53 is as good as any, and no
dictionary of strings is needed to recognise a value. Zero is reserved for "missing". With 64 bits, one
pair in a table of ten million distinct values collides with probability 3e-6.
"""

from __future__ import annotations

import copy

import numpy as np
import numpy.typing as npt
import polars as pl
import polars_hash
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numba import njit

from memberwise.errors import DataError

U64 = npt.NDArray[np.uint64]
MISSING = np.uint64(0)
FOLD = 8
"""Where more than one in so many rows of what copies share is changed or new, a copy gets all for itself."""


def much(beside: int, shared: int) -> bool:
    """Whether so much stands beside what copies share that they had better share nothing.

    What a copy carries along is bounded by it, and copying all costs each changed row at most `FOLD` rows.
    """
    return beside * FOLD > shared


def hash_text(text: str, seed: int = 0) -> int:
    """Hash of one value: xxHash64 of its UTF-8 text, never 0."""
    return xxhash.xxh64_intdigest(text.encode("utf-8", "surrogatepass"), seed) or 1


def hash_values(values: pl.Series) -> U64:
    """Hash every value of a column; null, NaN and the empty text are `MISSING`.

    Parameters
    ----------
    values : polars.Series
        Integers, strings, booleans, categoricals, dates, or floats: a whole number is the same value as
        an integer (a nullable id column read from CSV).

    Returns
    -------
    ndarray of uint64, shape [n]

    Raises
    ------
    DataError
        If the column holds lists or structs, or bytes that are not text.
    """
    if values.dtype.is_nested():
        raise DataError(
            f"the column holds {values.dtype}, one value is expected",
            where=f"column {values.name!r}",
            fix="set max_values above 1 for a list column",
        )
    if values.dtype.is_integer() and values.dtype not in (pl.UInt64, pl.Int128, pl.UInt128):
        numbers = hash_integers(values.cast(pl.Int64).fill_null(0).to_numpy())
        return np.where(values.is_null().to_numpy(), MISSING, numbers)
    try:
        text = as_text(values)
    except pl.exceptions.PolarsError as error:
        raise DataError(
            f"values of {values.dtype} cannot be read as text: {error}", where=f"column {values.name!r}"
        ) from error
    there = (text != "").fill_null(False)
    hashed = pl.DataFrame({"text": text}).select(polars_hash.col("text").nchash.xxhash64())["text"]
    hashed = hashed.set((hashed == 0).fill_null(False), 1)
    return hashed.set(~there, 0).to_numpy()


@njit(cache=True, nogil=True)
def hash_integers(values: npt.NDArray[np.int64]) -> U64:
    """The same hashes as of the decimal texts of the numbers, without making the texts.

    xxHash64 of at most 20 bytes: 8 at a time, then 4, then single ones, then the final mixing. [n] -> [n]

    References
    ----------
    Yann Collet, xxHash specification, algorithm XXH64 (inputs shorter than 32 bytes).
    """
    p1, p2, p3 = np.uint64(0x9E3779B185EBCA87), np.uint64(0xC2B2AE3D27D4EB4F), np.uint64(0x165667B19E3779F9)
    p4, p5 = np.uint64(0x85EBCA77C2B2AE63), np.uint64(0x27D4EB2F165667C5)
    out = np.empty(len(values), np.uint64)
    text = np.zeros(32, np.uint64)
    for i in range(len(values)):
        # Digits from the back: text[at:20].
        at = 20
        rest = np.uint64(values[i]) if values[i] >= 0 else ~np.uint64(values[i]) + np.uint64(1)
        while at == 20 or rest > 0:
            at -= 1
            tenth = rest // np.uint64(10)
            text[at] = np.uint64(48) + (rest - tenth * np.uint64(10))
            rest = tenth
        if values[i] < 0:
            at -= 1
            text[at] = np.uint64(45)
        h = p5 + np.uint64(20 - at)
        while at + 8 <= 20:
            word = np.uint64(0)
            for k in range(8):
                word |= text[at + k] << np.uint64(8 * k)
            word *= p2
            word = ((word << np.uint64(31)) | (word >> np.uint64(33))) * p1
            h ^= word
            h = ((h << np.uint64(27)) | (h >> np.uint64(37))) * p1 + p4
            at += 8
        if at + 4 <= 20:
            word = np.uint64(0)
            for k in range(4):
                word |= text[at + k] << np.uint64(8 * k)
            h ^= word * p1
            h = ((h << np.uint64(23)) | (h >> np.uint64(41))) * p2 + p3
            at += 4
        while at < 20:
            h ^= text[at] * p5
            h = ((h << np.uint64(11)) | (h >> np.uint64(53))) * p1
            at += 1
        h ^= h >> np.uint64(33)
        h *= p2
        h ^= h >> np.uint64(29)
        h *= p3
        h ^= h >> np.uint64(32)
        out[i] = h if h != 0 else np.uint64(1)
    return out


def as_text(values: pl.Series) -> pl.Series:
    """The text that identifies each value, the one that is hashed; null where there is none."""
    if values.dtype == pl.Binary:
        return values.cast(pl.String)
    if values.dtype.is_decimal():
        values = values.cast(pl.Float64)
    if not values.dtype.is_float():
        return values.cast(pl.String)
    finite = values.set(~values.is_finite().fill_null(False), None)
    whole = (finite == finite.floor()) & (finite.abs() < 2**53)
    integers = finite.cast(pl.Int64, strict=False).cast(pl.String)
    return pl.select(pl.when(whole).then(integers).otherwise(finite.cast(pl.String))).to_series()


def hash_lists(values: pl.Series, max_values: int) -> tuple[U64, npt.NDArray[np.int64]]:
    """Hash a list column into one flat array and its offsets.

    A list contributes its first `max_values` distinct non-missing values.

    Returns
    -------
    flat : ndarray of uint64
    offsets : ndarray of int64, shape [n + 1]
        Row i owns ``flat[offsets[i]:offsets[i + 1]]``.
    """
    if not isinstance(values.dtype, pl.List | pl.Array):
        hashed = hash_values(values)
        keep = hashed != MISSING
        return hashed[keep], np.concatenate([[0], np.cumsum(keep)]).astype(np.int64)
    array = values.cast(pl.List(values.dtype.inner)).rechunk().to_arrow()
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    hashed = hash_values(pl.Series(values.name, array.flatten()))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return _first_distinct(hashed, offsets, max_values)


@njit(cache=True, nogil=True)
def _first_distinct(
    flat: U64, offsets: npt.NDArray[np.int64], limit: int
) -> tuple[U64, npt.NDArray[np.int64]]:
    out = np.empty_like(flat)
    out_offsets = np.zeros_like(offsets)
    size = 0
    for i in range(len(offsets) - 1):
        start = size
        for j in range(offsets[i], offsets[i + 1]):
            if flat[j] == 0 or size - start >= limit:
                continue
            known = False
            for k in range(start, size):
                if out[k] == flat[j]:
                    known = True
                    break
            if not known:
                out[size] = flat[j]
                size += 1
        out_offsets[i + 1] = size
    return out[:size].copy(), out_offsets


@njit(cache=True, nogil=True, inline="always")
def mix64(h: np.uint64) -> np.uint64:
    """Finaliser of splitmix64: every input bit reaches every output bit."""
    h = np.uint64(h)
    h ^= h >> np.uint64(30)
    h *= np.uint64(0xBF58476D1CE4E5B9)
    h ^= h >> np.uint64(27)
    h *= np.uint64(0x94D049BB133111EB)
    h ^= h >> np.uint64(31)
    return h


@njit(cache=True, nogil=True)
def combine(first: U64, second: U64) -> U64:
    """Hash of pairs, order-sensitive; missing if either part is missing. Shapes [n], [n] -> [n]."""
    out = np.empty(len(first), np.uint64)
    for i in range(len(first)):
        if first[i] == 0 or second[i] == 0:
            out[i] = 0
        else:
            h = mix64(mix64(first[i] + np.uint64(0x9E3779B97F4A7C15)) ^ second[i])
            out[i] = h if h != 0 else np.uint64(1)
    return out


class HashIndex:
    """Dense codes 0, 1, 2, ... for 64-bit hashes, in order of first appearance.

    An open-addressing table: 12 bytes a slot at a load of at most one half. Copies share it.

    Examples
    --------
    >>> index = HashIndex()
    >>> index.add(np.array([7, 9, 7], np.uint64))
    array([0, 1, 0], dtype=int32)
    >>> index.find(np.array([9, 8, 0], np.uint64))
    array([ 1, -1, -1], dtype=int32)
    """

    def __init__(self, keys: U64 | None = None) -> None:
        self._base: HashIndex | None = None  # shared, and read only; what is new stands in the table beside
        self._lent = False  # others read this table: whoever adds does so beside it
        self._empty(0 if keys is None else len(keys))
        if keys is not None and len(keys):
            self.add(np.ascontiguousarray(keys, np.uint64))

    def _empty(self, room: int = 0) -> None:
        """No keys, and room for so many: each time that it grows, it hashes all of them again."""
        capacity = max(16, 1 << (2 * room - 1).bit_length()) if room else 16
        self._slots = np.zeros(capacity, np.uint64)
        self._codes = np.full(capacity, -1, np.int32)
        self._keys = np.zeros(capacity // 2, np.uint64)
        self._size = 0

    def __len__(self) -> int:
        return self._size if self._base is None else len(self._base) + self._size

    def copy(self) -> HashIndex:
        """An independent index, which shares all keys so far: only keys that come later cost anything."""
        other = copy.copy(self)
        if self._base is None:
            self._lent = other._lent = True
        else:
            other._slots, other._codes = self._slots.copy(), self._codes.copy()
            other._keys = self._keys.copy()
        return other

    @property
    def keys(self) -> U64:
        """The hashes, by code. Shape [len(self)]."""
        new = self._keys[: self._size]
        return new if self._base is None else np.concatenate([self._base.keys, new])

    @property
    def layers(self) -> tuple[U64, U64]:
        """The hashes by code as two parts, the first of which may be shared, and is not copied."""
        new = self._keys[: self._size]
        return (new, new[:0]) if self._base is None else (self._base.keys, new)

    def find(self, hashes: U64) -> npt.NDArray[np.int32]:
        """Codes of the hashes, -1 where unknown or missing."""
        out = np.empty(len(hashes), np.int32)
        if self._base is None:
            _find(self._slots, self._codes, hashes, out)
            return out
        out = self._base.find(hashes)
        rest = np.flatnonzero(out < 0) if self._size else np.zeros(0, np.int64)
        if len(rest):
            found = np.empty(len(rest), np.int32)
            _find(self._slots, self._codes, hashes[rest], found)
            out[rest] = np.where(found < 0, found, found + np.int32(len(self._base)))
        return out

    def add(self, hashes: U64) -> npt.NDArray[np.int32]:
        """Codes of the hashes, giving the next code to each new one; -1 where missing."""
        if self._lent:
            self._lay()
        if self._base is None:
            return self._add(hashes)
        out = self._base.find(hashes)
        rest = np.flatnonzero((out < 0) & (hashes != MISSING))
        if len(rest):
            out[rest] = self._add(hashes[rest]) + np.int32(len(self._base))
            if much(self._size, len(self._base)):
                self._fold()
        return out

    def _add(self, hashes: U64) -> npt.NDArray[np.int32]:
        out = np.empty(len(hashes), np.int32)
        done = 0
        while done < len(hashes):
            done, self._size = _add(self._slots, self._codes, self._keys, self._size, hashes, out, done)
            if done < len(hashes):
                self._grow()
        return out

    def _lay(self) -> None:
        """From now on, new keys stand beside the table that others read."""
        self._base, self._lent = copy.copy(self), False
        self._empty()

    def _fold(self) -> None:
        """A table of its own again: so much is new that keeping it beside costs more."""
        assert self._base is not None
        base, new = self._base, self._keys[: self._size]
        self._slots, self._codes = base._slots.copy(), base._codes.copy()
        self._keys, self._size, self._base = base._keys.copy(), base._size, None
        self._add(new)

    def _grow(self) -> None:
        capacity = 2 * len(self._slots)
        if capacity // 2 > np.iinfo(np.int32).max:
            raise DataError("more than 2**31 distinct values under one key")
        self._slots = np.zeros(capacity, np.uint64)
        self._codes = np.full(capacity, -1, np.int32)
        keys = np.zeros(capacity // 2, np.uint64)
        keys[: self._size] = self._keys[: self._size]
        self._keys = keys
        _rebuild(self._slots, self._codes, self._keys, self._size)


@njit(cache=True, nogil=True)
def _find(slots: U64, codes: npt.NDArray[np.int32], hashes: U64, out: npt.NDArray[np.int32]) -> None:
    mask = np.uint64(len(slots) - 1)
    for i in range(len(hashes)):
        h = hashes[i]
        out[i] = -1
        if h == 0:
            continue
        p = mix64(h) & mask
        while slots[p] != 0:
            if slots[p] == h:
                out[i] = codes[p]
                break
            p = (p + np.uint64(1)) & mask


@njit(cache=True, nogil=True)
def _add(
    slots: U64,
    codes: npt.NDArray[np.int32],
    keys: U64,
    size: int,
    hashes: U64,
    out: npt.NDArray[np.int32],
    start: int,
) -> tuple[int, int]:
    """Add from `start` until done or half full; returns how far it came and the new size."""
    mask = np.uint64(len(slots) - 1)
    for i in range(start, len(hashes)):
        h = hashes[i]
        if h == 0:
            out[i] = -1
            continue
        p = mix64(h) & mask
        while slots[p] != 0 and slots[p] != h:
            p = (p + np.uint64(1)) & mask
        if slots[p] == 0:
            if size >= len(keys):
                return i, size
            slots[p] = h
            codes[p] = size
            keys[size] = h
            size += 1
        out[i] = codes[p]
    return len(hashes), size


@njit(cache=True, nogil=True)
def _rebuild(slots: U64, codes: npt.NDArray[np.int32], keys: U64, size: int) -> None:
    mask = np.uint64(len(slots) - 1)
    for code in range(size):
        p = mix64(keys[code]) & mask
        while slots[p] != 0:
            p = (p + np.uint64(1)) & mask
        slots[p] = keys[code]
        codes[p] = code
