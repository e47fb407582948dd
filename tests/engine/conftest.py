"""Fixtures: those of the Runner's tests."""

from tests.runner.conftest import build

__all__ = ["build"]
