"""Sequential = batch, invariances, oracles and bad input for the two regressions."""

import warnings

import numpy as np
import polars as pl
import pytest
import scipy.sparse
from scipy.optimize import minimize
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from memberwise.bayes import (
    BayesianLinearRegression,
    BayesianLogisticRegression,
    InputError,
    SeparationWarning,
    laplace,
)
from memberwise.bayes.persistence import read_arrays, write_arrays
from memberwise.errors import BundleError, DataError


def logistic_data(n=600, p=5, seed=0, correlation=0.5):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, p)) + np.sqrt(correlation) * rng.standard_normal((n, 1))
    logit = X @ np.linspace(-1, 1, p) - 0.3
    return X, (rng.random(n) < 1 / (1 + np.exp(-logit))).astype(int)


def log_loss(model, X, y):
    p = model.predict_proba(X)[:, 1]
    return -np.mean(y * np.log(p) + (1 - y) * np.log1p(-p))


@parametrize_with_checks([BayesianLogisticRegression(), BayesianLinearRegression()])
def test_scikit_learn_accepts_the_estimators(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SeparationWarning)
        warnings.simplefilter("ignore", ConvergenceWarning)
        check(estimator)


def test_gaussian_sequence_equals_the_ridge_solution_to_machine_precision():
    rng = np.random.default_rng(1)
    X, lam, noise = rng.standard_normal((500, 6)), 3.0, 0.7
    y = X @ rng.standard_normal(6) + 2.0 + rng.standard_normal(500)
    model = BayesianLinearRegression(prior_precision=lam, intercept_precision=0.1, noise_variance=noise)
    for part in np.array_split(np.arange(500), 23):
        model.partial_fit(X[part], y[part])
    full = np.column_stack([np.ones(500), X])
    precision = full.T @ full / noise + np.diag([0.1] + [lam] * 6)
    np.testing.assert_allclose(
        model.posterior_.mean, np.linalg.solve(precision, full.T @ y / noise), rtol=1e-11
    )
    np.testing.assert_allclose(model.posterior_.precision.dense(), precision, rtol=1e-11, atol=1e-9)


def test_logistic_sequence_equals_the_refit_when_nothing_drifts():
    X, y = logistic_data(n=12_000, p=8)
    test_X, test_y = logistic_data(n=20_000, p=8, seed=9)
    sequential = BayesianLogisticRegression()
    for part in np.array_split(np.arange(len(y)), 24):
        sequential.partial_fit(X[part], y[part], classes=[0, 1])
    refit = BayesianLogisticRegression().fit(X, y)
    assert abs(log_loss(sequential, test_X, test_y) - log_loss(refit, test_X, test_y)) < 1e-3
    assert sequential.n_steps_ == 24


def test_the_error_of_the_sequence_falls_as_one_over_the_batch_size():
    gaps = []
    for size in (100, 400):
        X, y = logistic_data(n=8 * size, p=4, seed=3)
        model = BayesianLogisticRegression()
        for part in np.array_split(np.arange(len(y)), 8):
            model.partial_fit(X[part], y[part], classes=[0, 1])
        gaps.append(np.abs(model.coef_ - BayesianLogisticRegression().fit(X, y).coef_).max())
    assert gaps[1] < gaps[0] / 2


def test_the_mode_minimises_the_stated_objective():
    X, y = logistic_data(n=80)
    weights, offset = np.linspace(0.2, 3, 80), np.linspace(-1, 1, 80)
    model = BayesianLogisticRegression(prior_precision=2.0, intercept_precision=0.5).fit(
        X, y, sample_weight=weights, offset=offset
    )

    def objective(w):
        z = w[0] + X @ w[1:] + offset
        return weights @ (np.logaddexp(0, z) - y * z) + 0.25 * w[0] ** 2 + w[1:] @ w[1:]

    best = minimize(objective, np.zeros(6), method="BFGS", options={"gtol": 1e-7})
    np.testing.assert_allclose(model.posterior_.mean, best.x, atol=1e-5)


