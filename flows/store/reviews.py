"""Access reviews: what was found of every grant, and what people attested of it; principals by opaque id only."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from typing import Any

from pydantic import TypeAdapter
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from flows.core.canonical import content_hash, instant
from flows.core.errors import IntegrityError, UserError
from flows.core.governance.reviews import Attestation, Grant, Judged, Verdict
from flows.store import ledger, principals
from flows.store.columns import jsonable
from flows.store.database import serialize
from flows.store.models_governance import AttestationRow, ReviewGrantRow, ReviewRow

KIND = "review"
_JUDGED = TypeAdapter(Judged)


@dataclass(frozen=True, slots=True)
class SourceRead:
    """How reading one source went; `error` is None for one that was read."""

    name: str
    kind: str
    grants: int
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Attested:
    """One thing that is to be attested."""

    grant: str
    verdict: Verdict
    reason: str
    until: date | None


def add(
    tx: Session,
    grants: Sequence[tuple[Grant, Judged]],
    *,
    sources: Sequence[SourceRead],
    rules: str,
    principal: str,
    at: datetime,
    due_at: datetime,
) -> ReviewRow:
    """Store a review and its row of the ledger.

    Args:
        tx: an open write transaction.
        grants: what was found, principals by name; only their opaque ids are stored.
        sources: how reading each went.
        rules: the hash of the declaration that the grants were held against.
        principal: who made it, by name or opaque id.
        at: when, aware.
        due_at: until when people have to attest.
    """
    ids = {name: principals.id_for(tx, name) for name in sorted({grant.principal for grant, _ in grants})}
    serialize(tx, "reviews")
    day = f"{at.astimezone(UTC):%Y-%m-%d}"
    earlier = tx.scalar(select(func.count()).select_from(ReviewRow).where(ReviewRow.id.startswith(f"{day}.", autoescape=True))) or 0
    rows: dict[str, ReviewGrantRow] = {}
    for grant, judged in grants:
        held = grant.model_copy(update={"principal": ids[grant.principal]})
        row = ReviewGrantRow(review=f"{day}.{earlier + 1}", grant_id=held.id, fingerprint=held.fingerprint, body=_body(held, judged))
        if rows.setdefault(held.id, row).fingerprint != row.fingerprint:
            raise IntegrityError(f"source `{grant.source}` gave one id to two grants", expected="a `slot` of its own for each")
    review = ReviewRow(
        id=f"{day}.{earlier + 1}",
        at=at,
        due_at=due_at,
        sources=[asdict(one) for one in sources],
        rules=rules,
        digest=_digest(rows.values()),
    )
    tx.add(review)
    tx.flush()
    tx.add_all(rows.values())
    found = Counter(finding.kind for _, judged in grants for finding in judged.findings)
    body = {
        "event": "made",
        "review": review.id,
        "grants": len(rows),
        "findings": dict(found),
        "unread": [one.name for one in sources if one.error is not None],
        "due_at": due_at,
        "rules": rules,
        "digest": review.digest,
    }
    ledger.append(tx, KIND, body, principal=principal, at=at)
    return review


def recent(tx: Session, limit: int = 20) -> list[ReviewRow]:
    """The newest reviews, the newest first."""
    return list(tx.scalars(select(ReviewRow).order_by(ReviewRow.at.desc(), ReviewRow.id.desc()).limit(limit)))


def get(tx: Session, id: str) -> ReviewRow:
    """A review by its id; `latest` is the newest one.

    Raises:
        UserError: there is none of this id.
    """
    row = next(iter(recent(tx, 1)), None) if id == "latest" else tx.get(ReviewRow, id)
    if row is None:
        known = [one.id for one in recent(tx, 5)]
        raise UserError(
            f"no review `{id}`" if known else "there is no review yet",
            expected=f"one of `{'`, `'.join(known)}`" if known else None,
            fix="`tradewind review list` shows them" if known else "`tradewind review run` makes one",
        )
    return row


def prints(tx: Session, review: str) -> dict[str, str]:
    """The fingerprint of each grant of a review, by its id."""
    query = select(ReviewGrantRow.grant_id, ReviewGrantRow.fingerprint).where(ReviewGrantRow.review == review)
    return {row.grant_id: row.fingerprint for row in tx.execute(query)}


def grants_of(tx: Session, review: ReviewRow) -> list[tuple[Grant, Judged]]:
    """What a review found, principals by opaque id, in order of source, principal and slot.

    Raises:
        IntegrityError: the rows are not those that the ledger vouches for.
    """
    rows = list(tx.scalars(select(ReviewGrantRow).where(ReviewGrantRow.review == review.id)))
    vouched = [row.body["digest"] for row in ledger.rows(tx, kind=KIND) if (row.body["event"], row.body["review"]) == ("made", review.id)]
    if vouched != [_digest(rows)]:
        raise IntegrityError(f"the grants of review `{review.id}` are not those that were recorded", fix="see `tradewind ledger verify`")
    found = [(Grant.model_validate(row.body["grant"]), _JUDGED.validate_python(row.body["judged"])) for row in rows]
    return sorted(found, key=lambda pair: (pair[0].source, pair[0].principal, pair[0].slot))


def attest(tx: Session, review: str, wanted: Sequence[Attested], *, principal: str, at: datetime) -> None:
    """Record what one person said of grants of a review, a row of the ledger for each; the grants must be the review's.

    Raises:
        UserError: the review has no such grant.
    """
    known = prints(tx, review)
    if unknown := sorted({one.grant for one in wanted} - set(known)):
        raise UserError(f"review `{review}` has no grant `{'`, `'.join(unknown)}`", fix=f"`tradewind review show {review}` lists them")
    who = principals.id_for(tx, principal)
    for one in wanted:
        told = {"grant_id": one.grant, "fingerprint": known[one.grant], "review": review, "verdict": one.verdict, "reason": one.reason}
        until = None if one.until is None else one.until.isoformat()
        tx.add(AttestationRow(**told, until=until, principal=who, at=at))
        body = {"event": "attested", "until": until, "grant": one.grant, **{key: told[key] for key in told if key != "grant_id"}}
        ledger.append(tx, KIND, body, principal=who, at=at)


def history(tx: Session, grants: Iterable[str] | None = None) -> dict[str, list[Attestation]]:
    """All that was attested of grants, by grant, oldest first; None: of every grant."""
    wanted = None if grants is None else set(grants)
    found: dict[str, list[Attestation]] = defaultdict(list)
    for row in tx.scalars(select(AttestationRow).order_by(AttestationRow.at, AttestationRow.number)):
        if wanted is None or row.grant_id in wanted:
            until = None if row.until is None else date.fromisoformat(row.until)
            verdict: Verdict = "keep" if row.verdict == "keep" else "revoke"
            found[row.grant_id].append(Attestation(row.fingerprint, verdict, row.reason, row.principal, row.at, until))
    return dict(found)


def _body(grant: Grant, judged: Judged) -> dict[str, Any]:
    told = grant.model_dump(mode="json", exclude={"traits", "granted_at", "last_used"})
    moments = {name: instant(moment) for name in ("granted_at", "last_used") if (moment := getattr(grant, name)) is not None}
    return {"grant": {**told, **moments, "traits": sorted(grant.traits)}, "judged": asdict(judged)}


def _digest(rows: Iterable[ReviewGrantRow]) -> str:
    return content_hash(sorted([row.grant_id, row.fingerprint, content_hash(jsonable(row.body))] for row in rows))
