"""The registry of parts: what a version may hold beside the ranker.

A new part is one file here whose class has the name of its section in the project file, and one entry below.
"""

from memberwise.recommender.parts.base import Fitting, Increment, Part, Setting

PARTS: tuple[type[Part], ...] = ()
"""In the order in which they are fitted, asked and updated."""

__all__ = ["PARTS", "Fitting", "Increment", "Part", "Setting"]
