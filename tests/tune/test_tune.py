"""The search of settings: what it offers is a project, it goes on after a stop, and it gives up."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from typer.testing import CliRunner

from memberwise.cli import app
from memberwise.errors import ConfigError
from memberwise.project import Project
from memberwise.ranking.config import RankerConfig, TrainingConfig
from memberwise.tune import search, suggest, tune
from memberwise.tune.search import GiveUp
from support.logs import impressions
from support.projects import make


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make(tmp_path, impressions(500))


def trials_of(study: optuna.Study, count: int) -> list[dict[str, Any]]:
    return [suggest(study.ask()) for _ in range(count)]


def test_every_suggestion_is_a_valid_project() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    found = trials_of(study, 60)
    for settings in found:
        ranker = RankerConfig.model_validate(settings["ranker"])
        training = TrainingConfig.model_validate(settings["training"])
        assert (
            ranker.model_dump(include=set(settings["ranker"]))["id_dropout"]
            == settings["ranker"]["id_dropout"]
        )
        assert training.lr == settings["training"]["lr"]
    kinds = {tuple(b["type"] for b in s["ranker"]["blocks"]) for s in found}
    assert kinds == {("mlp",), ("cross", "mlp"), ("residual_cross", "gated_mlp")}


def test_it_goes_on_where_it_was_stopped_and_offers_the_best(project: Project) -> None:
    told: list[tuple[int, float | None]] = []
    first = tune(project, 2, told=lambda number, value: told.append((number, value)))
    assert (first.finished, len(told)) == (2, 2)
    more = tune(project, 4, told=lambda number, value: told.append((number, value)))
    assert [number for number, _ in told] == [1, 2, 3, 4]
    assert more.finished == 4
    values = [first.own, *(value for _, value in told if value is not None)]
    assert more.own == first.own
    assert more.best == min(values)
    assert tune(project, 4) == more  # nothing is left to do
    assert sorted(p.name for p in more.storage.parent.iterdir()) == ["study.journal"]
    # What it offers is pasted into the file and gives that value again.
    if more.snippet:
        changed = project.to_dict()
        for section, values_of in yaml.safe_load(more.snippet).items():
            changed[section] |= values_of
        again = search._value(
            Project.from_dict(changed, project.base),
            search.prepared_rows(project),
            project.output / "x",
            None,
        )
        assert again == pytest.approx(more.best, rel=1e-6)


def test_the_same_settings_are_not_drawn_again_after_a_stop(project: Project) -> None:
    tune(project, 1)
    found = tune(project, 3)
    study = search._study(project, found.storage)
    rates = [t.params["lr"] for t in study.trials[1:]]
    assert len(set(rates)) == 3


def test_another_project_starts_another_search(project: Project) -> None:
    tune(project, 1)
    other = Project.from_dict(project.to_dict() | {"seed": 5}, project.base)
    assert tune(other, 1).finished == 1


def test_a_trial_behind_the_median_is_given_up() -> None:
    pruner = optuna.pruners.MedianPruner(n_startup_trials=1, n_warmup_steps=0)
    study = optuna.create_study(direction="minimize", pruner=pruner)

    def run(losses: list[float]) -> None:
        def objective(trial: optuna.Trial) -> float:
            watcher = GiveUp(trial, "log_loss")
            watcher.record({"split": "train", "loss": 9.0})
            for loss in losses:
                watcher.record({"split": "valid", "log_loss": loss, "auc": 0.5})
            return min(losses)

        study.optimize(objective, n_trials=1)

    run([0.6, 0.5, 0.4])
    run([0.7, 0.6, 0.3])
    run([0.5, 0.4, 0.39])
    states = [t.state.name for t in study.trials]
    assert states == ["COMPLETE", "PRUNED", "COMPLETE"]
    assert len(study.trials[1].intermediate_values) == 1


def test_without_optuna_the_message_says_what_to_install(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    import builtins

    real = builtins.__import__

    def no_optuna(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "optuna":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_optuna)
    with pytest.raises(ConfigError, match=r"memberwise\[tune\]"):
        tune(project, 1)


def test_the_command_prints_what_to_paste(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    file = project.base / "project.yaml"
    file.write_text(yaml.safe_dump(project.to_dict()))
    found = tune(Project.load(file), 1)
    better = dataclasses.replace(found, settings={"training": {"lr": 0.01}}, best=0.5)
    monkeypatch.setattr("memberwise.tune.tune", lambda *args, **kwargs: better)
    printed = CliRunner().invoke(app, ["tune", str(file), "--trials", "1"])
    assert printed.exit_code == 0, printed.output
    assert "training: {lr: 0.01}" in printed.output
