"""`run/services.json`: which processes the embedded stack consists of, and where they listen."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from flows.core.errors import UserError

PREFECT, MLFLOW, WORKERS = "prefect", "mlflow", "workers"
SERVICES = (PREFECT, MLFLOW, WORKERS)
"""Every service, in the order in which they start; they stop the other way round."""
STACK_VARIABLE = "TRADEWIND_STACK"
"""Set to the home folder on every process of a stack and inherited by all they start: how a stray one is known without its name."""


@dataclass(frozen=True, slots=True)
class Service:
    """One running process. `created` is its creation time as the system tells it: a reused pid has another one."""

    name: str
    pid: int
    created: float
    log: str
    started_at: str
    port: int | None = None
    url: str | None = None
    api_url: str | None = None

    @property
    def uptime_seconds(self) -> float:
        """Seconds since it was started."""
        return (datetime.now(UTC) - datetime.fromisoformat(self.started_at)).total_seconds()


@dataclass(frozen=True, slots=True)
class Records:
    """All of `services.json`: running services by name, and the ports used last."""

    services: Mapping[str, Service] = field(default_factory=dict)
    ports: Mapping[str, int] = field(default_factory=dict)

    def with_service(self, service: Service) -> Records:
        """These records and one more service; its port is remembered for the next start."""
        ports = {**self.ports, service.name: service.port} if service.port else self.ports
        return Records({**self.services, service.name: service}, ports)

    def without(self, name: str) -> Records:
        """These records less one service; its port stays remembered."""
        return Records({key: value for key, value in self.services.items() if key != name}, self.ports)


def records_path(home: Path) -> Path:
    """Where the records of a home folder are."""
    return home / "run" / "services.json"


def read_records(home: Path) -> Records:
    """The records of a home folder; none when nothing was ever started there.

    Raises:
        UserError: the file is not what `tradewind up` writes.
    """
    path = records_path(home)
    try:
        body = json.loads(path.read_text())
    except FileNotFoundError:
        return Records()
    except ValueError as error:
        raise _damaged(path) from error
    try:
        services = {name: Service(**body[name]) for name in SERVICES if name in body}
        return Records(services, {name: int(port) for name, port in body.get("ports", {}).items()})
    except (TypeError, AttributeError, ValueError) as error:
        raise _damaged(path) from error


def write_records(home: Path, records: Records) -> None:
    """Replace the records in one step."""
    path = records_path(home)
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_suffix(f".{os.getpid()}")
    body = {**{name: asdict(service) for name, service in records.services.items()}, "ports": dict(records.ports)}
    staged.write_text(json.dumps(body, indent=1) + "\n")
    staged.replace(path)


def _damaged(path: Path) -> UserError:
    return UserError(
        "the record of running services is damaged", file=str(path), fix="delete the file, then `tradewind doctor` finds what still runs"
    )
