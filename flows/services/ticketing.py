"""Signed dispatches: control issues a ticket for each, and a worker's step goes on only with its own, unused, unchanged one."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from flows.adapters import signing
from flows.adapters.ticket_checks import verified
from flows.core.canonical import content_hash
from flows.core.errors import GuardRefused, UserError
from flows.core.governance.tickets import Ticket, check, parameters_hash
from flows.services.context import DatasetRef
from flows.services.signed import manifest
from flows.store import decisions, dispatches, ledger

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from flows.adapters.settings import Settings
    from flows.store.database import State

LIFE = timedelta(hours=12)
"""How long a run may wait for its worker; its intent is held no longer by a lifecycle that is gone."""


def issue(state: State, settings: Settings, deployment: str, parameters: Mapping[str, Any], *, key: str, at: datetime) -> dict[str, Any]:
    """The ticket of one dispatch, as its flow parameter; the dispatch is in the ledger from then on.

    Args:
        state: where decisions, replicas and the ledger are.
        settings: hold control's signing key.
        deployment: `<step>/<pool>`.
        parameters: all other parameters of the run, as they are sent.
        key: the idempotency key of the run, `<intent>#<attempt>`.
        at: now, aware.

    Raises:
        UserError: these settings hold no key.
        GuardRefused: no such decision is on record.
        IntegrityError: what is recorded of an input is not what was published.
    """
    if settings.signing_key is None:
        raise UserError(
            "control has no key to sign its dispatches with",
            field=signing.VARIABLE,
            expected="the base64 of 32 bytes, from a secret store",
            fix="`tradewind up` makes one for the embedded stack; workers refuse what is not signed",
        )
    intent, _, attempt = key.rpartition("#")
    with state.transaction() as tx:
        ticket = Ticket(
            deployment=deployment,
            parameters=parameters_hash(parameters),
            intent=intent,
            attempt=int(attempt),
            decision=parameters["decision_id"],
            decision_sha256=content_hash(_decision(tx, parameters["decision_id"])),
            manifests={text: manifest(tx, DatasetRef.parse(text)) for text in sorted(set(parameters["inputs"].values()))},
            issued_at=at,
            expires_at=at + LIFE,
            nonce=secrets.token_hex(16),
        )
        body = {"deployment": deployment, "intent": intent, "attempt": ticket.attempt, "decision": ticket.decision, "nonce": ticket.nonce}
        ledger.append(tx, "dispatch", body, principal="control", at=at)
    signature = signing.signer(settings.signing_key.get_secret_value()).sign(ticket.payload)
    return {"body": ticket.model_dump(mode="json"), "signature": signature.to_json()}


def admit(
    state: State,
    settings: Settings,
    found: object,
    *,
    deployment: str,
    parameters: Mapping[str, Any],
    run_id: str,
    at: datetime,
) -> Ticket:
    """Let a run go on by its ticket, once: the same run that begins again, after its worker's restart, is let go on too.

    Raises:
        GuardRefused: no ticket, a forged, edited or expired one, one that another run has used, or a decision that was changed since.
        IntegrityError: what is recorded of an input is not what control sent it with.
    """
    ticket = verified(found, signing.keyring(settings))
    check(ticket, deployment=deployment, parameters=parameters, at=at)
    with state.transaction() as tx:
        if content_hash(_decision(tx, ticket.decision)) != ticket.decision_sha256:
            raise GuardRefused(f"decision `{ticket.decision[:12]}` was changed after control signed it")
        for text, sha256 in ticket.manifests.items():
            if manifest(tx, DatasetRef.parse(text)) != sha256:
                raise GuardRefused(f"the record of `{text}` was changed after control signed it")
        user = dispatches.use(tx, ticket.nonce, intent_id=ticket.intent, run_id=run_id, at=at)
        if user != run_id:
            raise GuardRefused(f"the ticket was used by run `{user}` already", fix="start the workload's `lifecycle`; it dispatches anew")
    return ticket


def _decision(tx: Session, id: str) -> dict[str, Any]:
    found = decisions.get(tx, id)
    if found is None:
        raise GuardRefused(f"no decision `{id}` is on record", fix="start the workload's `lifecycle`; it decides, then dispatches")
    return found
