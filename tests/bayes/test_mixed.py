"""Mixed effects: batch = loop, invariances, oracles, the life of an entity, and bad input."""

import warnings

import numpy as np
import polars as pl
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import parametrize_with_checks

from memberwise.bayes import (
    BayesianLogisticRegression,
    InputError,
    MixedEffectsLogisticRegression,
    RandomEffect,
    SeparationWarning,
)
from memberwise.bayes.posterior import GaussianPosterior
from memberwise.errors import BundleError, ConfigError, DataError


def stream(n=3000, members=60, items=15, seed=0, sd=1.0):
    rng = np.random.default_rng(seed)
    member, item = rng.integers(0, members, n), rng.integers(0, items, n)
    X = rng.standard_normal((n, 3))
    own = np.random.default_rng(99).normal(0, sd, (members, 2))
    appeal = np.random.default_rng(98).normal(0, 0.5, items)
    eta = X @ [0.5, -1.0, 0.0] + own[member, 0] + own[member, 1] * X[:, 0] + appeal[item]
    y = (rng.random(n) < 1 / (1 + np.exp(-eta))).astype(int)
    return X, y, {"member": member, "item": item}, {"member": X[:, :1]}


EFFECTS = (RandomEffect(name="member"), RandomEffect(name="item"))
FIXED_PRIOR = tuple(RandomEffect(name=n, learn_variance=False, variance=0.7) for n in ("member", "item"))


@parametrize_with_checks([MixedEffectsLogisticRegression()])
def test_scikit_learn_accepts_the_estimator(estimator, check):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SeparationWarning)
        warnings.simplefilter("ignore", ConvergenceWarning)
        check(estimator)


def test_the_batched_solve_equals_one_regression_per_entity():
    X, y, groups, _ = stream(n=900, members=40)
    effect = RandomEffect(name="member", learn_variance=False, variance=0.5)
    model = MixedEffectsLogisticRegression([effect], fit_intercept=False, tol=1e-12)
    model.partial_fit(
        np.zeros((900, 1)), y, groups=groups, designs={"member": X}, frozen=["fixed"], classes=[0, 1]
    )
    for entity in range(40):
        own = groups["member"] == entity
        loop = BayesianLogisticRegression(prior_precision=2.0, intercept_precision=2.0, tol=1e-12)
        loop.partial_fit(X[own], y[own], classes=[0, 1])
        found = model.coefficients("member", str(entity))
        np.testing.assert_allclose(found.mean, loop.posterior_.mean, atol=2e-6)
        np.testing.assert_allclose(
            found.precision.dense(), loop.posterior_.precision.dense(), rtol=2e-6, atol=1e-5
        )


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 9), st.sampled_from([1, 2, 7, 40, 1100]), st.sampled_from([0.1, 1.0, 30.0]),
    st.sampled_from([0.0, 3.0, 200.0]), st.integers(0, 10**6),
)  # fmt: skip
def test_entities_of_any_shape_and_scale_equal_the_general_solver(d, n, scale, shift, seed):
    """Steep logits, far offsets, heavy and absent weights, odd and even sizes, several blocks of rows."""
    rng = np.random.default_rng(seed)
    Z, y = scale * rng.standard_normal((n, d)), rng.integers(0, 2, n)
    offset, weights = shift * rng.standard_normal(n), rng.integers(0, 5, n) + (np.arange(n) == 0)
    effect = RandomEffect(name="e", intercept=False, learn_variance=False, variance=0.5)
    model = MixedEffectsLogisticRegression([effect], fit_intercept=False, tol=1e-12)
    model.partial_fit(
        np.zeros((n, 1)), y, classes=[0, 1], sample_weight=weights, groups={"e": np.zeros(n, int)},
        designs={"e": Z}, offset=offset, frozen=["fixed"],
    )  # fmt: skip
    general = BayesianLogisticRegression(prior_precision=2.0, fit_intercept=False, tol=1e-13)
    general.partial_fit(Z, y, classes=[0, 1], sample_weight=weights, offset=offset)
    found, expected = model.coefficients("e", "0"), general.posterior_
    assert model.n_failed_ == 0
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        found.variances(), expected.variances(), rtol=1e-4, atol=1e-6 * expected.variances().max()
    )


