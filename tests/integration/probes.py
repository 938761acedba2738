"""Flows that the integration tests deploy: what a run sees of its worker, and how long one takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from prefect import flow

from flows.adapters import dispatch


@flow
async def noop(number: int = 0) -> int:
    """Nothing."""
    return number


@flow
async def whoami(report: str) -> None:
    """Write this process's environment and folder to the file `report`."""
    body = {"environment": dict(os.environ), "folder": str(Path.cwd()), "path": sys.path}
    Path(report).write_text(json.dumps(body))


@flow
async def broken() -> None:
    """Fail."""
    raise ValueError("this flow always fails")


@flow
async def sleeper(report: str, seconds: float = 120.0) -> None:
    """Write the ids of this process and of a child it starts to `report`, then sleep."""
    child = subprocess.Popen([sys.executable, "-c", f"import time; time.sleep({seconds})"])
    Path(report).write_text(json.dumps([os.getpid(), child.pid]))
    time.sleep(seconds)


@flow
async def parent(deployment: str, runs: int = 1) -> list[float]:
    """Start `runs` children one after the other; seconds from dispatch to the known end of each."""
    seconds = []
    for number in range(runs):
        began = time.perf_counter()
        run = await dispatch.start(deployment, {"number": number}, idempotency_key=f"{os.getpid()}-{number}")
        await dispatch.wait(run, timeout=120)
        seconds.append(round(time.perf_counter() - began, 2))
    return seconds
