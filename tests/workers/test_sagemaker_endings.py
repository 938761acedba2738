"""How a training job's end is told: every reason that AWS documents becomes a kind, an exit code and words that say what to do."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.workers.sagemaker_endings import ending, exit_code, gone, refusal, silent


def described(status: str, **more: Any) -> dict[str, Any]:
    """What `DescribeTrainingJob` answers."""
    return {"TrainingJobName": "job", "TrainingJobStatus": status, **more}


@pytest.mark.parametrize("status", ["InProgress", "Stopping"])
def test_a_job_that_may_still_do_something_has_not_ended(status: str) -> None:
    """A job that is being stopped runs on for two minutes, and is billed."""
    assert ending(described(status, SecondaryStatus="Training")) is None


def test_a_completed_job_is_well() -> None:
    """Its flow run tells the rest."""
    end = ending(described("Completed"))
    assert end is not None
    assert (end.kind, end.status_code) == ("completed", 0)


REASONS = [
    ("AlgorithmError: , exit code: 3", "crash", 3),
    ('AlgorithmError: ExecuteUserScriptError:\nExitCode 1\nErrorMessage "ValueError: bad"', "crash", 1),
    ("AlgorithmError: `prefect flow-run execute`, exit code: 137", "memory", 137),
    ("AlgorithmError: RuntimeError: CUDA out of memory. Tried to allocate 2.00 GiB, exit code: 1", "memory", 1),
    (
        "ClientError: Please use an instance type with more memory, or reduce the size of training data processed on an instance.",
        "memory",
        1,
    ),
    ("ClientError: Cannot pull algorithm container. Either your image is invalid or you don't have access to the repository.", "image", 1),
    ("ClientError: Cannot pull image 1.dkr.ecr.eu-central-1.amazonaws.com/a@sha256:0: manifest not found", "image", 1),
    ("CapacityError: Unable to provision requested ML compute capacity. Please retry using a different ML instance type.", "capacity", 1),
    ("InternalServerError: We encountered an internal error. Please try again.", "service", 1),
    ("ClientError: Data download failed: Insufficient disk space. Please add more.", "disk", 1),
    ("ClientError: Artifact upload failed: no space left on device", "disk", 1),
    ("ClientError: Data download failed:AccessDenied (403): Access Denied", "access", 1),
    ("ClientError: Failed to assume role arn:aws:iam::1:role/r", "access", 1),
    ("ClientError: No S3 objects found under S3 URL", "configuration", 1),
    ("ResourceLimitExceeded: The account-level service limit is 0 Instances", "quota", 1),
    ("something new", "crash", 1),
]


@pytest.mark.parametrize(("reason", "kind", "code"), REASONS, ids=[reason[:40] for reason, _, _ in REASONS])
def test_a_failed_job_says_why_and_what_to_do(reason: str, kind: str, code: int) -> None:
    """The reason is AWS's own, whole."""
    end = ending(described("Failed", FailureReason=reason))
    assert end is not None
    assert (end.kind, end.status_code) == (kind, code)
    assert end.message.startswith(f"{kind}: training job `job` failed: {reason}")
    assert "\n  fix: " in end.message


def test_a_program_cannot_pass_its_words_for_those_of_aws() -> None:
    """What it printed last is in the reason, beside its exit code."""
    end = ending(described("Failed", FailureReason="AlgorithmError: quota of AccessDenied images not found, exit code: 2"))
    assert end is not None
    assert (end.kind, end.status_code) == ("crash", 2)


def test_a_failure_without_a_reason_is_told_all_the_same() -> None:
    """AWS may give none."""
    end = ending(described("Failed"))
    assert end is not None
    assert "no reason given" in end.message


@pytest.mark.parametrize(
    ("secondary", "kind", "code", "fix"),
    [
        ("MaxRuntimeExceeded", "timeout", 124, "max_runtime_seconds"),
        ("MaxWaitTimeExceeded", "spot", 124, "max_wait_seconds"),
        ("Stopped", "stopped", 143, "run it again"),
    ],
)
def test_a_stopped_job_says_who_stopped_it(secondary: str, kind: str, code: int, fix: str) -> None:
    """AWS's limits or a person."""
    stop = {"MaxRuntimeInSeconds": 60, "MaxWaitTimeInSeconds": 90}
    end = ending(described("Stopped", SecondaryStatus=secondary, StoppingCondition=stop))
    assert end is not None
    assert (end.kind, end.status_code) == (kind, code)
    assert fix in end.message


@pytest.mark.parametrize("end", [gone("job"), silent("job")])
def test_what_vanishes_or_says_nothing_has_not_gone_well(end: Any) -> None:
    """Neither may look like success."""
    assert end.status_code != 0
    assert "`job`" in end.message


@pytest.mark.parametrize(
    ("code", "message", "kind"),
    [
        ("ResourceLimitExceeded", "The account-level service limit is 0 Instances", "quota"),
        ("ExpiredTokenException", "The security token included in the request is expired", "credentials"),
        ("UnrecognizedClientException", "The security token included in the request is invalid.", "credentials"),
        ("AccessDeniedException", "User: arn:aws:iam::1:user/u is not authorized to perform: sagemaker:CreateTrainingJob", "access"),
        ("ValidationException", "Could not assume role arn:aws:iam::1:role/r. Please ensure that the role exists", "access"),
        ("ValidationException", "1 validation error detected: Value 'x' at 'trainingJobName' failed", "configuration"),
        ("ResourceNotFound", "no such key", "configuration"),
    ],
)
def test_a_refusal_says_what_to_do(code: str, message: str, kind: str) -> None:
    """AWS's words are kept."""
    told = refusal(code, message)
    assert told.kind == kind
    assert f"{code}: {message}\n  fix: " in told.message


def test_an_unknown_refusal_is_told_as_it_is() -> None:
    """No advice is better than a wrong one."""
    assert refusal("TeapotException", "short and stout").message.endswith("TeapotException: short and stout")


@given(st.text(max_size=200), st.integers(0, 255))
def test_an_exit_code_is_found_wherever_it_stands(text: str, code: int) -> None:
    """The words before it are the program's own."""
    words = "".join(letter for letter in text if not letter.isdigit())
    assert exit_code(f"{words} , exit code: {code}") in {code, exit_code(words)}


@given(st.text(max_size=300))
def test_any_reason_ends_a_failed_job(reason: str) -> None:
    """Never with success, and never with an error of ours."""
    end = ending(described("Failed", FailureReason=reason))
    assert end is not None
    assert end.status_code != 0
