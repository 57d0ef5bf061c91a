"""The documentation page runs as it stands, the example draws its figure, and the room needs no torch."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_every_code_block_of_the_page_runs(capsys):
    page = (ROOT / "docs" / "bayes.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert len(blocks) >= 5
    exec("\n".join(blocks), {})
    assert "delta 0.9" in capsys.readouterr().out


@pytest.mark.slow
def test_the_example_draws_z_values_with_the_fitted_prior(tmp_path, capsys):
    script = runpy.run_path(str(ROOT / "examples" / "gene_expression.py"))
    script["main"](["--out", str(tmp_path)])
    assert "<svg" in (tmp_path / "z_values.svg").read_text()
    assert "auto" in capsys.readouterr().out


def test_the_bundled_arrays_are_those_of_alon():
    script = runpy.run_path(str(ROOT / "examples" / "gene_expression.py"))
    X, y = script["load"]()
    assert X.shape == (62, 2000)
    assert sorted((y == "t").tolist()).index(True) == 22


def test_it_imports_without_torch():
    code = "import sys, memberwise.bayes as b; print(len(b.__all__), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, torch_is_loaded = done.stdout.split()
    assert int(count) >= 10
    assert torch_is_loaded == "False"


def test_everything_public_is_importable_and_documented():
    import memberwise.bayes as bayes

    for name in bayes.__all__:
        assert getattr(bayes, name).__doc__
