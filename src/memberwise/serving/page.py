"""The page for people: one file without a network."""

from __future__ import annotations

from html import escape
from importlib import resources


def page(name: str) -> str:
    """The page of a project."""
    text = resources.files("memberwise.serving").joinpath("page.html").read_text(encoding="utf-8")
    return text.replace("{{project}}", escape(name))
