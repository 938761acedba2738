"""Tasks of an ECS cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flows.adapters.clouds import POOL, RUN, WORK_POOL, Job, named
from flows.adapters.clouds.aws import asking, client

if TYPE_CHECKING:
    from flows.core.placement.estate import Pool, Site

AT_ONCE = 100
"""The most tasks that `DescribeTasks` takes."""
OVER = frozenset({"DEACTIVATING", "STOPPING", "DEPROVISIONING", "STOPPED", "DELETED"})


class Tasks:
    """See `flows.adapters.clouds.Jobs`."""

    def __init__(self, pool: Pool, site: Site) -> None:
        self._pool = pool.name
        self._cluster, self._region = named(pool, site, "cluster"), named(pool, site, "region")

    def list(self) -> list[Job]:
        """Those of the pool that are to run, by the tags that Prefect's worker gives them."""
        found: list[Job] = []
        with asking(f"cannot list the tasks of cluster `{self._cluster}`"):
            ecs = client("ecs", self._region)
            for page in ecs.get_paginator("list_tasks").paginate(cluster=self._cluster, PaginationConfig={"PageSize": AT_ONCE}):
                if arns := page["taskArns"]:
                    tasks = ecs.describe_tasks(cluster=self._cluster, tasks=arns, include=["TAGS"])["tasks"]
                    found += [job for task in tasks if (job := self._job(task)) is not None]
        return found

    def end(self, job: Job) -> None:
        """SIGTERM, and SIGKILL after the container's stop time-out."""
        with asking(f"cannot stop task `{job.id}`"):
            ecs = client("ecs", self._region)
            try:
                ecs.stop_task(cluster=self._cluster, task=job.id, reason="Tradewind: its run is over")
            except ecs.exceptions.InvalidParameterException as error:
                if "not found" not in str(error):
                    raise

    def _job(self, task: dict[str, Any]) -> Job | None:
        tags = {tag["key"]: tag["value"] for tag in task.get("tags", [])}
        if tags.get(POOL) != self._pool or task.get("lastStatus") in OVER:
            return None
        return Job(task["taskArn"], tags.get(RUN, ""), tags.get(WORK_POOL, ""), task.get("createdAt") or task.get("startedAt"))
