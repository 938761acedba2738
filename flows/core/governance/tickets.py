"""A ticket: what control sent where, word for word; what a worker compares before it starts anything. Pure, signatures aside."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from flows.core.canonical import canonical_json, content_hash
from flows.core.errors import GuardRefused

PARAMETER = "ticket"
"""The flow parameter that a ticket travels in."""
SKEW = timedelta(minutes=1)
"""How far a worker's clock may be behind control's."""
_FIX = "start the workload's `lifecycle`; it decides, signs and dispatches"


class Ticket(BaseModel):
    """One dispatch: the deployment, its parameters by hash, its intent and try, its decision, its inputs by the hash of their files."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    deployment: str
    parameters: str
    intent: str
    attempt: int
    decision: str
    decision_sha256: str
    manifests: Mapping[str, str]
    issued_at: AwareDatetime
    expires_at: AwareDatetime
    nonce: str

    @property
    def run_key(self) -> str:
        """The idempotency key of the one run that it is for."""
        return f"{self.intent}#{self.attempt}"

    @property
    def payload(self) -> bytes:
        """The bytes that control signs."""
        return canonical_json({"ticket": self.model_dump(mode="json")})


def parameters_hash(parameters: Mapping[str, Any]) -> str:
    """sha256 of a run's parameters without the ticket itself."""
    return content_hash({name: value for name, value in parameters.items() if name != PARAMETER})


def parse(found: object) -> tuple[Ticket, Mapping[str, Any]]:
    """A ticket and what is said to be its signature, from the flow parameter.

    Raises:
        GuardRefused: there is none, or it is malformed.
    """
    if found is None:
        raise GuardRefused("the run has no ticket: control did not send it", fix=_FIX)
    try:
        assert isinstance(found, Mapping)
        return Ticket.model_validate(found["body"]), found["signature"]
    except (AssertionError, KeyError, TypeError, ValidationError):
        raise GuardRefused("the run's ticket cannot be read", fix=_FIX) from None


def check(ticket: Ticket, *, deployment: str, parameters: Mapping[str, Any], at: datetime, run_key: str | None = None) -> None:
    """Compare a ticket, whose signature holds, with the run that brought it; a `run_key` is compared where it is known.

    Raises:
        GuardRefused: it is another deployment's or another run's, other parameters were signed, or its time is over or not come.
    """
    if ticket.deployment != deployment:
        raise GuardRefused(f"the ticket is for `{ticket.deployment}`, this is `{deployment}`", fix=_FIX)
    if ticket.parameters != parameters_hash(parameters):
        raise GuardRefused("the parameters are not the ones that control signed", fix=_FIX)
    if run_key is not None and ticket.run_key != run_key:
        raise GuardRefused(f"the ticket is that of another run, `{ticket.run_key}`", fix=_FIX)
    if not ticket.issued_at - SKEW <= at < ticket.expires_at:
        raise GuardRefused(f"the ticket holds from {ticket.issued_at:%Y-%m-%d %H:%M} to {ticket.expires_at:%Y-%m-%d %H:%M} UTC", fix=_FIX)
