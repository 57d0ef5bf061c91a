"""The page for people in a real browser."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from memberwise.project import Project
from memberwise.serving.app import Server, create_app
from memberwise.serving.page import page
from memberwise.serving.settings import ServingSettings
from support.server import Running


def test_it_needs_no_network() -> None:
    text = page("films <b>")
    assert "films &lt;b&gt;" in text
    assert not re.search(r"""(src|href)\s*=|https?://|@import|url\(""", text)


def test_the_reference_of_the_routes_needs_none_either(project: Project) -> None:
    app = create_app(Server(project, ServingSettings(engine="torch", clock="log")))
    with TestClient(app) as client:
        text = client.get("/docs").text
        document = client.get("/openapi.json").json()
    links = re.findall(r"""(?:src|href)\s*=\s*['"]([^'"]*)""", text)
    ids = re.findall(r"id='([^']*)'", text)
    assert {link.removeprefix("#") for link in links} <= {"openapi.json", *ids}
    assert not re.search(r"<script|https?://|@import|url\(", text)
    for path in document["paths"]:
        assert f" {path}</code>" in text
    assert {"RankRequest", "RankResponse", "EventsResponse", "Problem"} <= set(ids)
    assert "Order candidates for a member" in text


@pytest.mark.slow
def test_it_ranks_in_a_browser(project: Project, tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    with Running(project, "--engine", "torch", "--clock", "log") as server:
        context = "%7B%22num%22:1,%22cat%22:%22u%22,%22tags%22:[%22g1%22]%7D"
        address = f"{server.url}/?member=m1&k=5&context={context}"
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=15000"]
        command = [chromium, *options, "--window-size=1300,900"]
        picture = tmp_path / "page.png"
        shot = [*command, f"--screenshot={picture}", address]
        subprocess.run(shot, check=True, capture_output=True, timeout=120)
        assert picture.stat().st_size > 20_000
        done = subprocess.run([*command, "--dump-dom", address], check=True, capture_output=True, timeout=120)
    dom = done.stdout.decode()
    assert 'data-done="m1"' in dom
    assert dom.count("<tr>") >= 6
    assert "days ago" in dom
    assert 'aria-label="ranker' in dom
    assert re.search(r'role="alert"></div>', dom), "the page shows a problem"
