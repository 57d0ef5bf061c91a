"""The HTTP application: routes, and what starts and ends with it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.exceptions import HTTPException

from memberwise import __version__
from memberwise.project import Project
from memberwise.recommender.removal_files import sent
from memberwise.serving import people
from memberwise.serving.forgotten import Forgotten
from memberwise.serving.guard import Guard
from memberwise.serving.intake import Intake
from memberwise.serving.journal import INBOX, Journal, StorageError
from memberwise.serving.keeper import Keeper
from memberwise.serving.lane import Lane
from memberwise.serving.measures import Drift, Measures
from memberwise.serving.messages import (
    EventsResponse,
    ForgetResponse,
    Problem,
    RankRequest,
    RankResponse,
    Refused,
    decode_events,
    decode_rank,
    encode,
    schemas,
)
from memberwise.serving.page import page, reference
from memberwise.serving.publishing import open_store
from memberwise.serving.served import NOBODY, Served
from memberwise.serving.settings import ServingSettings

BLOCKED = "the member asked to be forgotten"


class Server:
    """What the routes share.

    Parameters
    ----------
    project
        What is served.
    settings
        How.
    registry
        For the measures.
    """

    def __init__(
        self, project: Project, settings: ServingSettings, registry: CollectorRegistry | None = None
    ) -> None:
        self.project, self.settings = project, settings
        self.measures = Measures(registry or CollectorRegistry())
        self.lane = Lane("scoring", settings.queue, settings.timeout)
        self.forgotten = Forgotten(project.output)
        self.vectors = open_store(project, settings.store)
        look = self.forgotten.look
        self.keeper = Keeper(project.bundles, settings, self.lane.post, look, self.vectors)
        self.intake = Intake(project.config, settings)
        self.journal = Journal(project.output / INBOX)
        self.drift = Drift(len(project.config.tasks))
        self.stopping = False

    # -- what the routes do -----------------------------------------------------------------------

    async def answer(self, body: bytes) -> bytes:
        """The answer to the body of a request for a ranking."""
        ask = decode_rank(body)
        return await self.lane.run(lambda: self.rank(ask))

    def rank(self, ask: RankRequest) -> bytes:
        """Answer in the scoring thread."""
        served = self.served()
        started = time.perf_counter()
        if ask.member in self.forgotten:
            ask.member = NOBODY
        answer = served.rank(ask)
        self.measures.score_seconds.observe(time.perf_counter() - started)
        self._note(served)
        return encode(answer)

    def _note(self, served: Served) -> None:
        probabilities = served.last_scores
        self.measures.candidates.inc(len(probabilities))
        self.measures.score_cpu.inc(served.cpu)
        if served.fallback is not None:
            self.measures.fallbacks.labels(served.fallback).inc()
        for entity, count in served.misses.items():
            if count:
                self.measures.misses.labels(entity).inc(count)
        if (vectors := served.vectors) is not None:
            if vectors.failed is not None:
                self.measures.fallbacks.labels("store").inc()
            for feature, count in vectors.missed.items():
                self.measures.vector_misses.labels(feature).inc(count)
        if self.drift.add(probabilities):
            for task, value in zip(served.tasks, self.drift.values, strict=True):
                self.measures.drift.labels(task).set(value)

    def served(self) -> Served:
        """The version in service."""
        if self.keeper.served is None:
            raise Refused(503, Problem("no version is loaded yet"), retry_after=1)
        return self.keeper.served

    def history(self, member: str) -> list[dict[str, Any]]:
        """A member's past, in the scoring thread."""
        return people.history(self.served(), NOBODY if member in self.forgotten else member)

    async def store(self, events: list[dict[str, Any]]) -> EventsResponse:
        """Check and write events."""
        checked = await asyncio.to_thread(self.intake.check, events)
        column = self.project.config.entities["member"].id
        kept = [e for e in checked if e[column] not in self.forgotten]
        gone = len(checked) - len(kept)
        answer = EventsResponse(len(kept), {BLOCKED: gone} if gone else {}, self.intake.unread(events))
        if not kept:
            return answer
        try:
            await asyncio.wrap_future(self.journal.append(kept))
        except StorageError as error:
            raise Refused(507, Problem.of(error)) from error
        self.measures.events.inc(len(kept))
        return answer

    async def forget(self, member: str) -> ForgetResponse:
        """Nobody is ranked by this member's past from now on, and no event of the member is stored.

        An id that nothing knows is blocked all the same, since its events may be on their way; but that is
        said, since it may be mistyped.
        """
        if not member or member == NOBODY:
            raise Refused(422, Problem("that is no member's id"))
        listed = member in self.forgotten
        await asyncio.to_thread(self.forgotten.add, member)
        known: bool | None = await asyncio.to_thread(sent, self.project, member)
        if not known:
            try:
                known = not await self.lane.run(lambda: self.served().rec.unknown("member", [member]))
            except Refused:  # it is blocked, and that is what was asked
                known = None
        return ForgetResponse.of(known, listed)

    def gauges(self) -> None:
        """Bring the gauges up to date."""
        keeper, measures = self.keeper, self.measures
        measures.waiting.set(self.lane.waiting)
        measures.swaps.set(keeper.swaps)
        measures.refused_versions.set(len(keeper.refused))
        if keeper.served is not None:
            if keeper.served.version.isdigit():
                measures.version.set(int(keeper.served.version))
            if (last := keeper.served.rec.as_of) is not None:
                measures.age.set(time.time() - last.timestamp())

    def close(self) -> None:
        """Let go of threads and files; what was accepted is written."""
        self.keeper.close()
        self.journal.close()
        self.lane.stop()
        if self.vectors is not None:
            self.vectors.close()


