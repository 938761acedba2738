"""The embedded stack: Prefect's server, MLflow's server and the worker host of one home folder, started and stopped as one."""

from __future__ import annotations

import contextlib
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import httpx

from deployments.local import commands, ports, processes
from deployments.local.declaring import Declare, declare
from deployments.local.lock import exclusive
from deployments.local.records import MLFLOW, PREFECT, SERVICES, WORKERS, Records, Service, read_records, write_records
from deployments.local.status import read_pools
from flows.adapters.settings import Settings, variables
from flows.core.errors import Unavailable, UserError
from flows.workers.pools import pools_of

Progress = Callable[[str], None]
"""Takes one line of progress for a person."""

LEAST_FREE_BYTES = 500_000_000
READY_SECONDS = 180.0
"""How long a service may take to answer, or the workers to be ready, on a slow and busy machine."""
GRACE_SECONDS = 15.0
"""How long a service may take to end before it is killed."""


@dataclass(frozen=True, slots=True)
class Stack:
    """A running stack: where its servers are. `started` names the services that this call started."""

    settings: Settings
    prefect_url: str
    prefect_api_url: str
    mlflow_url: str
    started: tuple[str, ...] = ()


def silent(_line: str) -> None:
    """Progress for nobody."""


def up(
    settings: Settings,
    progress: Progress = silent,
    *,
    fixed: Mapping[str, int] | None = None,
    what: str = "tradewind up",
    declare: Declare = declare,
) -> Stack:
    """Start what does not run yet and wait until all is ready; what runs already stays as it is.

    Whatever goes wrong, Ctrl-C included, nothing that this call started is left running.

    Args:
        fixed: ports by service name; 0 means any free one.
        what: the command, as another one that finds the stack locked will name it.
        declare: puts pools and deployments on a server that was started.

    Raises:
        UserError: a setting is wrong, or this is not the embedded profile.
        Unavailable: a port is in use, the disk is full, a service does not start, another command is at work.
    """
    if settings.profile != "embedded":
        raise UserError(
            f"profile `{settings.profile}` has no stack of its own", expected="profile `embedded`", fix="unset TRADEWIND_PROFILE"
        )
    wanted = ports.fixed_ports(fixed or {})
    settings = _absolute(settings)
    check_disk(settings.home)
    with exclusive(settings.home, what), _terminated_like_interrupt():
        launch = _Launch(settings, progress, wanted, declare)
        try:
            return launch.run()
        except BaseException:
            launch.undo()
            raise


def down(settings: Settings, progress: Progress = silent, *, what: str = "tradewind down") -> tuple[str, ...]:
    """Stop every service of the home folder and all they started, also after a crash; returns what was stopped."""
    settings = _absolute(settings)
    with exclusive(settings.home, what):
        return _stop(settings, SERVICES, progress)


@contextlib.contextmanager
def running_stack(
    settings: Settings,
    progress: Progress = silent,
    *,
    fixed: Mapping[str, int] | None = None,
    what: str = "tradewind demo",
    declare: Declare = declare,
) -> Iterator[Stack]:
    """A stack for the length of a `with`: what did not run is started, and only that is stopped at the end.

    This process talks to the stack's servers meanwhile (see `connected`); use the yielded `settings`, which name its MLflow server.
    """
    stack = up(settings, progress, fixed=fixed, what=what, declare=declare)
    try:
        with connected(stack):
            yield stack
    finally:
        if stack.started:
            with exclusive(stack.settings.home, what):
                _stop(stack.settings, stack.started, progress)


def running(settings: Settings) -> Stack:
    """The stack that runs already; in the cloud profile the servers that the environment names.

    Raises:
        Unavailable: it does not run, or only in part.
        UserError: the cloud profile names no server.
    """
    settings = _absolute(settings)
    if settings.profile == "cloud":
        from deployments.apply.server import api_url

        api = api_url(settings)
        return Stack(settings, api.removesuffix("/").removesuffix("/api"), api, settings.tracking_url)
    records = read_records(settings.home)
    missing = [name for name in SERVICES if name not in records.services or processes.find(records.services[name]) is None]
    if missing:
        raise Unavailable(
            f"the stack of `{settings.home}` does not run: no {', no '.join(f'`{name}`' for name in missing)}", fix="run `tradewind up`"
        )
    return _stack(settings, records, ())


