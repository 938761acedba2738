"""How a run ended that did not complete: of what kind, whether its place is at fault, where it may go next, what a person can do.

A pure reading of the state that Prefect's workers leave, and of the lines that they, not the step, wrote into the run's log: the state of a
container that was killed for its memory says only that it ended. The words are those of prefect 3.8 and of prefect-kubernetes 0.8,
prefect-aws 0.7, prefect-gcp 0.6 and our own SageMaker worker; docs/failures.md lists them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

NOT_STARTED = "NotStarted"
"""State name of a run that was given up, since its worker took it and no first line of it ran within the pool's bound."""
UNAVAILABLE = "Unavailable"
"""State name of a run that was given up, since its pool had no worker for too long."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What follows from an ending of this kind.

    `at_fault`: its pool cools down, and the step goes elsewhere first. `elsewhere`: it is placed again; else the same place tries again.
    `whole_site`: so do the other pools of its site. `fix` is for people.
    """

    at_fault: bool
    elsewhere: bool
    fix: str
    whole_site: bool = False


def _kind(fix: str, *, at_fault: bool = True, elsewhere: bool = True, whole_site: bool = False) -> Kind:
    return Kind(at_fault, elsewhere, fix, whole_site)


KINDS: Mapping[str, Kind] = {
    "step": _kind(
        "read the run's log, correct the data or the workload's code, start the lifecycle again", at_fault=False, elsewhere=False
    ),
    "refused": _kind("start the workload's `lifecycle`; a run is never started by hand", at_fault=False, elsewhere=False),
    "cancelled": _kind("start the lifecycle again if that was not meant", at_fault=False, elsewhere=False),
    "deleted": _kind("it is tried again; find who ends jobs of this pool", at_fault=False, elsewhere=False),
    "memory": _kind(
        "it is tried again with more memory; raise `memory_gib` in the workload's file, or let a pool rent larger offers", at_fault=False
    ),
    "crash": _kind("read the run's last lines; the pool cools down and the step goes elsewhere"),
    "disk": _kind("raise the scratch space in the pool's declaration"),
    "timeout": _kind("raise the step's `runtime` in the workload's file, or the pool's longest time"),
    "quota": _kind("ask the cloud for a higher quota of what the message names, or lower the pool's `capacity` to what there is"),
    "capacity": _kind("nothing to do if it is rare; else declare more offers or another pool"),
    "spot": _kind("nothing to do: it goes on elsewhere, from its last checkpoint where it writes some"),
    "image": _kind("push the image by its digest to the site's repository, and let the pool's start role read it"),
    "credentials": _kind("renew the credentials of the pool's worker, then start it again"),
    "access": _kind("grant the worker's role what the message names; `tradewind apply --check` shows what lacks"),
    "configuration": _kind("correct the pool's template or the estate; `tradewind apply --check` finds it before a run does"),
    "throttled": _kind("nothing to do if it is rare; else ask the cloud for a higher rate, or run less at once"),
    "unreachable": _kind("see the cloud's status page and the network of the pool's worker", whole_site=True),
    "worker-lost": _kind("start the pool's worker; `tradewind doctor` shows which are gone"),
    "not-started": _kind("see the pool's queue and nodes; raise its `startup_minutes` if it is only slow"),
}


@dataclass(frozen=True, slots=True)
class Failure:
    """How one run ended: `kind` is a word that programs may compare, `what` and `fix` are for people."""

    kind: str
    what: str
    fix: str

    @property
    def at_fault(self) -> bool:
        """Whether its pool is at fault."""
        return KINDS[self.kind].at_fault

    @property
    def elsewhere(self) -> bool:
        """Whether the step is placed again rather than tried again in its place."""
        return KINDS[self.kind].elsewhere

    @property
    def whole_site(self) -> bool:
        """Whether the other pools of the site are as bad."""
        return KINDS[self.kind].whole_site

    def __str__(self) -> str:
        return f"{self.kind}: {self.what}\n  fix: {self.fix}"


