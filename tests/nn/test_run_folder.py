"""A run folder goes on where it stood, and refuses to go on with something else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from memberwise.errors import BundleError, ConfigError
from memberwise.nn import run_folder
from memberwise.nn.devices import choose_device
from memberwise.nn.run_folder import RunFolder, below

FIXED = {"settings": {"lr": 0.1}, "seed": 3}


class Seen:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.records: list[Mapping[str, Any]] = []
        self.steps: list[tuple[int, int, int]] = []

    def record(self, record: Mapping[str, Any]) -> None:
        self.records.append(record)

    def progress(self, step: int, steps: int, rows: int) -> None:
        self.steps.append((step, steps, rows))


def test_it_goes_on_from_the_checkpoint_and_forgets_what_came_after(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run", FIXED, every=0.0)
    run.begin()
    run.record(step=1, loss=0.5)
    run.save({"model.w": torch.arange(3.0)}, position={"step": 1})
    run.record(step=2, loss=0.4)
    again = RunFolder(tmp_path / "run", FIXED, every=0.0)
    found = again.resume()
    assert found is not None
    tensors, state = found
    assert below(tensors, "model.")["w"].tolist() == [0, 1, 2]
    assert state["position"] == {"step": 1}
    assert again.records == [{"step": 1, "loss": 0.5}]
    assert [json.loads(line) for line in again.log.read_text().splitlines()] == again.records
    assert again.cpu_seconds >= state["cpu_seconds"]


@pytest.mark.parametrize(("name", "value"), [("seed", 4), ("settings", {"lr": 0.2})])
def test_a_checkpoint_of_something_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: Any
) -> None:
    run = RunFolder(tmp_path, FIXED, every=0.0)
    run.begin()
    run.save({})
    with pytest.raises(ConfigError, match=f"other {name}"):
        RunFolder(tmp_path, FIXED | {name: value}, every=0.0).resume()
    monkeypatch.setattr(run_folder, "FORMAT", run_folder.FORMAT + 1)
    with pytest.raises(ConfigError, match="other format of checkpoints"):
        RunFolder(tmp_path, FIXED, every=0.0).resume()
    monkeypatch.undo()
    run.checkpoint.write_bytes(b"torn")
    with pytest.raises(BundleError, match="cannot be read"):
        RunFolder(tmp_path, FIXED, every=0.0).resume()


def test_a_new_begin_leaves_nothing_of_the_old(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, FIXED, every=0.0)
    run.begin()
    run.record(step=1)
    run.save({})
    run.keep_best({"w": torch.ones(1)}, step=1)
    assert run.best_weights()["w"].tolist() == [1]
    run.begin()
    assert list(tmp_path.iterdir()) == []
    assert run.records == []
    assert run.resume() is None


def test_watchers_see_what_the_log_says(tmp_path: Path) -> None:
    seen = Seen()
    run = RunFolder(tmp_path, FIXED, every=1000.0, watchers=[seen])
    run.begin()
    assert not run.due
    run.record(step=7, split="valid")
    run.progress(7, 10, 32)
    assert seen.records == run.records == [{"step": 7, "split": "valid"}]
    assert seen.steps == [(7, 10, 32)]


def test_a_helper_process_writes_nothing_and_keeps_its_log(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, FIXED, every=0.0, writes=False)
    run.begin()
    run.record(step=1)
    run.save({})
    run.keep_best({})
    assert list(tmp_path.iterdir()) == []
    assert run.records == [{"step": 1}]


def test_a_device_that_is_not_there_is_named_with_its_key() -> None:
    assert choose_device("cpu", "training.device") == torch.device("cpu")
    with pytest.raises(ConfigError, match=r"^training\.device: 'warp' is not a device"):
        choose_device("warp", "training.device")
