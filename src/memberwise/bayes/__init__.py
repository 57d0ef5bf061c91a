"""Posteriors: mixed effects, sequential updates, empirical Bayes. Usable alone, without torch."""

from memberwise.bayes.eb_classifier import EmpiricalBayesClassifier
from memberwise.bayes.error_bound import ErrorBound, error_bound
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
    "EmpiricalBayesClassifier",
    "ErrorBound",
    "GaussianPosterior",
    "InputError",
    "MixedEffectsLogisticRegression",
    "MixturePrior",
    "RandomEffect",
    "SeparationWarning",
    "SparseMeans",
    "error_bound",
]
