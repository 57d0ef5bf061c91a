"""What one room may know of another's model."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor


class GlobalBlock(Protocol):
    """All that meta learning knows of a ranker: features and a vector per row in, logits out."""

    def __call__(self, z: Tensor, features: Any) -> Tensor:
        """Logits ``[B, T]`` of rows whose personal vector is `z` ``[B, p]``."""
        ...