def test_the_joint_mode_is_found_by_the_sweeps():
    """With fixed variances the optimum is that of one ridge regression on all indicator columns."""
    X, y, groups, designs = stream(n=1500, members=20, items=5)
    model = MixedEffectsLogisticRegression(FIXED_PRIOR, sweep_tol=1e-8, max_sweeps=2000, tol=1e-12)
    model.fit(X, y, groups=groups, designs=designs)
    indicator = np.eye(20)[groups["member"]]
    wide = np.column_stack([X, indicator, indicator * X[:, :1], np.eye(5)[groups["item"]]])
    scales = np.sqrt(np.r_[np.ones(3), np.full(45, 0.7)])
    joint = BayesianLogisticRegression(tol=1e-13).fit(wide * scales, y)
    np.testing.assert_allclose(
        model.decision_function(X, groups=groups, designs=designs),
        joint.decision_function(wide * scales),
        atol=1e-4,
    )


@pytest.mark.parametrize("threads", [1, 3])
def test_sparse_and_dense_designs_and_threads_agree(threads):
    X, y, groups, designs = stream()
    dense = MixedEffectsLogisticRegression(EFFECTS).fit(X, y, groups=groups, designs=designs)
    sparse_design = {"member": scipy.sparse.csr_array(designs["member"])}
    sparse = MixedEffectsLogisticRegression(EFFECTS, n_threads=threads)
    sparse.fit(X, y, groups=groups, designs=sparse_design)
    np.testing.assert_allclose(
        sparse.linear_predictor(X, groups=groups, designs=sparse_design),
        dense.linear_predictor(X, groups=groups, designs=designs),
        rtol=1e-6, atol=1e-8,
    )  # fmt: skip


def test_entities_hold_only_features_they_have_shown_and_grow_new_ones():
    rng = np.random.default_rng(0)
    Z = scipy.sparse.csr_array(([1.0, 2.0, 1.0, 3.0], ([0, 1, 2, 3], [5, 5, 0, 7])), shape=(4, 9))
    effect = RandomEffect(name="member", learn_variance=False)
    model = MixedEffectsLogisticRegression([effect])
    X = rng.standard_normal((4, 1))
    model.partial_fit(X, [0, 1, 1, 0], groups={"member": ["a", "a", "b", "b"]}, designs={"member": Z})
    assert model.coefficients("member", "a").names == ("(intercept)", "z5")
    assert model.coefficients("member", "b").names == ("(intercept)", "z0", "z7")
    before = model.coefficients("member", "a")
    model.partial_fit(X, [0, 1, 1, 0], groups={"member": ["a"] * 4}, designs={"member": Z})
    after = model.coefficients("member", "a")
    assert after.names == ("(intercept)", "z5", "z0", "z7")
    assert (after.variances()[:2] < before.variances()).all()


def test_row_order_weights_and_ids_of_any_type_do_not_matter():
    X, y, groups, designs = stream(n=600, members=10, items=4)
    weights = np.random.default_rng(1).integers(1, 4, 600)
    reference = MixedEffectsLogisticRegression(FIXED_PRIOR, sweep_tol=1e-6, max_sweeps=500).fit(
        X, y, sample_weight=weights, groups=groups, designs=designs
    )
    order = np.random.default_rng(2).permutation(np.repeat(np.arange(600), weights))
    repeated = MixedEffectsLogisticRegression(FIXED_PRIOR, sweep_tol=1e-6, max_sweeps=500).fit(
        X[order], y[order],
        groups={k: np.array([str(i) for i in v[order]]) for k, v in groups.items()},
        designs={"member": X[order, :1]},
    )  # fmt: skip
    np.testing.assert_allclose(
        repeated.linear_predictor(X, groups=groups, designs=designs),
        reference.linear_predictor(X, groups=groups, designs=designs),
        atol=1e-4,
    )


