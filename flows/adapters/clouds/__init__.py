"""The jobs that runs leave in clouds, listed and ended through each cloud's own API: what the sweeper works with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

from flows.core.errors import Unavailable

if TYPE_CHECKING:
    from flows.core.placement.estate import Pool, Site

RUN, WORK_POOL, POOL = "prefect.io/flow-run-id", "prefect.io/work-pool-id", "tradewind-pool"
"""Labels of a job: its flow run and the work pool's id, which Prefect's workers write, and the pool, which its template does."""


@dataclass(frozen=True, slots=True)
class Job:
    """One job that has not ended: what its cloud calls it, the run and the work pool that its labels name, since when it is there."""

    id: str
    run: str
    work_pool: str
    since: datetime | None = None

    def is_of(self, infrastructure: str | None) -> bool:
        """Whether a run's worker noted this very job."""
        return infrastructure is not None and (infrastructure == self.id or infrastructure.endswith((f":{self.id}", f"/{self.id}")))


class Jobs(Protocol):
    """The jobs of one pool."""

    def list(self) -> list[Job]:
        """Those that have not ended, each with its run.

        Raises:
            Unavailable: the cloud does not answer, or refuses to.
        """
        ...

    def end(self, job: Job) -> None:
        """Ask the cloud to end a job; one that is gone is as good as ended.

        Raises:
            Unavailable: the cloud does not answer, or refuses to.
        """
        ...


CLOUDS: Mapping[str, str] = {
    "ecs": "ecs:Tasks",
    "sagemaker": "sagemaker:TrainingJobs",
    "kubernetes": "kubernetes:ClusterJobs",
    "cloud-run-v2": "cloud_run:Executions",
    "vertex-ai": "vertex:CustomJobs",
}
"""Type of a pool to the class that knows its jobs."""


def jobs_of(pool: Pool, site: Site) -> Jobs:
    """The jobs of a pool.

    Raises:
        Unavailable: nothing here can look at pools of this type, or the estate does not say where its jobs are.
    """
    named = CLOUDS.get(pool.type)
    if named is None:
        raise Unavailable(
            f"jobs of `{pool.name}` cannot be listed: nothing here speaks to pools of type `{pool.type}`", fix="end them by hand"
        )
    module, _, name = named.partition(":")
    made: Callable[[Pool, Site], Jobs] = getattr(import_module(f"{__name__}.{module}"), name)
    return made(pool, site)


def named(pool: Pool, site: Site, field: str) -> str:
    """A field of the pool's infrastructure, or of its site, that the listing needs.

    Raises:
        Unavailable: the estate does not say it.
    """
    value = pool.infrastructure.get(field) or getattr(site, field, None)
    if not value:
        raise Unavailable(f"jobs of `{pool.name}` cannot be listed: the estate does not say its `{field}`", fix="write it into pools.yaml")
    return str(value)
