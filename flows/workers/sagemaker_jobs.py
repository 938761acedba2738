"""SageMaker's side of the worker: a small client, what may be tried again, and names that make a second submission find the first."""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from flows.core.errors import Unavailable
from flows.workers.sagemaker_endings import OVER, refusal

T = TypeVar("T")
Description = Mapping[str, Any]

MAX_NAME = 63
MAX_SUBMISSIONS = 20
"""How often one flow run may be submitted anew: each of its jobs has a name of its own."""
RUN_TAG, POOL_TAG = "prefect.io/flow-run-id", "prefect.io/work-pool-id"
THROTTLED = frozenset({"ThrottlingException", "Throttling", "TooManyRequestsException", "RequestLimitExceeded", "SlowDown"})
IN_USE = "ResourceInUse"
CREDENTIAL_ERRORS = frozenset(
    {"NoCredentialsError", "CredentialRetrievalError", "TokenRetrievalError", "UnauthorizedSSOTokenError", "PartialCredentialsError"}
)
LONGEST_PAUSE = 60.0


class JobRefused(Exception):
    """AWS did not take the job; `kind` says why, in one word."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Submitted:
    """A job of a flow run: `attached` if it was there already."""

    name: str
    arn: str
    attached: bool


@dataclass
class Jobs:
    """The training jobs of one region; every method waits for the network, so call them from a thread."""

    region: str
    _clients: dict[str, Any] = field(default_factory=dict)

    def client(self, service: str) -> Any:
        """A client that tries throttled and failed requests again, with growing pauses, before it gives up."""
        if service not in self._clients:
            import boto3
            from botocore.config import Config

            config = Config(retries={"mode": "standard", "total_max_attempts": 4}, connect_timeout=5, read_timeout=30)
            # a session of its own: the default one is shared by threads
            self._clients[service] = boto3.session.Session(region_name=self.region).client(service, config=config)
        return self._clients[service]

    def renew(self) -> None:
        """Forget clients, and with them credentials that were read from a file."""
        self._clients.clear()

    def describe(self, name: str) -> Description | None:
        """The job as SageMaker sees it, or None if there is none of that name."""
        from botocore.exceptions import ClientError

        try:
            found: Description = self.client("sagemaker").describe_training_job(TrainingJobName=name)
        except ClientError as error:
            if not _missing(error):
                raise
            return None
        return found

    def stop(self, name: str) -> bool:
        """Ask for the end of a job: SIGTERM, then SIGKILL two minutes later; False if there is nothing to end."""
        from botocore.exceptions import ClientError

        try:
            self.client("sagemaker").stop_training_job(TrainingJobName=name)
        except ClientError as error:
            if not (_missing(error) or _ended(error)):
                raise
            return False
        return True

    def create(self, request: Mapping[str, Any]) -> str | None:
        """Start a job; its ARN, or None if one of that name is there.

        Raises:
            JobRefused: AWS does not take it, and asking again would not help.
        """
        from botocore.exceptions import ClientError

        try:
            arn: str = self.client("sagemaker").create_training_job(**request)["TrainingJobArn"]
        except ClientError as error:
            code, message = _code(error), str(error.response["Error"].get("Message", ""))
            if code == IN_USE:
                return None
            if is_passing(error):
                raise
            told = refusal(code, message)
            raise JobRefused(told.kind, told.message) from error
        return arn

    def submit(self, request: Mapping[str, Any]) -> Submitted:
        """Start the job, or find the one that an earlier submission of the same flow run started and that still runs.

        Raises:
            JobRefused: AWS does not take it, or the run was submitted too often.
        """
        for name in numbered(request["TrainingJobName"]):
            arn = self.create({**request, "TrainingJobName": name})
            if arn is not None:
                return Submitted(name, arn, attached=False)
            found = self.describe(name)
            # one that uploads has run its command, such as that of a run that was suspended and now goes on
            if found is not None and found["TrainingJobStatus"] not in OVER and found.get("SecondaryStatus") != "Uploading":
                return Submitted(name, found["TrainingJobArn"], attached=True)
        raise JobRefused("refused", f"refused: the flow run was submitted {MAX_SUBMISSIONS} times\n  fix: start a new flow run")

    def latest(self, base: str) -> Description | None:
        """The last job that was started for a flow run, or None."""
        last: Description | None = None
        for name in numbered(base):
            found = self.describe(name)
            if found is None:
                return last
            last = found
        return last

    def tagged(self, prefix: str, pool_id: str) -> Iterator[tuple[str, str]]:
        """Name and flow run of every unfinished job of a pool."""
        client = self.client("sagemaker")
        for page in client.get_paginator("list_training_jobs").paginate(StatusEquals="InProgress", NameContains=prefix):
            for job in page["TrainingJobSummaries"]:
                pages = client.get_paginator("list_tags").paginate(ResourceArn=job["TrainingJobArn"])
                tags = {tag["Key"]: tag["Value"] for tags in pages for tag in tags["Tags"]}
                if tags.get(POOL_TAG) == pool_id and RUN_TAG in tags:
                    yield job["TrainingJobName"], tags[RUN_TAG]


def prefix_of(pool: str) -> str:
    """How the names of a pool's jobs begin."""
    room = MAX_NAME - len(str(MAX_SUBMISSIONS)) - 2 - 36
    return re.sub(r"[^a-zA-Z0-9]+", "-", pool).strip("-")[:room].rstrip("-") or "prefect"