def test_the_mode_equals_glum_with_a_penalty_matrix():
    glum = pytest.importorskip("glum")
    X, y = logistic_data(n=700, p=5, seed=4)
    first = BayesianLogisticRegression(fit_intercept=False, prior_precision=3.0).fit(X[:300], y[:300])
    prior = first.posterior_
    second = clone(first)
    second.partial_fit(X[:300], y[:300], classes=[0, 1]).partial_fit(X[300:], y[300:])
    # glum's penalty is centred at zero and its loss is a mean: shift the coefficients by an offset.
    oracle = glum.GeneralizedLinearRegressor(
        family="binomial", alpha=1.0 / 400, P2=prior.precision.dense(), fit_intercept=False,
        gradient_tol=1e-10, max_iter=500,
    )  # fmt: skip
    oracle.fit(X[300:], y[300:], offset=X[300:] @ prior.mean)
    np.testing.assert_allclose(second.coef_[0], oracle.coef_ + prior.mean, atol=1e-6)


def test_direct_and_iterative_solver_agree(monkeypatch):
    X, y = logistic_data(n=400, p=30, seed=5)
    direct = BayesianLogisticRegression(tol=1e-12).fit(X, y)
    monkeypatch.setattr(laplace, "DENSE_LIMIT", 3)
    iterative = BayesianLogisticRegression(tol=1e-12, covariance="full").fit(X, y)
    np.testing.assert_allclose(iterative.coef_, direct.coef_, atol=1e-6)


def test_probed_variances_approach_the_exact_ones(monkeypatch):
    X, y = logistic_data(n=800, p=40, seed=6, correlation=1.0)
    exact = BayesianLogisticRegression(covariance="full").fit(X, y).posterior_.variances()
    monkeypatch.setattr(laplace, "DENSE_LIMIT", 3)
    probed = BayesianLogisticRegression(covariance="diagonal", variance_probes=200).fit(X, y)
    curvature = BayesianLogisticRegression(covariance="diagonal").fit(X, y)
    error = np.abs(np.log(probed.posterior_.variances() / exact)).mean()
    assert error < 0.1
    assert np.abs(np.log(curvature.posterior_.variances() / exact)).mean() > 2 * error


@pytest.mark.parametrize("form", ["full", "diagonal", "low_rank"])
def test_sparse_dense_and_frame_give_one_answer(form):
    X, y = logistic_data()
    X[np.abs(X) < 0.7] = 0.0
    frame = pl.DataFrame({f"f{i}": X[:, i] for i in range(X.shape[1])})
    make = lambda: BayesianLogisticRegression(covariance=form, rank=3)  # noqa: E731
    dense = make().fit(X, y)
    for other in (scipy.sparse.csr_matrix(X), scipy.sparse.csr_array(X), scipy.sparse.csc_array(X), frame):
        np.testing.assert_allclose(make().fit(other, y).posterior_.mean, dense.posterior_.mean, atol=1e-8)
    shuffled = frame.select(reversed(frame.columns))
    model = make().fit(frame, y)
    np.testing.assert_array_equal(model.predict_proba(shuffled), model.predict_proba(frame))


def test_a_weight_of_two_is_the_row_twice_and_order_does_not_matter():
    X, y = logistic_data(n=90)
    weights = np.random.default_rng(0).integers(0, 4, 90)
    weighted = BayesianLogisticRegression().fit(X, y, sample_weight=weights)
    repeated = BayesianLogisticRegression().fit(np.repeat(X, weights, axis=0), np.repeat(y, weights))
    turned = BayesianLogisticRegression().fit(X[::-1], y[::-1], sample_weight=weights[::-1])
    for other in (repeated, turned):
        np.testing.assert_allclose(other.posterior_.mean, weighted.posterior_.mean, atol=1e-9)
        np.testing.assert_allclose(
            other.posterior_.precision.dense(), weighted.posterior_.precision.dense(), atol=1e-8
        )


