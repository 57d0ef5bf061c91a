"""A proposed project as text: YAML that a person reads from top to bottom and then edits."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

WIDTH = 100


def scalar(value: Any) -> str:
    """One value as YAML that also may stand inside braces.

    Examples
    --------
    >>> scalar("user_id"), scalar("rating >= 8"), scalar("yes"), scalar(["a", 0.5])
    ('user_id', 'rating >= 8', '"yes"', '[a, 0.5]')
    """
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k}: {scalar(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(scalar, value)) + "]"
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    text = str(value)
    try:
        if yaml.safe_load(f"{{k: [{text}]}}") == {"k": [text]}:
            return text
    except yaml.YAMLError:
        pass  # it needs quotes
    return json.dumps(text, ensure_ascii=False)


def comment(text: str, indent: int = 0) -> str:
    """Text as comment lines."""
    prefix = " " * indent + "# "
    return "\n".join(textwrap.wrap(text, WIDTH, initial_indent=prefix, subsequent_indent=prefix)) or prefix


def entry(values: Mapping[str, Any], why: str) -> str:
    """An element of a list, on one line, with its comment behind it or, if that is long, above it."""
    line = f"  - {scalar(values)}"
    if not why:
        return line
    behind = f"{line}  # {why}"
    return behind if len(behind) <= WIDTH else f"{comment(why, 2)}\n{line}"


def section(name: str, entries: Sequence[tuple[Mapping[str, Any], str]], about: str = "") -> str:
    """A key with a list under it."""
    head = (comment(about) + "\n" if about else "") + f"{name}:"
    return "\n".join([head, *(entry(v, why) for v, why in entries)])


def block(name: str, values: Mapping[str, Any], comments: Mapping[str, str], about: str = "") -> str:
    """A key with further keys under it, each with its comment."""
    lines = [comment(about)] if about else []
    lines.append(f"{name}:")
    for key, value in values.items():
        line = f"  {key}: {scalar(value)}"
        why = comments.get(key, "")
        if why and len(line) + len(why) + 4 > WIDTH:
            lines.append(comment(why, 2))
            why = ""
        lines.append(f"{line}  # {why}" if why else line)
    return "\n".join(lines)
