"""The door of the server: who may come in, with how much, for how long; and a line in the log for each."""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from memberwise.serving.measures import Measures
from memberwise.serving.messages import Problem, Refused, encode
from memberwise.serving.settings import ServingSettings

log = logging.getLogger("memberwise.serving")
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
OPEN = {"/", "/health", "/ready"}
"""Paths that need no token: the page holds no data, and machines ask for health."""


class Guard:
    """Wraps the application: token, size and time of the body, errors as JSON, measures and log lines.

    The log lines name route, status, time and size, never a member, an item or a context.

    Parameters
    ----------
    app
        What is guarded.
    settings
        Limits and the token.
    measures
        Where requests are counted.
    hot
        Answers ``POST /rank`` from the body, past the framework's own routing.
    """

    def __init__(
        self,
        app: App,
        settings: ServingSettings,
        measures: Measures,
        hot: Callable[[bytes], Awaitable[bytes]] | None = None,
    ) -> None:
        self.app, self.settings, self.measures, self.hot = app, settings, measures, hot
        self._token = settings.token.encode() if settings.token else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        answered = [0]  # status

        async def noting(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                answered[0] = message["status"]
            await send(message)

        try:
            self._let_in(scope)
            body = await self._body(scope, receive)
            if self.hot is not None and scope["path"] == "/rank" and scope["method"] == "POST":
                await _answer(noting, 200, await self.hot(body))
            else:
                await self.app(scope, _once(body, receive), noting)
        except Refused as refused:
            await _refuse(noting, refused)
        except Exception:  # a fault of ours: the client learns that, the log learns which
            log.exception("failed", extra={"fields": {"route": _route(scope)}})
            if not answered[0]:
                await _refuse(noting, Refused(500, Problem("the server failed; its log says why")))
        self._note(scope, answered[0], time.perf_counter() - started)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        route = _route(scope)
        self.measures.requests.labels(route, str(status)).inc()
        self.measures.seconds.labels(route).observe(seconds)
        if status == 503:
            self.measures.refusals.inc()
        if log.isEnabledFor(logging.INFO):
            fields = {
                "request": os.urandom(6).hex(),
                "method": scope["method"],
                "route": route,
                "status": status,
                "ms": round(seconds * 1e3, 2),
            }
            log.info("request", extra={"fields": fields | scope.get("state", {}).get("fields", {})})

    def _let_in(self, scope: Scope) -> None:
        if self._token is None or scope["path"] in OPEN:
            return
        given = next((v for n, v in scope["headers"] if n == b"authorization"), b"")
        kind, _, token = given.partition(b" ")
        if kind.lower() != b"bearer" or not hmac.compare_digest(token.strip(), self._token):
            raise Refused(401, Problem("a token is needed", fix="send Authorization: Bearer TOKEN"))

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """The whole body, within the limits."""
        if scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return b""
        length = next((v for n, v in scope["headers"] if n == b"content-length"), b"0")
        limit = self.settings.max_body
        if length.isdigit() and int(length) > limit:
            raise self._too_large()
        parts, size = [], 0
        try:
            async with asyncio.timeout(self.settings.read_timeout):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Refused(408, Problem("the request did not end"))
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > limit:
                        raise self._too_large()
                    if not message.get("more_body", False):
                        return b"".join(parts)
        except TimeoutError as error:
            raise Refused(408, Problem("the request did not end in time")) from error

    def _too_large(self) -> Refused:
        return Refused(413, Problem(f"the body is larger than {self.settings.max_body:,} bytes"))


def _once(body: bytes, receive: Receive) -> Receive:
    """What gives the body that was read, and then waits for the client to go."""
    given = False

    async def again() -> MutableMapping[str, Any]:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def _route(scope: Scope) -> str:
    """The path as it is declared: ids in paths are personal data."""
    route = scope.get("route")
    return getattr(route, "path", None) or ("/rank" if scope["path"] == "/rank" else "other")


async def _refuse(send: Send, refused: Refused) -> None:
    headers: list[tuple[bytes, bytes]] = []
    if refused.retry_after is not None:
        headers.append((b"retry-after", str(refused.retry_after).encode()))
    if refused.status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if refused.status in (408, 413):
        headers.append((b"connection", b"close"))
    await _answer(send, refused.status, encode(refused.problem), headers)


async def _answer(send: Send, status: int, body: bytes, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
    about = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": about})
    await send({"type": "http.response.body", "body": body})
