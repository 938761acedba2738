"""Flows that the integration tests deploy: what a run sees of its worker, and how long one takes."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

from prefect import flow

from flows.adapters import dispatch
from flows.services.discretion import quiet


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


@flow
async def talker(rows: str, hushed: bool) -> None:
    """Say what the file `rows` holds in every way, then fail with it; `hushed` as a step of restricted data is."""
    await asyncio.to_thread(_say, Path(rows).read_text(), hushed)


def _say(row: str, hushed: bool) -> None:
    with quiet("`train` of `clinic`") if hushed else nullcontext():
        sys.stdout.write(f"{row}\n")
        sys.stdout.flush()
        os.write(2, f"{row}\n".encode())
        subprocess.run([sys.executable, "-c", f"print({row!r})"], check=True)
        logging.getLogger("flows.workloads.clinic").warning("a row: %s", row)
        try:
            raise KeyError(row)
        except KeyError as cause:
            raise ValueError(f"cannot read {row}") from cause
