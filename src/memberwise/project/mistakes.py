"""A mistake in a project file in words: its line, its key, what is wrong, and the nearest key there is."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError

from memberwise.errors import ConfigError
from memberwise.project.config import ProjectConfig
from memberwise.project.lines import Marks


def validate(values: dict[str, Any], where: str, marks: Marks) -> ProjectConfig:
    """Checked settings.

    Raises
    ------
    ConfigError
        Names up to five mistakes.
    """
    try:
        return ProjectConfig.model_validate(values)
    except ValidationError as error:
        found = error.errors(include_url=False)
        messages = [_explain(e, marks) for e in found[:5]]
        if len(found) > 5:
            messages.append(f"... and {len(found) - 5} more")
        raise ConfigError("\n  ".join(messages), where=where) from None


def _explain(error: Mapping[str, Any], marks: Marks) -> str:
    """One mistake in words: line, key, what is wrong, and the nearest key there is."""
    location = tuple(error["loc"])
    plain = _without_tags(location)
    line = next((marks[plain[:n]] for n in range(len(plain), 0, -1) if plain[:n] in marks), None)
    key = ".".join(str(p) for p in plain)
    prefix = (f"line {line}: " if line else "") + (f"{key}: " if key else "")
    match error["type"]:
        case "extra_forbidden":
            known = sorted(_keys_at(location[:-1]))
            close = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(known)}"
            return f"{prefix}unknown key; {hint}"
        case "missing":
            return f"{prefix}this key is needed"
        case "union_tag_invalid":
            tag, expected = error["ctx"]["tag"], error["ctx"]["expected_tags"]
            close = difflib.get_close_matches(str(tag), [e.strip("' ") for e in expected.split(",")], n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"use one of {expected}"
            return f"{prefix}{tag!r} is not known; {hint}"
        case "union_tag_not_found":
            return f"{prefix}say what it is with the key {error['ctx']['discriminator']}"
        case "value_error":
            return prefix + str(error["ctx"]["error"])
        case _:
            percent = _percent(error)
            hint = "" if percent is None else f"; shares are written from 0 to 1: did you mean {percent:g}?"
            return f"{prefix}{error['msg']} (got {error['input']!r}){hint}"


def _percent(error: Mapping[str, Any]) -> float | None:
    """The share that was meant by a percentage: 80, or the text 80 %, where a number up to 1 is expected."""
    value = error["input"]
    if error["type"] == "float_parsing" and isinstance(value, str) and value.strip().endswith("%"):
        with suppress(ValueError):
            return float(value.strip().rstrip("% ")) / 100
    limit = error.get("ctx", {}).get("lt", error.get("ctx", {}).get("le"))
    if error["type"] in ("less_than", "less_than_equal") and limit == 1 and 1 < value <= 100:
        return float(value) / 100
    return None


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """All pydantic models inside an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) is not None or isinstance(annotation, types.UnionType):
        for part in get_args(annotation):
            yield from _models(part)


def _walk(location: Sequence[str | int]) -> Iterator[tuple[list[type[BaseModel]], bool]]:
    """The models that each step of a location may stand in, and whether the step is a union's tag."""
    current: list[type[BaseModel]] = [ProjectConfig]
    for part in location:
        inner = [
            m
            for c in current
            if part in c.model_fields
            for m in _models(c.model_fields[str(part)].annotation)
        ]
        tagged = [c for c in current if part in _tags(c)]
        field = any(part in c.model_fields for c in current)
        yield current, bool(tagged) and not field
        current = inner if field else (tagged or current)
    yield current, False


def _tags(model: type[BaseModel]) -> set[str]:
    tags: set[str] = set()
    for name in ("kind", "type"):
        if name in model.model_fields and get_origin(model.model_fields[name].annotation) is Literal:
            tags.update(get_args(model.model_fields[name].annotation))
    return tags


def _keys_at(location: Sequence[str | int]) -> set[str]:
    *_, (models, _) = _walk(location)
    return {name for m in models for name in m.model_fields}


def _without_tags(location: Sequence[str | int]) -> tuple[str | int, ...]:
    """The location as it stands in the file: pydantic adds the tag of a union to it."""
    steps = list(_walk(location))
    return tuple(part for part, (_, tag) in zip(location, steps, strict=False) if not tag)
