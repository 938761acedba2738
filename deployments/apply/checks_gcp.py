"""What Google Cloud says of a site: credentials, project, service accounts, subnets, bucket, machine types. Reads only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from deployments.apply.cloud_checks import Found, Looked

ENDPOINTS: Mapping[str, str] = {
    "projects": "https://cloudresourcemanager.googleapis.com",
    "iam": "https://iam.googleapis.com",
    "compute": "https://compute.googleapis.com",
    "storage": "https://storage.googleapis.com",
}
SCOPE = "https://www.googleapis.com/auth/cloud-platform.read-only"
SECONDS = 15
RENEW = "sign in again (`gcloud auth application-default login`), or name a key that holds, then repeat"


class _Refused(Exception):
    """An answer that is neither the thing nor that it is missing."""


def look(at: Looked, endpoints: Mapping[str, str] = ENDPOINTS) -> Iterator[Found]:
    """Each check of one site; without credentials that hold, no other check is made."""
    google = _Google(at, endpoints)
    named = google.credentials()
    yield named
    if named.result != "ok":
        return
    checks: Mapping[str, Callable[[str], Iterator[Found]]] = {
        "project": google.project,
        "roles": google.roles,
        "subnets": google.subnets,
        "bucket": google.bucket,
        "machine types": google.machine_types,
    }
    for check, make in checks.items():
        yield from google.guarded(check, make)


class _Google:
    def __init__(self, at: Looked, endpoints: Mapping[str, str]) -> None:
        self.at = at
        self.endpoints = endpoints
        self.session: Any = None

    def credentials(self) -> Found:
        """Whether the credentials hold: a token is asked for, now."""
        import google.auth
        from google.auth.exceptions import DefaultCredentialsError, RefreshError, TransportError
        from google.auth.transport.requests import AuthorizedSession, Request

        at, check = self.at, "credentials"
        try:
            found: Any = google.auth.default(scopes=[SCOPE])[0]
            found.refresh(Request())
        except DefaultCredentialsError as error:
            return at.wrong(check, at.at_site(f"no credentials for Google Cloud: {_first(error)}", "account", fix=RENEW))
        except RefreshError as error:
            return at.wrong(
                check, at.at_site(f"the credentials for Google Cloud have expired or are not valid: {_first(error)}", "account", fix=RENEW)
            )
        except TransportError as error:
            return at.unknown(check, f"Google does not answer: {_first(error)}", "look at the network, then repeat")
        authorized: Any = AuthorizedSession
        self.session = authorized(found)
        return at.ok(check, getattr(found, "service_account_email", None) or "valid")

    def guarded(self, check: str, make: Callable[[str], Iterator[Found]]) -> Iterator[Found]:
        """The findings of one check, or that it could not be made."""
        import requests

        try:
            yield from make(check)
        except (_Refused, requests.RequestException) as error:
            yield self.at.unknown(check, _first(error), "allow who looks to read it, or look at the network, then repeat")

    def read(self, api: str, path: str, **parameters: str) -> dict[str, Any] | None:
        """The thing at a path; None where there is none."""
        answer = self.session.get(f"{self.endpoints[api]}/{path}", params=parameters, timeout=SECONDS)
        if answer.status_code == 404:
            return None
        if not answer.ok:
            raise _Refused(f"Google answered {answer.status_code} to `{path}`")
        found: dict[str, Any] = answer.json()
        return found

    def project(self, check: str) -> Iterator[Found]:
        """The site's project is there and active."""
        found = self.read("projects", f"v3/projects/{self.at.site.account}")
        if found is None or found.get("state", "ACTIVE") != "ACTIVE":
            what = f"there is no active project `{self.at.site.account}`"
            yield self.at.wrong(check, self.at.at_site(what, "account", fix="make it, or correct `account`"))
        else:
            yield self.at.ok(check, f"`{self.at.site.account}` is active")

    def roles(self, check: str) -> Iterator[Found]:
        """Each service account that a pool's runs act as is there and not disabled, and the one by which runs elsewhere reach its data."""
        known, fix = dict[str, bool](), "make or enable it, or correct the name"

        def there(name: str) -> bool:
            if name not in known:
                found = self.read("iam", f"v1/projects/-/serviceAccounts/{name}")
                known[name] = found is not None and not found.get("disabled", False)
            return known[name]

        for row, pool in self.at.pools:
            name = pool.infrastructure.get("role")
            if isinstance(name, str) and not there(name):
                what = f"`role` of `{pool.name}` is no service account: `{name}`"
                yield self.at.wrong(check, self.at.at_pool(row, what, fix=fix))
        access = self.at.site.access_role
        if access is not None and not there(access):
            what = f"`access_role` of `{self.at.site.id}` is no service account: `{access}`"
            yield self.at.wrong(check, self.at.at_site(what, "access_role", fix=fix))
        if all(known.values()):
            yield self.at.ok(check, f"{len(known)} service accounts are there")

    def subnets(self, check: str) -> Iterator[Found]:
        """Each subnet that runs are in is in the site's region."""
        for row, pool in self.at.pools:
            name = pool.infrastructure.get("subnetwork")
            if not isinstance(name, str):
                continue
            found = self.read("compute", f"compute/v1/projects/{self.at.site.account}/regions/{self.at.site.region}/subnetworks/{name}")
            if found is None:
                what = f"`{pool.name}` runs in subnet `{name}`, which is not in `{self.at.site.region}`"
                yield self.at.wrong(check, self.at.at_pool(row, what, fix="make it, or correct `subnetwork`"))
            else:
                yield self.at.ok(check, f"`{name}` is there")

    def bucket(self, check: str) -> Iterator[Found]:
        """The site's bucket is in the site's region."""
        bucket, region = self.at.bucket, str(self.at.site.region)
        if bucket is None:
            return
        found = self.read("storage", f"storage/v1/b/{bucket}")
        if found is None:
            fix = "make it, or correct `TRADEWIND_SITES`"
            yield self.at.wrong(check, self.at.at_site(f"there is no bucket `{bucket}`", "region", fix=fix))
        elif found["location"].lower() != region:
            what = f"bucket `{bucket}` is in `{found['location'].lower()}`"
            fix = "name the bucket that is there in `TRADEWIND_SITES`, or correct the site"
            yield self.at.wrong(check, self.at.at_site(what, "region", expected=f"`{region}`", fix=fix))
        else:
            yield self.at.ok(check, f"`{bucket}` is in `{region}`")

    def machine_types(self, check: str) -> Iterator[Found]:
        """The machine types of the offers exist in a zone of the region."""
        vertex = [pool for _, pool in self.at.pools if pool.type == "vertex-ai"]
        wanted = {offer.name for pool in vertex for offer in self.at.files.estate.offers_of(pool)}
        if not wanted:
            return
        there: set[str] = set()
        chosen = " OR ".join(f'(name = "{name}")' for name in sorted(wanted))
        token: str | None = ""
        while token is not None:
            page = (
                self.read("compute", f"compute/v1/projects/{self.at.site.account}/aggregated/machineTypes", filter=chosen, pageToken=token)
                or {}
            )
            for zone, rows in page.get("items", {}).items():
                if zone.startswith(f"zones/{self.at.site.region}-"):
                    there |= {row["name"] for row in rows.get("machineTypes", [])}
            token = page.get("nextPageToken")
        yield from self.at.unoffered(check, wanted, there)


def _first(error: Exception) -> str:
    return (str(error.args[0]) if error.args else str(error)).splitlines()[0] if str(error) else type(error).__name__
