"""Properties here are about results: a slow machine must not fail them, and every run tries the same."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("unit", deadline=None, derandomize=True)
settings.load_profile("unit")
