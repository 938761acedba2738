"""How a training job ended, in words that say what to do: a pure reading of `DescribeTrainingJob` and of AWS's errors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Description = Mapping[str, Any]

OVER = frozenset({"Completed", "Failed", "Stopped", "Deleting"})
"""`TrainingJobStatus` of a job that does nothing any more; `Stopping` still runs, and is billed."""
EXIT_CODE = re.compile(r"exit[ _]?(?:code|status)\W{0,3}(\d+)", re.IGNORECASE)
KILLED_FOR_MEMORY = 137
"""128 + SIGKILL: what the kernel does to a process that wants more memory than there is."""
TIMED_OUT, STOPPED = 124, 143


@dataclass(frozen=True, slots=True)
class Ending:
    """How a job ended: `kind` is a word that programs may compare, `message` is for people."""

    kind: str
    status_code: int
    message: str


@dataclass(frozen=True, slots=True)
class Sign:
    """A cause: the kind, a pattern in AWS's text, and what to do about it."""

    kind: str
    pattern: re.Pattern[str]
    fix: str


def _sign(kind: str, pattern: str, fix: str) -> Sign:
    return Sign(kind, re.compile(pattern, re.IGNORECASE), fix)


FAILURES = (
    _sign("memory", r"more memory|out ?of ?memory|\bOOM\b|MemoryError", "ask for more memory: raise `resources` in the workload's file"),
    _sign(
        "image",
        r"(?:pull|find|access|download|inspect).{0,60}\b(?:image|repository|manifest)|(?:image|manifest|repository).{0,80}"
        r"(?:not found|does not exist|not exist|unable|denied)",
        "push the image by its digest to the site's repository, and let the job's role read it",
    ),
    _sign("capacity", r"CapacityError|insufficient capacity|unable to provision", "try later, another instance type, or another pool"),
    _sign("quota", r"ResourceLimitExceeded|account-level service limit|quota", "ask AWS for a higher quota of it, or use another offer"),
    _sign("disk", r"no space left|disk.{0,20}full|insufficient disk", "raise `volume_gb`"),
    _sign("access", r"AccessDenied|not authorized|forbidden|assume.{0,20}role", "let the job's role do it, in the account of the site"),
    _sign("service", r"InternalServerError|internal error|ServiceUnavailable", "AWS failed, not the job: run it again"),
    _sign("configuration", r"ClientError|ValidationException", "correct the pool's template or the workload's resources"),
)
"""Causes in `FailureReason`, the telling ones first: an `AlgorithmError` may be a want of memory."""

REFUSALS = (
    _sign("quota", r"ResourceLimitExceeded", "ask AWS for a higher quota of it, or use another offer"),
    _sign(
        "credentials",
        r"Expired|UnrecognizedClient|InvalidClientToken|InvalidSignature|SignatureDoesNotMatch|NoCredentials|IncompleteSignature",
        "renew the worker's credentials",
    ),
    _sign("access", r"AccessDenied|NotAuthorized|UnauthorizedOperation", "let the worker's role do it; docs/sagemaker.md lists its rights"),
    _sign("access", r"assume (?:the )?role|PassRole", "let SageMaker assume the job's role, and the worker pass it"),
    _sign("configuration", r"ValidationException|ParamValidation|ResourceNotFound", "correct the pool's template or the estate"),
)
"""Causes in an error that `CreateTrainingJob` answers."""


def ending(description: Description) -> Ending | None:
    """How the job ended, or None while it may still do something."""
    name, status = description["TrainingJobName"], description["TrainingJobStatus"]
    if status not in OVER:
        return None
    if status == "Completed":
        return Ending("completed", 0, f"training job `{name}` completed")
    if status == "Failed":
        return _failed(name, str(description.get("FailureReason") or "no reason given"))
    return _stopped(name, description)


def gone(name: str) -> Ending:
    """The job was deleted under its watcher."""
    return _told("deleted", 1, f"training job `{name}` is not there any more: somebody deleted it", "run it again")


def silent(name: str) -> Ending:
    """The job completed and its flow run never said how it ended."""
    what = f"training job `{name}` completed, but its flow run did not report an end"
    return _told("silent", 1, what, "does the image run `prefect flow-run execute`, and does the network let it reach the Prefect server?")


def refusal(code: str, message: str) -> Ending:
    """Why AWS did not take the job."""
    text = f"{code}: {message}"
    for sign in REFUSALS:
        if sign.pattern.search(text):
            return _told(sign.kind, 1, f"SageMaker refused the training job: {text}", sign.fix)
    return Ending("refused", 1, f"refused: SageMaker refused the training job: {text}")


def exit_code(reason: str) -> int | None:
    """The exit code that a `FailureReason` mentions."""
    found = EXIT_CODE.search(reason)
    return int(found[1]) if found else None


def _failed(name: str, reason: str) -> Ending:
    code = exit_code(reason)
    what = f"training job `{name}` failed: {reason.strip()}"
    if code == KILLED_FOR_MEMORY:
        return _told("memory", code, what, FAILURES[0].fix)
    for sign in FAILURES:
        # what the job's own program printed last must not pass for a word of AWS, but for the want of memory that it reports itself
        if (sign.kind == "memory" or code is None) and sign.pattern.search(reason):
            return _told(sign.kind, code or 1, what, sign.fix)
    return _told(
        "crash", code or 1, what, "read the job's last lines in the worker's log, or in CloudWatch under /aws/sagemaker/TrainingJobs"
    )


def _stopped(name: str, description: Description) -> Ending:
    secondary = description.get("SecondaryStatus")
    stop = description.get("StoppingCondition", {})
    if secondary == "MaxRuntimeExceeded":
        seconds = stop.get("MaxRuntimeInSeconds")
        return _told("timeout", TIMED_OUT, f"training job `{name}` ran longer than its {seconds} s", "raise `max_runtime_seconds`")
    if secondary == "MaxWaitTimeExceeded":
        what = f"training job `{name}` did not end within {stop.get('MaxWaitTimeInSeconds')} s of waiting for spot capacity and running"
        return _told("spot", TIMED_OUT, what, "raise `max_wait_seconds`, or run it on demand; it goes on from its last checkpoint")
    return _told("stopped", STOPPED, f"training job `{name}` was stopped from outside its flow run", "run it again if that was not meant")


def _told(kind: str, code: int, what: str, fix: str) -> Ending:
    return Ending(kind, code, f"{kind}: {what}\n  fix: {fix}")