def create_app(server: Server) -> FastAPI:
    """The application of a server."""

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        if server.keeper.served is None:
            await asyncio.to_thread(server.keeper.open)
        server.keeper.watch()
        yield
        server.stopping = True
        await asyncio.to_thread(server.close)

    name = server.project.config.name
    app = FastAPI(
        title=f"memberwise: {name}",
        version=__version__,
        lifespan=life,
        docs_url=None,  # that page takes its scripts from elsewhere
        redoc_url=None,
        description="Ranks items for a member with the current version of the project, and takes events.",
    )
    app.state.server = server
    app.add_exception_handler(HTTPException, _no_route)
    app.add_exception_handler(RequestValidationError, _no_query)
    _routes(app, server)
    _openapi(app, server.settings.token is not None)
    app.add_middleware(Guard, settings=server.settings, measures=server.measures, hot=server.answer)
    return app


def _json(content: Any, status: int = 200) -> Response:
    return Response(encode(content), status, media_type="application/json")


async def _no_route(request: Request, error: Exception) -> Response:
    """Paths and methods that there are not, in the shape of all other errors."""
    assert isinstance(error, HTTPException)
    what = (
        f"there is no {request.method} {request.url.path}"
        if error.status_code in (404, 405)
        else error.detail
    )
    allowed = (error.headers or {}).get("Allow")
    fix = f"use {allowed}" if allowed else "see /docs for the routes"
    return Response(
        encode(Problem(what, request.url.path, fix)),
        error.status_code,
        dict(error.headers or {}),
        media_type="application/json",
    )


