"""Start a server, and stop it without losing a request."""

from __future__ import annotations

import asyncio
import json
import os
from tempfile import TemporaryDirectory
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from memberwise import bundle
from memberwise.project import Project
from memberwise.serving import logs
from memberwise.serving.app import Server, create_app
from memberwise.serving.keeper import no_version
from memberwise.serving.settings import TOKEN_VARIABLE, ServingSettings

_SETTINGS, _PROJECT = "MEMBERWISE_SERVING", "MEMBERWISE_PROJECT"
READ_TIMEOUT = 10.0
_SILENCE = 120


class PatientProtocol(HttpToolsProtocol):
    """HTTP with a limit on how long a client may take to send the head of a request.

    The server beneath waits for ever: a few hundred clients that send a byte now and then would take all
    connections. The body has its own limit (`Guard`).
    """

    _clock: asyncio.TimerHandle | None = None
    read_timeout = READ_TIMEOUT

    def connection_made(self, transport: Any) -> None:
        """A client is there."""
        super().connection_made(transport)
        self._wait()

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        self._wait()

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._enough()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        self._enough()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._enough()
        self._clock = self.loop.call_later(self.read_timeout, self._late)

    def _enough(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def _late(self) -> None:
        if not self.transport.is_closing():
            self.transport.close()


def serve(project: Project, settings: ServingSettings) -> None:
    """Serve a project until SIGTERM or SIGINT; open requests are answered first.

    Parameters
    ----------
    project
        What to serve.
    settings
        How; with several workers they share the port, and each has the whole version.

    Raises
    ------
    BundleError
        If no version can be served.
    """
    PatientProtocol.read_timeout = settings.read_timeout
    common: dict[str, Any] = {
        "host": settings.host,
        "port": settings.port,
        "http": PatientProtocol,
        "ws": "none",
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "timeout_graceful_shutdown": int(settings.drain),
        "limit_concurrency": settings.connections,
        "backlog": 256,
    }
    if settings.workers == 1:
        logs.to_json()
        server = Server(project, settings)
        server.keeper.open()  # here, where it can still be said to the person who started it
        uvicorn.Server(uvicorn.Config(create_app(server), **common)).run()
        return
    if bundle.current(project.bundles) is None:
        raise no_version(project.bundles)
    with TemporaryDirectory() as counters:
        # Workers begin anew and find their settings in the environment.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = counters
        os.environ[_SETTINGS] = settings.model_dump_json(exclude={"token"})
        os.environ[_PROJECT] = json.dumps([project.to_dict(), str(project.base.resolve())])
        if settings.token:
            os.environ[TOKEN_VARIABLE] = settings.token
        # A worker that imports, or loads a large version, may be silent for longer than the five seconds
        # after which it would be taken for dead, killed and started again, for ever.
        common |= {"workers": settings.workers, "timeout_worker_healthcheck": _SILENCE}
        uvicorn.run("memberwise.serving.run:worker", factory=True, **common)


def worker() -> FastAPI:
    """The application of one of several worker processes."""
    logs.to_json()
    settings = ServingSettings.model_validate_json(os.environ[_SETTINGS]).with_token(None)
    PatientProtocol.read_timeout = settings.read_timeout
    values, base = json.loads(os.environ[_PROJECT])
    return create_app(Server(Project.from_dict(values, base), settings))
