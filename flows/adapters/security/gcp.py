"""What Cloud Storage and Cloud KMS say of a site's bucket: its default key, whether that works and rotates, and who is let in.

Buckets are read by the official client, keys over Cloud KMS's REST interface; both with the application's default credentials and only
configuration: `storage.buckets.get`, `storage.buckets.getIamPolicy`, `cloudkms.cryptoKeys.get`; no object.
The default key holds for objects written since it was set.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flows.core.errors import UserError
from flows.core.governance.proofs import Bucket, Finding, Wrong, judged

if TYPE_CHECKING:
    from flows.core.governance.proofs import Check

TIMEOUT = 30.0
"""Seconds for one answer."""
KMS = "https://cloudkms.googleapis.com"
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
EVERYONE = ("allUsers", "allAuthenticatedUsers")


def bucket(site: str, declared: Bucket) -> tuple[Finding, Finding]:
    """Encryption at rest and public access of the bucket; what could not be read is `unchecked`.

    Raises:
        UserError: the client is not installed.
    """
    try:
        import google.cloud.storage  # noqa: F401  only whether it is there
    except ModuleNotFoundError:
        raise UserError(f"the bucket of `{site}` needs `google-cloud-storage`, which is not installed", fix="install it") from None
    return (
        _asked(site, "encryption-at-rest", lambda: _encryption(site, declared)),
        _asked(site, "no-public-access", lambda: _public(site, declared)),
    )


def _asked(site: str, check: Check, ask: Callable[[], Finding]) -> Finding:
    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import GoogleAuthError
    from requests.exceptions import RequestException

    try:
        return ask()
    except (GoogleAPIError, GoogleAuthError, RequestException) as error:
        fix = "see that the endpoint is reached and that this identity may read the bucket's configuration"
        return Finding(site, check, "unchecked", f"Google Cloud could not be asked: {_line(error)}", "its configuration", fix)


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _credentials(endpoint: str | None) -> Any:
    if endpoint is not None and endpoint.startswith("http://"):  # no credentials go where nothing is encrypted
        from google.auth.credentials import AnonymousCredentials

        return AnonymousCredentials()
    import google.auth

    return google.auth.default(scopes=[SCOPE])[0]


def _bucket(declared: Bucket) -> Any:
    from google.cloud import storage

    options = {"api_endpoint": declared.endpoint} if declared.endpoint else None
    client = storage.Client(project="-", credentials=_credentials(declared.endpoint), client_options=options)
    return client.get_bucket(declared.name, timeout=TIMEOUT, retry=None)


def _encryption(site: str, declared: Bucket) -> Finding:
    name, key, used = declared.name, declared.key, _bucket(declared).default_kms_key_name
    facts: dict[str, Any] = {"bucket": name, "key": used}
    if key is None:
        return judged(site, "encryption-at-rest", [], f"bucket `{name}` is encrypted by default: {used or 'a key of Google'}", facts)
    wrong = []
    if used != key:
        fix = f"`gcloud storage buckets update gs://{name} --default-encryption-key={key}`"
        wrong.append(Wrong(f"bucket `{name}` is encrypted with {f'`{used}`' if used else 'a key of Google'}", f"`{key}`", fix))
    told = _key(declared.key_endpoint, key)
    state = (told or {}).get("primary", {}).get("state")
    facts |= {"state": state, "rotation": (told or {}).get("rotationPeriod")}
    if told is None:
        wrong.append(Wrong(f"key `{key}` does not exist", "the declared key", "make the key, or correct `bucket.key`"))
    elif state != "ENABLED":
        wrong.append(Wrong(f"key `{key}` is {state or 'without a version'}", "an enabled key", "enable its primary version"))
    elif not told.get("rotationPeriod"):
        wrong.append(Wrong(f"key `{key}` does not rotate", "a rotation period", f"`gcloud kms keys update {key} --rotation-period=90d …`"))
    return judged(
        site, "encryption-at-rest", wrong, f"bucket `{name}` is encrypted by default with `{key}`, which is enabled and rotates", facts
    )


def _key(endpoint: str | None, key: str) -> dict[str, Any] | None:
    """A key's description; None if there is none."""
    from google.auth.transport.requests import AuthorizedSession

    with AuthorizedSession(_credentials(endpoint)) as session:
        answer = session.get(f"{endpoint or KMS}/v1/{key}", timeout=TIMEOUT)
    if answer.status_code == 404:
        return None
    answer.raise_for_status()
    return dict(answer.json())


def _public(site: str, declared: Bucket) -> Finding:
    name, found = declared.name, _bucket(declared)
    policy = found.get_iam_policy(requested_policy_version=3, timeout=TIMEOUT, retry=None)
    open_to = sorted(f"{member} has {row['role']}" for row in policy.bindings for member in row["members"] if member in EVERYONE)
    settings = found.iam_configuration
    facts = {
        "bucket": name,
        "uniform": bool(settings.uniform_bucket_level_access_enabled),
        "prevention": settings.public_access_prevention,
        "open": open_to,
    }
    wrong = []
    if facts["prevention"] != "enforced":
        fix = f"`gcloud storage buckets update gs://{name} --public-access-prevention`"
        wrong.append(Wrong(f"bucket `{name}` does not prevent public access", "public access prevention enforced", fix))
    if not facts["uniform"]:
        fix = f"`gcloud storage buckets update gs://{name} --uniform-bucket-level-access`"
        wrong.append(Wrong(f"access lists of single objects count in `{name}`", "uniform bucket-level access", fix))
    if open_to:
        fix = f"`gcloud storage buckets remove-iam-policy-binding gs://{name} …`"
        wrong.append(Wrong(f"its policy lets everyone in: {', '.join(open_to)}", "named principals only", fix))
    return judged(
        site, "no-public-access", wrong, f"bucket `{name}` prevents public access, and its policy lets only named principals in", facts
    )
