"""The classifier's rules against direct formulas, its invariances, the error bound, and bad input."""

import warnings

import numpy as np
import polars as pl
import pytest
import scipy.sparse
from scipy.stats import t as student
from sklearn.covariance import LedoitWolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from memberwise.bayes import EmpiricalBayesClassifier, InputError, SparseMeans, error_bound
from memberwise.bayes.linear_rules import WithinCovariance, centroid_rules, shrinkage_rule
from memberwise.bayes.two_sample import compare, empirical_null, to_z
from memberwise.errors import ConfigError

RULES = ("auto", "independent", "shrinkage", "selected", "centroids")


def groups(n1=20, n2=20, p=300, signals=30, size=1.2, seed=0):
    rng = np.random.default_rng(seed)
    y = np.r_[np.zeros(n1, int), np.ones(n2, int)]
    X = rng.standard_normal((n1 + n2, p))
    X[:, :signals] += size * y[:, None]
    return X, y


@parametrize_with_checks([EmpiricalBayesClassifier(), EmpiricalBayesClassifier(covariance="independent")])
def test_scikit_learn_accepts_the_estimator(estimator, check):
    check(estimator)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_finds_strong_signals(rule):
    X, y = groups()
    model = EmpiricalBayesClassifier(covariance=rule).fit(X, y)
    new_X, new_y = groups(seed=1)
    assert model.score(new_X, new_y) > 0.85
    probability = model.predict_proba(new_X)
    np.testing.assert_allclose(probability.sum(axis=1), 1.0)
    assert (probability.argmax(axis=1) == model.predict(new_X)).all()


def test_the_independence_rule_is_the_published_one():
    X, y = groups(n1=15, n2=25)
    means = SparseMeans()
    model = EmpiricalBayesClassifier(
        covariance="independent", means=means, symmetric=False, priors="equal"
    ).fit(X, y)
    a, b = X[y == 1], X[y == 0]
    S = np.sqrt(a.var(axis=0, ddof=1) / len(a) + b.var(axis=0, ddof=1) / len(b))
    S = np.maximum(S / X.std(axis=0), np.quantile(S / X.std(axis=0), 0.05)) * X.std(axis=0)
    v = means.fit(model.z_values_[0]).posterior_mean(model.z_values_[0])
    weights = v / S
    scores = (X - 0.5 * (a.mean(axis=0) + b.mean(axis=0))) @ weights
    np.testing.assert_allclose(model.decision_function(X) * (15 * 25 / 40), scores, rtol=1e-8, atol=1e-8)


def test_z_values_have_the_tail_of_their_t():
    t, df = np.array([-30.0, -2.0, 0.0, 2.0, 4.0]), np.array([3.0, 5.0, 9.0, 5.0, 40.0])
    z = to_z(t, df)
    inner = slice(1, None)
    from scipy.stats import norm

    np.testing.assert_allclose(norm.sf(z[inner]), student.sf(t[inner], df[inner]), rtol=1e-10)
    assert -8 <= z[0] < -3
    assert to_z(np.array([1e6]), np.array([1e4]))[0] == 8.0


def test_the_guard_raises_tiny_standard_errors_and_can_be_turned_off():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((20, 100))
    X[:, 0] *= 1e-6
    positive = np.arange(20) < 8
    published, guarded = compare(X, positive, guard=0.0), compare(X, positive)
    assert published.scale[0] < 1e-6 < 0.1 < guarded.scale[0]
    np.testing.assert_array_equal(guarded.scale[1:][guarded.scale[1:] > guarded.scale[0]],
                                  published.scale[1:][guarded.scale[1:] > guarded.scale[0]])  # fmt: skip
    assert abs(guarded.z[0]) < 1e-3
    with pytest.raises(ConfigError, match="guard"):
        EmpiricalBayesClassifier(guard=1.0).fit(X, positive)


def test_null_z_values_are_standard_normal():
    X, y = groups(n1=6, n2=9, p=20_000, signals=0)
    two = compare(X, y == 1)
    assert abs(two.z.std() - 1.0) < 0.03
    assert empirical_null(1.5 * two.z)[1] == pytest.approx(1.5, rel=0.05)


