"""Review who has access: read the grants of every source, find what is wrong, let people attest, and say what is still open.

Nothing is ever revoked from here: the command that would do it is printed. A source that cannot be read makes the review incomplete.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import product
from typing import TYPE_CHECKING, Literal, get_args

from flows.adapters import grants_aws, grants_gcp, grants_kubernetes, grants_postgres, grants_roles
from flows.adapters.access import ACCESS_FILE, load_access
from flows.core.canonical import sha256_hex
from flows.core.errors import GuardRefused, Problem, TradewindError, UserError
from flows.core.governance.access import Access, Source
from flows.core.governance.labels import PUBLIC, Label
from flows.core.governance.review_page import ReviewLine, ReviewTold, read_sheet
from flows.core.governance.reviews import Grant, World, judge, standing
from flows.core.placement.asking import facts_on
from flows.core.placement.model import Principal, Question
from flows.core.placement.request import Role
from flows.core.placement.scene import UNKNOWN
from flows.core.planning import PLACED_STEPS
from flows.services.declarations import Declarations
from flows.services.identity import Identity, permit
from flows.store import principals, reviews
from flows.store.database import State
from flows.store.reviews import Attested, SourceRead

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from flows.adapters.settings import Settings
    from flows.store.models_governance import ReviewRow

log = logging.getLogger("flows.govern")

COLLECT: Mapping[str, Callable[[Source], list[Grant]]] = {
    "aws": grants_aws.collect,
    "kubernetes": grants_kubernetes.collect,
    "postgres": grants_postgres.collect,
    "gcp": grants_gcp.collect,
}
ReviewState = Literal["incomplete", "overdue", "open", "done"]


@dataclass(frozen=True, slots=True)
class ReviewSummary:
    """One review in a list; `open` counts the grants that wait for a person, `unread` names the sources that could not be read."""

    id: str
    at: datetime
    due_at: datetime
    grants: int
    open: int
    unread: tuple[str, ...]
    overdue: bool

    @property
    def state(self) -> ReviewState:
        """`done` only if every source was read and nothing is open."""
        if self.overdue:
            return "overdue"
        if self.unread:
            return "incomplete"
        return "open" if self.open else "done"

    def to_json(self) -> dict[str, object]:
        """The summary for programs."""
        return {
            "review": self.id,
            "at": self.at.isoformat(),
            "due_at": self.due_at.isoformat(),
            "state": self.state,
            "grants": self.grants,
            "open": self.open,
            "unread": list(self.unread),
        }


def govern(state: State, settings: Settings, *, at: datetime) -> ReviewSummary | None:
    """Make the review that is due; None if none is. One that could not read a source is made again the next time.

    Raises:
        UserError: a declaration is wrong.
    """
    every = timedelta(days=load_access(settings.deployments).every_days)
    with state.reading() as tx:
        if any(row.at + every > at for row in reviews.recent(tx) if not _unread(row)):
            return None
    found = review(state, settings, principal="scheduler", at=at)
    log.info(
        "access review %s: %d grants, %d to decide, not read: %s", found.id, found.grants, found.open, ", ".join(found.unread) or "none"
    )
    return found


def review(state: State, settings: Settings, *, principal: str, at: datetime) -> ReviewSummary:
    """Read every declared source of this profile and store what was found of each grant.

    Raises:
        UserError: a declaration is wrong, or a site in it is unknown.
    """
    declarations, access = Declarations.load(settings), load_access(settings.deployments)
    grants: list[Grant] = []
    sources = []
    for source in (one for one in access.sources if settings.profile in one.profiles):
        try:
            if source.kind == "roles":
                found = grants_roles.collect(source, declarations.roles, access, settings)
            else:
                found = COLLECT[source.kind](source)
        except TradewindError as error:
            log.warning("source `%s` could not be read: %s", source.name, error)
            sources.append(SourceRead(source.name, source.kind, 0, str(error)))
            continue
        sources.append(SourceRead(source.name, source.kind, len(found)))
        grants += found
    if not sources:
        raise UserError(f"no source for the profile `{settings.profile}`", file=ACCESS_FILE, field="sources")
    readers = {guarded.site: readers_of(declarations, guarded.site, at=at) for guarded in access.guarded}
    known = grants_roles.people(declarations.roles, access, embedded=settings.profile == "embedded")
    judged = judge(grants, World(access, known, readers, at))
    with state.transaction() as tx:
        row = reviews.add(
            tx,
            list(zip(grants, judged, strict=True)),
            sources=sources,
            rules=sha256_hex((settings.deployments / ACCESS_FILE).read_bytes()),
            principal=principal,
            at=at,
            due_at=at + timedelta(days=access.due_days),
        )
        id = row.id
    return next(one for one in overview(state, at=at) if one.id == id)


def readers_of(declarations: Declarations, site: str, *, at: datetime) -> frozenset[str]:
    """The roles that policy lets process the most sensitive data at home at a site, on one of its pools, in some step.

    Raises:
        UserError: there is no such site.
    """
    estate, blocs = declarations.estate, declarations.estate.blocs
    if site not in estate.site_by_id:
        raise UserError(f"no site `{site}`", file=ACCESS_FILE, field="guarded")
    labels = [declarations.catalog.label_of(one.name, at, blocs) or UNKNOWN for one in declarations.catalog.entries if one.home == site]
    top = max((label.level for label in labels), default=0)
    wanted: list[Label] = [label for label in labels if label.level == top] or [PUBLIC]
    pools = [facts_on(estate, estate.site_by_id[site], pool, at.astimezone(UTC).date()) for pool in estate.pools if pool.site == site]
    found = set()
    for role in get_args(Role):
        who = Principal.model_validate({"user": "anyone", "roles": [role]})
        for pool, step in product(pools, PLACED_STEPS):
            asked = [Question("process", who, pool, label, step, "access-review", "prod", "", at, pool.country) for label in wanted]
            answers = declarations.policy.ask(asked)
            if len(answers) == len(asked) and all(answer.allowed and not answer.reasons for answer in answers):
                found.add(role)
                break
    return frozenset(found)


def overview(state: State, *, at: datetime) -> list[ReviewSummary]:
    """The newest reviews, the newest first: how many grants wait in each, and whether its time is over.

    A grant that a later review no longer found, or found changed, waits there and not here.
    """
    with state.reading() as tx:
        history = reviews.history(tx)
        summaries: list[ReviewSummary] = []
        there: dict[str, str] | None = None  # what the newest review that read every source found
        for row in reviews.recent(tx):
            prints, unread = reviews.prints(tx, row.id), _unread(row)
            waiting = sum(
                standing(fingerprint, history.get(grant, ()), row.at).state == "open"
                for grant, fingerprint in prints.items()
                if there is None or there.get(grant) == fingerprint
            )
            overdue = at > row.due_at and (waiting > 0 or (bool(unread) and there is None))
            summaries.append(ReviewSummary(row.id, row.at, row.due_at, len(prints), waiting, unread, overdue))
            there = prints if there is None and not unread else there
    return summaries


def told(state: State, id: str, *, at: datetime) -> ReviewTold:
    """A review with all its grants as they stand now, names as far as they are not erased.

    Raises:
        UserError: there is no such review.
        IntegrityError: its rows are not those that the ledger vouches for.
    """
    with state.reading() as tx:
        row = reviews.get(tx, id)
        lines = _lines(tx, row)
    summary = next((one for one in overview(state, at=at) if one.id == row.id), None)
    shown = summary.state if summary is not None else "archived"
    return ReviewTold(row.id, row.at, row.due_at, shown, {one["name"]: one["error"] or one["grants"] for one in row.sources}, lines)


def attest(
    state: State,
    settings: Settings,
    identity: Identity,
    id: str,
    wanted: Sequence[Attested],
    *,
    at: datetime,
    lines: Mapping[str, int] | None = None,
    file: str | None = None,
) -> list[ReviewLine]:
    """Record what a person says of grants of a review: all of it or nothing. Returns those grants as they stand then.

    A `keep` without a last day ends after `keep_days`. `lines` and `file`: where each grant was written, for messages.

    Raises:
        PolicyDenied: the person has no role that may attest.
        GuardRefused: one of the grants is the person's own.
        UserError: the review has no such grant, a reason is missing, or a last day lies before today or too far ahead.
    """
    declarations, access = Declarations.load(settings), load_access(settings.deployments)
    permit(declarations, identity, "review", workload="access-review", environment="prod", step="govern", at=at)
    today = at.astimezone(UTC).date()
    latest = today + timedelta(days=access.keep_days)
    taken = [Attested(one.grant, one.verdict, one.reason.strip(), _until(one, latest)) for one in wanted]

    def problem(one: Attested, field: str, what: str, expected: str) -> Problem:
        return Problem(what, file, (lines or {}).get(one.grant), field, expected)

    problems = [problem(one, "reason", f"no reason for `{one.grant}`", "why, in a sentence") for one in taken if not one.reason]
    problems += [
        problem(one, "until", f"`{one.until}` is not possible for `{one.grant}`", f"a day from {today} to {latest}")
        for one in taken
        if one.until is not None and not today <= one.until <= latest
    ]
    if problems:
        raise UserError(problems=problems)
    with state.transaction() as tx:
        row = reviews.get(tx, id)
        names = {line.id: line for line in _lines(tx, row)}
        own = [one for one in taken if one.grant in names and _is_own(names[one.grant], identity, access, declarations)]
        if own:
            told_of = [problem(one, "grant", f"`{one.grant}` is your own grant", "somebody else, who attests it") for one in own]
            raise GuardRefused(problems=told_of)
        reviews.attest(tx, row.id, taken, principal=identity.name, at=at)
        chosen = {one.grant for one in taken}
        return [line for line in _lines(tx, row) if line.id in chosen]


def attest_sheet(state: State, settings: Settings, identity: Identity, id: str, text: str, *, file: str, at: datetime) -> list[ReviewLine]:
    """As `attest`, for the filled-in rows of a sheet.

    Raises:
        UserError: every row that cannot be taken, with its line; then none is.
    """
    with state.reading() as tx:
        row = reviews.get(tx, id)
        filled = read_sheet(text, file=file, review=row.id, grants=reviews.prints(tx, row.id))
    if not filled:
        raise UserError("no row holds a decision", file=file, expected="`keep` or `revoke` in the column `decision`")
    wanted = [Attested(one.grant, one.verdict, one.reason, one.until) for one in filled]
    return attest(state, settings, identity, row.id, wanted, at=at, lines={one.grant: one.line for one in filled}, file=file)


def _lines(tx: Session, row: ReviewRow) -> tuple[ReviewLine, ...]:
    found = reviews.grants_of(tx, row)
    history = reviews.history(tx, (grant.id for grant, _ in found))
    stands = [standing(grant.fingerprint, history.get(grant.id, ()), row.at) for grant, _ in found]
    ids = {grant.principal for grant, _ in found} | {one.by.principal for one in stands if one.by}
    names = {id: principals.name_of(tx, id) or id for id in ids}
    return tuple(
        ReviewLine(grant.id, names[grant.principal], grant, judged, stand, names[stand.by.principal] if stand.by else None)
        for (grant, judged), stand in zip(found, stands, strict=True)
    )


def _is_own(line: ReviewLine, identity: Identity, access: Access, declarations: Declarations) -> bool:
    if access.person_of(line.grant.source, line.name) == identity.name:
        return True
    unnamed = identity.how == "local" and identity.name not in declarations.roles.principals
    return unnamed and line.name == grants_roles.LOCAL and line.grant.via == grants_roles.LOCAL


def _until(one: Attested, latest: date) -> date | None:
    return (one.until or latest) if one.verdict == "keep" else None


def _unread(row: ReviewRow) -> tuple[str, ...]:
    return tuple(one["name"] for one in row.sources if one["error"] is not None)
