"""Shared by all tests: how hypothesis runs, and the helpers below ``tests/support``."""

from __future__ import annotations

import sys
from pathlib import Path

from hypothesis import HealthCheck, settings

# `from support...`: tests are imported by path (importlib mode), which puts no directory on sys.path.
sys.path.insert(0, str(Path(__file__).parent))

# The same examples on every run; `--hypothesis-profile=search` looks for new ones.
_SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
settings.register_profile("pinned", derandomize=True, deadline=None, suppress_health_check=_SLOW)
settings.register_profile("search", max_examples=500, deadline=None, suppress_health_check=_SLOW)
settings.load_profile("pinned")
