"""The short-lived credentials of one run: asked for at its start, for its own datasets only, and gone with it.

AWS and what speaks its language: a session of the site's role, narrowed by a session policy (`AssumeRole`; `AssumeRoleWithWebIdentity`
where the run's own platform signs a token: a file on Kubernetes, Google's metadata server). Google Cloud: a token of the service account,
from AWS by workload identity federation, narrowed by a Credential Access Boundary. Who is asked as whom, the estate says.
Where a store has no such service, the declared keys or the machine's identity stay, and the ledger says so. A run may outlive a session:
the next one is asked for in time, with the same policy. Whoever cannot be asked gives nothing, and then nothing is opened.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from flows.adapters.run_identity import AWS_POOLS, SCOPE, identity_token, vouched_by_aws
from flows.adapters.settings import POOL_VARIABLE
from flows.core.canonical import sha256_hex
from flows.core.errors import GuardRefused, Unavailable, UserError
from flows.core.governance import session_policies
from flows.core.governance.session_policies import SECONDS, Reach, Root

if TYPE_CHECKING:
    from collections.abc import Callable

    from flows.adapters.settings import Settings, SiteConnection
    from flows.core.placement.model import Estate, Pool

How = Literal["assume-role", "web-identity", "downscoped", "ambient"]
AMBIENT: How = "ambient"
ROLE = "AWS_ROLE_ARN"
"""What AWS's own clients call the role that a projected token is for; EKS sets it."""
RENEWED = 300
"""Seconds before its end that a session is replaced by the next."""


@dataclass(frozen=True)
class Narrowed:
    """One credential and the sites it is for; `policy` is what it was narrowed by. The library that holds it renews it."""

    sites: tuple[str, ...]
    how: How
    policy: str = ""
    expires_at: datetime | None = None
    held: Any = field(default=None, repr=False)


@dataclass(frozen=True)
class Credentials:
    """What this run asked for, by site; it tells no secret when printed."""

    by_site: Mapping[str, Narrowed] = field(repr=False)
    _site_of: Mapping[str, str] = field(repr=False)

    @property
    def public(self) -> list[dict[str, Any]]:
        """For the record: sites, how, until when, the sha256 of the policy; nothing that opens anything."""
        found = {id(one): one for one in self.by_site.values()}
        return [
            {
                "sites": list(one.sites),
                "how": one.how,
                "policy": sha256_hex(one.policy.encode()) if one.policy else None,
                "expires_at": one.expires_at.isoformat(timespec="seconds").replace("+00:00", "Z") if one.expires_at else None,
            }
            for one in found.values()
        ]

    def held(self, connection: SiteConnection) -> Any:
        """Credentials of `botocore` or of Google's library that renew themselves, for a site of this run; None: the store gives none.

        Raises:
            GuardRefused: the run asked for nothing there.
        """
        site = self._site_of.get(connection.url)
        if site is None:
            raise GuardRefused(
                f"this run asked for no credentials of `{connection.url}`",
                expected=f"one of {', '.join(f'`{url}`' for url in self._site_of)}",
                fix="data reaches another site only through the `transfer` step",
            )
        return self.by_site[site].held


_current: Credentials | None = None


def current() -> Credentials | None:
    """The credentials that this run asked for; None: nobody asked, and the declared or the machine's own hold."""
    return _current


@contextmanager
def acquire(
    site: str,
    workload: str,
    step: str,
    settings: Settings,
    *,
    intent: str,
    inputs: Iterable[str] = (),
    destination: str | None = None,
    until: datetime | None = None,
) -> Iterator[Credentials | None]:
    """Ask for the credentials of a run and hold them until it ends; in the embedded profile, where sites are folders, nothing is asked.

    Args:
        site: where it runs.
        workload: whose.
        step: which.
        settings: where sites keep their data.
        intent: what it fulfils; names the session.
        inputs: the datasets that it was sent with.
        destination: where a `transfer` brings them.
        until: when it is meant to have ended at the latest; a session lasts an hour at most.

    Raises:
        Unavailable: nobody gave the credentials: nothing may be opened.
        UserError: a name that no policy could take, a policy that is too long, a site without a root or a role.
    """
    global _current
    if settings.profile != "cloud":
        yield None
        return
    wanted = _reaches(site, workload, step, settings, inputs, destination)
    asked = _Asked(workload, step, intent, _seconds(until))
    found: dict[str, Narrowed] = {}
    for way, group in _together(wanted, settings).items():
        one = asked.credentials(way, group, settings)
        found |= dict.fromkeys(group, one)
    _current = Credentials(found, {settings.sites[name].url: name for name in found})
    try:
        yield _current
    finally:
        _current = None


