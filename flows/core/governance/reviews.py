"""Access reviews: which grants there are, what is wrong with each, and which of them a person must look at again. Pure.

A finding of a grant depends on that grant alone, but for four-eyes conflicts, which need a second one: taking a grant away never adds a
finding to another, and the order of the grants plays no part.
"""

from __future__ import annotations

import json
import re
import shlex
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from flows.core.canonical import content_hash
from flows.core.governance.access import Access, Excepted, Kind, Known, covers, touches

KINDS: tuple[Kind, ...] = ("policy-breaking", "excessive", "orphaned", "unused")
"""The worst first."""
Trait = Literal["admin", "any-action", "any-resource", "reads-data"]
"""What a source itself says of a grant: all rights, wildcards, and whether bytes or secrets can be read with it."""
PrincipalKind = Literal["person", "service", "group", "public", "gone"]
"""`public`: everyone; `gone`: the source itself no longer knows it."""
Verdict = Literal["keep", "revoke"]


class Grant(BaseModel):
    """One right that one principal has, whatever the system calls it.

    `slot` is what names the grant among those of its principal in its source, so that a changed grant is known as the same one.
    `detail` is what else a person must know: conditions, the rules of a role. `granted_at` is when it was given, or the earliest that
    this can have been. `last_used` without `use_known` says nothing. `revoke` are the words of the command that takes it away;
    `{principal}` (`{principal_sql}`, `{principal_json}`: quoted so) stands for the name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    principal: str
    kind: PrincipalKind
    permissions: tuple[str, ...] = Field(min_length=1)
    scopes: tuple[str, ...] = Field(min_length=1)
    slot: str
    via: str = ""
    detail: str = ""
    traits: frozenset[Trait] = frozenset()
    granted_at: AwareDatetime | None = None
    last_used: AwareDatetime | None = None
    use_known: bool = False
    revoke: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """What names it in every review. Made from the principal as it is here: no name can be guessed from an opaque one's."""
        return "g-" + content_hash([self.source, self.principal, self.slot])[:12]

    @property
    def fingerprint(self) -> str:
        """A hash of all that a person judged; being used is no change."""
        told = self.model_dump(mode="json", exclude={"last_used", "use_known", "revoke"})
        return content_hash({**told, "traits": sorted(self.traits)})

    def command(self, name: str) -> str:
        """The command that takes it from the principal of that name, quoted for a shell; Tradewind never runs it."""
        words = {"{principal}": name, "{principal_sql}": name.replace('"', '""'), "{principal_json}": json.dumps(name)[1:-1]}
        return shlex.join(re.sub(r"\{principal(_sql|_json)?\}", lambda found: words[found[0]], word) for word in self.revoke)


@dataclass(frozen=True, slots=True)
class World:
    """What grants are held against: `roles` of each person that is known, `readers`: the roles that may read each site's data."""

    access: Access
    roles: Mapping[str, frozenset[str]]
    readers: Mapping[str, frozenset[str]]
    at: datetime


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with a grant; `why` holds no name of a person."""

    kind: Kind
    why: str


@dataclass(frozen=True, slots=True)
class Judged:
    """What is wrong with one grant, and what would be but for a dated exception."""

    findings: tuple[Finding, ...] = ()
    excepted: tuple[Finding, ...] = ()


@dataclass(frozen=True, slots=True)
class Attestation:
    """What one person said of one grant as it was then: `keep` holds through the UTC day `until`."""

    fingerprint: str
    verdict: Verdict
    reason: str
    principal: str
    at: datetime
    until: date | None


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether a grant of a review is decided, and why it is not; `open` waits for a person."""

    state: Literal["open", "keep", "revoke"]
    because: str
    by: Attestation | None = field(default=None, compare=False)


def judge(grants: Sequence[Grant], world: World) -> list[Judged]:
    """What is wrong with each grant, in their order."""
    people = [world.access.person_of(grant.source, grant.principal) for grant in grants]
    held: dict[str, set[str]] = defaultdict(set)
    kinds = {source.name: source.kind for source in world.access.sources}
    for grant, person in zip(grants, people, strict=True):
        if kinds.get(grant.source) == "roles":
            held[person].update(grant.permissions)
    found = []
    for grant, person in zip(grants, people, strict=True):
        roles = _roles(grant, person, world)
        all_ = [*_broken(grant, roles, world), *_orphaned(grant, person, kinds, world), *_excessive(grant, roles, world)]
        all_ += [*_unused(grant, world)]
        if kinds.get(grant.source) == "roles":
            all_ += _conflicts(grant, held[person], world.access)
        found.append(_except(grant, sorted(set(all_), key=lambda one: (KINDS.index(one.kind), one.why)), world))
    return found


def _roles(grant: Grant, person: str, world: World) -> frozenset[str]:
    known = (one.roles for one in world.access.known if _is_known(grant, one))
    return world.roles.get(person, frozenset()).union(*known)


def _is_known(grant: Grant, known: Known) -> bool:
    return covers(known.source, grant.source) and any(covers(who, grant.principal) for who in known.who)


