"""The registry of parts: what a version may hold beside the ranker.

A new part is one file here whose class has the name of its section in the project file, and one entry below.
"""

from memberwise.recommender.parts.base import Fitting, Increment, Part, Retrained, Setting
from memberwise.recommender.parts.effects import EffectsPart
from memberwise.recommender.parts.exploration import ExplorationPart
from memberwise.recommender.parts.graph import GraphPart
from memberwise.recommender.parts.incremental import IncrementalPart
from memberwise.recommender.parts.meta import MetaPart

PARTS: tuple[type[Part], ...] = (GraphPart, IncrementalPart, MetaPart, EffectsPart, ExplorationPart)
"""In the order in which they are fitted within a stage, asked and updated."""

__all__ = ["PARTS", "Fitting", "Increment", "Part", "Retrained", "Setting"]
