"""Training: it learns, it stops, and it goes on after a stop as if there had been none."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from memberwise import metrics
from memberwise.data.layout import Layout
from memberwise.data.loader import Loader
from memberwise.errors import ConfigError, DataError
from memberwise.nn.isotonic import IsotonicConfig
from memberwise.ranking.config import RankerConfig, TrainingConfig
from memberwise.ranking.optimizers import rate
from memberwise.ranking.platt import platt_scaling
from memberwise.ranking.predict import predict, predict_all_logits
from memberwise.ranking.ranker import Ranker
from memberwise.ranking.trainer import Trainer

PLAIN = RankerConfig(input_dropout=0.1)
SMALL = TrainingConfig(epochs=3, batch_size=64, evaluations_per_epoch=2, checkpoint_seconds=0.0, patience=9)


class PlugPulledError(Exception):
    pass


class StopAfter:
    """Pulls the plug after a number of steps."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def record(self, record: Mapping[str, Any]) -> None:
        pass

    def progress(self, step: int, steps: int, rows: int) -> None:
        if step == self.steps:
            raise PlugPulledError


@pytest.fixture
def trainer(
    layout: Layout, table_rows: dict[str, int], rows: Callable[..., Any], tmp_path: Path
) -> Callable[..., Trainer]:
    train, valid = rows(700, seed=1), rows(300, seed=2)

    def make(
        config: TrainingConfig = SMALL,
        run: str = "run",
        watchers: tuple[Any, ...] = (),
        ranker: RankerConfig = PLAIN,
        **kwargs: Any,
    ) -> Trainer:
        return Trainer(
            Ranker(layout, table_rows, {}, ranker, seed=5),
            Loader(train, layout, config.batch_size, seed=3),
            Loader(valid, layout, 128, shuffle=False),
            config,
            [1.0, 1.0],
            tmp_path / run,
            seed=4,
            watchers=watchers,
            **kwargs,
        )

    return make


def _weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in trainer.ranker.state_dict().items()}


def test_it_learns_the_truth(trainer: Callable[..., Trainer]) -> None:
    t = trainer(SMALL.model_copy(update={"epochs": 10, "lr": 0.01}))
    t.fit()
    probabilities = predict(t.ranker, t.valid_rows)
    assert metrics.auc(np.asarray(t.valid_rows.arrays["labels"])[:, 0], probabilities[:, 0]) > 0.75


@pytest.mark.parametrize(
    "settings",
    [
        {"heads": {"type": "mmoe", "experts": 3, "hidden": [8], "top_k": 2}, "calibration": {}},
        {
            "heads": {"type": "ple", "own": 1, "shared": 1, "hidden": [8]},
            "calibration_features": ["item"],
            "calibration": {},
        },
    ],
)
def test_experts_and_curves_learn_and_resume(
    trainer: Callable[..., Trainer], settings: dict[str, Any]
) -> None:
    ranker, config = RankerConfig.model_validate(settings), SMALL.model_copy(update={"epochs": 6, "lr": 0.01})
    whole = trainer(config, run="whole", ranker=ranker)
    whole.fit()
    labels, p = np.asarray(whole.valid_rows.arrays["labels"]), predict(whole.ranker, whole.valid_rows)
    assert metrics.auc(labels[:, 0], p[:, 0]) > 0.72
    with pytest.raises(PlugPulledError):
        trainer(config, run="cut", ranker=ranker, watchers=(StopAfter(17),)).fit()
    resumed = trainer(config, run="cut", ranker=ranker)
    resumed.fit(resume=True)
    assert all(
        torch.equal(a, b) for a, b in zip(_weights(whole).values(), _weights(resumed).values(), strict=True)
    )


# 11 steps an epoch, an evaluation after 6 and 11 of them: at, before and behind each of these.
@pytest.mark.parametrize(
    ("optimizer", "sparse", "stop"),
    [("adam", "rowwise_adagrad", s) for s in (1, 6, 11, 12, 20)]
    + [("adagrad", "rowwise_adagrad", 9), ("adam", "lazy_adam", 9)],
)
def test_resume_is_as_if_there_had_been_no_stop(
    trainer: Callable[..., Trainer], optimizer: str, sparse: str, stop: int
) -> None:
    config = SMALL.model_copy(update={"optimizer": optimizer, "sparse_optimizer": sparse})
    whole = trainer(config, run="whole")
    whole.fit()
    with pytest.raises(PlugPulledError):
        trainer(config, run="cut", watchers=(StopAfter(stop),)).fit()
    resumed = trainer(config, run="cut")
    resumed.fit(resume=True)
    for (name, a), b in zip(_weights(whole).items(), _weights(resumed).values(), strict=True):
        assert torch.equal(a, b), name
    assert resumed.at.best == whole.at.best
    clean = [{k: v for k, v in r.items() if k != "cpu_seconds"} for r in whole.records]
    assert [{k: v for k, v in r.items() if k != "cpu_seconds"} for r in resumed.records] == clean
    logged = [json.loads(line) for line in resumed.run.log.read_text().splitlines()]
    assert logged == resumed.records


def test_resuming_a_finished_run_changes_nothing(trainer: Callable[..., Trainer]) -> None:
    first = trainer()
    first.fit()
    again = trainer()
    again.fit(resume=True)
    assert all(
        torch.equal(a, b) for a, b in zip(_weights(first).values(), _weights(again).values(), strict=True)
    )
    assert again.at.step == first.at.step


