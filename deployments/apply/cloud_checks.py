"""Whether the clouds have what the estate says, before anything runs there: one finding for each thing that was looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from flows.core.errors import Problem

if TYPE_CHECKING:
    from deployments.apply.options import ApplyOptions
    from flows.adapters.estate import EstateFiles
    from flows.adapters.settings import Settings
    from flows.core.placement.estate import Pool, Site

Result = Literal["ok", "wrong", "unknown"]


@dataclass(frozen=True, slots=True)
class Found:
    """What one check found: `wrong` must be put right, `unknown` is what could not be checked, and why."""

    check: str
    result: Result
    problem: Problem

    def __str__(self) -> str:
        word = {"ok": "ok     ", "wrong": "PROBLEM", "unknown": "UNKNOWN"}[self.result]
        return f"{word}  {self.check}: {self.problem}"

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {"check": self.check, "result": self.result, "found": str(self.problem), "fix": self.problem.fix}


@dataclass(frozen=True, slots=True)
class Looked:
    """One site with its pools, and how to speak of their lines."""

    files: EstateFiles
    site: Site
    bucket: str | None

    @property
    def pools(self) -> tuple[tuple[int, Pool], ...]:
        """The site's pools with their rows."""
        return tuple((row, pool) for row, pool in enumerate(self.files.estate.pools) if pool.site == self.site.id)

    def ok(self, check: str, what: str) -> Found:
        """As declared."""
        return Found(f"{self.site.id} {check}", "ok", Problem(what))

    def wrong(self, check: str, problem: Problem) -> Found:
        """Not as declared."""
        return Found(f"{self.site.id} {check}", "wrong", problem)

    def unknown(self, check: str, why: str, fix: str) -> Found:
        """Not to be seen from here."""
        return Found(f"{self.site.id} {check}", "unknown", Problem(f"could not check: {why}", fix=fix))

    def at_site(self, what: str, field: str, *, expected: str | None = None, fix: str | None = None) -> Problem:
        """A problem of the site's own row."""
        return self.files.problem("sites", self.files.estate.sites.index(self.site), what, field=field, expected=expected, fix=fix)

    def at_pool(
        self, row: int, what: str, *, field: str = "infrastructure", expected: str | None = None, fix: str | None = None
    ) -> Problem:
        """A problem of a pool's row."""
        return self.files.problem("pools", row, what, field=field, expected=expected, fix=fix)

    def unoffered(self, check: str, wanted: set[str], there: set[str]) -> Iterator[Found]:
        """Machine types of the table that the cloud does not have in the region."""
        offers = self.files.estate.offers
        for name in sorted(wanted - there):
            row = next(row for row, offer in enumerate(offers) if (offer.site, offer.name) == (self.site.id, name))
            what = f"`{name}` is not offered in `{self.site.region}`"
            yield self.wrong(
                check, self.files.problem("offers", row, what, field="InstanceType", fix="take the row out, or correct the name")
            )
        if wanted <= there:
            yield self.ok(check, f"{len(wanted)} machine types are offered in `{self.site.region}`")


def examine(settings: Settings, options: ApplyOptions) -> tuple[Found, ...]:
    """Every site of a cloud that has pools of a type that runs there; nothing is written anywhere.

    Raises:
        UserError: the estate's files are wrong.
    """
    from deployments.apply import checks_aws, checks_gcp, checks_kubernetes
    from flows.adapters.estate import read_estate

    clouds: dict[str, Callable[[Looked], Iterator[Found]]] = {"aws": checks_aws.look, "gcp": checks_gcp.look}
    files = read_estate(settings.deployments / "estate")
    used = {pool.site for pool in files.estate.pools}
    found: list[Found] = [keys(settings)]
    for site in files.estate.sites:
        look = clouds.get(site.cloud)
        looked = Looked(files, site, bucket_of(options, site.id))
        if look is not None and site.id in used:
            found += look(looked)
        found += checks_kubernetes.look(looked)
    return tuple(found)


def keys(settings: Settings) -> Found:
    """Whether runs have a key of control's to verify their tickets with."""
    from flows.adapters import signing

    known = len(signing.keyring(settings).keys)
    if known:
        return Found("signing keys", "ok", Problem(f"{known} public keys of control are known"))
    fix = "start control's worker once, which enrols its key, or set `TRADEWIND_PUBLIC_KEYS`; then `tradewind apply`"
    return Found("signing keys", "wrong", Problem("no public key of control is known: every run refuses its ticket", fix=fix))


def bucket_of(options: ApplyOptions, site: str) -> str | None:
    """The bucket of a site's data, where its connection is known."""
    connection = options.sites.get(site)
    if connection is None or not connection.url.startswith(("s3://", "gs://")):
        return None
    return connection.url.partition("://")[2].partition("/")[0]
