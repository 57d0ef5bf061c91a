"""YAML with the line of every key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from memberwise.errors import ConfigError

Marks = dict[tuple[str | int, ...], int]
"""Line of each key in the file."""


def parse(text: str, path: Path) -> tuple[dict[str, Any], Marks]:
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(f"is not YAML: {problem}", where=f"{path}{line}") from error
    except ValueError as error:  # a date such as 2013-13-45
        raise ConfigError(f"holds a value that cannot be: {error}", where=str(path)) from error
    if not isinstance(values, dict):
        raise ConfigError("holds no settings", where=str(path), fix="start with: events:, entities:, tasks:")
    marks: Marks = {}
    try:
        _collect(node, (), marks, path)
    except RecursionError:
        raise ConfigError("holds an anchor that contains itself", where=str(path)) from None
    return values, marks


def _collect(node: yaml.Node | None, at: tuple[str | int, ...], marks: Marks, path: Path) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            name = (*at, key.value)
            if name in marks:
                raise ConfigError(
                    f"the key {key.value!r} stands twice", where=f"{path}, line {key.start_mark.line + 1}"
                )
            marks[name] = key.start_mark.line + 1
            _collect(value, name, marks, path)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            marks[(*at, i)] = value.start_mark.line + 1
            _collect(value, (*at, i), marks, path)
