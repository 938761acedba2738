"""Training jobs of SageMaker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.adapters.clouds import POOL, RUN, WORK_POOL, Job, named
from flows.adapters.clouds.aws import asking, client

if TYPE_CHECKING:
    from flows.core.placement.estate import Pool, Site


class TrainingJobs:
    """See `flows.adapters.clouds.Jobs`."""

    def __init__(self, pool: Pool, site: Site) -> None:
        self._pool, self._region = pool.name, named(pool, site, "region")

    def list(self) -> list[Job]:
        """Those in progress that bear the pool's tag."""
        found: list[Job] = []
        with asking(f"cannot list the training jobs of `{self._region}`"):
            sagemaker = client("sagemaker", self._region)
            for page in sagemaker.get_paginator("list_training_jobs").paginate(StatusEquals="InProgress"):
                for row in page["TrainingJobSummaries"]:
                    pages = sagemaker.get_paginator("list_tags").paginate(ResourceArn=row["TrainingJobArn"])
                    tags = {tag["Key"]: tag["Value"] for tags in pages for tag in tags["Tags"]}
                    if tags.get(POOL) == self._pool:
                        found.append(Job(row["TrainingJobArn"], tags.get(RUN, ""), tags.get(WORK_POOL, ""), row["CreationTime"]))
        return found

    def end(self, job: Job) -> None:
        """SIGTERM, and SIGKILL two minutes later."""
        with asking(f"cannot stop training job `{job.id}`"):
            sagemaker = client("sagemaker", self._region)
            try:
                sagemaker.stop_training_job(TrainingJobName=job.id.rpartition("/")[2])
            except sagemaker.exceptions.ClientError as error:
                if error.response["Error"]["Code"] not in ("ResourceNotFound", "ValidationException"):
                    raise
