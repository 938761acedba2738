"""Custom jobs of Vertex AI."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.adapters.clouds import POOL, RUN, WORK_POOL, Job, google, named

if TYPE_CHECKING:
    from flows.core.placement.estate import Pool, Site

LIVE = frozenset({"JOB_STATE_QUEUED", "JOB_STATE_PENDING", "JOB_STATE_RUNNING", "JOB_STATE_PAUSED", "JOB_STATE_UPDATING"})


class CustomJobs:
    """See `flows.adapters.clouds.Jobs`."""

    def __init__(self, pool: Pool, site: Site, root: str | None = None) -> None:
        region = named(pool, site, "region")
        self._pool, self._rest = pool.name, google.Rest(root or f"https://{region}-aiplatform.googleapis.com/v1")
        self._parent = f"projects/{named(pool, site, 'account')}/locations/{region}"

    def list(self) -> list[Job]:
        """Those of the pool that have not ended."""
        found: list[Job] = []
        for row in self._rest.pages(f"{self._parent}/customJobs", "customJobs", filter=f'labels.{POOL}="{self._pool}"'):
            labels = row.get("labels", {})
            if labels.get(POOL) == self._pool and row.get("state") in LIVE:
                run, work_pool = google.of(labels, RUN), google.of(labels, WORK_POOL)
                found.append(Job(row["name"], run, work_pool, google.instant(row.get("createTime"))))
        return found

    def end(self, job: Job) -> None:
        """Cancel it."""
        self._rest.end("POST", f"{job.id}:cancel")