def _reaches(site: str, workload: str, step: str, settings: Settings, inputs: Iterable[str], destination: str | None) -> dict[str, Reach]:
    names = [site] if destination is None else [site, destination]
    roots = [root_of(name, settings) for name in names]
    found = session_policies.step_reach(workload, step, inputs, roots[0], destination=None if destination is None else roots[1])
    return dict(zip(names, found, strict=True))


def root_of(site: str, settings: Settings) -> Root:
    """A site's bucket, as policies name it.

    Raises:
        UserError: the site has no root.
    """
    connection = settings.sites.get(site)
    if connection is None:
        raise UserError(f"site `{site}` has no root for its data", field="TRADEWIND_SITES", expected=f'`{{"{site}": {{"url": "s3://…"}}}}`')
    parts = urlsplit(connection.url)
    inside = "".join(f"{part}/" for part in parts.path.split("/") if part)
    return Root(parts.netloc, inside, connection.kms_key if parts.scheme == "s3" and connection.endpoint is None else None)


@dataclass(frozen=True, slots=True)
class _Way:
    """How a site's store is asked: at which address, as whom, known by what. Sites with the same way can have one credential."""

    scheme: str
    endpoint: str | None
    declared: str | None = field(repr=False)
    """The secret that the estate's keeper gave for it."""
    role: str | None = None
    token: Callable[[], str] | None = None
    """AWS: the token that the run's own platform signs."""
    provider: str | None = None
    """Google: the provider that knows the run by its role at AWS; `role` is then the service account."""


def _together(wanted: Mapping[str, Reach], settings: Settings) -> dict[_Way, dict[str, Reach]]:
    """The sites that one credential can cover: those of one kind of store, asked alike."""
    from flows.adapters.estate import load_estate

    estate = load_estate(settings.deployments / "estate")
    pool = estate.pool_by_name.get(os.environ.get(POOL_VARIABLE, ""))
    token = identity_token(pool)
    groups: dict[_Way, dict[str, Reach]] = {}
    for name, reach in wanted.items():
        groups.setdefault(_way(name, settings.sites[name], estate, pool, token), {})[name] = reach
    return groups


def _way(name: str, connection: SiteConnection, estate: Estate, pool: Pool | None, token: Callable[[], str] | None) -> _Way:
    scheme = urlsplit(connection.url).scheme
    plain = _Way(scheme, connection.endpoint, connection.secret.get("credentials"))
    site = estate.site_by_id.get(name)
    access = site.access_role if site is not None else None
    if scheme == "s3":
        known = os.environ.get(ROLE) or (access if token is not None else None)
        own = str(pool.infrastructure.get("role", "")) if pool is not None else ""
        return replace(plain, role=known or (own if own.startswith("arn:") else None), token=token)
    if scheme == "gs" and site is not None and pool is not None and pool.type in AWS_POOLS:
        return replace(plain, role=access, provider=site.access_provider)
    return plain


def _seconds(until: datetime | None) -> int:
    least, most = SECONDS
    left = most if until is None else int((until - datetime.now(UTC)).total_seconds())
    return max(least, min(most, left))


