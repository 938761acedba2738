"""`python -m flows.workers.nursery FD LIBRARY …`: has the heavy libraries loaded, and forks a process of its own for every run.

Loading Prefect takes a run about one second of processor time, Feast three, Evidently two; here they are loaded once. No module of
the project is loaded before the fork, so a run always executes the code as it is on disk. A child owes the nursery nothing but its
loaded libraries: environment, folder, signals, settings and random state are set anew, and it leads a process group of its own.

Protocol, one JSON object a line over the inherited socket: `{"run", "environment", "folder"}` in, `{"run", "pid"}` and at its end
`{"run", "status"}` out. When the socket closes, the host is gone: every child is ended.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

LIBRARIES = (
    "prefect.flow_engine", "prefect.flow_runs", "prefect.deployments", "prefect.events.clients",
    "pandas", "pyarrow.parquet", "pyarrow.compute", "sqlalchemy.orm", "alembic", "rfc8785", "ruamel.yaml", "cedarpy",
    "sklearn.ensemble", "sklearn.pipeline", "sklearn.compose", "sklearn.metrics", "mlflow", "mlflow.sklearn",
    "great_expectations", "feast", "matplotlib.figure", "evidently", "evidently.presets",
)  # fmt: skip
"""What runs import, the most used first; one that is not installed is left out."""
POLL_SECONDS = 0.05
GRACE_SECONDS = 5.0


class Nursery:
    """The parent: reads requests, forks, reports ends."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self.children: dict[int, str] = {}
        self.buffer = b""

    def serve(self, libraries: Sequence[str]) -> dict[str, Any] | None:
        """Serve until the host is gone. In the parent returns None; in a forked child returns the request it is to run."""
        waiting = list(libraries)
        while True:
            self._reap()
            pause = 0.0 if waiting else (POLL_SECONDS if self.children else None)
            readable, _, _ = select.select([self.channel], [], [], pause)
            if readable:
                for request in self._requests():
                    if request is None:
                        self._end_children()
                        return None
                    if self._fork(request):
                        return request
            elif waiting:
                _load(waiting.pop(0))
                if not waiting:
                    gc.collect()
                    gc.freeze()

    def _requests(self) -> Iterator[dict[str, Any] | None]:
        try:
            data = self.channel.recv(1 << 16)
        except ConnectionError:
            data = b""
        if not data:
            yield None
            return
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        for line in lines:
            yield json.loads(line)

    def _fork(self, request: Mapping[str, Any]) -> bool:
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():
            # the only other threads are those of numpy and pyarrow, which know how to be forked
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        # both of us, since either may be the first to go on: whoever learns the pid can end the whole group
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.setpgid(pid, pid)
        if pid == 0:
            self.channel.close()
            return True
        self.children[pid] = request["run"]
        self._tell({"run": request["run"], "pid": pid})
        return False

    def _reap(self) -> None:
        while self.children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            run = self.children.pop(pid, None)
            if run is not None:
                self._tell({"run": run, "status": os.waitstatus_to_exitcode(status)})

    def _tell(self, message: Mapping[str, Any]) -> None:
        with contextlib.suppress(ConnectionError):
            self.channel.sendall(json.dumps(message).encode() + b"\n")

    def _end_children(self) -> None:
        """Terminate every child's whole group, then kill what is left of it."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in self.children:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, number)
            deadline = time.monotonic() + GRACE_SECONDS
            while self.children and time.monotonic() < deadline:
                self._reap()
                time.sleep(POLL_SECONDS)


def _load(library: str) -> None:
    with warnings.catch_warnings(), contextlib.suppress(ImportError):
        warnings.simplefilter("ignore")
        importlib.import_module(library)


def become(request: Mapping[str, Any]) -> None:
    """Make this forked child a fresh process: folder, environment, signals, random state, Prefect's settings and logging."""
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    tempfile.tempdir = None
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()
    from prefect.context import refresh_global_settings_context
    from prefect.logging.configuration import setup_logging

    refresh_global_settings_context()
    setup_logging(incremental=False)
    sys.argv = ["prefect.engine"]


def main() -> None:
    """The nursery's and, after a fork, the run's main function."""
    # a Ctrl-C or SIGTERM meant for the host reaches us as the end of the socket
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    request = Nursery(socket.socket(fileno=int(sys.argv[1]))).serve(sys.argv[2:])
    if request is not None:
        become(request)
        import runpy

        # a library may have loaded it already, and it is to run as the main module
        sys.modules.pop("prefect.engine", None)
        runpy.run_module("prefect.engine", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
