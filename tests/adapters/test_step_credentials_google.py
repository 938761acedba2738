"""A narrowed token of Google's, by `google-auth` itself from a local server that speaks its token exchange (RFC 8693); not Google's own.

The service account's key is made here, and its token endpoint is the same server; only the exchange's address, fixed in the client, is
replaced. Cloud Storage is pretended as far as to answer by the rules that the token was exchanged with, as our oracle reads them
(`tests/core/governance/policy_oracle.py`).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from flows.adapters import run_identity, step_credentials
from flows.adapters.bucket_credentials import gcs_credentials
from flows.adapters.settings import Settings, SiteConnection
from flows.adapters.step_credentials import acquire, current
from flows.adapters.storage import site_storage
from flows.core.errors import Unavailable
from flows.core.governance.session_policies import Root, step_reach
from tests.core.governance.policy_oracle import google_allows

SITE, BUCKET = "gcp-europe-west4", "tradewind-nl"
WHOLE = "whole-token"
OWN, OTHERS = "data/datasets/nafld-raw/v1/data.txt", "data/datasets/flight_delay-raw/v1/data.txt"


@dataclass
class Google:
    """The server: what it exchanged, by the narrow token that it gave."""

    url: str = ""
    exchanged: dict[str, dict[str, Any]] = field(default_factory=dict)
    boundaries: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    broken: bool = False
    vouched: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """From AWS: the audience, and the signed request that says who asks."""
    impersonated: list[str] = field(default_factory=list)

    def post(self, path: str, body: dict[str, str], token: str = "") -> tuple[int, dict[str, Any]]:
        if path == "/federation":
            assert body["subject_token_type"] == "urn:ietf:params:aws:token-type:aws4_request"
            self.vouched.append((body["audience"], json.loads(unquote(body["subject_token"]))))
            return 200, {"access_token": "federated", "expires_in": 3600, "token_type": "Bearer", "issued_token_type": "x"}
        if path.startswith("/impersonation/"):
            assert token == "federated"
            self.impersonated.append(path.removeprefix("/impersonation/"))
            return 200, {"accessToken": WHOLE, "expireTime": (datetime.now(UTC) + timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")}
        if path == "/token":
            return 200, {"access_token": WHOLE, "expires_in": 3600, "token_type": "Bearer"}
        if self.broken:
            return 400, {"error": "invalid_grant", "error_description": "the account is disabled"}
        assert body["grant_type"] == "urn:ietf:params:oauth:grant-type:token-exchange" and body["subject_token"] == WHOLE
        token = f"narrow-{len(self.exchanged)}"
        self.exchanged[token] = body
        self.boundaries[token] = json.loads(unquote(body["options"]))["accessBoundary"]["accessBoundaryRules"]
        # as Google does, it leaves the end of the token to its source
        return 200, {"access_token": token, "issued_token_type": "urn:ietf:params:oauth:token-type:access_token", "token_type": "Bearer"}

    def get(self, path: str, token: str) -> tuple[int, dict[str, Any]]:
        """Metadata of an object, or a list of none; what ECS gives a task."""
        if path == "/ecs":
            end = (datetime.now(UTC) + timedelta(hours=6)).strftime("%Y-%m-%dT%H:%M:%SZ")
            return 200, {"AccessKeyId": "ASIAOFTHETASK", "SecretAccessKey": "hush", "Token": "of-the-task", "Expiration": end}
        parts, query = unquote(urlsplit(path).path).removeprefix("/storage/v1/b/").split("/o", 1), parse_qs(urlsplit(path).query)
        bucket, name = parts[0], parts[1].removeprefix("/")
        asked = ("get", name) if name else ("list", query.get("prefix", [""])[0])
        if token != WHOLE and not google_allows(self.boundaries.get(token, []), asked[0], bucket, asked[1]):
            return 403, {"error": {"code": 403, "message": "Permission denied by access boundary"}}
        return 200, {"name": name, "size": "1", "generation": "1"} if name else {"items": []}


@pytest.fixture
def google(monkeypatch: pytest.MonkeyPatch) -> Iterator[Google]:
    found = Google()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            text = self.rfile.read(int(self.headers["Content-Length"])).decode()
            given = {} if self.path.startswith("/impersonation/") else {name: values[0] for name, values in parse_qs(text).items()}
            self._answer(*found.post(self.path, given, self.headers.get("Authorization", "").removeprefix("Bearer ")))

        def do_GET(self) -> None:
            self._answer(*found.get(self.path, self.headers.get("Authorization", "").removeprefix("Bearer ")))

        def _answer(self, status: int, body: dict[str, Any]) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    monkeypatch.setattr("google.auth.downscoped._STS_TOKEN_URL_PATTERN", f"{found.url}/exchange?{{}}")
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def settings(google: Google, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Of a run whose identity is a service account."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()
    account = {
        "type": "service_account",
        "client_email": "run@tradewind-example.iam.gserviceaccount.com",
        "token_uri": f"{google.url}/token",
    }
    (tmp_path / "account.json").write_text(json.dumps({**account, "private_key": pem, "project_id": "tradewind-example"}))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "account.json"))
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("TRADEWIND_POOL", f"{SITE}-vertex")
    return Settings(profile="cloud", home=tmp_path, sites={SITE: SiteConnection(url=f"gs://{BUCKET}/data")})


def reads(google: Google, token: str, name: str) -> bool:
    """Whether a token opens an object."""
    return google.get(f"/storage/v1/b/{BUCKET}/o/{name}", token)[0] == 200


def test_the_token_of_a_run_is_exchanged_for_a_narrow_one(google: Google, settings: Settings) -> None:
    """With the boundary of the step's own folders; the whole token opens anything, the narrow one these only."""
    with acquire(SITE, "nafld", "train", settings, intent="i", inputs=["nafld-raw"]) as held:
        assert held is not None
        token = held.held(settings.sites[SITE]).token
        assert reads(google, WHOLE, OTHERS) and reads(google, token, OWN)
        assert not reads(google, token, OTHERS) and not reads(google, token, "data/datasets/nafld-raw2/v/f")
        (given,) = held.public
        assert (given["how"], given["sites"]) == ("downscoped", [SITE])
        assert 3000 < (datetime.fromisoformat(given["expires_at"]) - datetime.now(UTC)).total_seconds() <= 3600
        assert token not in f"{held!r}{held.by_site!r}{held.public}"
    assert current() is None


