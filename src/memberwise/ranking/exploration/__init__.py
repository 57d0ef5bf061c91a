"""Exploration: a posterior over the ranker's last layer and over items, tuned by the rows of valid.

``rows`` says what the head sees of a row, ``from_train`` and ``evidence`` find it at the fit, ``head`` is the
posterior that learns, ``spread`` what one request draws from. Policies on top: `memberwise.ranking.policies`.
"""

from memberwise.ranking.exploration.config import ExplorationConfig
from memberwise.ranking.exploration.head import ExplorationHead
from memberwise.ranking.exploration.rows import Directions, Rows, principal_directions
from memberwise.ranking.exploration.spread import Spread

__all__ = ["Directions", "ExplorationConfig", "ExplorationHead", "Rows", "Spread", "principal_directions"]