@dataclass(frozen=True, slots=True)
class _Asked:
    """Who asks, for how long."""

    workload: str
    step: str
    intent: str
    seconds: int

    def credentials(self, way: _Way, reaches: Mapping[str, Reach], settings: Settings) -> Narrowed:
        """One credential for these sites, which are asked alike."""
        sites = tuple(reaches)
        connection = settings.sites[sites[0]]
        if way.scheme == "s3":
            return self._aws(sites, list(reaches.values()), way)
        if way.scheme == "gs":
            return self._google(sites, list(reaches.values()), connection, way)
        return Narrowed(sites, AMBIENT)

    def _aws(self, sites: tuple[str, ...], reaches: list[Reach], way: _Way) -> Narrowed:
        if (way.token is None or way.role is None) and (way.declared is not None or way.endpoint is not None):
            return Narrowed(sites, AMBIENT)
        if way.role is None:
            raise UserError(
                f"no role is known for the data of `{sites[0]}`",
                expected="a pool with `infrastructure: {role: arn:…}`; else one with `web_identity`, and `access_role` of the site",
                fix="see docs/least-privilege.md",
            )
        from botocore.credentials import RefreshableCredentials

        policy = session_policies.session_policy(reaches, self.workload)
        how: How = "assume-role" if way.token is None else "web-identity"

        def ask() -> dict[str, str]:
            return self._session(sites[0], policy, way)

        first = ask()
        held = RefreshableCredentials.create_from_metadata(
            metadata=first, refresh_using=ask, method=how, advisory_timeout=RENEWED, mandatory_timeout=RENEWED // 2
        )
        return Narrowed(sites, how, policy, datetime.fromisoformat(first["expiry_time"]), held)

    def _session(self, site: str, policy: str, way: _Way) -> dict[str, str]:
        import boto3
        from botocore import UNSIGNED
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError, ClientError
        from google.auth.exceptions import GoogleAuthError

        from flows.adapters.bucket_credentials import s3_region

        name = session_policies.session_name(self.workload, self.step, self.intent)
        request: dict[str, Any] = {"RoleArn": way.role, "RoleSessionName": name, "Policy": policy, "DurationSeconds": self.seconds}
        config = Config(
            retries={"mode": "standard", "total_max_attempts": 4},
            connect_timeout=5,
            read_timeout=20,
            signature_version=None if way.token is None else UNSIGNED,
        )
        try:
            sts: Any = boto3.session.Session().client("sts", region_name=s3_region(), endpoint_url=way.endpoint, config=config)
            if way.token is None:
                found = sts.assume_role(**request, Tags=self._tags())["Credentials"]
            else:
                found = sts.assume_role_with_web_identity(**request, WebIdentityToken=way.token())["Credentials"]
        except ClientError as error:
            answer = error.response.get("Error", {})
            raise self._nothing(site, f"{answer.get('Code', '')} {answer.get('Message', '')}".strip()) from error
        except (BotoCoreError, GoogleAuthError, OSError) as error:
            raise self._nothing(site, str(error)) from error
        return {
            "access_key": found["AccessKeyId"],
            "secret_key": found["SecretAccessKey"],
            "token": found["SessionToken"],
            "expiry_time": found["Expiration"].astimezone(UTC).isoformat(),
        }

    def _tags(self) -> list[dict[str, str]]:
        values = {"workload": self.workload, "step": self.step, "intent": sha256_hex(self.intent.encode())[:16]}
        return [{"Key": f"tradewind-{name}", "Value": value} for name, value in values.items()]

    def _google(self, sites: tuple[str, ...], reaches: list[Reach], connection: SiteConnection, way: _Way) -> Narrowed:
        from flows.adapters.bucket_credentials import gcs_endpoint

        if gcs_endpoint(connection) is not None:
            return Narrowed(sites, AMBIENT)
        import google.auth
        import google.auth.exceptions
        import google.auth.transport.requests
        from google.auth import downscoped

        rules = session_policies.access_boundary(reaches)
        boundary = downscoped.CredentialAccessBoundary(  # type: ignore[no-untyped-call]
            [
                downscoped.AccessBoundaryRule(  # type: ignore[no-untyped-call]
                    rule["availableResource"],
                    rule["availablePermissions"],
                    downscoped.AvailabilityCondition(rule["availabilityCondition"]["expression"]),  # type: ignore[no-untyped-call]
                )
                for rule in rules
            ]
        )
        try:
            held: Any = downscoped.Credentials(_source(connection, way), boundary)  # type: ignore[no-untyped-call]
            held.refresh(google.auth.transport.requests.Request())
        except google.auth.exceptions.GoogleAuthError as error:
            raise self._nothing(sites[0], str(error)) from error
        expires = held.expiry.replace(tzinfo=UTC) if held.expiry else None
        return Narrowed(sites, "downscoped", session_policies.compact({"accessBoundaryRules": rules}), expires, held)

    def _nothing(self, site: str, detail: str) -> Unavailable:
        return Unavailable(
            f"`{self.step}` of `{self.workload}` was given no credentials for `{site}`: {detail}",
            expected="a short-lived credential of the site's role, narrowed to this run's datasets",
            fix=f"see docs/least-privilege.md; `tradewind access policy {site}` prints what the role needs",
        )


def _source(connection: SiteConnection, way: _Way) -> Any:
    """Google's credentials that are to be narrowed: the declared ones, those that AWS vouches for, else the machine's."""
    import google.auth

    from flows.adapters.buckets import secret_of

    declared = secret_of(connection)
    if declared is None:
        return google.auth.default(scopes=[SCOPE])[0] if way.provider is None else vouched_by_aws(way.provider, str(way.role))
    from google.oauth2 import service_account

    try:
        return service_account.Credentials.from_service_account_info(declared, scopes=[SCOPE])  # type: ignore[no-untyped-call]
    except ValueError as error:
        raise UserError("the site's `credentials` are none of a service account", field="TRADEWIND_SITES") from error
