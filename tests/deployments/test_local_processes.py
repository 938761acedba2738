"""Processes are known by pid and creation time, and stopped with all they started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from deployments.local import processes
from deployments.local.lock import exclusive
from deployments.local.records import STACK_VARIABLE, Service
from flows.core.errors import Unavailable

PARENT = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print("up", flush=True)
time.sleep(60)
"""
HOLDER = """
import sys, time
from pathlib import Path
from deployments.local.lock import exclusive
with exclusive(Path(sys.argv[1]), "tradewind up"):
    print("held", flush=True)
    time.sleep(60)
"""


def start(tmp_path: Path, code: str) -> tuple[psutil.Process, Service]:
    """Start a process as the stack does, and its record."""
    process = processes.spawn(["-c", code], environment={**os.environ, STACK_VARIABLE: str(tmp_path)}, log=tmp_path / "logs" / "x.log")
    return process, Service("workers", process.pid, process.create_time(), str(tmp_path / "logs" / "x.log"), datetime.now(UTC).isoformat())


def test_a_process_is_found_by_its_record(tmp_path: Path) -> None:
    """While it lives it is found; with another creation time it is a stranger who got the same pid."""
    process, service = start(tmp_path, "import time; time.sleep(60)")
    try:
        assert processes.find(service) == process
        assert processes.find(replace(service, created=service.created - 60)) is None
    finally:
        processes.stop([process], grace_seconds=5)
    assert processes.find(service) is None


def test_stopping_ends_children_too(tmp_path: Path) -> None:
    """Nothing of the tree is left."""
    process, _ = start(tmp_path, PARENT)
    until_logged(tmp_path, "up")
    family = processes.tree(process)
    assert len(family) == 2
    processes.stop(family, grace_seconds=5)
    assert not any(one.is_running() for one in family)


def test_what_ignores_terminate_is_killed(tmp_path: Path) -> None:
    """After the grace the system ends it."""
    process, _ = start(tmp_path, "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)")
    until_logged(tmp_path, "up")
    assert processes.stop([process], grace_seconds=0.3) == 1
    assert not process.is_running()


def test_strays_are_known_by_the_stacks_mark(tmp_path: Path) -> None:
    """A child whose parent died is found through the environment it inherited, and only by the stack of its home."""
    process, _ = start(tmp_path, PARENT)
    until_logged(tmp_path, "up")
    child = process.children()[0]
    process.kill()
    process.wait()
    assert [one.pid for one in processes.strays(tmp_path, ())] == [child.pid]
    assert processes.strays(tmp_path / "other", ()) == []
    assert processes.strays(tmp_path, [child]) == []
    processes.stop([child], grace_seconds=5)


def test_the_log_before_is_kept(tmp_path: Path) -> None:
    """The reason of yesterday's crash is still there after today's start."""
    for word in ("first", "second"):
        process, _ = start(tmp_path, f"print('{word}')")
        process.wait()
    assert (tmp_path / "logs" / "x.log").read_text() == "second\n"
    assert (tmp_path / "logs" / "x.log.1").read_text() == "first\n"
    assert processes.last_lines(tmp_path / "logs" / "x.log") == "    second"


def test_memory_is_measured(tmp_path: Path) -> None:
    """A Python process takes some megabytes."""
    assert 1e6 < processes.memory_bytes(psutil.Process()) < 5e9


def test_the_lock_goes_with_its_process(tmp_path: Path) -> None:
    """Another process that holds it is named; when it dies the lock is free."""
    other = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None and other.stdout.readline() == "held\n"
    with pytest.raises(Unavailable, match=rf"`tradewind up` \(process {other.pid}\) is at work"), exclusive(tmp_path, "tradewind down"):
        pass
    other.kill()
    other.communicate()
    with exclusive(tmp_path, "tradewind down"):
        pass


def until_logged(tmp_path: Path, word: str) -> None:
    """Wait until the process has written a line."""
    log, deadline = tmp_path / "logs" / "x.log", time.monotonic() + 20
    while word not in log.read_text():
        assert time.monotonic() < deadline, json.dumps(log.read_text())
        time.sleep(0.05)
