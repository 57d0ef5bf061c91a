"""Pointwise losses against numerical derivatives, and the logistic-normal integral against quadrature."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import expit

from memberwise.bayes.likelihood import BernoulliLikelihood, GaussianLikelihood, logistic_normal_mean


@pytest.mark.parametrize("likelihood", [BernoulliLikelihood(), GaussianLikelihood(2.5)])
@pytest.mark.parametrize("label", [0.0, 1.0])
def test_gradient_and_curvature_are_the_derivatives_of_the_loss(likelihood, label):
    eta, h = np.linspace(-6, 6, 41), 1e-5
    y = np.full_like(eta, label)
    slope = (likelihood.loss(eta + h, y) - likelihood.loss(eta - h, y)) / (2 * h)
    bend = (likelihood.gradient(eta + h, y) - likelihood.gradient(eta - h, y)) / (2 * h)
    np.testing.assert_allclose(likelihood.gradient(eta, y), slope, atol=1e-8)
    np.testing.assert_allclose(likelihood.curvature(eta), bend, atol=1e-8)


def test_the_logistic_loss_survives_huge_logits():
    loss = BernoulliLikelihood().loss(np.array([-1e6, 1e6, 1e6]), np.array([0.0, 1.0, 0.0]))
    np.testing.assert_allclose(loss, [0.0, 0.0, 1e6])


@given(st.floats(-30, 30), st.floats(1e-6, 900))
def test_logistic_normal_mean_equals_the_integral(mean, variance):
    sd = np.sqrt(variance)
    expected, _ = quad(
        lambda u: expit(mean + sd * u) * np.exp(-0.5 * u * u) / np.sqrt(2 * np.pi),
        -12, 12, limit=400, points=[-mean / sd] if abs(mean / sd) < 12 else None, epsabs=1e-11,
    )  # fmt: skip
    assert logistic_normal_mean(np.array([mean]), np.array([variance]))[0] == pytest.approx(
        expected, abs=1e-7
    )


def test_logistic_normal_mean_is_symmetric_and_bounded():
    m, v = np.linspace(-40, 40, 101), np.full(101, 50.0)
    p = logistic_normal_mean(m, v)
    np.testing.assert_allclose(p + p[::-1], 1.0, atol=1e-9)
    assert (np.diff(p) > 0).all()
    assert p.min() >= 0
    assert p.max() <= 1