@contextlib.contextmanager
def connected(stack: Stack) -> Iterator[None]:
    """Let this process and what it starts talk to the stack: `PREFECT_API_URL`, `PREFECT_HOME`, `TRADEWIND_MLFLOW_URL`, home."""
    values = {
        **commands.QUIET,
        "PREFECT_API_URL": stack.prefect_api_url,
        "PREFECT_HOME": str(stack.settings.home / "prefect"),
        "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false",
        "TRADEWIND_HOME": str(stack.settings.home),
        "TRADEWIND_DEPLOYMENTS": str(stack.settings.deployments),
        "TRADEWIND_MLFLOW_URL": stack.mlflow_url,
    }
    try:
        with variables(**values):
            _refresh_prefect()
            yield
    finally:
        _refresh_prefect()


def check_disk(home: Path) -> None:
    """Refuse to start where a database would soon be cut short.

    Raises:
        Unavailable: less than 500 MB are free, or the folder cannot be made.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(home).free
    except OSError as error:
        raise Unavailable(f"cannot use `{home}`: {error.strerror}", fix="choose another folder with TRADEWIND_HOME") from error
    if free < LEAST_FREE_BYTES:
        raise Unavailable(
            f"only {free / 1e6:.0f} MB are free for `{home}`",
            expected=f"at least {LEAST_FREE_BYTES / 1e6:.0f} MB",
            fix="free some space, or choose another folder with TRADEWIND_HOME",
        )


class _Launch:
    """One `up`: knows what it started, so that it can take it back."""

    def __init__(self, settings: Settings, progress: Progress, fixed: Mapping[str, int], declare: Declare) -> None:
        self.settings = settings
        self.declare = declare
        self.progress = progress
        self.fixed = fixed
        self.started: list[str] = []
        self.began = time.monotonic()
        self.records = read_records(settings.home)
        # read before anything starts: a mistake in the estate is told at once
        self.hosted = pools_of(settings)

    def run(self) -> Stack:
        alive = {name for name, service in self.records.services.items() if processes.find(service) is not None}
        self.records = Records({name: self.records.services[name] for name in alive}, self.records.ports)
        self._clear_strays()
        with ThreadPoolExecutor(max_workers=1) as pool:
            migrating = pool.submit(self._migrate)
            moved = self._start_servers(alive)
            if moved and WORKERS in alive:
                # they and their runs would go on asking at the old address
                _stop(self.settings, (WORKERS,), self.progress)
                self.records, alive = self.records.without(WORKERS), alive - {WORKERS}
            if WORKERS not in alive:
                self._start(
                    WORKERS, None, commands.workers_command(), commands.workers_environment(self._connected(), self._url(PREFECT) + "/api")
                )
            migrating.result()
            self._await_health(PREFECT)
            self._apply()
            self._await_health(MLFLOW)
            self._await_workers()
        if self.started:
            self.progress(
                f"ready after {time.monotonic() - self.began:.0f} s: {self._url(PREFECT)} (Prefect), {self._url(MLFLOW)} (MLflow)"
            )
        return _stack(self.settings, self.records, tuple(self.started))

    def undo(self) -> None:
        """Stop what was started, newest first."""
        if self.started:
            self.progress("stopping what was started")
            _stop(self.settings, tuple(self.started), silent)

    def _clear_strays(self) -> None:
        known = [
            one for service in self.records.services.values() if (process := processes.find(service)) for one in processes.tree(process)
        ]
        for process in processes.strays(self.settings.home, known):
            self.progress(f"stopping process {process.pid}, left behind by an earlier stack")
            processes.stop([process], grace_seconds=5.0)

    def _migrate(self) -> None:
        from flows.store.database import State

        State(self.settings.state_url).migrate()

    def _start_servers(self, alive: set[str]) -> bool:
        """Start the servers that do not run; returns whether one of them got another port than before."""
        before, taken = dict(self.records.ports), set[int]()
        if PREFECT not in alive:
            port = ports.choose(PREFECT, self.fixed, before, taken)
            self._start(PREFECT, port, commands.prefect_command(port), commands.prefect_environment(self.settings, port))
        if MLFLOW not in alive:
            port = ports.choose(MLFLOW, self.fixed, before, taken)
            commands.mlflow_database(self.settings).parent.mkdir(parents=True, exist_ok=True)
            self._start(MLFLOW, port, commands.mlflow_command(self.settings, port), commands.mlflow_environment(self.settings))
        return any(self.records.ports[name] != before.get(name) for name in (PREFECT, MLFLOW))

    def _start(self, name: str, port: int | None, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        log = self.settings.home / "logs" / f"{'server' if name == PREFECT else name}.log"
        process = processes.spawn(arguments, environment=environment, log=log)
        url = f"http://{ports.ADDRESS}:{port}" if port else None
        service = Service(
            name=name,
            pid=process.pid,
            created=process.create_time(),
            log=str(log),
            started_at=datetime.now(UTC).isoformat(),
            port=port,
            url=url,
            api_url=commands.api_url(port) if name == PREFECT and port else None,
        )
        self.records = self.records.with_service(service)
        self.started.append(name)
        write_records(self.settings.home, self.records)
        self.progress(f"starting {name}" + (f" on port {port}" if port else ""))

    def _url(self, name: str) -> str:
        return self.records.services[name].url or ""

    def _connected(self) -> Settings:
        return _with(self.settings, mlflow_url=self._url(MLFLOW))

    def _apply(self) -> None:
        if not self.started:
            return
        self.progress("declaring pools and deployments")
        with connected(_stack(self.settings, self.records, ())):
            self.progress(self.declare(self._connected(), self._url(PREFECT) + "/api"))

    def _await_health(self, name: str) -> None:
        url = commands.health_url(name, self._url(name))
        self._await(name, f"{name} answers", lambda: httpx.get(url, timeout=2.0).status_code == httpx.codes.OK)

    def _await_workers(self) -> None:
        since = datetime.fromisoformat(self.records.services[WORKERS].started_at)

        def ready() -> bool:
            seen = {pool.name: pool for pool in read_pools(self._url(PREFECT) + "/api", self.hosted)}
            return all(name in seen and seen[name].reported_after(since) for name in self.hosted)

        self._await(WORKERS, f"all {len(self.hosted)} pools have a worker", ready)

    def _await(self, name: str, goal: str, reached: Callable[[], bool]) -> None:
        """Ask until it is so; say every few seconds that we still wait, and what the log says if the service ended."""
        service, began, told = self.records.services[name], time.monotonic(), time.monotonic()
        while True:
            with contextlib.suppress(httpx.HTTPError, ValueError):
                if reached():
                    return
            if processes.find(service) is None:
                raise Unavailable(
                    f"`{name}` ended while it started; the end of `{service.log}`:\n{processes.last_lines(Path(service.log))}"
                )
            now = time.monotonic()
            if now - began > READY_SECONDS:
                raise Unavailable(
                    f"`{name}` runs, but after {READY_SECONDS:.0f} s not yet: {goal}; the end of `{service.log}`:\n"
                    f"{processes.last_lines(Path(service.log))}",
                    fix="a busy machine may need longer: try again",
                )
            if now - told > 5.0:
                self.progress(f"waiting until {goal} ({now - self.began:.0f} s)")
                told = now
            time.sleep(0.2)


def _stop(settings: Settings, names: Sequence[str], progress: Progress) -> tuple[str, ...]:
    """Stop services, the last one first, and what they left behind."""
    records, stopped = read_records(settings.home), []
    for name in reversed([service for service in SERVICES if service in names]):
        service = records.services.get(name)
        process = processes.find(service) if service else None
        if process is not None:
            progress(f"stopping {name}")
            killed = processes.stop(processes.tree(process), grace_seconds=GRACE_SECONDS)
            if killed:
                progress(f"{killed} processes of {name} did not end by themselves and were killed")
            stopped.append(name)
        if service is not None:
            records = records.without(name)
            write_records(settings.home, records)
    known = [one for service in records.services.values() if (process := processes.find(service)) for one in processes.tree(process)]
    for process in processes.strays(settings.home, known):
        progress(f"stopping process {process.pid}, left behind")
        processes.stop([process], grace_seconds=5.0)
        stopped.append(f"process {process.pid}")
    return tuple(stopped)


def _stack(settings: Settings, records: Records, started: tuple[str, ...]) -> Stack:
    prefect, mlflow = records.services[PREFECT], records.services[MLFLOW]
    assert prefect.url and prefect.api_url and mlflow.url
    return Stack(_with(settings, mlflow_url=mlflow.url), prefect.url, prefect.api_url, mlflow.url, started)


def _absolute(settings: Settings) -> Settings:
    return _with(settings, home=settings.home.expanduser().resolve(), deployments=settings.deployments.expanduser().resolve())


def _with(settings: Settings, **changes: object) -> Settings:
    """A changed copy, built anew: a plain copy would keep the addresses that were worked out from the old values."""
    return Settings(**{**settings.model_dump(), **changes})


def _refresh_prefect() -> None:
    """Prefect reads its settings when it is imported: where that has happened, let it read them again."""
    if "prefect" in sys.modules:
        from prefect.context import refresh_global_settings_context

        refresh_global_settings_context()


@contextlib.contextmanager
def _terminated_like_interrupt() -> Iterator[None]:
    """While starting, a SIGTERM unwinds as Ctrl-C does, so that nothing is left running."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
