"""Names that make a second submission find the first job, and what is asked again."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from itertools import islice
from typing import Any
from uuid import UUID, uuid4

import anyio
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError
from hypothesis import given
from hypothesis import strategies as st

from flows.core.errors import Unavailable
from flows.workers.sagemaker_jobs import (
    MAX_NAME,
    MAX_SUBMISSIONS,
    JobRefused,
    Jobs,
    Patience,
    is_of_credentials,
    is_passing,
    job_name,
    name_of,
    numbered,
    prefix_of,
)

RUN = UUID("0a1b2c3d-0000-4000-8000-000000000001")
ARN = "arn:aws:sagemaker:eu-central-1:111122223333:training-job/a-1"


@given(st.text(min_size=1, max_size=80), st.uuids())
def test_every_name_is_one_that_sagemaker_takes(pool: str, run: UUID) -> None:
    """Up to the last submission, whatever the pool is called."""
    for name in numbered(job_name(pool, run)):
        assert re.fullmatch(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}", name)
        assert len(name) <= MAX_NAME


def test_the_name_follows_from_the_run() -> None:
    """So that whoever asks twice gets one job."""
    assert job_name("aws-eu-central-1-sagemaker", RUN) == f"aws-eu-central-1-sagema-{RUN}"
    assert job_name("aws-eu-central-1-sagemaker", RUN).startswith(prefix_of("aws-eu-central-1-sagemaker"))


def test_each_submission_has_a_name_of_its_own() -> None:
    """AWS keeps the names of all jobs that ever were."""
    assert list(islice(numbered("a"), 3)) == ["a", "a-2", "a-3"]
    assert len(set(numbered("a"))) == MAX_SUBMISSIONS


def test_an_arn_tells_region_and_name() -> None:
    """It is what Prefect keeps of a job."""
    assert name_of(ARN) == ("eu-central-1", "a-1")
    with pytest.raises(ValueError, match="is no ARN of a training job"):
        name_of("arn:aws:ecs:eu-central-1:1:task/a")


class SageMaker:
    """SageMaker as far as one run needs it: jobs by name, refused twice."""

    def __init__(self, **statuses: tuple[str, str]) -> None:
        self.jobs = {name.replace("_", "-"): status for name, status in statuses.items()}
        self.created: list[str] = []

    def create_training_job(self, **request: Any) -> dict[str, str]:
        """As AWS answers."""
        name = request["TrainingJobName"]
        if name in self.jobs:
            raise error("ResourceInUse")
        self.jobs[name] = ("InProgress", "Starting")
        self.created.append(name)
        return {"TrainingJobArn": ARN}

    def describe_training_job(self, TrainingJobName: str) -> dict[str, str]:
        """As AWS answers."""
        if TrainingJobName not in self.jobs:
            raise error("ValidationException", "Requested resource not found.")
        status, secondary = self.jobs[TrainingJobName]
        return {"TrainingJobName": TrainingJobName, "TrainingJobArn": ARN, "TrainingJobStatus": status, "SecondaryStatus": secondary}


def error(code: str, message: str = "", status: int = 400) -> ClientError:
    """An answer of AWS."""
    return ClientError({"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}, "Operation")  # type: ignore[typeddict-item]


def jobs(**statuses: tuple[str, str]) -> tuple[Jobs, SageMaker]:
    """A region with these jobs."""
    fake = SageMaker(**statuses)
    return Jobs("eu-central-1", {"sagemaker": fake}), fake


def test_a_second_submission_finds_the_running_job() -> None:
    """It is watched, not started again."""
    region, fake = jobs(a=("InProgress", "Training"))
    submitted = region.submit({"TrainingJobName": "a"})
    assert (submitted.name, submitted.attached, fake.created) == ("a", True, [])


@pytest.mark.parametrize("status", [("Failed", "Failed"), ("Completed", "Completed"), ("Stopped", "Stopped"), ("InProgress", "Uploading")])
def test_a_submission_after_the_command_ended_is_a_new_job(status: tuple[str, str]) -> None:
    """Such as that of a run which is retried, or was suspended."""
    region, fake = jobs(a=status)
    submitted = region.submit({"TrainingJobName": "a"})
    assert (submitted.name, submitted.attached, fake.created) == ("a-2", False, ["a-2"])


def test_a_run_is_not_submitted_without_end() -> None:
    """A loop somewhere must not cost money for ever."""
    region, _ = jobs(**{name.replace("-", "_"): ("Failed", "Failed") for name in numbered("a")})
    with pytest.raises(JobRefused, match="was submitted 20 times"):
        region.submit({"TrainingJobName": "a"})


def test_the_latest_job_of_a_run_is_found() -> None:
    """Whoever takes over has to know which to watch."""
    region, _ = jobs(a=("Failed", "Failed"), a_2=("InProgress", "Training"))
    latest = region.latest("a")
    assert latest is not None
    assert latest["TrainingJobName"] == "a-2"
    assert region.latest("b") is None


@pytest.mark.parametrize(
    ("raised", "passing", "credentials"),
    [
        (error("ThrottlingException"), True, False),
        (error("InternalFailure", status=500), True, False),
        (error("ServiceUnavailable", status=503), True, False),
        (EndpointConnectionError(endpoint_url="http://127.0.0.1"), True, False),
        (error("ResourceLimitExceeded"), False, False),
        (error("ValidationException"), False, False),
        (error("ExpiredTokenException"), False, True),
        (NoCredentialsError(), False, True),
        (ValueError(), False, False),
    ],
    ids=lambda value: str(value) if isinstance(value, Exception) else "",
)
def test_only_what_may_pass_is_asked_again(raised: Exception, passing: bool, credentials: bool) -> None:
    """A quota does not grow by asking."""
    assert (is_passing(raised), is_of_credentials(raised)) == (passing, credentials)


def asked(*answers: Any) -> Callable[[], Any]:
    """A question with these answers, one after the other."""
    left = list(answers)

    def question() -> Any:
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return question


def patient(question: Callable[[], Any], seconds: float = 5.0, **more: Any) -> Any:
    """What patience gets out of it."""
    patience = Patience(jobs()[0], logging.getLogger("test"), seconds, first_pause=0.01, **more)
    return anyio.run(patience.ask, "look", question)


def test_patience_outlasts_throttling_and_silence() -> None:
    """The answer comes in the end."""
    assert patient(asked(error("ThrottlingException"), EndpointConnectionError(endpoint_url="x"), error("X", status=503), 7)) == 7


def test_patience_has_an_end() -> None:
    """And says what it could not do."""
    with pytest.raises(Unavailable, match=r"gave no answer for 0\.05 s: cannot look"):
        patient(asked(*[error("ThrottlingException")] * 50), seconds=0.05)


def test_expired_credentials_are_waited_for_only_where_a_job_runs() -> None:
    """Clients are made anew, since a file may hold new ones."""
    assert patient(asked(error("ExpiredTokenException"), 7), also_credentials=True) == 7
    with pytest.raises(JobRefused, match="renew the worker's credentials"):
        patient(asked(error("ExpiredTokenException"), 7))


def test_what_is_wrong_is_said_at_once() -> None:
    """Not asked again."""
    with pytest.raises(ClientError, match="ValidationException"):
        patient(asked(error("ValidationException"), 7))


def test_two_runs_never_share_a_job() -> None:
    """Whole identifiers are in the names."""
    assert len({job_name("pool", uuid4()) for _ in range(100)}) == 100
