"""Which proofs a site owes by its ceiling, when one is lost, and what is then not eligible. Pure.

::

    nothing --proved--> proved --valid_until--> stale
       |                  |  ^
       |failed      failed|  |proved            a check that could not be made takes the place of nothing:
       v                  v  |                  neither does an outage cost a proof that holds, nor does it end a failure
     failed <-------------- failed
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from flows.core.canonical import content_hash, instant

if TYPE_CHECKING:
    from flows.core.placement.model import Estate
    from flows.core.placement.request import Request

Check = Literal["encryption-at-rest", "tls-in-transit", "no-public-access", "secrets"]
Outcome = Literal["proved", "failed", "unchecked"]
Profile = Literal["embedded", "cloud"]
CHECKS: tuple[Check, ...] = get_args(Check)
TRANSIT: Check = "tls-in-transit"
OWED: Mapping[str, frozenset[Check]] = {
    "public": frozenset({"tls-in-transit", "secrets"}),
    "internal": frozenset({"tls-in-transit", "secrets", "no-public-access"}),
    "confidential": frozenset(CHECKS),
    "restricted": frozenset(CHECKS),
}
"""Ceiling of a site to the proofs that it owes."""

Text = Annotated[str, StringConstraints(min_length=1, pattern=r"^[^\r\n]*$")]
Unproven = Mapping[str, Mapping[str, str]]
"""Site to the checks that it owes and has no proof of, each with why."""


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Bucket(_Model):
    """Where a site's data rests. `key` is the one that must encrypt it; left out: any key of the provider."""

    provider: Literal["aws", "gcp"]
    name: Text
    region: Text | None = None
    key: Text | None = Field(default=None, description="aws: a key's id, ARN or `alias/…`; gcp: `projects/…/cryptoKeys/…`")
    endpoint: Text | None = Field(default=None, description="another address of the storage interface, such as a private one")
    key_endpoint: Text | None = Field(default=None, description="another address of the interface of keys")


class Attestation(_Model):
    """A person's word for what cannot be proved from where the checks run; it counts through the UTC day `until`."""

    check: Literal["encryption-at-rest", "no-public-access"]
    by: Annotated[Text, Field(description="the role, or an account name, of whoever looked")]
    saw: Text
    on: date
    until: Annotated[date, Field(lt=date.max)]

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.on > self.until:
            raise ValueError(f"`on` {self.on} is after `until` {self.until}")
        return self


class SiteSecurity(_Model):
    """How the proofs of one site are made. `endpoints` are `host` or `host:port` that its runs talk to, port 443 if left out."""

    site: Text
    bucket: Bucket | None = None
    endpoints: tuple[Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.-]+(:[0-9]{1,5})?$")], ...] = ()
    namespace: Text | None = Field(default=None, description="kubernetes: where its runs are, to be searched for secrets")
    context: Text | None = Field(default=None, description="kubernetes: a context of the kubeconfig; left out: the current one")
    attested: tuple[Attestation, ...] = ()


class Demand(_Model):
    """Sites whose proofs are demanded in a profile.

    `unless_proved` says what a check that was never made, or is stale, means: `refuse` as if it had failed, or `accept`.
    """

    profile: Profile
    sites: tuple[Annotated[Text, Field(description="a site, or a pattern with `*`")], ...]
    checks: frozenset[Check] = frozenset(CHECKS)
    unless_proved: Literal["refuse", "accept"] = "refuse"


