"""What smaller tables save is measured on the project's own rows."""

from __future__ import annotations

import json
import logging

import pytest

from memberwise.project import Project
from memberwise.recommender import Recommender
from memberwise.serving.compress import compress, refit, with_quotients
from memberwise.serving.engine import GATE, folder_of


def test_a_fit_with_smaller_tables_is_compared_plain_and_in_int8(project: Project) -> None:
    base = [0.5, 0.5]
    plain, int8 = refit(project, 5, base)
    assert "int8" in int8.name
    # Four bytes of scale and middle stand beside the numbers of a row: at width 4 that is half of float32.
    assert int8.table_mb == pytest.approx(0.5 * plain.table_mb)
    for choice in (plain, int8):
        assert choice.change == pytest.approx([a - b for a, b in zip(choice.auc, base, strict=True)])
    assert int8.auc == pytest.approx(plain.auc, abs=0.02)


def test_large_vocabularies_alone_get_quotients(project: Project) -> None:
    rec = Recommender.load(project.bundles)
    changed = with_quotients(project, rec, 2, least=20)
    for f in changed.to_dict()["features"]:
        if f["kind"] == "categorical":
            rows = rec.pipeline.vocabularies[f.get("table") or f.get("name") or f["column"]].rows
            assert (f["remainders"] is not None) == (rows >= 20)


@pytest.mark.slow
def test_the_choices_for_a_version_and_the_gate_of_its_int8_core(
    project: Project, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])  # as in a program that has set up no logs
    choices = compress(project)
    assert "WARNING" not in capfd.readouterr().err
    assert root.handlers == []
    assert root.filters == []
    assert [c.name.split(" (")[0] for c in choices] == ["float32", "int8 dense part", "int8 tables"]
    assert choices[2].table_mb < choices[0].table_mb
    gate = json.loads((folder_of(Recommender.load(project.bundles)) / GATE).read_text())
    assert gate["passed"] == (min(gate["valid change"]) >= gate["limit"])
    assert gate["test change"] == choices[1].change