def test_the_same_seed_gives_the_same_numbers(trainer: Callable[..., Trainer]) -> None:
    a, b = trainer(run="a"), trainer(run="b")
    a.fit()
    b.fit()
    assert a.at.best == b.at.best


def test_the_best_weights_come_back(trainer: Callable[..., Trainer]) -> None:
    config = SMALL.model_copy(update={"epochs": 40, "patience": 3, "lr": 0.05, "platt": False})
    t = trainer(config)
    at = t.fit()
    assert at.step < 40 * t.train_rows.batches  # stopped early
    labels, p = np.asarray(t.valid_rows.arrays["labels"]), predict(t.ranker, t.valid_rows)
    values = [metrics.log_loss(labels[:, i], p[:, i]) for i in range(2)]
    assert np.mean(values) == pytest.approx(at.best)
    assert at.best == min(r["log_loss"] for r in t.records if r["split"] == "valid")


def test_the_last_weights_carry_the_slope_and_the_shift_of_valid(trainer: Callable[..., Trainer]) -> None:
    config = SMALL.model_copy(update={"epochs": 12, "lr": 0.05})  # long enough to be too sure
    raw, scaled = trainer(config.model_copy(update={"platt": False}), "raw"), trainer(config, "scaled")
    raw.fit(), scaled.fit()
    before = predict_all_logits(raw.ranker, raw.valid_rows)
    labels = np.asarray(raw.valid_rows.arrays["labels"])
    slope, shift = platt_scaling(before, labels, np.asarray(raw.valid_rows.arrays["weights"]))
    assert (slope < 0.95).all()
    after = predict_all_logits(scaled.ranker, scaled.valid_rows)
    np.testing.assert_allclose(after, before * slope + shift, rtol=1e-4, atol=1e-4)
    # Tables not used by the wide part, blocks and statistics are those of the best evaluation.
    a, b = _weights(raw), _weights(scaled)
    moved = {k for k in a if not torch.equal(a[k], b[k])}
    assert moved == {"head_weight", "wide_bias", "wide.weight"}


def test_where_curves_calibrate_nothing_else_does(trainer: Callable[..., Trainer]) -> None:
    curved = PLAIN.model_copy(update={"calibration": IsotonicConfig()})
    with_, without = (
        trainer(SMALL.model_copy(update={"platt": p}), str(p), ranker=curved) for p in (True, False)
    )
    with_.fit(), without.fit()
    for k, v in _weights(without).items():
        torch.testing.assert_close(_weights(with_)[k], v, rtol=0, atol=0)


def test_a_checkpoint_of_other_settings_or_data_is_refused(trainer: Callable[..., Trainer]) -> None:
    trainer(identity="a").fit()
    with pytest.raises(ConfigError, match="other training settings"):
        trainer(SMALL.model_copy(update={"lr": 0.5}), identity="a").fit(resume=True)
    with pytest.raises(ConfigError, match="other data"):
        trainer(identity="b").fit(resume=True)


def test_a_damaged_checkpoint_says_so(trainer: Callable[..., Trainer]) -> None:
    t = trainer()
    t.fit()
    path = t.run.checkpoint
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(Exception, match="cannot be read") as error:
        trainer().fit(resume=True)
    assert "without --resume" in str(error.value)


def test_a_loss_that_is_not_finite_stops_with_advice(trainer: Callable[..., Trainer]) -> None:
    t = trainer()
    t.ranker.head_weight.data.fill_(float("nan"))
    with pytest.raises(DataError, match=r"lower training\.lr"):
        t.fit()


def test_auc_of_one_class_is_refused_as_a_metric(trainer: Callable[..., Trainer]) -> None:
    t = trainer(SMALL.model_copy(update={"metric": "auc"}))
    t._valid_labels = np.ones_like(t._valid_labels)
    with pytest.raises(DataError, match="labels are all the same"):
        t.fit()


def test_the_schedule_warms_up_and_falls() -> None:
    rates = [rate(s, 100, 0.1, "cosine") for s in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == 1.0
    assert rates == sorted(rates[:10]) + sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.01
    assert rate(99, 100, 0.1, "constant") == 1.0


def test_tables_stand_still_after_their_epochs(trainer: Callable[..., Trainer]) -> None:
    tables: list[torch.Tensor] = []
    dense: list[torch.Tensor] = []

    class Snapshot(StopAfter):
        def progress(self, step: int, steps: int, rows: int) -> None:
            tables.append(next(iter(t.ranker.embeddings.values())).weight.clone())  # type: ignore[operator]
            dense.append(t.ranker.head_weight.detach().clone())

    config = SMALL.model_copy(update={"epochs": 3, "embedding_epochs": 1, "schedule": "constant"})
    t = trainer(config, watchers=(Snapshot(0),))
    t.fit()
    each = t.train_rows.batches
    assert len(tables) == 3 * each
    assert not torch.equal(tables[each - 2], tables[each - 1])
    assert all(torch.equal(tables[each - 1], later) for later in tables[each:])
    assert not torch.equal(dense[each - 1], dense[-1])


def test_an_unknown_device_is_a_setting_to_mend(trainer: Callable[..., Trainer]) -> None:
    with pytest.raises(ConfigError, match="not a device"):
        trainer(SMALL.model_copy(update={"device": "abacus"}))
