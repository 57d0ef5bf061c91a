"""The registry: which layers a project can ask for by name.

A new block is one file in `memberwise.nn` whose config has a literal ``type`` and ``build(dim)``, and one
entry here. A new history encoder likewise.
"""

from __future__ import annotations

from typing import Annotated, Protocol

from pydantic import Field
from torch import Tensor, nn

from memberwise.errors import ConfigError
from memberwise.nn.cross import CrossConfig
from memberwise.nn.experts import MMoEConfig, PLEConfig
from memberwise.nn.gating import GatedMLPConfig
from memberwise.nn.history import MeanHistory
from memberwise.nn.mlp import MLPConfig
from memberwise.nn.multitask import GroupedConfig, HardSharingConfig
from memberwise.nn.residual_cross import AttentionCrossConfig, ResidualCrossConfig
from memberwise.nn.transact import HistoryTransformer

Block = Annotated[
    CrossConfig | MLPConfig | AttentionCrossConfig | ResidualCrossConfig | GatedMLPConfig,
    Field(discriminator="type"),
]
"""Interaction blocks: ``[B, d] -> [B, out_dim]``."""

MultiTaskHead = Annotated[
    HardSharingConfig | GroupedConfig[Block] | MMoEConfig | PLEConfig, Field(discriminator="type")
]
"""From one vector to one per task: ``[B, d] -> [B, T, out_dim]``."""

HISTORY_ENCODERS: dict[str, type[nn.Module]] = {"mean": MeanHistory, "transformer": HistoryTransformer}
"""Encoders of a history: ``(item_dim, action_dim)`` in the constructor, then
``(items, actions, ages, mask, candidate) -> [B, out_dim]``."""


class BlockModule(Protocol):
    """What the ranker needs of a block."""

    out_dim: int

    def __call__(self, x: Tensor) -> Tensor:
        """``[B, d] -> [B, out_dim]``."""
        ...


def history_encoder(name: str, item_dim: int, action_dim: int) -> nn.Module:
    """The encoder of a history by its name.

    Raises
    ------
    ConfigError
        If there is no such encoder.
    """
    if name not in HISTORY_ENCODERS:
        raise ConfigError(
            f"{name!r} is not a history encoder",
            where="features.history.encoder",
            fix=f"use one of {', '.join(HISTORY_ENCODERS)}",
        )
    return HISTORY_ENCODERS[name](item_dim, action_dim)
