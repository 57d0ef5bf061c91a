"""One file per estimator: safetensors with a JSON header and a checksum, published atomically."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from memberwise.errors import BundleError
from memberwise.formats import FIRST, check_format

Arrays = Mapping[str, npt.NDArray[Any]]


def write_arrays(
    path: str | os.PathLike[str],
    kind: str,
    header: Mapping[str, Any],
    arrays: Arrays,
    form: int = FIRST,
) -> None:
    """Write arrays and a JSON header so that a reader sees the old file or the new one, never a part.

    Parameters
    ----------
    path : path
        Where to publish.
    kind : str
        What the file holds; `read_arrays` refuses another kind.
    header : mapping
        Anything that JSON can hold.
    arrays : mapping of str to array
        Numeric arrays; text goes through `pack_text`.
    form : int
        Number of the format of this kind, raised when its arrays come to mean something else.
    """
    target = Path(path)
    text = json.dumps(header, sort_keys=True)
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    payload = save(
        whole, metadata={"kind": kind, "format": str(form), "header": text, "sha256": _digest(text, whole)}
    )
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    directory = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def read_arrays(
    path: str | os.PathLike[str], kind: str, form: int = FIRST
) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Read what `write_arrays` wrote.

    Raises
    ------
    BundleError
        The file is missing, damaged, or of another kind or format.
    """
    try:
        with safe_open(str(path), framework="numpy") as file:
            about = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError) as error:
        raise BundleError(f"cannot be read: {error}", where=str(path)) from error
    if about.get("kind") != kind:
        raise BundleError(f"holds {about.get('kind')!r}, not {kind!r}", where=str(path))
    check_format(int(about.get("format", FIRST)), form, Path(path), oldest=form)
    if about.get("sha256") != _digest(about["header"], arrays):
        raise BundleError(
            "checksum differs: the file is damaged", where=str(path), fix="restore an earlier one"
        )
    return json.loads(about["header"]), arrays


def pack_text(texts: Iterable[str]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Return the UTF-8 bytes of many strings and the end of each."""
    parts = [text.encode() for text in texts]
    ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
    return np.frombuffer(b"".join(parts), dtype=np.uint8), ends


def unpack_text(data: npt.NDArray[np.uint8], ends: npt.NDArray[np.int64]) -> list[str]:
    """Return the strings that `pack_text` packed."""
    raw, starts = data.tobytes(), np.concatenate([[0], ends[:-1]]) if ends.size else ends
    return [raw[a:b].decode() for a, b in zip(starts.tolist(), ends.tolist(), strict=True)]


def _digest(header: str, arrays: Arrays) -> str:
    digest = hashlib.sha256(header.encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name}{array.dtype.str}{array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