def test_scaling_the_prior_makes_the_fit_indifferent_to_units():
    X, y = logistic_data()
    units = np.array([1e-3, 1.0, 1e4, 10.0, 0.1])
    plain = BayesianLogisticRegression(scale=True).fit(X, y)
    scaled = BayesianLogisticRegression(scale=True).fit(X * units, y)
    np.testing.assert_allclose(scaled.coef_ * units, plain.coef_, rtol=1e-6)
    np.testing.assert_allclose(scaled.predictive_proba(X * units), plain.predictive_proba(X), rtol=1e-6)


def test_new_columns_join_by_name_and_absent_ones_stay():
    X, y = logistic_data(n=400)
    old = pl.DataFrame({"a": X[:200, 0], "b": X[:200, 1]})
    new = pl.DataFrame({"c": X[200:, 2], "a": X[200:, 0]})
    model = BayesianLogisticRegression().fit(old, y[:200])
    before = dict(zip(model.posterior_.names, model.posterior_.mean, strict=True))
    model.partial_fit(new, y[200:])
    after = dict(zip(model.posterior_.names, model.posterior_.mean, strict=True))
    assert model.posterior_.names == ("(intercept)", "a", "b", "c")
    assert model.n_features_in_ == 3
    assert after["c"] != 0.0
    assert after["a"] != before["a"]
    with pytest.raises(InputError, match="missing"):
        model.predict(new)


def test_forgetting_recovers_from_drift_and_the_intercept_has_its_own():
    X, y = logistic_data(n=6_000, p=3, seed=7)
    rigid, supple = BayesianLogisticRegression(), BayesianLogisticRegression(forgetting=0.6)
    for part in np.array_split(np.arange(3_000), 10):
        rigid.partial_fit(X[part], y[part], classes=[0, 1])
        supple.partial_fit(X[part], y[part], classes=[0, 1])
    for part in np.array_split(np.arange(3_000, 5_500), 8):  # every effect changes its sign
        rigid.partial_fit(-X[part], y[part])
        supple.partial_fit(-X[part], y[part])
    assert log_loss(supple, -X[5_500:], y[5_500:]) < log_loss(rigid, -X[5_500:], y[5_500:]) - 0.05
    base = BayesianLogisticRegression(intercept_forgetting=0.1)
    stiff = BayesianLogisticRegression()
    for model in (base, stiff):
        for part in np.array_split(np.arange(3_000), 10):
            model.partial_fit(X[part], y[part], classes=[0, 1])
        model.partial_fit(X[3_000:3_300], np.ones(300), classes=[0, 1])
    assert base.intercept_[0] > stiff.intercept_[0] + 0.5


def test_l2_enters_once():
    """Many steps without information must not shrink what is known."""
    X, y = logistic_data(n=500)
    model = BayesianLogisticRegression(prior_precision=10.0).fit(X, y)
    known = model.coef_.copy()
    for _ in range(50):
        model.partial_fit(np.zeros((1, 5)), [1], sample_weight=[1e-12])
    np.testing.assert_allclose(model.coef_, known, rtol=1e-6)


def test_resuming_from_a_file_equals_never_stopping(tmp_path):
    X, y = logistic_data(n=600)
    for form in ("full", "diagonal", "low_rank"):
        going = BayesianLogisticRegression(covariance=form, forgetting=0.9, scale=True).fit(
            X[:300], y[:300], batch="a"
        )
        going.save(tmp_path / "model")
        resumed = BayesianLogisticRegression.load(tmp_path / "model")
        for model in (going, resumed):
            model.partial_fit(X[300:], y[300:], batch="b")
        np.testing.assert_array_equal(resumed.predictive_proba(X), going.predictive_proba(X))
        with pytest.raises(DataError, match="already absorbed"):
            resumed.partial_fit(X[:300], y[:300], batch="a")


def test_a_damaged_file_is_refused(tmp_path):
    X, y = logistic_data(n=60)
    path = tmp_path / "model"
    BayesianLogisticRegression().fit(X, y).save(path)
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 1
    path.write_bytes(raw)
    with pytest.raises(BundleError, match="damaged"):
        BayesianLogisticRegression.load(path)
    with pytest.raises(BundleError, match="cannot be read"):
        BayesianLogisticRegression.load(tmp_path / "none")
    path.write_bytes(raw[:50])
    with pytest.raises(BundleError):
        BayesianLogisticRegression.load(path)