def _broken(grant: Grant, roles: frozenset[str], world: World) -> Iterable[Finding]:
    if grant.kind == "public":
        yield Finding("policy-breaking", "it is open to everyone")
    if "reads-data" not in grant.traits:
        return
    for guarded in world.access.guarded:
        if covers(guarded.source, grant.source) and any(touches(guarded.scope, scope) for scope in grant.scopes):
            readers = world.readers.get(guarded.site, frozenset())
            if not roles & readers:
                wanted = ", ".join(sorted(readers)) or "nobody"
                yield Finding("policy-breaking", f"it can read what rests at `{guarded.site}` without a role that policy lets: {wanted}")


def _conflicts(grant: Grant, held: set[str], access: Access) -> Iterable[Finding]:
    for one, other in access.four_eyes:
        if {one, other} <= held and {one, other} & set(grant.permissions):
            yield Finding("policy-breaking", f"four eyes: nobody may be `{one}` and `{other}`")


def _orphaned(grant: Grant, person: str, kinds: Mapping[str, str], world: World) -> Iterable[Finding]:
    if grant.kind == "gone":
        yield Finding("orphaned", "its principal was deleted")
    elif kinds.get(grant.source) != "roles" and grant.kind != "public":
        known = any(_is_known(grant, one) for one in world.access.known)
        if not known and not (grant.kind == "person" and person in world.roles):
            yield Finding("orphaned", "no person or service of the declarations has this account")


def _excessive(grant: Grant, roles: frozenset[str], world: World) -> Iterable[Finding]:
    names = {grant.principal, *(f"role:{role}" for role in roles)}
    mine = [one for one in world.access.allowed if covers(one.source, grant.source) and _any(one.who, names)]
    beyond = sorted(
        permission
        for permission in grant.permissions
        if not all(any(one.allows(permission) and _any(one.scopes, [scope]) for one in mine) for scope in grant.scopes)
    )
    if beyond:
        more = f" and {len(beyond) - 3} more" if len(beyond) > 3 else ""
        yield Finding("excessive", f"more than declared: `{'`, `'.join(beyond[:3])}`{more}")
    if any(one.wide for one in mine) and not beyond:
        return
    words = {"admin": "all rights", "any-action": "a wildcard for actions", "any-resource": "a wildcard for resources"}
    for trait in sorted(grant.traits & set(words)):
        yield Finding("excessive", words[trait])


def _any(patterns: Iterable[str], texts: Iterable[str]) -> bool:
    """Whether a pattern covers one of the texts."""
    return any(covers(pattern, text) for pattern in patterns for text in texts)


def _unused(grant: Grant, world: World) -> Iterable[Finding]:
    if not grant.use_known:
        return
    limit = world.at - timedelta(days=world.access.unused_days)
    if grant.last_used is not None:
        if grant.last_used < limit:
            yield Finding("unused", f"last used on {grant.last_used.astimezone(UTC):%Y-%m-%d}")
    elif grant.granted_at is None or grant.granted_at < limit:
        yield Finding("unused", "never used")


def _except(grant: Grant, found: Iterable[Finding], world: World) -> Judged:
    today = world.at.astimezone(UTC).date()
    left, excepted = [], []
    for one in found:
        matching = [each for each in world.access.exceptions if each.finding == one.kind and _meant(each, grant)]
        holding = [each for each in matching if today <= each.until]
        if holding:
            last = max(holding, key=lambda each: each.until)
            excepted.append(Finding(one.kind, f"{one.why}; accepted until {last.until}: {last.reason}"))
        elif matching:
            left.append(Finding(one.kind, f"{one.why}; its exception ended on {max(each.until for each in matching)}"))
        else:
            left.append(one)
    return Judged(tuple(left), tuple(excepted))


def _meant(excepted: Excepted, grant: Grant) -> bool:
    return (
        covers(excepted.source, grant.source)
        and covers(excepted.principal, grant.principal)
        and all(covers(excepted.permission, one) for one in grant.permissions)
        and all(covers(excepted.scope, one) for one in grant.scopes)
    )


def standing(fingerprint: str, history: Sequence[Attestation], reviewed_at: datetime) -> Standing:
    """How a grant stands in a review that was made at an instant, by what was attested of it before and since; oldest first.

    What a person said since, of the grant as it was found, decides. What was said before still holds if the grant is as it was and is
    kept through that day; a grant that was to be revoked and is still there is open again.
    """
    since = [one for one in history if one.at >= reviewed_at and one.fingerprint == fingerprint]
    if since:
        last = since[-1]
        return Standing(last.verdict, last.reason, last)
    before = [one for one in history if one.at < reviewed_at]
    if not before:
        return Standing("open", "never reviewed")
    last = before[-1]
    day = f"{last.at.astimezone(UTC):%Y-%m-%d}"
    if last.fingerprint != fingerprint:
        return Standing("open", f"changed since it was reviewed on {day}", last)
    if last.verdict == "revoke":
        return Standing("open", f"still there, though it was to be revoked on {day}", last)
    if last.until is None or last.until < reviewed_at.astimezone(UTC).date():
        return Standing("open", f"kept only until {last.until or day}", last)
    return Standing("keep", last.reason, last)
