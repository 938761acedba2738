"""Starting, finding, measuring and stopping processes: by pid and creation time, never by name."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import psutil

from deployments.local.records import STACK_VARIABLE, Service

SAME_INSTANT = 0.05
"""Seconds by which two readings of one creation time may differ."""


def spawn(arguments: Sequence[str], *, environment: Mapping[str, str], log: Path) -> psutil.Process:
    """Start this interpreter with `arguments` in a session of its own: a Ctrl-C meant for us does not reach it.

    Output goes to `log`; the log of the run before is kept beside it as `<name>.log.1`.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    if log.exists() and log.stat().st_size:
        log.replace(log.with_name(f"{log.name}.1"))
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=log.parent,
        )
    return psutil.Process(process.pid)


def find(service: Service) -> psutil.Process | None:
    """The service's process, if it still is the one that was recorded and has not ended."""
    try:
        process = psutil.Process(service.pid)
        if abs(process.create_time() - service.created) > SAME_INSTANT or process.status() == psutil.STATUS_ZOMBIE:
            return None
    except psutil.Error:
        return None
    return process


def tree(process: psutil.Process) -> list[psutil.Process]:
    """The process and all its descendants."""
    try:
        return [process, *process.children(recursive=True)]
    except psutil.Error:
        return []


def strays(home: Path, known: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Processes that the stack of this home started, less the `known` ones: their environment carries the stack's mark."""
    seen, found = {process.pid for process in known} | {os.getpid()}, []
    for process in psutil.process_iter():
        if process.pid in seen:
            continue
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(STACK_VARIABLE) == str(home):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found


def stop(processes: Sequence[psutil.Process], *, grace_seconds: float) -> int:
    """Terminate the first process, give the whole list time to end, then kill what is left; returns how many were killed."""
    for process in processes[:1]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(processes[:1], timeout=grace_seconds)
    rest = [*alive, *processes[1:]]
    for process in processes[1:]:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(rest, timeout=2.0)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=5.0)
    return len(alive)


def memory_bytes(process: psutil.Process) -> int:
    """Memory of a process and its descendants: proportional set size where the system tells it, else resident set size."""
    total = 0
    for one in tree(process):
        with contextlib.suppress(psutil.Error):
            full = one.memory_full_info()
            total += int(getattr(full, "pss", 0) or full.rss)
    return total


def last_lines(log: Path, count: int = 12) -> str:
    """The end of a log, indented, for a message."""
    try:
        lines = log.read_text(errors="replace").strip().splitlines()[-count:]
    except OSError:
        return ""
    return "\n".join(f"    {line}" for line in lines)
