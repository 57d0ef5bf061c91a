"""Posteriors: mixed effects, sequential updates, empirical Bayes. Usable alone, without torch."""

from memberwise.bayes.inputs import InputError, SeparationWarning
from memberwise.bayes.linear import BayesianLinearRegression
from memberwise.bayes.logistic import BayesianLogisticRegression
from memberwise.bayes.posterior import GaussianPosterior

__all__ = [
    "BayesianLinearRegression",
    "BayesianLogisticRegression",
    "GaussianPosterior",
    "InputError",
    "SeparationWarning",
]
