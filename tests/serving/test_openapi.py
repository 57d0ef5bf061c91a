"""schemathesis looks for requests that the OpenAPI document allows and the server fails on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, given, settings

from memberwise.project import Project
from memberwise.serving.app import Server, create_app
from memberwise.serving.settings import ServingSettings


@pytest.fixture(scope="module")
def app(fitted: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    import shutil

    base = tmp_path_factory.mktemp("openapi") / "project"
    shutil.copytree(fitted.base, base, symlinks=True)
    app = create_app(Server(Project(fitted.config, base), ServingSettings(engine="torch", clock="log")))
    with TestClient(app):
        yield app


def probe(app: Any, examples: int, derandomize: bool) -> Counter[int]:
    """Requests of every operation; how often each status was answered."""
    statuses: Counter[int] = Counter()
    api = schemathesis.openapi.from_asgi("/openapi.json", app)
    for found in api.get_all_operations():
        operation = found.ok()

        @settings(
            max_examples=examples,
            deadline=None,
            derandomize=derandomize,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def try_one(case: Any) -> None:
            answer = case.call()
            statuses[answer.status_code] += 1
            assert answer.status_code < 500, (case.method, case.path, case.body, answer.text)

        try_one()
    return statuses


def test_no_request_makes_the_server_fail(app: Any) -> None:
    statuses = probe(app, 25, derandomize=True)
    assert statuses[200] > 50
    assert statuses[422] > 10


@pytest.mark.slow
def test_no_request_makes_the_server_fail_at_length(app: Any) -> None:
    assert probe(app, 400, derandomize=False)[422] > 100
