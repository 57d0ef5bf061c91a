"""The whole: fit, evaluate, update, rank."""

from memberwise.recommender.core import Recommender

__all__ = ["Recommender"]
