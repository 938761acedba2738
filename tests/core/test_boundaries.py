"""Core is pure and light: importing all of it loads no library of the outside."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("prefect", "mlflow", "feast", "evidently", "great_expectations", "sqlalchemy", "pandas", "sklearn", "scipy", "cedarpy", "httpx")
IMPORT_ALL = """
import importlib, pkgutil, sys
import flows.core
for module in pkgutil.walk_packages(flows.core.__path__, "flows.core."):
    importlib.import_module(module.name)
print(*sorted(name for name in sys.argv[1:] if name in sys.modules))
"""


def test_importing_all_of_core_loads_no_heavy_library() -> None:
    """In a fresh interpreter, every module of it."""
    done = subprocess.run([sys.executable, "-c", IMPORT_ALL, *HEAVY], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_place_loads_no_prefect() -> None:
    """The command that answers offline pays for no server library."""
    code = "import sys, deployments.cli.main; print(*[name for name in ('prefect', 'mlflow', 'feast', 'pandas') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