def test_the_covariance_equals_ledoit_wolf_and_its_solve_the_dense_one():
    X, y = groups(n1=12, n2=18, p=60)
    positive = y == 1
    covariance = WithinCovariance.fit(X, positive)
    oracle = LedoitWolf(assume_centered=True).fit(covariance.residuals)
    assert covariance.shrinkage == pytest.approx(oracle.shrinkage_, rel=1e-10)
    d = np.random.default_rng(0).standard_normal(60)
    np.testing.assert_allclose(covariance.solve(d), np.linalg.solve(oracle.covariance_, d), rtol=1e-8)


def test_shrinkage_with_the_raw_difference_is_linear_discriminant_analysis():
    X, y = groups(n1=20, n2=30, p=40)
    positive = y == 1
    two = compare(X, positive)
    raw = X[positive].mean(axis=0) - X[~positive].mean(axis=0)
    rules = shrinkage_rule(X, positive, two, raw, two.log_prior)
    fitted = WithinCovariance.fit(X, positive)
    sigma = (1 - fitted.shrinkage) * fitted.residuals.T @ fitted.residuals / 50
    sigma += fitted.shrinkage * fitted.level * np.eye(40)
    middle = 0.5 * (X[positive].mean(axis=0) + X[~positive].mean(axis=0))
    direct = (X - middle) @ np.linalg.solve(sigma, raw) + np.log(30 / 20)
    np.testing.assert_allclose(rules.scores(X)[:, 0], direct, rtol=1e-8)
    oracle = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(X, y)
    assert (oracle.predict(X) == (direct > 0)).mean() > 0.95


def test_centroids_equal_those_of_scikit_learn_in_their_zero_pattern():
    X, y = groups(n1=20, n2=20, p=100)
    rules = centroid_rules(X, y == 1, 10, 0.0)
    assert not rules.coef[-1].any()
    kept = [(row != 0).sum() for row in rules.coef]
    assert kept == sorted(kept, reverse=True)
    # scikit-learn shrinks by the same formula and predicts by the plain distance
    pooled = np.sqrt(sum(X[y == k].var(axis=0) * 20 for k in (0, 1)) / 38)
    factor = np.sqrt(1 / 20 - 1 / 40)
    largest = np.abs((X[y == 1].mean(0) - X.mean(0)) / (factor * (pooled + np.median(pooled)))).max()
    oracle = NearestCentroid(shrink_threshold=largest * 4 / 9).fit(X, y)
    moved = (oracle.centroids_[1] - oracle.centroids_[0]) != 0
    assert (moved == (rules.coef[4] != 0)).mean() > 0.97


def test_without_signal_the_larger_class_wins():
    X, y = groups(n1=30, n2=10, p=400, signals=0)
    for covariance in ("independent", "shrinkage"):
        model = EmpiricalBayesClassifier(covariance=covariance, weights="sparse", priors="equal").fit(X, y)
        assert not model.coef_.any()
        assert (model.predict(X) == 0).all()


def test_exchanging_labels_features_and_samples_changes_only_names():
    X, y = groups(n1=14, n2=22)
    order, columns = np.random.default_rng(0).permutation(36), np.random.default_rng(1).permutation(300)
    for covariance in ("independent", "shrinkage"):
        scores = EmpiricalBayesClassifier(covariance=covariance).fit(X, y).decision_function(X)
        swapped = EmpiricalBayesClassifier(covariance=covariance).fit(X, 1 - y)
        np.testing.assert_allclose(swapped.decision_function(X), -scores, rtol=1e-5, atol=1e-6)
        turned = EmpiricalBayesClassifier(covariance=covariance).fit(X[order][:, columns], y[order])
        np.testing.assert_allclose(turned.decision_function(X[:, columns]), scores, rtol=1e-5, atol=1e-6)


