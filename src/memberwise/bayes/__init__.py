"""Posteriors: mixed effects, sequential updates, empirical Bayes. Usable alone, without torch."""

from memberwise.bayes.inputs import InputError, SeparationWarning
from memberwise.bayes.linear import BayesianLinearRegression
from memberwise.bayes.logistic import BayesianLogisticRegression
from memberwise.bayes.mixed import MixedEffectsLogisticRegression
from memberwise.bayes.mixture_prior import MixturePrior
from memberwise.bayes.posterior import GaussianPosterior
from memberwise.bayes.random_effect import RandomEffect
from memberwise.bayes.sparse_means import SparseMeans

__all__ = [
    "BayesianLinearRegression",
    "BayesianLogisticRegression",
    "GaussianPosterior",
    "InputError",
    "MixedEffectsLogisticRegression",
    "MixturePrior",
    "RandomEffect",
    "SeparationWarning",
    "SparseMeans",
]
