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
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from flows.adapters import step_credentials
from flows.adapters.bucket_credentials import gcs_credentials
from flows.adapters.settings import Settings, SiteConnection
from flows.adapters.step_credentials import acquire, current
from flows.adapters.storage import site_storage
from flows.core.errors import Unavailable
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

    def post(self, path: str, body: dict[str, str]) -> tuple[int, dict[str, Any]]:
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
        """Metadata of an object, or a list of none."""
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
            self._answer(*found.post(self.path, {name: values[0] for name, values in parse_qs(text).items()}))

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


def test_without_an_answer_nothing_is_opened(google: Google, settings: Settings) -> None:
    """Nobody falls back to the whole token."""
    google.broken = True
    message = f"`train` of `nafld` was given no credentials for `{SITE}`: .*disabled"
    with pytest.raises(Unavailable, match=message), acquire(SITE, "nafld", "train", settings, intent="i", inputs=["nafld-raw"]):
        pytest.fail("the run went on")


def test_an_emulator_has_no_accounts(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked without credentials, and the record says so."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    with acquire(SITE, "nafld", "train", settings, intent="i") as held:
        assert held is not None and held.public[0]["how"] == step_credentials.AMBIENT