def test_clouds_own_client_sends_the_narrow_token(google: Google, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the bucket of the site, by `google-cloud-storage`."""
    with acquire(SITE, "nafld", "train", settings, intent="i", inputs=["nafld-raw"]):
        assert gcs_credentials(settings.sites[SITE]).token == "narrow-0"
        monkeypatch.setattr("flows.adapters.bucket_gcs.gcs_endpoint", lambda _: google.url)
        bucket = site_storage(SITE, settings).bucket  # type: ignore[attr-defined]
        assert bucket.head(OWN.removeprefix("data/")).size == 1
        assert list(bucket.list("datasets/nafld-raw/")) == []
        for work in (lambda: bucket.head(OTHERS.removeprefix("data/")), lambda: list(bucket.list("datasets/"))):
            with pytest.raises(Unavailable, match=r"refused this run: .*access boundary"):
                work()


def test_mlflows_client_sends_the_narrow_token(google: Google, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it would have taken the machine's identity; after the run it is as it was."""
    from google.api_core.exceptions import Forbidden
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository, get_registered_artifact_repositories

    before = get_registered_artifact_repositories()["gs"]
    with acquire(SITE, "nafld", "train", settings, intent="i"):
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", google.url)  # where the client finds the server, after the run has its token
        with site_storage(SITE, settings).reached():
            repository: Any = get_artifact_repository(f"gs://{BUCKET}/data/artifacts/nafld/run-1/model")
            assert repository.list_artifacts() == []
            with pytest.raises(Forbidden, match="access boundary"):
                get_artifact_repository(f"gs://{BUCKET}/data/artifacts/flight_delay/run-1/model").list_artifacts()
        assert get_registered_artifact_repositories()["gs"] is before


@pytest.fixture
def at_aws(google: Google, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Of a transfer from AWS: a role's keys where ECS has them, and nothing of Google's; the addresses of its services replaced."""
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ROLE_ARN", run_identity.TOKEN_FILE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{google.url}/ecs")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    monkeypatch.setenv("TRADEWIND_POOL", "aws-eu-central-1-ecs")
    monkeypatch.setattr(run_identity, "GOOGLE_STS", f"{google.url}/federation")
    monkeypatch.setattr(run_identity, "IMPERSONATION", f"{google.url}/impersonation")
    return settings


def test_aws_vouches_for_a_run_that_brings_data_to_google(google: Google, at_aws: Settings) -> None:
    """A request that the role has signed, for the site's provider alone; then its service account's token, narrowed as any other."""
    reach = {SITE: step_reach("nafld", "transfer", ["nafld-raw"], Root("tradewind-fra"), destination=Root(BUCKET, "data/"))[1]}
    asked = step_credentials._Asked("nafld", "transfer", "i", 900)
    (way,) = step_credentials._together(reach, at_aws)
    given = asked.credentials(way, reach, at_aws)
    assert (given.how, google.boundaries[given.held.token][0]["availablePermissions"]) == (
        "downscoped",
        ["inRole:roles/storage.objectViewer"],
    )
    assert reads(google, given.held.token, OWN) and not reads(google, given.held.token, OTHERS)
    ((audience, signed),) = google.vouched
    provider = "//iam.googleapis.com/projects/123456789012/locations/global/workloadIdentityPools/tradewind/providers/tradewind-aws"
    headers = {one["key"].lower(): one["value"] for one in signed["headers"]}
    assert (audience, headers["x-goog-cloud-target-resource"]) == (provider, provider)
    assert signed["url"].startswith("https://sts.eu-central-1.amazonaws.com") and "Action=GetCallerIdentity" in signed["url"]
    assert "Credential=ASIAOFTHETASK/" in headers["authorization"] and headers["x-amz-security-token"] == "of-the-task"
    assert google.impersonated == ["tradewind-europe-west4-access@tradewind-example.iam.gserviceaccount.com:generateAccessToken"]
    assert "hush" not in json.dumps(google.vouched)


def test_a_container_without_a_role_is_vouched_for_by_nobody(google: Google, at_aws: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """One message, and nothing is opened."""
    monkeypatch.delenv("AWS_CONTAINER_CREDENTIALS_FULL_URI")
    for name, value in (
        ("AWS_EC2_METADATA_DISABLED", "true"),
        ("AWS_SHARED_CREDENTIALS_FILE", "/nowhere"),
        ("AWS_CONFIG_FILE", "/nowhere"),
    ):
        monkeypatch.setenv(name, value)
    with pytest.raises(Unavailable, match="AWS gives this container no credentials"), acquire(SITE, "nafld", "train", at_aws, intent="i"):
        pytest.fail("the run went on")
    assert not google.vouched


def test_without_an_answer_nothing_is_opened(google: Google, settings: Settings) -> None:
    """Nobody falls back to the whole token."""
    google.broken = True
    message = f"`train` of `nafld` was given no credentials for `{SITE}`: .*disabled"
    with pytest.raises(Unavailable, match=message), acquire(SITE, "nafld", "train", settings, intent="i", inputs=["nafld-raw"]):
        pytest.fail("the run went on")


def test_each_declared_account_is_asked_for_its_own_site(google: Google, settings: Settings, tmp_path: Path) -> None:
    """Whoever may write at the destination of a transfer need not be the one who may read at its source."""
    account = json.loads((tmp_path / "account.json").read_text())
    others = json.dumps({**account, "client_email": "other@tradewind-example.iam.gserviceaccount.com"})
    both = {
        SITE: SiteConnection.model_validate({"url": f"gs://{BUCKET}/data", "credentials": json.dumps(account)}),
        "gcp-europe-west6": SiteConnection.model_validate({"url": "gs://tradewind-ch/data", "credentials": others}),
    }
    apart = settings.model_copy(update={"sites": both})
    with acquire(SITE, "nafld", "transfer", apart, intent="i", inputs=["nafld-raw"], destination="gcp-europe-west6") as held:
        assert held is not None and [one["sites"] for one in held.public] == [[SITE], ["gcp-europe-west6"]]
        opened = [{rule["availableResource"].rpartition("/")[2] for rule in rules} for rules in google.boundaries.values()]
        assert opened == [{BUCKET}, {"tradewind-ch"}]


def test_an_emulator_has_no_accounts(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked without credentials, and the record says so."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    with acquire(SITE, "nafld", "train", settings, intent="i") as held:
        assert held is not None and held.public[0]["how"] == step_credentials.AMBIENT
