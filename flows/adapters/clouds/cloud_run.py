"""Jobs of Cloud Run: Prefect's worker makes one for each run and deletes it at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.adapters.clouds import POOL, RUN, WORK_POOL, Job, google, named

if TYPE_CHECKING:
    from flows.core.placement.estate import Pool, Site

ROOT = "https://run.googleapis.com/v2"


class Executions:
    """See `flows.adapters.clouds.Jobs`."""

    def __init__(self, pool: Pool, site: Site, root: str = ROOT) -> None:
        self._pool, self._rest = pool.name, google.Rest(root)
        self._parent = f"projects/{named(pool, site, 'account')}/locations/{named(pool, site, 'region')}"

    def list(self) -> list[Job]:
        """All that are there, whether or not they execute: one that has ended and stayed is an orphan too."""
        found: list[Job] = []
        for row in self._rest.pages(f"{self._parent}/jobs", "jobs"):
            labels = row.get("labels", {})
            if labels.get(POOL) == self._pool and "deleteTime" not in row:
                name = row["name"].rpartition("/")[2]
                run, work_pool = google.of(labels, RUN), google.of(labels, WORK_POOL)
                found.append(Job(name, run, work_pool, google.instant(row.get("createTime"))))
        return found

    def end(self, job: Job) -> None:
        """Cancel what executes, then delete the job."""
        path = f"{self._parent}/jobs/{job.id}"
        for row in self._rest.pages(f"{path}/executions", "executions"):
            if "completionTime" not in row:
                self._rest.end("POST", f"{path}/executions/{row['name'].rpartition('/')[2]}:cancel")
        self._rest.end("DELETE", path)
