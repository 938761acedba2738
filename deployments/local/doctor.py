"""What could keep the embedded stack from working, each with the way to put it right."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from deployments.local import ports, processes
from deployments.local.records import MLFLOW, PREFECT, read_records
from deployments.local.status import StackStatus, status
from deployments.local.supervisor import LEAST_FREE_BYTES
from flows.adapters.settings import PROJECT_ROOT, Settings
from flows.core.errors import TradewindError

PYTHONS = ((3, 11), (3, 14))
"""Oldest Python that runs the project, and the first that does not."""


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check: what was found, and the fix where it is a problem or could not be looked at (not `known`)."""

    check: str
    ok: bool
    found: str
    fix: str = ""
    known: bool = True

    @property
    def word(self) -> str:
        """For people."""
        return "PROBLEM" if not self.ok else "ok" if self.known else "UNKNOWN"

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def examine(settings: Settings) -> tuple[Finding, ...]:
    """Every check, in the order in which problems are best put right; never raises for what it finds."""
    checks: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
        _python, _packages, _disk, _records, _services, _ports, _strays, _database, _ledger, _clouds
    )  # fmt: skip
    return tuple(finding for check in checks for finding in _told(check, settings))


def _told(check: Callable[[Settings], Iterator[Finding]], settings: Settings) -> Iterator[Finding]:
    try:
        yield from check(settings)
    except TradewindError as error:
        problem = error.problems[0]
        yield Finding(check.__name__.strip("_"), False, str(problem).split("\n  fix:")[0], problem.fix or "")


def _python(_settings: Settings) -> Iterator[Finding]:
    here = sys.version_info[:2]
    ok = PYTHONS[0] <= here < PYTHONS[1]
    yield Finding("python", ok, f"Python {sys.version.split()[0]}", "" if ok else "use Python 3.11, 3.12 or 3.13")


def _packages(_settings: Settings) -> Iterator[Finding]:
    lock = PROJECT_ROOT / "requirements.lock"
    if not lock.exists():
        yield Finding("packages", False, f"`{lock}` is missing", "restore it from version control")
        return
    wrong = []
    pinned = locked_versions(lock.read_text())
    for name, wanted in pinned.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            found = "missing"
        if found != wanted:
            wrong.append(f"{name} {found}, locked {wanted}")
    shown = ", ".join(wrong[:5]) + (f" and {len(wrong) - 5} more" if len(wrong) > 5 else "")
    fix = "install `requirements.lock` again into this environment"
    yield Finding("packages", not wrong, shown or f"{len(pinned)} packages as locked", fix if wrong else "")


def locked_versions(text: str) -> dict[str, str]:
    """Package and version of each line of a lock file that holds for this interpreter and system."""
    from packaging.requirements import Requirement

    found: dict[str, str] = {}
    for line in re.findall(r"^[A-Za-z0-9][^\\#\n]*==[^\\#\n]*", text, flags=re.MULTILINE):
        requirement = Requirement(line.strip())
        if requirement.marker is None or requirement.marker.evaluate():
            found[requirement.name] = next(iter(requirement.specifier)).version
    return found


def _disk(settings: Settings) -> Iterator[Finding]:
    folder = _home(settings)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    ok = free >= LEAST_FREE_BYTES
    yield Finding(
        "disk", ok, f"{free / 1e9:.1f} GB free for `{_home(settings)}`", "" if ok else "free some space: the stack needs 500 MB to start"
    )


def _records(settings: Settings) -> Iterator[Finding]:
    recorded = read_records(_home(settings)).services
    gone = [service for service in recorded.values() if processes.find(service) is None]
    for service in gone:
        fix = f"read `{service.log}` for the reason, then run `tradewind up`; `tradewind down` only clears the record"
        yield Finding("records", False, f"`{service.name}` is recorded as process {service.pid}, which has ended", fix)
    if not gone:
        yield Finding("records", True, f"{len(recorded)} services recorded, all alive" if recorded else "nothing is recorded as running")