def test_units_and_per_sample_standardisation():
    X, y = groups()
    units = np.random.default_rng(0).uniform(0.1, 100, 300)
    plain = EmpiricalBayesClassifier(covariance="shrinkage").fit(X, y)
    scaled = EmpiricalBayesClassifier(covariance="shrinkage").fit(X * units + 5, y)
    np.testing.assert_allclose(scaled.decision_function(X * units + 5), plain.decision_function(X), rtol=1e-6)
    brightness = np.random.default_rng(1).uniform(0.5, 2, (40, 1))
    steady = EmpiricalBayesClassifier(per_sample=True).fit(X, y)
    shaken = EmpiricalBayesClassifier(per_sample=True).fit(X * brightness + brightness, y)
    np.testing.assert_allclose(
        shaken.decision_function(X * brightness + brightness), steady.decision_function(X), rtol=1e-6
    )


def test_three_classes_sparse_input_and_frames():
    rng = np.random.default_rng(0)
    y = np.repeat(["a", "b", "c"], 15)
    X = rng.standard_normal((45, 200))
    for k, label in enumerate("abc"):
        X[y == label, 10 * k : 10 * k + 10] += 2.0
    X[np.abs(X) < 0.3] = 0.0
    model = EmpiricalBayesClassifier(covariance="shrinkage").fit(X, y)
    assert model.coef_.shape == (3, 200)
    assert model.score(X, y) == 1.0
    sparse = EmpiricalBayesClassifier(covariance="shrinkage").fit(scipy.sparse.csr_array(X), y)
    np.testing.assert_allclose(sparse.coef_, model.coef_)
    frame = pl.DataFrame({f"g{i}": X[:, i] for i in range(200)})
    named = EmpiricalBayesClassifier(covariance="shrinkage").fit(frame, y)
    np.testing.assert_allclose(named.decision_function(frame), model.decision_function(X))
    assert set(model.feature_list()[:20]) <= set(range(30))


def test_files_pipelines_and_searches(tmp_path):
    X, y = groups()
    model = EmpiricalBayesClassifier(means=SparseMeans(n_components=5)).fit(X, y)
    model.save(tmp_path / "model")
    back = EmpiricalBayesClassifier.load(tmp_path / "model")
    np.testing.assert_array_equal(back.decision_function(X), model.decision_function(X))
    assert back.means.n_components == 5
    search = GridSearchCV(
        make_pipeline(StandardScaler(), EmpiricalBayesClassifier()),
        {"empiricalbayesclassifier__covariance": ["independent", "shrinkage"]}, cv=3,
    ).fit(X, y)  # fmt: skip
    assert search.best_score_ > 0.8