SUBMISSION = "Failed to submit flow run to infrastructure: "
"""How Prefect's workers begin the message of a run whose job the cloud did not take."""
VAGUE = re.compile(r"RetryError\[<Future ")
"""Says only that a worker tried several times; Vertex AI's does."""
QUIET = re.compile(r"^Cloud Run V2 Job .{1,200} was deleted")
"""What a worker says of an end without calling it a warning."""
TOLD_END = re.compile(
    r"^Cloud Run Job V2 .{1,200} failed - |^Vertex AI job .{1,200} failed: "
    r"|^Essential container exited: |^Container exited with non-zero exit code: "
)
"""How the workers begin what they say of an end: what they said before it was of something else."""
EXIT_CODE = re.compile(
    r"(?:non-zero status code|exited with code|exit(?:ed with)? (?:a )?(?:non-zero )?(?:code|status)(?: of)?) (-?\d+)", re.IGNORECASE
)
MEMORY_CODES = frozenset({137, 247})
"""128 + SIGKILL, and what Prefect's own process says of it. -9 is no container's, but of a process that somebody killed."""
KILLED_INSIDE = re.compile(r"^Process exited with status code: -9\b")
"""What a container's first process says of the one that ran the step: there the kernel alone kills, for want of memory."""
TERMINATED_CODES = frozenset({143, -15})

OWN = re.compile(r"^(?:Failed to submit flow run to infrastructure: \w+: )?(?P<kind>[a-z-]+): (?P<what>.*)", re.DOTALL)
"""Messages of our own, as the SageMaker worker, the waiting dispatcher and the sweeper write them: the kind, what happened, the fix."""
OWN_KINDS: Mapping[str, str] = {
    **{kind: kind for kind in KINDS if kind not in ("step", "refused", "cancelled")},
    "stopped": "deleted", "service": "unreachable", "silent": "crash", "refused": "configuration",
}  # fmt: skip


def _sign(kind: str, *patterns: str) -> tuple[str, re.Pattern[str]]:
    return kind, re.compile("|".join(patterns), re.IGNORECASE | re.MULTILINE)


SIGNS: tuple[tuple[str, re.Pattern[str]], ...] = (
    _sign(
        "memory",
        r"was killed due to out-of-memory \(OOMKilled\)",  # Kubernetes
        r"OutOfMemoryError: Container killed",  # ECS
        r"memory limit (?:of .{1,40} )?exceeded|memory limit was reached",  # Cloud Run
        r"out[- ]of[- ]memory|OOMKilled|low on memory",  # Vertex AI
    ),
    _sign(
        "image",
        r"^Image pull failed for container",  # Kubernetes
        r"CannotPullContainerError|^Container image pull failed",  # ECS
        r"\bimage\b.{0,200}(?:not found|does not exist|cannot be pulled|could not be pulled)",  # Google
    ),
    _sign("spot", r"SpotInterruption|Spot Task was interrupted|preempt"),
    _sign(
        "credentials",
        r"Expired(?:Token|TokenException|\b)|UnrecognizedClient|InvalidClientToken|InvalidSignature|SignatureDoesNotMatch|token.{0,40}expired",
        r"NoCredentialsError|Unable to locate credentials|PartialCredentials|CredentialRetrievalError|TokenRetrievalError",
        r"RefreshError|DefaultCredentialsError|invalid_grant|Unauthenticated|\bHttpError 401\b|: 401\b",
        r"Unable to create Kubernetes job: Unauthorized",
    ),
    _sign(
        "throttled",
        r"Throttl|TooManyRequests|RequestLimitExceeded|Rate exceeded|SlowDown|rateLimitExceeded|Too Many Requests",
        r"Quota exceeded for quota metric .{1,120} per minute",
    ),
    _sign(
        "quota",
        r"exceeded quota|ResourceLimitExceeded|LimitExceededException|ServiceQuotaExceeded|limit on the number of",
        r"quotas? (?:are |is |was )?exceeded|Quota exceeded|ResourceExhausted|RESOURCE_EXHAUSTED|Max(?:imum)?.{0,40}vCPU.{0,20}reached",
        r"\bHttpError 429\b",
    ),
    _sign(
        "capacity",
        r"capacity provider|Capacity is unavailable|no capacity|insufficient capacity|RESOURCE:(?:CPU|MEMORY|GPU|ENI|PORTS)",
        r"resources are insufficient|stockout|does not have enough resources|No Container Instances",
        r"^Kubernetes cannot find a suitable node|Unschedulable",
        r"does not appear to have any container instances",
    ),
    _sign(
        "access",
        r"AccessDenied|not authorized|UnauthorizedOperation|PermissionDenied|\bHttpError 403\b|: 403\b",
        r"does not appear to have sufficient permissions",
        r"Unable to create Kubernetes job: Forbidden",
    ),
    _sign(
        "unreachable",
        r"EndpointConnectionError|Could not connect to the endpoint|ConnectTimeout|ReadTimeout|ConnectionError",
        r"ConnectionRefused|ConnectionClosed|TimeoutError",
        r"Cannot connect to host|ClientConnector|ServerDisconnected|ConnectionReset|Connection refused",
        r"Name or service not known|getaddrinfo",
        r"ServiceUnavailable|InternalServerError|InternalFailure|InternalError|\bHttpError 50[0234]\b|: 50[0234]\b",
        r"DeadlineExceeded",
        r"Unable to create Kubernetes job: (?:Internal Server Error|Service Unavailable|Gateway Timeout|Bad Gateway)",
        r"RemoteDisconnected|MaxRetryError|TransportError|ServerNotFoundError",
    ),
    _sign("deleted", r"^Kubernetes job was deleted", QUIET.pattern, r"its job is not there any more"),
    _sign(
        "configuration",
        r"Unable to create Kubernetes job: (?:Bad Request|Unprocessable Entity|Not Found)",
        r"InvalidParameter|ValidationException|ParamValidation|ClusterNotFound|cluster .{1,120} not found|is inactive|InvalidArgument",
        r"\bHttpError 40[04]\b|network configuration error|Failed to find resources at|ValidationError|ValueError",
    ),
    _sign("disk", r"no space left on device|ephemeral local storage usage exceeds"),
)
"""Causes by their words, the telling ones first."""