def _services(settings: Settings) -> Iterator[Finding]:
    found: StackStatus = status(settings)
    if all(service.condition == "stopped" for service in found.services):
        yield Finding("services", True, "the stack does not run")
        return
    for service in found.services:
        if service.condition == "starting":
            yield Finding(
                "services",
                False,
                f"`{service.name}` runs but does not answer",
                f"read `{service.log}`; `tradewind down`, then `tradewind up`",
            )
        elif service.condition == "stopped":
            yield Finding("services", False, f"`{service.name}` does not run, though others do", "run `tradewind up`")
        elif service.condition == "ready":
            yield Finding("services", True, f"`{service.name}` is well, {service.memory_mb:.0f} MB")
    idle = [pool.name for pool in found.pools if not pool.ready]
    if idle:
        yield Finding(
            "pools", False, f"no worker for {', '.join(f'`{name}`' for name in idle)}", "run `tradewind up`, then `tradewind apply`"
        )
    elif found.pools:
        yield Finding("pools", True, f"{len(found.pools)} pools are ready")


def _ports(settings: Settings) -> Iterator[Finding]:
    records = read_records(_home(settings))
    fixed = ports.fixed_ports({})
    for name in (PREFECT, MLFLOW):
        running = records.services.get(name)
        if running is not None and processes.find(running) is not None:
            continue
        port = fixed.get(name)
        if port and not ports.is_free(port):
            who = ports.holder(port)
            fix = f"stop what uses it, or set `{ports.VARIABLES[name]}` to another one"
            yield Finding("ports", False, f"port {port}, fixed for `{name}`, is in use" + (f" by {who}" if who else ""), fix)
            continue
        usual = records.ports.get(name, ports.USUAL_PORTS[name])
        taken = not port and not ports.is_free(usual)
        note = f"port {usual} is in use, `{name}` will take another one" if taken else f"port {port or usual} is free for `{name}`"
        yield Finding("ports", True, note)


def _strays(settings: Settings) -> Iterator[Finding]:
    home = _home(settings)
    alive = [process for service in read_records(home).services.values() if (process := processes.find(service)) is not None]
    known = [one for process in alive for one in processes.tree(process)]
    found = processes.strays(home, known)
    for process in found:
        yield Finding(
            "processes",
            False,
            f"process {process.pid} belongs to no running service of this stack",
            "run `tradewind down`: it stops such ones too",
        )
    if not found:
        yield Finding("processes", True, "none left behind")


def _database(settings: Settings) -> Iterator[Finding]:
    from flows.store.database import State

    if settings.database_url is None and not (_home(settings) / "state.db").exists():
        yield Finding("database", True, "none yet, `tradewind up` makes it")
        return
    with State(settings.state_url).reading():
        yield Finding("database", True, "its schema is current")


def _ledger(settings: Settings) -> Iterator[Finding]:
    from flows.services import checkpointing
    from flows.store.database import State

    if settings.database_url is None and not (_home(settings) / "state.db").exists():
        return
    verification = checkpointing.verify(State(settings.state_url), settings)
    if verification.ok:
        yield Finding("ledger", True, f"{verification.rows} rows, unbroken")
    else:
        fix = "run `tradewind ledger verify`, and restore the state database from a copy made before"
        yield Finding("ledger", False, f"broken: {verification.fault}", fix)


def _clouds(settings: Settings) -> Iterator[Finding]:
    """In the cloud profile: whether the templates fit the estate, and the clouds have what it says."""
    if settings.profile != "cloud":
        return
    from deployments.apply.cloud_checks import examine as look
    from deployments.apply.declared import load
    from deployments.apply.options import ApplyOptions

    options = ApplyOptions.load()
    load(settings, options)
    for found in look(settings, options):
        told = str(found.problem).split("\n  fix:")[0]
        yield Finding(found.check, found.result != "wrong", told, found.problem.fix or "", known=found.result != "unknown")


def _home(settings: Settings) -> Path:
    return settings.home.expanduser().resolve()
