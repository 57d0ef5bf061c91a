"""One file that holds everything a training run needs to go on exactly where it stood."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from memberwise.errors import BundleError


def save_tensors(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write tensors and a JSON state into one safetensors file, which appears whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    owned = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    save_file(owned, partial, metadata={"state": json.dumps(state)})
    with partial.open("rb") as f:
        os.fsync(f.fileno())
    partial.replace(path)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_tensors` wrote.

    Raises
    ------
    BundleError
        If the file is missing or damaged.
    """
    try:
        with safe_open(path, framework="pt") as f:
            tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 (not a dict)
            state = json.loads((f.metadata() or {}).get("state", "{}"))
    except (SafetensorError, OSError, ValueError) as error:
        raise BundleError(
            f"cannot be read: {error}",
            where=str(path),
            fix="delete the file and start again without --resume",
        ) from error
    return tensors, state


def random_state() -> Tensor:
    """State of torch's generator (dropout, id dropout)."""
    return torch.get_rng_state()
