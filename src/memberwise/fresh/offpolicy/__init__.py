"""Off-policy evaluation: what another policy would have earned, from the log of the one that ran.

Conventions
-----------
``n`` decisions: a context came, the logging policy took an action of known probability, a reward followed.
``w = target / propensity`` is how much more often the target policy would have taken the logged action.
Members bring many decisions, which resemble each other: intervals resample members whole.
"""

from memberwise.fresh.offpolicy.estimators import (
    FEW,
    FEW_REWARDS,
    Estimate,
    OffPolicy,
    effective_size,
    evaluate,
)
from memberwise.fresh.offpolicy.logged import LoggedDecisions, expected_reward
from memberwise.fresh.offpolicy.shuffled import Replay, replay

__all__ = [
    "FEW", "FEW_REWARDS", "Estimate", "LoggedDecisions", "OffPolicy", "Replay", "effective_size", "evaluate",
    "expected_reward", "replay",
]  # fmt: skip