class TestTheErrorBound:
    def test_the_exact_error_is_the_frequency_of_errors(self):
        rng = np.random.default_rng(0)
        p, effective = 6, 5.0
        root = rng.standard_normal((p, p))
        covariance = root @ root.T + np.eye(p)
        sd = np.sqrt(np.diag(covariance))
        difference = rng.standard_normal(p)
        delta = np.sqrt(effective) * difference / sd
        v = delta + 0.8 * rng.standard_normal(p)
        result = error_bound(v, delta, effective=effective, correlation=covariance / np.outer(sd, sd))
        x = rng.multivariate_normal(difference / 2, covariance, 400_000)
        assert np.mean((x / sd) @ v < 0) == pytest.approx(result.error, abs=4e-3)
        assert result.bayes <= result.error <= result.bound

    @pytest.mark.parametrize("correlated", [False, True])
    def test_the_bound_always_holds(self, correlated):
        rng = np.random.default_rng(1)
        for _ in range(300):
            p = int(rng.integers(2, 12))
            root = rng.standard_normal((p, p + 2))
            matrix = root @ root.T
            scale = np.sqrt(np.diag(matrix))
            correlation = matrix / np.outer(scale, scale) if correlated else None
            delta = rng.standard_normal(p) * rng.uniform(0.1, 5)
            v = delta + rng.standard_normal(p) * rng.uniform(0, 5)
            result = error_bound(v, delta, effective=rng.uniform(0.5, 20), correlation=correlation)
            assert result.bayes - 1e-12 <= result.error <= result.bound + 1e-12

    def test_a_vanishing_relative_error_takes_the_error_to_bayes(self):
        rng = np.random.default_rng(2)
        delta = np.where(np.arange(5000) < 50, 4.0, 0.0)
        noise = rng.standard_normal(5000)
        gaps = []
        for epsilon in (1.0, 0.3, 0.1, 0.01):
            v = delta + epsilon * np.linalg.norm(delta) * noise / np.linalg.norm(noise)
            result = error_bound(v, delta, effective=12.5)
            assert result.relative <= epsilon
            gaps.append(result.error - result.bayes)
        assert gaps == sorted(gaps, reverse=True)
        assert gaps[-1] < 1e-5

    def test_the_estimate_of_the_classifier_obeys_it(self):
        p, n = 2000, 25
        delta = np.where(np.arange(p) < 60, 4.0, 0.0)
        X, y = groups(n1=n, n2=n, p=p, signals=60, size=4.0 / np.sqrt(n / 2))
        model = EmpiricalBayesClassifier(covariance="independent", priors="equal").fit(X, y)
        result = error_bound(model.coef_[0], delta, effective=n / 2)
        new_X, new_y = groups(n1=3000, n2=3000, p=p, signals=60, size=4.0 / np.sqrt(n / 2), seed=5)
        assert 1 - model.score(new_X, new_y) == pytest.approx(result.error, abs=0.01)
        assert result.error <= result.bound * (1 + 1e-9)

    def test_impossible_questions_are_refused(self):
        with pytest.raises(ConfigError):
            error_bound(np.ones(2), np.zeros(2))
        assert error_bound(-np.ones(2), np.ones(2)).bound == 1.0


class TestBadInput:
    def test_constant_and_duplicate_features(self):
        X, y = groups(p=50)
        X[:, 3], X[:, 4] = 7.0, X[:, 0]
        for rule in RULES:
            model = EmpiricalBayesClassifier(covariance=rule).fit(X, y)
            assert model.coef_[0, 3] == 0.0
            assert np.isfinite(model.coef_).all()

    def test_nothing_varies(self):
        y = np.r_[np.zeros(6), np.ones(3)]
        for rule in RULES:
            model = EmpiricalBayesClassifier(covariance=rule).fit(np.ones((9, 4)), y)
            assert (model.predict(np.ones((2, 4))) == 0).all()

    @pytest.mark.parametrize("rule", RULES)
    def test_one_feature_and_one_sample_of_a_class(self, rule):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model = EmpiricalBayesClassifier(covariance=rule).fit([[0.0], [0.1], [0.2], [9.0]], [0, 0, 0, 1])
        assert np.isfinite(model.decision_function([[5.0]])).all()

    def test_one_class_and_numbers_that_are_not_finite_are_refused(self):
        X, y = groups()
        with pytest.raises(InputError, match="one class"):
            EmpiricalBayesClassifier().fit(X, np.zeros(40))
        X[0, 0] = np.nan
        with pytest.raises(ValueError, match="NaN"):
            EmpiricalBayesClassifier().fit(X, y)
        with pytest.raises(ConfigError):
            EmpiricalBayesClassifier(covariance="full").fit(np.ones((4, 2)), [0, 1, 0, 1])


@pytest.mark.parametrize(("covariance", "steps"), [("auto", 3 * 7), ("independent", 3)])
def test_a_fit_tells_how_far_it_is(covariance: str, steps: int):
    rng = np.random.default_rng(0)
    y = np.arange(30) % 3
    X = rng.normal(size=(30, 40)) + 2.0 * (np.arange(40) % 3 == y[:, None])
    told: list[tuple[str, int, int]] = []
    model = EmpiricalBayesClassifier(covariance=covariance, cv=3)
    model.fit(X, y, progress=lambda *how_far: told.append(how_far))
    assert told == [("classifier", k, steps) for k in range(steps + 1)]
