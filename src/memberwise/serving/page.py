"""Pages for people, without a network: the page of a project, and the reference of the routes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from importlib import resources
from typing import Any


def page(name: str) -> str:
    """The page of a project."""
    text = resources.files("memberwise.serving").joinpath("page.html").read_text(encoding="utf-8")
    return text.replace("{{project}}", escape(name))


def reference(document: Mapping[str, Any]) -> str:
    """The routes of an OpenAPI document, for reading: what each takes and answers."""
    title = escape(document["info"]["title"])
    routes = [
        _route(method, path, about)
        for path, ways in document["paths"].items()
        for method, about in ways.items()
    ]
    schemas = [
        f"<h3 id='{escape(name)}'>{escape(name)}</h3><pre>{escape(json.dumps(schema, indent=1))}</pre>"
        for name, schema in document["components"]["schemas"].items()
    ]
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{title}</title><style>{_STYLE}</style>"
        f"<h1>{title}</h1><p>{escape(document['info'].get('description', ''))}</p>"
        "<p>For programs, and for tools that draw or call the routes: "
        "<a href='openapi.json'>openapi.json</a>.</p>"
        f"{''.join(routes)}<h2>Messages</h2>{''.join(schemas)}</html>"
    )


_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:50rem;margin:2rem auto;padding:0 1rem}"
    "code,pre{font-family:ui-monospace,monospace;font-size:14px}pre{background:#f4f4f4;padding:.7rem;overflow:auto}"
    "h2{margin-top:2rem}td{padding-right:1rem;vertical-align:top}"
)


def _route(method: str, path: str, about: Mapping[str, Any]) -> str:
    """One route: what it is for, its parameters, and by status what it answers."""
    takes = [
        f"<tr><td><code>{escape(p['name'])}</code>"
        f"<td>{escape(p['in'])}{', required' if p.get('required') else ''}"
        for p in about.get("parameters", [])
    ]
    if (body := about.get("requestBody")) is not None:
        takes.append(f"<tr><td>body<td>{_message(body)}")
    answers = [
        f"<tr><td>{escape(status)}<td>{escape(answer['description'])} {_message(answer)}"
        for status, answer in about["responses"].items()
    ]
    return (
        f"<h2><code>{escape(method.upper())} {escape(path)}</code></h2>"
        f"<p>{escape(about.get('summary', ''))}</p>"
        f"<p>{escape(about.get('description', ''))}</p><table>{''.join(takes)}</table>"
        f"<p>Answers</p><table>{''.join(answers)}</table>"
    )


def _message(about: Mapping[str, Any]) -> str:
    """What stands in a body: a message by name, or its schema."""
    schema = about.get("content", {}).get("application/json", {}).get("schema", {})
    if not schema:
        return ""
    if (name := schema.get("$ref", "").rpartition("/")[2]) != "":
        return f"<a href='#{escape(name)}'>{escape(name)}</a>"
    return f"<code>{escape(json.dumps(schema))}</code>"
