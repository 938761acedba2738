"""What a person's approval is, and when it carries a promotion: pure rules over records; who may approve is policy's to say.

::

    waiting --approve--> approved --(its validity ends)--> expired
       |-----deny------> denied
       +-(nobody decides in time)-> expired
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from flows.core.canonical import content_hash, instant

REQUEST_DAYS = 14
"""How long a request waits for a person."""
VALID_DAYS = 7
"""How long an approval holds if its maker says nothing else."""
MOST_DAYS = 90
"""How long an approval may hold at most."""
LEAST_REASON = 3
"""Letters and digits that a reason has at least."""

Standing = Literal["waiting", "approved", "denied", "expired"]


@dataclass(frozen=True, slots=True)
class Subject:
    """What is approved: one registry number of one workload, the model behind it, and the evaluation that speaks for it, by its hash."""

    workload: str
    version: str
    dataset: str
    verdict: str

    def to_json(self) -> dict[str, str]:
        """The subject as ledger rows hold it."""
        return {"workload": self.workload, "version": self.version, "dataset": self.dataset, "verdict": self.verdict}


@dataclass(frozen=True, slots=True)
class Request:
    """A promotion that waits. `parties` are the opaque ids of who asked for it and who started the training: they do not approve it."""

    id: str
    intent: str
    subject: Subject
    parties: frozenset[str]
    at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one approver (opaque id) said about one request; an approval holds until `expires_at`, a denial for good."""

    request: str
    subject: Subject
    approver: str
    approved: bool
    at: datetime
    expires_at: datetime


def verdict_hash(verdict: Mapping[str, Any]) -> str:
    """Names the exact numbers, checks and models of an evaluation."""
    return content_hash(dict(verdict))


def request_id(intent: str, subject: Subject) -> str:
    """The id of the request that this promotion of this subject makes: the same each time it is looked at, another for anything else."""
    return f"ap-{content_hash({'intent': intent, **subject.to_json()})[:16]}"


def standing(request: Request, judgement: Judgement | None, at: datetime) -> Standing:
    """How a request stands at an instant."""
    if judgement is None:
        return "waiting" if at < request.expires_at else "expired"
    if not judgement.approved:
        return "denied"
    return "approved" if at < judgement.expires_at else "expired"


def carries(request: Request, judgement: Judgement | None, subject: Subject, at: datetime) -> tuple[str, ...]:
    """Every reason why the record does not carry the promotion of this subject at this instant; empty if it does."""
    reasons = []
    if request.subject != subject:
        reasons.append(f"request `{request.id}` is about another version or another evaluation")
    now = standing(request, judgement, at)
    if now == "waiting":
        reasons.append(f"request `{request.id}` waits for an approver")
    elif now == "denied":
        reasons.append(f"an approver denied request `{request.id}`")
    elif now == "expired":
        ended = request.expires_at if judgement is None else judgement.expires_at
        what = f"nobody decided request `{request.id}` by" if judgement is None else f"the approval of request `{request.id}` ended at"
        reasons.append(f"{what} {instant(ended)}; it may be asked for again")
    if judgement is not None:
        if (judgement.request, judgement.subject) != (request.id, request.subject):
            reasons.append(f"the approval is not of request `{request.id}`")
        if judgement.approver in request.parties:
            reasons.append("the approver asked for it or started the training")
    return tuple(reasons)


def against_deciding(request: Request, judgement: Judgement | None, approver: str, at: datetime) -> str | None:
    """Why this principal (opaque id) cannot decide the request now, or None."""
    now = standing(request, judgement, at)
    if judgement is not None:
        return f"request `{request.id}` is {now} already"
    if now == "expired":
        return f"request `{request.id}` expired at {instant(request.expires_at)}"
    if approver in request.parties:
        return f"whoever asked for request `{request.id}` or started its training does not decide it"
    return None


def reason_given(reason: str) -> bool:
    """Whether a reason says anything."""
    return sum(letter.isalnum() for letter in reason) >= LEAST_REASON


def validity(days: int, at: datetime) -> datetime:
    """Until when an approval of that many days holds.

    Raises:
        ValueError: fewer days than 1, or more than `MOST_DAYS`.
    """
    if not 1 <= days <= MOST_DAYS:
        raise ValueError(f"{days} days")
    return at + timedelta(days=days)