def test_a_sequence_of_increments_is_as_good_as_the_refit():
    X, y, groups, designs = stream(n=9000, members=30)
    test_X, test_y, test_groups, test_designs = stream(n=6000, members=30, seed=5)
    parts = np.array_split(np.arange(9000), 6)
    sequential = MixedEffectsLogisticRegression(FIXED_PRIOR)
    for part in parts:
        sequential.partial_fit(
            X[part], y[part], groups={k: v[part] for k, v in groups.items()}, designs={"member": X[part, :1]}
        )
    refit = MixedEffectsLogisticRegression(FIXED_PRIOR).fit(X, y, groups=groups, designs=designs)

    def loss(model):
        p = model.predict_proba(test_X, groups=test_groups, designs=test_designs)[:, 1]
        return -np.mean(test_y * np.log(p) + (1 - test_y) * np.log1p(-p))

    assert abs(loss(sequential) - loss(refit)) < 2e-3


def test_empirical_bayes_finds_the_variance_components():
    X, y, groups, designs = stream(n=20_000, members=300, items=100)
    model = MixedEffectsLogisticRegression(EFFECTS).fit(X, y, groups=groups, designs=designs)
    truth = np.random.default_rng(99).normal(0, 1.0, (300, 2)).var(axis=0)
    found = model.prior_variances("member")
    # the sampling error of a variance from 300 draws is 8 %, plus what the labels leave open
    assert found["(intercept)"] == pytest.approx(truth[0], rel=0.25)
    assert found["z0"] == pytest.approx(truth[1], rel=0.25)
    assert model.prior_variances("item")["(intercept)"] == pytest.approx(0.25, rel=0.4)


def test_variance_components_agree_with_gpboost():
    gpboost = pytest.importorskip("gpboost")
    rng = np.random.default_rng(3)
    group = np.repeat(np.arange(200), 40)
    y = (rng.random(8000) < 1 / (1 + np.exp(-rng.normal(0.3, 0.9, 200)[group]))).astype(float)
    oracle = gpboost.GPModel(group_data=group, likelihood="bernoulli_logit")
    oracle.fit(y=y, X=np.ones((8000, 1)), params={"trace": False})
    ours = MixedEffectsLogisticRegression([RandomEffect(name="g")])
    ours.fit(np.zeros((8000, 1)), y, groups={"g": group})
    theirs = float(np.asarray(oracle.get_cov_pars()).ravel()[0])
    # the sampling error of a variance from 200 groups is sqrt(2 / 200) = 10 %
    assert ours.prior_variances("g")["(intercept)"] == pytest.approx(theirs, rel=0.10)


@pytest.mark.filterwarnings("ignore:scipy.optimize:DeprecationWarning")  # lambda-learner's, not ours
def test_one_entity_equals_lambda_learner():
    pytest.importorskip("linkedin.learner")
    from linkedin.learner.ds.indexed_dataset import IndexedDataset
    from linkedin.learner.ds.indexed_model import IndexedModel
    from linkedin.learner.prediction.hessian_type import HessianType
    from linkedin.learner.prediction.trainer_sequential_bayesian_logistic_loss_with_l2 import (
        TrainerSequentialBayesianLogisticLossWithL2 as Trainer,
    )

    rng = np.random.default_rng(0)
    d, lam, delta = 4, 1.5, 0.8
    mean, hessian = np.zeros(d), lam * scipy.sparse.identity(d, format="csr")
    effect = RandomEffect(name="e", intercept=False, learn_variance=False, variance=1 / lam, forgetting=delta)
    ours = MixedEffectsLogisticRegression([effect], fit_intercept=False, tol=1e-12)
    for _ in range(3):
        Z = rng.standard_normal((30, d))
        y = (rng.random(30) < 0.4).astype(int)
        data = IndexedDataset(scipy.sparse.csc_matrix(Z), 2.0 * y - 1, np.ones(30), np.zeros(30))
        trainer = Trainer(
            training_data=data, initial_model=IndexedModel(mean, hessian), penalty=lam, delta=delta,
            hessian_type=HessianType.FULL,
        )  # fmt: skip
        model, _, _ = trainer.train()
        mean = np.asarray(model.theta)
        hessian = model.hessian
        ours.partial_fit(
            np.zeros((30, 1)), y, groups={"e": [0] * 30}, designs={"e": Z}, frozen=["fixed"], classes=[0, 1]
        )
        np.testing.assert_allclose(ours.coefficients("e", "0").mean, mean, atol=2e-3)


