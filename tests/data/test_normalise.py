"""Numbers fit for a network, whatever comes in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from memberwise.data.normalise import CLIP, DenseColumn, Normaliser

TRANSFORMS = ("standard", "log1p", "quantile", "none")
floats = arrays(np.float32, st.tuples(st.integers(1, 40), st.just(4)), elements=st.floats(width=32))


def fitted(train: np.ndarray, *transforms: str, indicator: bool = True) -> Normaliser:
    normaliser = Normaliser([DenseColumn(f"c{j}", t, indicator) for j, t in enumerate(transforms)])
    normaliser.fit(train.astype(np.float32).reshape(len(train), -1))
    return normaliser


def column(*values: float) -> np.ndarray:
    return np.array(values, np.float32)[:, None]


@given(train=floats, rows=floats)
def test_finite_whatever_comes_in_and_missing_is_zero_with_a_mark(train: np.ndarray, rows: np.ndarray):
    normaliser = fitted(train, *TRANSFORMS)
    out = normaliser.transform(rows)
    assert out.shape == (len(rows), 8)
    assert np.isfinite(out).all()
    assert (np.abs(out[:, :3]) <= CLIP).all()
    missing = ~np.isfinite(rows)
    assert (out[:, :4][missing] == 0).all()
    gaps = ~np.isfinite(train).all(axis=0)  # without a gap in train, a gap later means nothing
    assert (out[:, 4:] == (missing & gaps)).all()
    again = Normaliser(normaliser.columns)
    again.load_arrays(normaliser.to_arrays())
    assert (again.transform(rows) == out).all()


@pytest.mark.parametrize("transform", TRANSFORMS[:3])
def test_train_has_mean_zero_and_spread_one(transform: str):
    train = np.random.default_rng(0).lognormal(size=(5000, 1))
    train[::7] = np.nan
    out = fitted(train, transform).transform(train.astype(np.float32))[:, 0]
    there = ~np.isnan(train[:, 0])
    assert abs(out[there].mean()) < 0.02
    assert abs(out[there].std() - 1) < 0.06
    assert (out[~there] == 0).all()


def test_values_are_those_of_the_formulas():
    train = column(1, 2, 3, 4)
    np.testing.assert_allclose(
        fitted(train, "standard").transform(column(5))[0, 0], (5 - 2.5) / np.std([1, 2, 3, 4]), rtol=1e-6
    )
    logs = np.log1p([1, 2, 3, 4])
    np.testing.assert_allclose(
        fitted(train, "log1p").transform(column(-5))[0, 0], (-np.log(6) - logs.mean()) / logs.std(), rtol=1e-5
    )
    assert fitted(train, "none").transform(column(1e6))[0, 0] == 1e6


def test_ranks_do_not_care_for_the_scale():
    rng = np.random.default_rng(0)
    train = rng.normal(size=(3000, 1))
    one, other = fitted(train, "quantile"), fitted(np.exp(3 * train), "quantile")
    rows = rng.uniform(-1.5, 1.5, (200, 1))  # between two knots of a long tail there is no rank
    a, b = one.transform(rows.astype(np.float32)), other.transform(np.exp(3 * rows).astype(np.float32))
    assert np.abs(a - b).max() < 0.1
    assert (np.diff(one.transform(np.sort(rows, 0).astype(np.float32))[:, 0]) >= 0).all()


def test_a_mass_at_zero_stays_one_value_and_the_rest_spreads():
    rng = np.random.default_rng(0)
    values = np.where(rng.random(4000) < 0.9, 0.0, rng.lognormal(size=4000))
    normaliser = fitted(values[:, None], "quantile")
    zero, small, large = normaliser.transform(column(0.0, np.quantile(values[values > 0], 0.1), 50.0))[:, 0]
    assert zero < small < large
    assert large - small > 0.5
    assert small - zero > 0.5


def test_a_column_that_never_varied_says_nothing_later():
    out = fitted(column(*[3.0] * 50), "standard").transform(column(3, 4))
    assert out[:, 0].tolist() == [0, 0]
    for transform in TRANSFORMS[1:3]:
        assert np.abs(fitted(column(*[3.0] * 50), transform).transform(column(3, 1e9))).max() <= CLIP


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_column_without_any_value_is_all_mark(transform: str):
    normaliser = fitted(column(np.nan, np.nan), transform)
    assert normaliser.transform(column(np.nan)).tolist() == [[0, 1]]
    assert np.isfinite(normaliser.transform(column(5.0))).all()


def test_names_and_marks_come_in_the_same_order():
    normaliser = Normaliser([DenseColumn("a"), DenseColumn("b", indicator=True)])
    assert normaliser.names == ("a", "b", "b is missing")
    rows = np.array([[1, np.nan], [np.nan, 1]], np.float32)
    assert normaliser.transform(rows)[:, 2].tolist() == [1, 0]
