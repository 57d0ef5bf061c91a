"""A server as people run it: its own process, a port of the loopback, HTTP."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx2 as httpx
import yaml

from memberwise.project import Project


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def write_project(project: Project) -> Path:
    """The project file of a project made in memory."""
    path = project.base / "project.yaml"
    path.write_text(yaml.safe_dump(project.to_dict()))
    return path


class Running:
    """``memberwise serve`` on a project, ready when entered.

    Parameters
    ----------
    project
        What is served; its file is written.
    options
        Of the command line.
    environment
        Variables.
    """

    def __init__(self, project: Project, *options: str, **environment: str) -> None:
        self.project, self.options, self.environment = project, options, environment
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = project.base / f"serve-{self.port}.log"

    def __enter__(self) -> Running:
        command = [sys.executable, "-m", "memberwise.cli", "serve", str(write_project(self.project))]
        command += ["--port", str(self.port), *self.options]
        environment = os.environ | self.environment | {"OMP_NUM_THREADS": "1"}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        headers = {}
        if token := self.environment.get("MEMBERWISE_TOKEN"):
            headers["Authorization"] = f"Bearer {token}"
        self.client = httpx.Client(base_url=self.url, timeout=20, headers=headers)
        try:
            self.wait_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def wait_ready(self, seconds: float = 180) -> None:
        """Until /ready says so."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended:\n{self.log.read_text()}")
            try:
                if self.client.get("/ready").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        raise AssertionError(f"the server is not ready:\n{self.log.read_text()}")

    def wait_version(self, version: str, seconds: float = 60) -> None:
        """Until a version is in service."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self.client.get("/version").json()["version"] == version:
                return
            time.sleep(0.05)
        raise AssertionError(f"version {version} is not in service:\n{self.log.read_text()}")

    def rank(self, **ask: Any) -> httpx.Response:
        """POST /rank."""
        context = {"num": 0.5, "cat": "u", "tags": ["g1"]}
        plain = {"member": "m1", "candidates": ["i1", "i2", "i3"], "context": context}
        return self.client.post("/rank", json=plain | ask)
