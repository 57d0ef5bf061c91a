"""A prior of any shape for scalar effects, one Gaussian stand-in per entity."""

from __future__ import annotations

import numpy as np

from memberwise.bayes.likelihood import FloatArray
from memberwise.bayes.random_effect import EffectState, Plan
from memberwise.bayes.sparse_means import SparseMeans

_LEAST = 1e-6


def nonparametric_sites(state: EffectState, plan: Plan, mean: FloatArray, variance: FloatArray) -> None:
    r"""Refit the population of scalar effects and give each entity the Gaussian that acts like it there.

    The Laplace approximation turns entity e's data into one normal observation
    :math:`x_e \sim N(b_e, s_e^2)`; `SparseMeans` estimates the distribution of all b from them and its
    posterior mean and variance (E, V) of each. The entity's site is the Gaussian prior under which x_e
    gives that posterior:

    .. math:: \tau_e = \max(1/V - 1/s_e^2, \epsilon), \qquad
              \mu_e = \left[E\,(1/s_e^2 + \tau_e) - x_e/s_e^2\right] / \tau_e

    An entity never seen has the normal prior with the population's second moment.

    Parameters
    ----------
    state, plan
        The block and the batch; ``plan`` receives the sites.
    mean, variance : float64 [E]
        Posterior modes and variances under the present sites.
    """
    if plan.site_mean is None or plan.site_precision is None:
        plan.site_mean = np.zeros_like(mean)
        plan.site_precision = np.full_like(mean, 1.0 / state.constant_variance)
    information = np.maximum(1.0 / variance - plan.site_precision, _LEAST)
    x = mean + plan.site_precision * (mean - plan.site_mean) / information
    population = SparseMeans(prior="soft").fit(x, 1.0 / np.sqrt(information))
    target, spread = population.posterior_moments(x, 1.0 / np.sqrt(information))
    plan.site_precision = np.maximum(1.0 / np.maximum(spread, 1e-12) - information, _LEAST)
    plan.site_precision = np.minimum(plan.site_precision, 1e6)
    plan.site_mean = (target * (information + plan.site_precision) - x * information) / plan.site_precision
    first, second = population.prior_.moments()
    state.constant_variance = max(second + first**2, _LEAST)