def test_a_nonparametric_prior_separates_the_few_from_the_many():
    rng = np.random.default_rng(0)
    member = rng.integers(0, 300, 15_000)
    taste = np.where(np.arange(300) < 45, 3.0, 0.0)
    y = (rng.random(15_000) < 1 / (1 + np.exp(1.0 - taste[member]))).astype(int)
    X = np.zeros((15_000, 1))
    errors = {}
    for prior in ("gaussian", "dirichlet_process"):
        model = MixedEffectsLogisticRegression([RandomEffect(name="m", prior=prior)])
        model.fit(X, y, groups={"m": member})
        found = np.array([model.coefficients("m", str(i)).mean[0] for i in range(300)])
        errors[prior] = np.mean((found + model.fixed_.intercept_[0] + 1.0 - taste) ** 2)
    assert errors["dirichlet_process"] < errors["gaussian"] / 5


class TestTheLifeOfAnEntity:
    def model(self, forgetting=0.9, **kwargs):
        X, y, groups, designs = stream(n=800, members=12, items=4)
        effects = (
            RandomEffect(name="member", forgetting=forgetting),
            RandomEffect(name="item", covariance="diagonal"),
        )
        model = MixedEffectsLogisticRegression(effects, **kwargs)
        return model.fit(X, y, groups=groups, designs=designs, batch="first"), (X, y, groups, designs)

    def test_a_new_entity_has_the_prior(self):
        model, _ = self.model()
        mean, variance = model.linear_predictor(
            np.zeros((1, 3)), groups={"member": ["new"], "item": ["new"]}, designs={"member": [[2.0]]}
        )
        own = model.prior_variances("member")
        fixed = model.fixed_.posterior_.variances()[0]
        expected = own["(intercept)"] + 4 * own["z0"] + model.prior_variances("item")["(intercept)"] + fixed
        assert mean[0] == pytest.approx(model.fixed_.intercept_[0])
        assert variance[0] == pytest.approx(expected)

    def test_a_silent_entity_is_forgotten_lazily_as_if_step_by_step(self):
        model, (X, y, groups, _) = self.model()
        before = model.coefficients("member", "3")
        floor = [1 / v for v in model.prior_variances("member").values()]
        for _ in range(4):
            others = groups["member"] != 3
            model.partial_fit(
                X[others], y[others], groups={k: v[others] for k, v in groups.items()},
                designs={"member": X[others, :1]},
            )  # fmt: skip
        expected = before
        for _ in range(4):
            expected = expected.forget(0.9, floor)
        after = model.coefficients("member", "3")
        np.testing.assert_allclose(after.mean, expected.mean, rtol=1e-5)
        np.testing.assert_allclose(after.precision.dense(), expected.precision.dense(), rtol=1e-5)
        row = {"groups": {"member": [3], "item": ["none"]}, "designs": {"member": [[0.7]]}}
        mean, variance = model.linear_predictor(np.zeros((1, 3)), **row)
        z = np.array([[1.0, 0.7]])
        rest = model.prior_variances("item")["(intercept)"] + model.fixed_.posterior_.variances()[0]
        assert mean[0] - model.fixed_.intercept_[0] == pytest.approx(float((z @ expected.mean)[0]), rel=1e-5)
        assert variance[0] - rest == pytest.approx(float(expected.predict(z)[1][0]), rel=1e-5)

    def test_an_entity_with_data_forgets_once_a_step(self):
        model, (X, y, groups, designs) = self.model(forgetting=0.5)
        before = model.coefficients("member", "3")
        floor = [1 / v for v in model.prior_variances("member").values()]
        faint = {"groups": groups, "designs": designs, "sample_weight": np.full(800, 1e-9)}
        model.partial_fit(X, y, **faint)
        expected = before.forget(0.5, floor)
        after = model.coefficients("member", "3")
        np.testing.assert_allclose(after.mean, expected.mean, rtol=1e-5)
        np.testing.assert_allclose(after.precision.dense(), expected.precision.dense(), rtol=1e-5)

    def test_forget_removes_all_that_is_known(self):
        model, (X, _, groups, designs) = self.model()
        slot = model.states_["member"].store.slots["5"]
        store = model.states_["member"].store
        at, dim = int(store.mean_at.data[slot]), int(store.dim.data[slot])
        assert np.abs(store.mean.data[at : at + dim]).min() > 0
        assert model.forget("member", 5)
        assert not model.forget("member", 5)
        assert (store.mean.data[at : at + dim] == 0).all()
        with pytest.raises(KeyError):
            model.coefficients("member", "5")
        own = groups["member"] == 5
        model.decision_function(
            X[own], groups={k: v[own] for k, v in groups.items()}, designs={"member": designs["member"][own]}
        )

    def test_frozen_blocks_do_not_move(self):
        model, (X, y, groups, designs) = self.model()
        fixed, item = model.fixed_.posterior_, model.coefficients("item", "2")
        model.partial_fit(X, 1 - y, groups=groups, designs=designs, frozen=["fixed", "item"])
        assert model.fixed_.posterior_ is fixed
        np.testing.assert_array_equal(model.coefficients("item", "2").mean, item.mean)
        with pytest.raises(ConfigError, match="no block"):
            model.partial_fit(X, y, groups=groups, designs=designs, frozen=["members"])

    def test_the_same_batch_is_refused_twice(self):
        model, (X, y, groups, designs) = self.model()
        model.partial_fit(X, y, groups=groups, designs=designs, batch="second", frozen=["fixed"])
        for key in ("first", "second"):
            with pytest.raises(DataError, match="already absorbed"):
                model.partial_fit(X, y, groups=groups, designs=designs, batch=key)

    def test_resuming_from_a_file_equals_never_stopping(self, tmp_path):
        going, (X, y, groups, designs) = self.model()
        going.forget("member", "7")
        going.save(tmp_path / "model")
        mapped = MixedEffectsLogisticRegression.load(tmp_path / "model", directory=str(tmp_path / "store"))
        resumed = MixedEffectsLogisticRegression.load(tmp_path / "model")
        for model in (going, resumed, mapped):
            model.partial_fit(X, y, groups=groups, designs=designs, batch="second")
        expected = going.linear_predictor(X, groups=groups, designs=designs)
        for model in (resumed, mapped):
            np.testing.assert_array_equal(model.linear_predictor(X, groups=groups, designs=designs), expected)

    def test_memory_mapped_equals_in_memory(self, tmp_path):
        memory, (X, _, groups, designs) = self.model()
        mapped, _ = self.model(directory=str(tmp_path / "store"))
        np.testing.assert_array_equal(
            mapped.decision_function(X, groups=groups, designs=designs),
            memory.decision_function(X, groups=groups, designs=designs),
        )
        assert (tmp_path / "store" / "member" / "pack.bin").stat().st_size > 0
        with pytest.raises(BundleError, match="already holds"):
            self.model(directory=str(tmp_path / "store"))