def job_name(pool: str, flow_run_id: Any) -> str:
    """The name of the first job of a flow run, the same whenever it is asked for."""
    return f"{prefix_of(pool)}-{flow_run_id}"


def numbered(base: str) -> Iterator[str]:
    """The names of a flow run's jobs in the order of its submissions."""
    yield base
    yield from (f"{base}-{number}" for number in range(2, MAX_SUBMISSIONS + 1))


def name_of(arn: str) -> tuple[str, str]:
    """Region and name in a job's ARN.

    Raises:
        ValueError: it is none.
    """
    parts = arn.split(":", 5)
    if len(parts) != 6 or not parts[5].startswith("training-job/"):
        raise ValueError(f"`{arn}` is no ARN of a training job")
    return parts[3], parts[5].removeprefix("training-job/")


def is_passing(error: Exception) -> bool:
    """Whether asking again later may help: throttled, an error of the server, or no answer at all."""
    from botocore import exceptions

    if isinstance(error, exceptions.ClientError):
        return _code(error) in THROTTLED or error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= 500
    return isinstance(error, (exceptions.ConnectionError, exceptions.HTTPClientError))


def is_of_credentials(error: Exception) -> bool:
    """Whether the worker's own credentials are missing or expired: those of a file may be renewed meanwhile."""
    from botocore import exceptions

    if isinstance(error, exceptions.ClientError):
        return refusal(_code(error), "").kind == "credentials"
    return type(error).__name__ in CREDENTIAL_ERRORS


@dataclass
class Patience:
    """Asks AWS again, after pauses that grow and vary, for `seconds` of no answer in a row."""

    jobs: Jobs
    logger: logging.Logger | logging.LoggerAdapter[Any]
    seconds: float
    first_pause: float = 1.0
    also_credentials: bool = False

    async def ask(self, what: str, question: Callable[..., T], *arguments: Any) -> T:
        """The answer.

        Raises:
            Unavailable: none came in time.
            JobRefused: the credentials are no good, and waiting was not asked for.
        """
        since, pause = time.monotonic(), self.first_pause
        while True:
            try:
                return await anyio.to_thread.run_sync(question, *arguments)
            except Exception as error:
                if is_of_credentials(error):
                    if not self.also_credentials:
                        raise JobRefused("credentials", refusal("NoCredentials", str(error)).message) from error
                    self.jobs.renew()
                elif not is_passing(error):
                    raise
                if time.monotonic() - since + pause > self.seconds:
                    told = f"AWS gave no answer for {self.seconds:g} s: cannot {what}: {error}"
                    raise Unavailable(told, fix="see health.aws.amazon.com, and the worker's network and credentials") from error
                self.logger.warning("cannot %s yet, asking again in about %.1f s: %s", what, pause, error)
            # full jitter: many watchers that were throttled together must not come back together
            await anyio.sleep(random.uniform(pause / 2, pause))
            pause = min(pause * 2, LONGEST_PAUSE)


def _code(error: Any) -> str:
    return str(error.response["Error"].get("Code", ""))


def _missing(error: Any) -> bool:
    message = str(error.response["Error"].get("Message", "")).lower()
    return _code(error) == "ResourceNotFound" or (_code(error) == "ValidationException" and bool(re.search(r"not found|not find", message)))


def _ended(error: Any) -> bool:
    """SageMaker refuses to stop what has ended."""
    message = str(error.response["Error"].get("Message", "")).lower()
    return _code(error) == "ValidationException" and "status" in message
