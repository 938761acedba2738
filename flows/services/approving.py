"""A person's approval of a promotion: what waits, who may decide it, and whether the record carries the promotion when it comes to it.

Whether an approval is due is policy's to say: a promotion that policy refuses, and would not refuse were it approved, waits. What moves the
alias is the record that an authenticated approver made, verified in the transaction that begins the move; never that a run was resumed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from flows.core.canonical import instant
from flows.core.errors import GuardRefused, PolicyDenied, UserError
from flows.core.governance import approvals as rules
from flows.services import checkpointing
from flows.services.declarations import Declarations
from flows.services.identity import Identity, permit
from flows.services.promoting import Approval, Ruling
from flows.services.reasons import require_reason
from flows.store import approvals, decisions, ledger, principals
from flows.store.columns import jsonable
from flows.store.database import State
from flows.store.models import DecisionRow, VerdictRow

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from flows.adapters.settings import Settings
    from flows.core.placement.model import Principal

EXPLAINED = "`tradewind approve --list` shows what waits"


@dataclass(frozen=True, slots=True)
class Waiting:
    """One request as people see it: what is to be judged, how it stands, since and until when, and who decided it."""

    request: str
    standing: str
    workload: str
    version: str
    dataset: str
    verdict: str
    since: datetime
    until: datetime
    links: Mapping[str, str]
    run: str | None
    looks: int
    closed: bool
    approver: str | None = None
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """The request as a JSON value."""
        return dict(jsonable({name: getattr(self, name) for name in self.__dataclass_fields__}))


def approval_of(
    declarations: Declarations, promoter: Principal, *, started_by: frozenset[str] = frozenset(), links: Mapping[str, str] | None = None
) -> Approval:
    """What `promoting.promote` asks before it moves the alias. `started_by` are the opaque ids of who started what led to it."""

    def ask(tx: Session, intent: str, subject: rules.Subject, at: datetime) -> Ruling:
        try:
            declarations.require_control("promote", subject.workload, promoter, at=at)
        except PolicyDenied:
            # not this way; whether a person's word would change it is the next question, and any other rule still refuses there
            declarations.require_control("promote", subject.workload, promoter, at=at, approved=True)
        else:
            return Ruling()
        request, new = approvals.ensure(tx, intent, subject, parties=started_by, links=dict(links or {}), principal=promoter.user, at=at)
        found = approvals.judgement(tx, request)
        said = found[0] if found else None
        if said is None and rules.standing(request, None, at) == "waiting":
            if not new:
                approvals.looked(tx, request.id, principal=promoter.user, at=at)
            return Ruling(waits=request.id)
        reasons = rules.carries(request, said, subject, at)
        if not reasons and found is not None:
            reasons = _not_an_approver_now(tx, declarations, *found, at=at)
        if not reasons:
            ledger.append(
                tx, approvals.USED, {"request": request.id, "intent": intent, **subject.to_json()}, principal=promoter.user, at=at
            )
        return Ruling(reasons)

    return ask


def starters(tx: Session, intents: list[str]) -> frozenset[str]:
    """Opaque ids of all on whose word these intents were placed, from the decisions on record."""
    found = set()
    for id in tx.scalars(select(DecisionRow.id).where(DecisionRow.intent_id.in_(intents))):
        found.add(str(decisions.inputs(tx, id)["request"]["requested_by"]["user"]))
    return frozenset(found)


def decide(
    state: State,
    settings: Settings,
    request: str,
    *,
    identity: Identity,
    approve: bool,
    reason: str,
    at: datetime,
    days: int = rules.VALID_DAYS,
) -> Waiting:
    """Record what the approver says of a request, for good, and wake the lifecycle that waits for it.

    Raises:
        UserError: no such request, or it is decided, expired or ended; no reason; an approval for too many days or none.
        GuardRefused: the approver asked for it, or started the training.
        PolicyDenied: policy does not let this principal approve this model.
    """
    with state.transaction() as tx:  # it is locked while it is looked at
        approvals.get(tx, request)
    require_reason(reason, "a decision")
    try:
        expires = rules.validity(days, at)
    except ValueError:
        raise UserError("this is no validity of an approval", field="--expires", expected=f"1 to {rules.MOST_DAYS} days") from None
    declarations = Declarations.load(settings)
    try:
        with state.transaction() as tx:
            row = approvals.row(tx, request)
            wanted = approvals.get(tx, request)
            if row is not None and row.closed_at is not None:
                raise UserError(f"request `{request}` has ended at {instant(row.closed_at)}", fix=EXPLAINED)
            found = approvals.judgement(tx, wanted)
            own = principals.id_for(tx, identity.name)
            if why := rules.against_deciding(wanted, found[0] if found else None, own, at):
                raise (GuardRefused if own in wanted.parties else UserError)(why, fix=EXPLAINED)
            if identity.how == "service" and settings.profile != "embedded":
                raise GuardRefused(f"`{identity.name}` is a service", expected="a person")
            _permit(declarations, identity, wanted.subject.workload, at)
            approvals.judge(
                tx, wanted, approver=identity.name, roles=identity.roles, how=identity.how, approved=approve, reason=reason.strip(), at=at,
                expires_at=expires,
            )  # fmt: skip
    except (GuardRefused, PolicyDenied) as error:
        with state.transaction() as tx:
            # policy's own message names the principal, whom the row knows by an opaque id alone
            why = "policy does not permit it" if isinstance(error, PolicyDenied) else error.problems[0].what
            body = {"step": "approve", "request": request, "roles": identity.roles, "why": why}
            ledger.append(tx, "guard-refusal", body, principal=identity.name, at=at)
        raise
    checkpointing.vouch(state, settings, at=at)
    with state.reading() as tx:
        return _view(tx, request, at)


def waiting(state: State, *, at: datetime, everything: bool = False) -> list[Waiting]:
    """What waits for a person or was decided and not yet taken up, the oldest first; with `everything` also what has ended.

    Raises:
        IntegrityError: an approval on record is not what the ledger holds.
    """
    with state.reading() as tx:
        return [_view(tx, row.id, at) for row in approvals.listed(tx, everything=everything)]


def run_that_waits(settings: Settings, lifecycle: str) -> str | None:
    """The run of a lifecycle that waits for a person, if one does: the reconciler resumes it rather than starting another."""
    with State(settings.state_url).reading() as tx:
        return approvals.run_of(tx, lifecycle)


def to_judge(tx: Session, intent: str, at: datetime) -> dict[str, str] | None:
    """The request that a promotion waits for, and the page of what must be judged; None if it waits for none."""
    id = approvals.open_of(tx, intent)
    if id is None:
        return None
    one = _view(tx, id, at)
    judged = tx.scalars(select(VerdictRow.body).where(VerdictRow.workload == one.workload, VerdictRow.kind == "evaluation"))
    checks = next((body.get("checks", ()) for body in judged if rules.verdict_hash(body) == one.verdict), ())
    return {"request": id, "page": page(one, checks)}


def page(one: Waiting, checks: Sequence[Mapping[str, Any]]) -> str:
    """What an approver must judge, in Markdown: the model, the checks of its evaluation, its reports, and how to decide."""
    lines = [
        f"**Version {one.version} of `{one.workload}` waits for a person** since {instant(one.since)}, until {instant(one.until)}.",
        "",
        f"| model | `{one.dataset}` |",
        "|---|---|",
        f"| evaluation | `{one.verdict}` |",
        f"| request | `{one.request}` |",
        "",
        "| check | passed | what was seen | required |",
        "|---|---|---|---|",
        *(f"| {each['rule']} | {'yes' if each['passed'] else 'no'} | {each['message']} | {each['required']} |" for each in checks),
        "",
        *(f"- {name}: `{address}`" for name, address in sorted(one.links.items())),
        "",
        "```",
        *commands(one.request),
        "```",
        "",
        "Resuming the run decides nothing: without a decision on record it waits again, and the attempt is in the ledger.",
    ]
    return "\n".join(lines)


def commands(request: str) -> tuple[str, str]:
    """The commands that decide a request."""
    return (f'tradewind approve {request} --reason "…"', f'tradewind approve {request} --deny --reason "…"')


def _permit(declarations: Declarations, identity: Identity, workload: str, at: datetime) -> None:
    label, environment = declarations.label([f"{workload}-model"], at=at), declarations.workload(workload).environment
    permit(declarations, identity, "approve", workload=workload, label=label, environment=environment, step="promote", at=at)


def _not_an_approver_now(
    tx: Session, declarations: Declarations, said: rules.Judgement, then: tuple[str, ...], how: str, *, at: datetime
) -> tuple[str, ...]:
    """Why the approver could not approve it now; empty if they could. Roles then count only as far as the declaration still gives them."""
    name = principals.name_of(tx, said.approver)
    if name is None:
        return ("the approver is no longer known",)
    declared = declarations.roles
    match how:
        case "service":
            given = set(declared.services.get(name, ()))
        case "oidc":  # groups are known from the token alone: a role that no group gives any more is lost
            given = {*declared.principals.get(name, ()), *(role for roles in declared.groups.values() for role in roles)}
        case _:
            given = set(declared.principals.get(name, declared.local))
    identity = Identity(name, tuple(role for role in then if role in given), "local")
    try:
        _permit(declarations, identity, said.subject.workload, at)
    except PolicyDenied:
        return ("the approver may not approve it any more",)
    return ()


def _view(tx: Session, request: str, at: datetime) -> Waiting:
    row = approvals.row(tx, request)
    assert row is not None
    standing, said = approvals.stands(tx, row, at)
    return Waiting(
        request=row.id,
        standing=standing,
        workload=row.workload,
        version=row.version,
        dataset=row.dataset,
        verdict=row.verdict,
        since=row.at,
        until=said.expires_at if said is not None and said.approved else row.expires_at,
        links=row.links,
        run=row.run_id,
        looks=row.looks,
        closed=row.closed_at is not None,
        approver=None if said is None else principals.name_of(tx, said.approver) or said.approver,
        reason="" if said is None else said.reason,
    )