ADVICE = " Resolution: "
"""What separates an observer's diagnosis from its advice."""
OUTSIDE = re.compile(
    r"No active or succeeded pods found for any job|was evicted|Task terminated by infrastructure|had no exit code|TerminationSignal"
)
"""Something from outside ended it; on capacity that the cloud may take back, that is what it did."""


def classify(state: str, message: str = "", evidence: Iterable[str] = (), *, spot: bool = False) -> Failure:
    """Why a run that did not complete ended.

    Args:
        state: the name of its Prefect state.
        message: the state's message.
        evidence: lines of its log that its worker wrote, not its step.
        spot: whether it ran on capacity that may be taken back.
    """
    # what an observer advises names causes that it only thinks of
    told = tuple(fact for line in evidence if (fact := line.partition(ADVICE)[0].strip()))
    if state == "Refused":
        return _failure("refused", message)
    if state in ("Cancelled", "Cancelling"):
        return _failure("cancelled", message)
    if state == UNAVAILABLE:
        return _failure("worker-lost", message)
    if state == "TimedOut":
        return _failure("timeout", message)
    if state not in ("Crashed", NOT_STARTED):
        return _failure("step", message)
    own = OWN.match(message)
    if own is not None and own["kind"] in OWN_KINDS:
        what, separator, fix = own["what"].partition("\n  fix: ")
        kind = OWN_KINDS[own["kind"]]
        return Failure(kind, what.strip(), fix.strip() if separator else KINDS[kind].fix)
    # what the cloud said of this run's end comes before what it said on the way
    for text in (*reversed(told), message) if VAGUE.search(message) else (message, *reversed(told)):
        found = _kind_of(text, spot)
        if found is not None:
            return _failure(found, message, *(() if text == message else (text,)))
        if TOLD_END.search(text):
            break
    if spot and any(OUTSIDE.search(text) for text in (message, *told)):
        return _failure("spot", message)
    return _failure("not-started" if state == NOT_STARTED else "crash", message, *told[-1:])


def _kind_of(text: str, spot: bool) -> str | None:
    for kind, pattern in SIGNS:
        if pattern.search(text):
            return kind
    if KILLED_INSIDE.search(text):
        return "memory"
    for code in map(int, EXIT_CODE.findall(text)):
        if code in MEMORY_CODES:
            return "memory"
        if code in TERMINATED_CODES and spot:
            return "spot"
    return None


def _failure(kind: str, *told: str) -> Failure:
    what = "; ".join(dict.fromkeys(text for text in told if text)) or "no reason was given"
    return Failure(kind, what, KINDS[kind].fix)
