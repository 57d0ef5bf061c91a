"""Meta learning: a block of the network that every entity adapts to its own latest events."""

from memberwise.meta.block import MetaBlock
from memberwise.meta.config import InnerConfig, MetaConfig, MetaTask, MetaTrainingConfig
from memberwise.meta.generate import fingerprint, generate
from memberwise.meta.inner import InnerLoop, Segment
from memberwise.meta.learner import MetaLearner
from memberwise.meta.training import MetaTrainer

__all__ = [
    "InnerConfig",
    "InnerLoop",
    "MetaBlock",
    "MetaConfig",
    "MetaLearner",
    "MetaTask",
    "MetaTrainer",
    "MetaTrainingConfig",
    "Segment",
    "fingerprint",
    "generate",
]
