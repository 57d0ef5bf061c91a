"""The search: trials that are given up when they fall behind, and a journal to go on from after a stop."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from memberwise.data.prepare import Prepared, Progress, fingerprint
from memberwise.errors import ConfigError
from memberwise.project import Project
from memberwise.recommender.fitting import prepared_rows, train
from memberwise.tune.space import suggest

if TYPE_CHECKING:
    import optuna

FIRST_TRIALS = 8
"""Trials drawn at random before the sampler learns from them and before any is given up."""


@dataclass(frozen=True)
class Tuned:
    """What a search has found.

    Attributes
    ----------
    metric : str
        Of ``training.metric``, on valid.
    own, best : float
        Value of the project as it stands, and of the best trial (the project itself, if none is better).
    settings : dict
        ``ranker`` and ``training`` of the best; empty if the project itself is.
    finished, given_up : int
        Trials in all, those of earlier runs among them.
    storage : Path
        The journal of all trials.
    """

    metric: str
    own: float
    best: float
    settings: dict[str, dict[str, Any]]
    finished: int
    given_up: int
    storage: Path

    @property
    def snippet(self) -> str:
        """The settings as YAML, to be pasted into the project file."""
        if not self.settings:
            return ""
        return yaml.safe_dump(self.settings, sort_keys=False, default_flow_style=None)


class GiveUp:
    """Watches a training: reports every evaluation of valid, and ends a trial that is behind the others.

    Parameters
    ----------
    trial
        Of the search.
    metric
        Of the evaluations, the one that also stops a training early.
    """

    def __init__(self, trial: optuna.Trial, metric: str) -> None:
        self.trial, self.metric, self.evaluations = trial, metric, 0

    def record(self, record: Mapping[str, Any]) -> None:
        """One record of the log of a training."""
        if record["split"] != "valid":
            return
        import optuna

        self.trial.report(float(record[self.metric]), self.evaluations)
        self.evaluations += 1
        if self.trial.should_prune():
            raise optuna.TrialPruned

    def progress(self, step: int, steps: int, rows: int) -> None:
        """After every step: nothing."""


def tune(
    project: Project,
    trials: int = 40,
    *,
    progress: Progress = lambda what, done, of: None,
    told: Callable[[int, float | None], None] = lambda number, value: None,
) -> Tuned:
    """Search the settings of a project's ranker and training on its valid split.

    The project itself is the first to be tried. Trials are sampled by TPE; one whose metric is worse than the
    median of the others at the same evaluation is given up. Every trial is written to a journal when it ends:
    after a stop, the same call goes on until there are as many as were asked for.

    Parameters
    ----------
    project
        Whose rows, tasks, features and seed are used. Parts beside the ranker take no part.
    trials
        How many, those of earlier runs among them.
    progress
        Sees the preparation go by.
    told
        Called with every trial's number and value, None where it was given up.

    Raises
    ------
    ConfigError
        If Optuna is not installed.
    """
    optuna = _optuna()
    project.output.mkdir(parents=True, exist_ok=True)
    prepared = prepared_rows(project, progress)
    metric = project.config.training.metric
    folder = project.output / "tune"
    folder.mkdir(exist_ok=True)
    journal = folder / "study.journal"
    study = _study(project, journal)
    if not study.trials:
        own = _value(project, prepared, folder / "own", None)
        study.add_trial(optuna.trial.create_trial(value=own, user_attrs={"settings": {}}))

    def objective(trial: Any) -> float:
        settings = suggest(trial)
        trial.set_user_attr("settings", settings)
        return _value(_with(project, settings), prepared, folder / str(trial.number), trial)

    ended = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)

    def tell(study: Any, trial: Any) -> None:
        told(trial.number, trial.value if trial.state == ended[0] else None)

    left = 1 + trials - len(study.get_trials(states=ended))
    if left > 0:
        study.optimize(objective, n_trials=left, callbacks=[tell])
    best = study.best_trial
    return Tuned(
        metric=metric,
        own=float(study.trials[0].values[0]),
        best=float(best.values[0]),
        settings=best.user_attrs["settings"],
        finished=len(study.get_trials(states=ended)) - 1,
        given_up=len(study.get_trials(states=ended[1:])),
        storage=journal,
    )


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ConfigError(
            "the search of settings needs Optuna", where="tune", fix="pip install 'memberwise[tune]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _study(project: Project, journal: Path) -> optuna.Study:
    """The study of these rows and settings; other rows or other settings of the project start another."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    # A lock by opening a file works where links do not (some network drives).
    backend = JournalFileBackend(str(journal), lock_obj=JournalFileOpenLock(str(journal)))
    storage, config = JournalStorage(backend), project.config
    asked = config.model_dump_json(include={"ranker", "training", "seed"})
    name = f"{fingerprint(config, project.base)}-{asked}"
    done = len(next((s.trials for s in _known(storage) if s.study_name == name), []))
    # A seed of its own after every stop: the same again would draw the same settings again.
    seed = int(np.random.SeedSequence([config.seed, done]).generate_state(1)[0])
    return optuna.create_study(
        storage=storage,
        study_name=name,
        load_if_exists=True,
        direction="maximize" if config.training.metric == "auc" else "minimize",
        sampler=optuna.samplers.TPESampler(n_startup_trials=FIRST_TRIALS, seed=seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=FIRST_TRIALS, n_warmup_steps=1),
    )


def _known(storage: optuna.storages.BaseStorage) -> list[optuna.Study]:
    import optuna

    names = optuna.get_all_study_names(storage)
    return [optuna.load_study(study_name=name, storage=storage) for name in names]


def _with(project: Project, settings: Mapping[str, Mapping[str, Any]]) -> Project:
    """The project under other settings."""
    values = project.to_dict()
    for section, changes in settings.items():
        values[section] |= changes
    return Project.from_dict(values, project.base)


def _value(project: Project, prepared: Prepared, run: Path, trial: optuna.Trial | None) -> float:
    """The best metric of one training; its folder is removed."""
    watchers = [GiveUp(trial, project.config.training.metric)] if trial is not None else []
    try:
        trainer = train(project, prepared, resume=False, watchers=watchers, run=run)
    finally:
        shutil.rmtree(run, ignore_errors=True)
    assert trainer.at.best is not None
    return trainer.at.best