async def _no_query(request: Request, error: Exception) -> Response:
    """Parameters of a path or query that cannot be."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return _json(Problem(str(first["msg"]), where, "see /docs for the parameters"), 422)


_PROBLEMS = {
    400: "Not JSON",
    401: "No or a wrong token",
    413: "Too large",
    422: "Cannot be used",
    503: "Busy",
}


def _answers(success: str, *statuses: int) -> dict[int | str, dict[str, Any]]:
    def content(name: str) -> dict[str, Any]:
        return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}

    answers: dict[int | str, dict[str, Any]] = {200: {"description": "Done", "content": content(success)}}
    for status in statuses:
        answers[status] = {"description": _PROBLEMS[status], "content": content("Problem")}
    return answers


def _takes(name: str | dict[str, Any]) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{name}"} if isinstance(name, str) else name
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


_EVENT = {"type": "object", "additionalProperties": True}
_EVENT_OR_LIST = {"anyOf": [_EVENT, {"type": "array", "items": _EVENT, "minItems": 1}]}


def _routes(app: FastAPI, server: Server) -> None:
    @app.post(
        "/rank",
        responses=_answers(RankResponse.__name__, 400, 401, 413, 422, 503),
        openapi_extra=_takes(RankRequest.__name__),
        summary="Order candidates for a member",
        response_class=Response,
    )
    async def rank(request: Request) -> Response:
        return Response(await server.answer(await request.body()), media_type="application/json")

    @app.post(
        "/events",
        responses=_answers(EventsResponse.__name__, 400, 401, 413, 422),
        openapi_extra=_takes(_EVENT_OR_LIST),
        summary="Store events, durably; the follower lets the next version see them",
        response_class=Response,
    )
    async def events(request: Request) -> Response:
        return _json(await server.store(decode_events(await request.body())))

    answers = _answers(ForgetResponse.__name__, 401, 422)

    @app.delete(
        "/members/{member}",
        status_code=202,
        summary="Forget a member",
        responses={202 if status == 200 else status: answer for status, answer in answers.items()},
        response_class=Response,
    )
    async def forget(member: str) -> Response:
        """From now on the member is ranked as somebody new, and events of the member are not stored.

        Asked again, it does nothing more. An id that nothing knows is blocked too, and the answer says that
        it is not known. What versions on disk know is removed by `memberwise forget`.
        """
        return _json(await server.forget(member), 202)

    @app.get("/health", summary="Whether the process lives")
    async def health() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/ready", responses={503: {"description": "Not yet, or not any more"}})
    async def ready() -> Response:
        """Whether requests are answered; versions that were refused are named."""
        served = server.keeper.served
        good = served is not None and not server.stopping
        about = {
            "ready": good,
            "version": served.version if served is not None else None,
            "refused": server.keeper.refused,
        }
        return _json(about, 200 if good else 503)

    @app.get("/version", summary="What is in service")
    async def version() -> Response:
        served = server.keeper.served
        return _json(
            {
                "project": server.project.config.name,
                "memberwise": __version__,
                "version": served.version if served is not None else None,
                "as_of": served.as_of if served is not None else None,
                "tasks": served.tasks if served is not None else [],
                "slow": served.mistrusted if served is not None else None,
                "vectors": served.vectors.version if served is not None and served.vectors else None,
                "swaps": server.keeper.swaps,
                "refused": server.keeper.refused,
            }
        )

    @app.get("/metrics", response_class=Response, summary="For Prometheus")
    async def metrics() -> Response:
        server.gauges()
        return Response(generate_latest(server.measures.whole), media_type=CONTENT_TYPE_LATEST)

    @app.get("/members/{member}/history", summary="A member's past as the ranker sees it now")
    async def history(member: str) -> Response:
        return _json(await server.lane.run(lambda: server.history(member)))

    @app.get("/items", summary="Names of items")
    async def items(id: Annotated[list[str], Query(max_length=1000)] = []) -> Response:  # noqa: B006
        return _json(await server.lane.run(lambda: people.names(server.served(), id)))

    @app.get("/reliability", summary="Predicted and observed rates, as last evaluated")
    async def reliability() -> Response:
        return _json(await asyncio.to_thread(people.reliability, server.project.output / "report.json"))

    @app.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(reference(app.openapi()))

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def home() -> HTMLResponse:
        return HTMLResponse(page(server.project.config.name))


def _openapi(app: FastAPI, token: bool) -> None:
    """The document with the messages of the raw routes."""
    plain = app.openapi

    def whole() -> dict[str, Any]:
        document = plain()
        components = document.setdefault("components", {})
        components.setdefault("schemas", {}).update(schemas())
        if token:
            components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
            document["security"] = [{"token": []}]
        return document

    app.openapi = whole  # type: ignore[method-assign]
