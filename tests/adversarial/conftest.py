"""A world of invented rows, as the tests of the services have it."""

from __future__ import annotations

from tests.services.conftest import empty_mlflow, world

__all__ = ["empty_mlflow", "world"]
