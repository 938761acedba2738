"""How a run's process comes to be: forked by the nursery where that works, else a new interpreter. Both satisfy Prefect's starter."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.abc
from prefect.runner._process_manager import ProcessHandle, create_isolated_termination_scope
from prefect.runner._starter_engine import EngineCommandStarter
from prefect.utilities.processutils import command_to_string

from flows.workers.nursery import LIBRARIES

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun
    from prefect.runner._control_channel import ControlChannel

logger = logging.getLogger("flows.workers.host")

LOST = 255
"""Exit status of a child whose end nobody saw."""


@dataclass
class Child:
    """A run's process as Prefect handles one: `returncode` is None while it lives, negative after a signal."""

    pid: int
    returncode: int | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def end(self, status: int) -> None:
        """Record its end."""
        self.returncode = status
        self.ended.set()


class Nurseries:
    """The host's side of the nursery: starts it when it is first needed, or has died, and asks it for children."""

    def __init__(self, libraries: tuple[str, ...] = LIBRARIES) -> None:
        self._libraries = libraries
        self._lock = asyncio.Lock()
        self._writer: asyncio.StreamWriter | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._closing = False
        self._births: dict[str, asyncio.Future[Child]] = {}
        self._children: dict[str, Child] = {}
        self._numbers = itertools.count(1)

    async def warm(self) -> None:
        """Start the nursery, so that it loads its libraries before the first run."""
        async with self._lock:
            if self._writer is None or self._reading is None or self._reading.done():
                await self._open()

    async def fork(self, run: str, environment: Mapping[str, str], folder: Path) -> Child:
        """A new process for the run, told apart from one before it: a run that was suspended may begin again before its process has ended.

        Raises:
            ConnectionError: the nursery ended meanwhile.
        """
        await self.warm()
        assert self._writer is not None
        birth = asyncio.get_running_loop().create_future()
        name = f"{run}#{next(self._numbers)}"
        self._births[name] = birth
        request = {"run": name, "environment": dict(environment), "folder": str(folder)}
        self._writer.write(json.dumps(request).encode() + b"\n")
        try:
            await self._writer.drain()
            child: Child = await birth
        finally:
            self._births.pop(name, None)
        return child

    async def close(self) -> None:
        """End the nursery and all its children."""
        self._closing = True
        if self._writer is not None:
            self._writer.close()
        if self._process is not None:
            await self._process.wait()

    async def _open(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            arguments = ("-P", "-m", "flows.workers.nursery", str(theirs.fileno()), *self._libraries)
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, *arguments, pass_fds=(theirs.fileno(),), stdin=asyncio.subprocess.DEVNULL
            )
        reader, self._writer = await asyncio.open_connection(sock=ours)
        self._reading = asyncio.create_task(self._read(reader))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                message: dict[str, Any] = json.loads(line)
                run = message["run"]
                if "pid" in message:
                    child = self._children[run] = Child(message["pid"])
                    if (birth := self._births.get(run)) is not None and not birth.done():
                        birth.set_result(child)
                elif (child_ended := self._children.pop(run, None)) is not None:
                    child_ended.end(message["status"])
        for birth in self._births.values():
            if not birth.done():
                birth.set_exception(ConnectionError("the nursery ended"))
        orphans, self._children = list(self._children.values()), {}
        if orphans and not self._closing:
            logger.warning("the nursery ended; %d runs go on without it", len(orphans))
        await asyncio.gather(*(_outlive(child) for child in orphans))


async def _outlive(child: Child) -> None:
    """Watch a child that has lost its parent: its exit status is lost, its end is not."""
    while _alive(child.pid):
        await asyncio.sleep(0.5)
    child.end(LOST)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@dataclass
class ForkStarter:
    """Starts one flow run in a child of the nursery."""

    nurseries: Nurseries
    environment: Mapping[str, str | None]
    folder: Path
    control_channel: ControlChannel

    async def start(self, flow_run: FlowRun, task_status: anyio.abc.TaskStatus[ProcessHandle] = anyio.TASK_STATUS_IGNORED) -> None:
        """Fork, tell Prefect the process, and wait for its end."""
        environment = {
            **self.environment,
            "PREFECT__FLOW_RUN_ID": str(flow_run.id),
            "PREFECT__ENABLE_CANCELLATION_AND_CRASHED_HOOKS": "false",
        }
        with contextlib.suppress(RuntimeError):
            # without a channel a cancellation is a plain SIGTERM
            port, token = self.control_channel.register(flow_run.id)
            environment |= {"PREFECT__CONTROL_PORT": str(port), "PREFECT__CONTROL_TOKEN": token}
        plain = {name: value for name, value in environment.items() if value is not None}
        try:
            child = await self.nurseries.fork(str(flow_run.id), plain, self.folder)
        except BaseException:
            self.control_channel.unregister(flow_run.id)
            raise
        task_status.started(ProcessHandle(child, termination_scope=create_isolated_termination_scope(child.pid)))  # type: ignore[arg-type]
        await child.ended.wait()


def starter(
    nurseries: Nurseries | None, environment: dict[str, str | None], folder: Path, channel: ControlChannel, *, stream_output: bool
) -> ForkStarter | EngineCommandStarter:
    """The starter for this system: macOS libraries do not survive a fork, so there, and without a nursery, it is a new interpreter."""
    if nurseries is not None and sys.platform == "linux":
        return ForkStarter(nurseries, environment, folder, channel)
    return EngineCommandStarter(
        command=command_to_string([sys.executable, "-m", "prefect.engine"]),
        cwd=folder,
        env=environment,
        stream_output=stream_output,
        control_channel=channel,
        isolate_process_group=True,
        env_overrides_settings=True,
    )
