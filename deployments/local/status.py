"""What the embedded stack looks like right now: services, memory, pools and their workers. Reads only."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal

import httpx

from deployments.local import commands, processes
from deployments.local.records import PREFECT, SERVICES, Service, read_records
from flows.adapters.settings import Settings

Condition = Literal["ready", "starting", "stopped", "dead"]
"""`starting`: its process lives but does not answer; `dead`: it is recorded, but its process has gone."""


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """One service as `tradewind status` shows it."""

    name: str
    condition: Condition
    pid: int | None = None
    port: int | None = None
    url: str | None = None
    memory_mb: float | None = None
    uptime_seconds: float | None = None
    log: str | None = None


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """One work pool as the server sees it; `worker_online` is None without a worker that ever reported."""

    name: str
    status: str
    worker_online: bool | None
    last_heartbeat: str | None

    @property
    def ready(self) -> bool:
        """True when runs of this pool will start."""
        return self.status == "READY" and bool(self.worker_online)

    def reported_after(self, moment: datetime) -> bool:
        """True when its worker reported since then: the server calls a worker online for a while after it ended."""
        return self.ready and self.last_heartbeat is not None and datetime.fromisoformat(self.last_heartbeat) > moment


@dataclass(frozen=True, slots=True)
class StackStatus:
    """The whole stack."""

    home: str
    services: tuple[ServiceStatus, ...]
    pools: tuple[PoolStatus, ...]

    @property
    def ready(self) -> bool:
        """True when every service answers and every pool has a worker."""
        return (
            all(service.condition == "ready" for service in self.services) and bool(self.pools) and all(pool.ready for pool in self.pools)
        )

    @property
    def memory_mb(self) -> float:
        """Memory of all services together, in MB of proportional set size."""
        return round(sum(service.memory_mb or 0.0 for service in self.services), 1)

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {"ready": self.ready, "memory_mb": self.memory_mb, **asdict(self)}


def status(settings: Settings) -> StackStatus:
    """The stack of the settings' home folder.

    Raises:
        UserError: the record of running services is damaged.
    """
    home = settings.home.expanduser().resolve()
    recorded = read_records(home).services
    services = tuple(_service(name, recorded.get(name)) for name in SERVICES)
    prefect = recorded.get(PREFECT)
    pools = read_pools(prefect.api_url) if services[0].condition == "ready" and prefect and prefect.api_url else ()
    return StackStatus(str(home), services, pools)


def _service(name: str, service: Service | None) -> ServiceStatus:
    if service is None:
        return ServiceStatus(name, "stopped")
    process = processes.find(service)
    if process is None:
        return ServiceStatus(name, "dead", pid=service.pid, port=service.port, url=service.url, log=service.log)
    return ServiceStatus(
        name,
        "ready" if service.url is None or answers(commands.health_url(name, service.url)) else "starting",
        pid=service.pid,
        port=service.port,
        url=service.url,
        memory_mb=round(processes.memory_bytes(process) / 1e6, 1),
        uptime_seconds=round(service.uptime_seconds, 1),
        log=service.log,
    )


def answers(url: str) -> bool:
    """True when the address answers 200 within two seconds."""
    try:
        return httpx.get(url, timeout=2.0).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def read_pools(api_url: str, names: Iterable[str] | None = None) -> tuple[PoolStatus, ...]:
    """The server's work pools, or those of the given names, sorted by name; empty when it does not answer."""
    wanted = None if names is None else set(names)
    try:
        with httpx.Client(base_url=api_url, timeout=5.0) as client:
            pools = client.post("/work_pools/filter", json={"limit": 200}).json()
            chosen = [pool for pool in pools if wanted is None or pool["name"] in wanted]
            return tuple(_pool(client, pool) for pool in sorted(chosen, key=lambda pool: str(pool["name"])))
    except (httpx.HTTPError, ValueError):
        return ()


def _pool(client: httpx.Client, pool: dict[str, Any]) -> PoolStatus:
    workers = client.post(f"/work_pools/{pool['name']}/workers/filter", json={}).json()
    beats = [worker["last_heartbeat_time"] for worker in workers if worker.get("last_heartbeat_time")]
    online = any(worker["status"] == "ONLINE" for worker in workers) if workers else None
    return PoolStatus(pool["name"], str(pool["status"]), online, max(beats, default=None))
