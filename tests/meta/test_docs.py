"""The example in docs/meta.md runs, and its settings are settings."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from memberwise.meta import MetaConfig

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "meta.md").read_text()


def test_the_example_runs():
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    space: dict[str, object] = {}
    exec(code, space)
    assert space["z"].shape == (2, 4)  # type: ignore[attr-defined]


def test_the_settings_are_read():
    (text,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.S)
    config = MetaConfig.model_validate(yaml.safe_load(text)["meta"])
    assert [f["dim"] for f in config.vector_features()] == [16, 8]