def test_a_file_of_another_format_is_refused(tmp_path):
    path = tmp_path / "model"
    for form, says in ((1, "fit again"), (3, "install a newer memberwise")):
        write_arrays(path, "kind", {}, {"a": np.zeros(2)}, form)
        assert read_arrays(path, "kind", form)[0] == {}
        with pytest.raises(BundleError, match=f"has format {form}") as found:
            read_arrays(path, "kind", 2)
        assert says in str(found.value)


def test_it_works_in_a_pipeline_and_a_search():
    X, y = logistic_data(n=200)
    search = GridSearchCV(
        make_pipeline(StandardScaler(), BayesianLogisticRegression()),
        {"bayesianlogisticregression__prior_precision": [0.1, 10.0]},
    ).fit(X, y)
    assert search.best_score_ > 0.6


def test_predictive_probability_is_nearer_to_one_half():
    X, y = logistic_data(n=20)
    model = BayesianLogisticRegression().fit(X, y)
    plain, averaged = model.predict_proba(4 * X)[:, 1], model.predictive_proba(4 * X)[:, 1]
    assert (np.abs(averaged - 0.5) < np.abs(plain - 0.5)).all()


class TestBadInput:
    def test_separable_labels_give_a_finite_answer_and_a_warning(self):
        X = np.linspace(-1, 1, 50)[:, None]
        with pytest.warns(SeparationWarning):
            model = BayesianLogisticRegression().fit(X, X[:, 0] > 0)
        assert np.isfinite(model.coef_).all()

    def test_constant_and_duplicate_columns_share_their_effect(self):
        X, y = logistic_data(n=200, p=2)
        wide = np.column_stack([X, X[:, 0], np.zeros(200), np.ones(200)])
        model = BayesianLogisticRegression(scale=True).fit(wide, y)
        assert model.coef_[0, 0] == pytest.approx(model.coef_[0, 2])
        assert model.coef_[0, 3] == 0.0
        assert np.isfinite(model.posterior_.variances()).all()

    def test_one_class_is_refused_in_fit_and_learnt_in_partial_fit(self):
        X, _ = logistic_data(n=20)
        with pytest.raises(InputError, match="one class"):
            BayesianLogisticRegression().fit(X, np.ones(20))
        model = BayesianLogisticRegression().partial_fit(X, np.ones(20), classes=[0, 1])
        assert (model.predict_proba(X)[:, 1] > 0.5).all()
        with pytest.raises(InputError, match="outside"):
            model.partial_fit(X, np.full(20, 3))

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_numbers_that_are_not_finite_are_refused(self, bad):
        X, y = logistic_data(n=20)
        model = BayesianLogisticRegression().fit(X, y)
        before = model.posterior_
        spoiled = X.copy()
        spoiled[3, 1] = bad
        with pytest.raises(ValueError, match=r"NaN|infinity"):
            model.partial_fit(spoiled, y)
        with pytest.raises(InputError, match="finite"):
            model.partial_fit(X, y, offset=np.full(20, bad))
        with pytest.raises(InputError, match="at least 0"):
            model.partial_fit(X, y, sample_weight=-np.ones(20))
        assert model.posterior_ is before

    def test_huge_offsets_are_survived(self):
        X, y = logistic_data(n=50)
        model = BayesianLogisticRegression().fit(X, y, offset=np.where(np.arange(50) % 2, 1e5, -1e5))
        assert np.isfinite(model.coef_).all()

    def test_a_solve_that_fails_leaves_the_posterior_and_says_so(self):
        X, y = logistic_data(n=200)
        model = BayesianLogisticRegression().fit(X, y)
        before = model.posterior_
        model.max_iter = 1
        with pytest.warns(ConvergenceWarning, match="previous posterior stays"):
            model.partial_fit(-5 * X, y, sample_weight=np.full(200, 50.0))
        assert model.posterior_ is before
        assert not model.converged_

    def test_one_feature_and_few_rows(self):
        model = BayesianLogisticRegression().fit([[1.0], [2.0]], [0, 1])
        assert model.coef_.shape == (1, 1)