class Security(_Model):
    """The declaration: how long a proof holds, whose proofs are demanded, and how each site's are made."""

    holds_hours: Annotated[int, Field(ge=1, le=8760)]
    demands: tuple[Demand, ...]
    sites: tuple[SiteSecurity, ...] = ()

    @model_validator(mode="after")
    def _told_apart(self) -> Self:
        names = [one.site for one in self.sites]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"site `{doubled[0]}` is declared twice")
        return self

    def of(self, site: str) -> SiteSecurity:
        """How a site's proofs are made; one that is not declared has nothing to prove them with."""
        return next((one for one in self.sites if one.site == site), SiteSecurity(site=site))

    @property
    def holds(self) -> timedelta:
        """How long a proof counts."""
        return timedelta(hours=self.holds_hours)


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check at one site. `facts` are what was seen, for the hash that the ledger keeps; never a secret.

    `holds_until` ends it before its usual time.
    """

    site: str
    check: Check
    outcome: Outcome
    observed: str
    expected: str = ""
    fix: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    holds_until: datetime | None = None

    @property
    def evidence(self) -> str:
        """sha256 of what was seen."""
        return content_hash({"facts": dict(self.facts), "observed": self.observed, "outcome": self.outcome})

    def to_json(self) -> dict[str, str]:
        """The finding for programs."""
        told = {name: getattr(self, name) for name in ("site", "check", "outcome", "observed", "expected", "fix")}
        return {**told, "evidence": self.evidence}


@dataclass(frozen=True, slots=True)
class Proof:
    """What is on record of one check at one site."""

    site: str
    check: str
    outcome: str
    at: datetime
    valid_until: datetime
    evidence: str


def owed(security: Security, profile: str, estate: Estate) -> dict[str, dict[Check, bool]]:
    """The proofs that are demanded: site to check to whether it counts as lost until it was made. The stricter of two demands holds."""
    found: dict[str, dict[Check, bool]] = {}
    for site in estate.sites:
        for demand in security.demands:
            if demand.profile != profile or not any(fnmatchcase(site.id, pattern) for pattern in demand.sites):
                continue
            checks = found.setdefault(site.id, {})
            for check in sorted(demand.checks & OWED[site.max_classification]):
                checks[check] = checks.get(check, False) or demand.unless_proved == "refuse"
    return found


def unproven(owes: Mapping[str, Mapping[Check, bool]], proofs: Iterable[Proof], at: datetime) -> dict[str, dict[str, str]]:
    """What each site owes and has no proof of at the instant, with why; sites that lack nothing are left out."""
    known = {(proof.site, proof.check): proof for proof in proofs}
    found: dict[str, dict[str, str]] = {}
    for site, checks in sorted(owes.items()):
        lost: dict[str, str] = {
            check: why for check, strict in sorted(checks.items()) if (why := _lost(known.get((site, check)), strict, at))
        }
        if lost:
            found[site] = lost
    return found


def _lost(proof: Proof | None, strict: bool, at: datetime) -> str:
    if proof is not None and proof.outcome == "failed":
        return f"failed at {instant(proof.at)}"
    if not strict or (proof is not None and proof.outcome == "proved" and proof.at <= at < proof.valid_until):
        return ""
    if proof is None or proof.outcome == "unchecked":
        return "was never proved"
    return f"stale since {instant(proof.valid_until)}" if at >= proof.valid_until else f"not proved before {instant(proof.at)}"


def counts(new: Proof, old: Proof | None) -> bool:
    """Whether a new outcome takes the place of the one on record: a check that could not be made takes that of no other."""
    if old is None:
        return True
    return new.at >= old.at and (new.outcome != "unchecked" or old.outcome == "unchecked")


def proof_of(finding: Finding, holds: timedelta, at: datetime) -> Proof:
    """The finding as it goes on record; only what was proved holds for any time."""
    until = at + holds if finding.holds_until is None else min(at + holds, finding.holds_until)
    return Proof(finding.site, finding.check, finding.outcome, at, until if finding.outcome == "proved" else at, finding.evidence)


def unproven_for(request: Request, site: str, lost: Unproven) -> tuple[tuple[str, str, str], ...]:
    """(site, check, why) of each proof that the request, run at the site, would need and that is lost: the run's, or that of its outputs.

    A transfer may leave a site whatever that has lost, but not over a line that is not proved to be encrypted.
    """
    gets = {output.home or site for output in request.outputs} | {site}
    left = site if request.step == "transfer" and all(output.home not in (None, site) for output in request.outputs) else None
    return tuple(
        (name, check, why)
        for name in sorted(gets & set(lost))
        for check, why in sorted(lost[name].items())
        if name != left or check == TRANSIT
    )


def attested(finding: Finding, attestations: Iterable[Attestation], at: datetime) -> Finding:
    """The finding, or what a person attested in the place of a check that could not be made here."""
    today = at.date()
    if finding.outcome != "unchecked":
        return finding
    for one in attestations:
        if one.check == finding.check and one.on <= today <= one.until:
            end = datetime.combine(one.until + timedelta(days=1), time.min, tzinfo=at.tzinfo)
            told = f"attested by {one.by} on {one.on}, until {one.until}: {one.saw}"
            return Finding(finding.site, finding.check, "proved", told, facts={"on": str(one.on), "until": str(one.until)}, holds_until=end)
    return finding


@dataclass(frozen=True, slots=True)
class Wrong:
    """One thing that stands against a proof: what was seen, what is needed, how to put it right."""

    observed: str
    expected: str
    fix: str


def judged(site: str, check: Check, wrong: Iterable[Wrong], good: str, facts: Mapping[str, Any]) -> Finding:
    """One finding of everything that was wrong, or that it is proved."""
    found = list(wrong)
    if not found:
        return Finding(site, check, "proved", good, facts=facts)
    told = ["; ".join(dict.fromkeys(parts)) for parts in zip(*((one.observed, one.expected, one.fix) for one in found), strict=True)]
    return Finding(site, check, "failed", told[0], told[1], told[2], facts=facts)