def test_a_frame_gives_ids_and_columns_by_name():
    X, y, groups, designs = stream(n=700, members=9, items=3)
    frame = pl.DataFrame(
        {"a": X[:, 0], "b": X[:, 1], "c": X[:, 2], "who": groups["member"], "item": groups["item"]}
    )
    effects = [RandomEffect(name="member", group="who", columns=("a",)), RandomEffect(name="item")]
    named = MixedEffectsLogisticRegression(effects).fit(frame, y)
    plain = MixedEffectsLogisticRegression(EFFECTS).fit(X, y, groups=groups, designs=designs)
    np.testing.assert_allclose(
        named.decision_function(frame), plain.decision_function(X, groups=groups, designs=designs), atol=1e-9
    )
    assert named.coefficients("member", "1").names == ("(intercept)", "a")
    assert isinstance(named.coefficients("member", "1"), GaussianPosterior)


class TestBadInput:
    def fitted(self):
        X, y, groups, designs = stream(n=300, members=5, items=3)
        return MixedEffectsLogisticRegression(EFFECTS).fit(X, y, groups=groups, designs=designs), X, y, groups

    @pytest.mark.parametrize(
        ("groups", "message"),
        [
            ({"member": ["a"] * 300}, "no ids for effect 'item'"),
            ({"member": ["a"] * 299, "item": ["b"] * 300}, "299 ids for 300 rows"),
            ({"member": [None] * 300, "item": ["b"] * 300}, "300 ids are missing"),
            ({"member": [0.5] * 300, "item": ["b"] * 300}, "ids are of type double"),
        ],
    )
    def test_ids_that_cannot_be_used_are_refused(self, groups, message):
        model, X, y, _ = self.fitted()
        with pytest.raises(InputError, match=message):
            model.partial_fit(X, y, groups=groups, designs={"member": X[:, :1]})

    def test_designs_that_cannot_be_used_are_refused(self):
        model, X, y, groups = self.fitted()
        with pytest.raises(InputError, match="NaN or infinity"):
            model.partial_fit(X, y, groups=groups, designs={"member": np.full((300, 1), np.nan)})
        with pytest.raises(InputError, match="2 columns, expected 1"):
            model.partial_fit(X, y, groups=groups, designs={"member": X[:, :2]})
        with pytest.raises(ConfigError, match="distinct"):
            MixedEffectsLogisticRegression([EFFECTS[0], EFFECTS[0]]).fit(X, y, groups=groups)
        with pytest.raises(ConfigError, match="positive"):
            RandomEffect(name="x", variance=-1.0)

    def test_entities_of_one_class_one_row_and_many_rows(self):
        rng = np.random.default_rng(0)
        ids = np.r_[np.zeros(1, int), np.ones(50, int), np.full(30_000, 2)]
        y = np.r_[1, np.ones(50, int), rng.integers(0, 2, 30_000)]
        X = rng.standard_normal((ids.size, 1))
        effect = RandomEffect(name="m", learn_variance=False)
        model = MixedEffectsLogisticRegression([effect]).fit(X, y, groups={"m": ids}, designs={"m": X})
        for entity in ("0", "1", "2"):
            assert np.isfinite(model.coefficients("m", entity).mean).all()
        assert (
            model.coefficients("m", "2").variances()[0] < 1e-3 < model.coefficients("m", "0").variances()[0]
        )

    def test_entities_without_any_feature_are_known_and_say_nothing(self):
        Z = scipy.sparse.csr_array(np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [0.0, 2.0]]))
        effect = RandomEffect(name="m", intercept=False, learn_variance=False)
        model = MixedEffectsLogisticRegression([effect])
        given = {"groups": {"m": ["a", "a", "b", "c"]}, "designs": {"m": Z}}
        model.partial_fit(np.zeros((4, 1)), [0, 1, 1, 0], **given)
        assert model.coefficients("m", "a").names == ()
        assert model.coefficients("m", "b").mean > 0 > model.coefficients("m", "c").mean
        mean, variance = model.linear_predictor(np.zeros((4, 1)), **given)
        assert np.isfinite(mean).all()
        assert variance[0] == variance[1] < min(variance[2:])

    def test_constant_and_duplicate_columns_of_an_effect_share_it(self):
        rng = np.random.default_rng(0)
        ids, x = rng.integers(0, 20, 2000), rng.standard_normal(2000)
        y = (rng.random(2000) < 1 / (1 + np.exp(-x))).astype(int)
        effect = RandomEffect(name="m", learn_variance=False)
        model = MixedEffectsLogisticRegression([effect])
        model.partial_fit(
            np.zeros((2000, 1)), y, groups={"m": ids}, frozen=["fixed"],
            designs={"m": np.column_stack([x, x, np.zeros(2000)])},
        )  # fmt: skip
        found = model.coefficients("m", "3")
        assert found.mean[1] == pytest.approx(found.mean[2], rel=1e-5)
        assert found.mean[3] == 0.0
        assert found.variances()[3] == pytest.approx(1.0)

    def test_huge_offsets_leave_entities_finite(self):
        X, y, groups, designs = stream(n=300, members=5, items=3)
        offset = np.where(np.arange(300) % 2, 1e6, -1e6)
        model = MixedEffectsLogisticRegression(FIXED_PRIOR)
        model.partial_fit(X, y, groups=groups, designs=designs, offset=offset)
        assert np.isfinite(model.linear_predictor(X, groups=groups, designs=designs)).all()

    def test_entities_that_do_not_converge_keep_their_posterior_and_are_counted(self):
        model, X, y, groups = self.fitted()
        before = model.coefficients("member", "2")
        model.max_iter = 1
        with pytest.warns(ConvergenceWarning, match="did not converge"):
            model.partial_fit(X, 1 - y, groups=groups, designs={"member": 30 * X[:, :1]}, frozen=["fixed"])
        assert model.n_failed_ > 0
        np.testing.assert_allclose(model.coefficients("member", "2").mean, before.mean)
