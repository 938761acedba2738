"""Containers as local processes: a folder of its own for each, the image's environment, what the cloud adds to it, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from flows.adapters.settings import PROJECT_ROOT

KILLED = 137
"""Exit status of a container that was killed; that is the kernel's want of memory, unless somebody killed it."""
CANNOT_START = 127


def programs() -> Path:
    """The folder of Python and Prefect that an image of the project holds: the one without the clouds' workers, where it is there."""
    own = PROJECT_ROOT / ".venv" / "bin"
    return own if (own / "prefect").exists() else Path(sys.executable).parent


@dataclass(frozen=True, slots=True)
class Image:
    """What a container of the image has before its cloud adds anything: the project, Python, and these variables."""

    environment: Mapping[str, str] = field(default_factory=dict)

    def variables(self, home: Path) -> dict[str, str]:
        """The environment of a container whose root is the folder."""
        return {
            "PATH": f"{programs()}:/usr/bin:/bin",
            "PYTHONPATH": str(PROJECT_ROOT),
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "LANG": "C.UTF-8",
            **self.environment,
            **own(home),
        }


def own(home: Path) -> dict[str, str]:
    """The variables that name a container's own folder."""
    return {"HOME": str(home), "PREFECT_HOME": str(home / ".prefect"), "TMPDIR": str(home), "TRADEWIND_HOME": str(home / ".tradewind")}


class Container:
    """One running container; `lines` is all that it wrote."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], home: Path) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.home, self.lines = home, list[str]()
        self.process: subprocess.Popen[str] | None = None
        try:
            self.process = subprocess.Popen(
                list(command), env=dict(environment), cwd=home, text=True, errors="replace", start_new_session=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )  # fmt: skip
            background(self._end_with_the_first)
        except OSError as error:
            self.lines.append(str(error))

    def _end_with_the_first(self) -> None:
        """A container ends with its first process, whatever else still runs in it."""
        if self.process is not None:
            self.process.wait()
            self._end_all()

    def _end_all(self) -> None:
        """Programs of a container may have sessions of their own; what they share is its root."""
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get("HOME") == str(self.home):
                    process.kill()

    def follow(self, tell: Callable[[str], None] | None = None) -> int:
        """Wait for the end, each line told as it comes; the exit status."""
        for line in self._output():
            self.lines.append(line)
            if tell is not None:
                tell(line)
        if self.process is None:
            return CANNOT_START
        code = self.process.wait()
        return code if code >= 0 else 128 - code

    def _output(self) -> Iterator[str]:
        if self.process is not None and self.process.stdout is not None:
            for line in self.process.stdout:
                yield line.rstrip("\n") or " "

    def stop(self, seconds: float) -> None:
        """SIGTERM to its first process; after that long SIGKILL to all of it."""
        if self.process is None:
            return
        self._send(signal.SIGTERM)
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End all of it now."""
        if self.process is not None and self.process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self._end_all()

    def _send(self, number: int) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)


def background(target: Callable[..., None], *arguments: object) -> None:
    """A thread that ends with the process."""
    threading.Thread(target=target, args=arguments, daemon=True).start()
