"""A bucket's encryption and public access: the real clients, over REST, against a local server that speaks what is read of two interfaces.

The server is written from the published references of the storage JSON API and of Cloud KMS; it is not Google's.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlparse

import pytest

from flows.adapters.security import gcp
from flows.core.governance.proofs import Bucket, Finding

pytest.importorskip("google.cloud.storage", reason="the Google Cloud client is not installed")

KEY = "projects/ml/locations/europe-west4/keyRings/data/cryptoKeys/data"
MEMBER = "serviceAccount:w@ml.iam.gserviceaccount.com"


class World:
    """A bucket as it should be, its policy, and its key."""

    def __init__(self) -> None:
        self.bucket: dict[str, Any] = {
            "kind": "storage#bucket",
            "name": "data",
            "encryption": {"defaultKmsKeyName": KEY},
            "iamConfiguration": {"uniformBucketLevelAccess": {"enabled": True}, "publicAccessPrevention": "enforced"},
        }
        self.bindings: list[dict[str, Any]] = [{"role": "roles/storage.objectUser", "members": [MEMBER]}]
        self.keys: dict[str, Any] = {KEY: {"name": KEY, "primary": {"state": "ENABLED"}, "rotationPeriod": "7776000s"}}
        self.refuse = False
        self.authorized: list[str | None] = []
        self.endpoint = ""

    def answer(self, path: str, query: dict[str, list[str]]) -> tuple[int, Any]:
        if self.refuse:
            return 403, {"error": {"code": 403, "message": "storage.buckets.get access denied"}}
        if path == "/storage/v1/b/data":
            return 200, self.bucket
        if path == "/storage/v1/b/data/iam" and query.get("optionsRequestedPolicyVersion") == ["3"]:
            return 200, {"version": 3, "bindings": self.bindings, "etag": "e"}
        key = self.keys.get(path.removeprefix("/v1/"))
        return (200, key) if key else (404, {"error": {"code": 404, "message": "not found"}})

    def look(self, **declared: Any) -> tuple[Finding, Finding]:
        wanted = {"provider": "gcp", "name": "data", "key": KEY, "endpoint": self.endpoint, "key_endpoint": self.endpoint, **declared}
        return gcp.bucket("ams", Bucket.model_validate(wanted))


@pytest.fixture
def world() -> Iterator[World]:
    """The server of one test."""
    made = World()

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            made.authorized.append(self.headers.get("Authorization"))
            url = urlparse(self.path)
            status, body = made.answer(url.path, parse_qs(url.query))
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    made.endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def test_a_bucket_as_it_should_be_is_proved(world: World) -> None:
    """Encrypted by the declared key, which rotates; closed to everyone who is not named. No credentials go over plain HTTP."""
    assert [one.outcome for one in world.look()] == ["proved", "proved"]
    assert set(world.authorized) == {None}


def key(**changes: Any) -> Callable[[World], None]:
    return lambda world: world.keys[KEY].update(changes)


REST: list[tuple[Callable[[World], Any], str]] = [
    (lambda w: w.bucket.pop("encryption"), "bucket `data` is encrypted with a key of Google"),
    (lambda w: w.bucket["encryption"].update(defaultKmsKeyName=f"{KEY}2"), f"bucket `data` is encrypted with `{KEY}2`"),
    (key(primary={"state": "DISABLED"}), f"key `{KEY}` is DISABLED"),
    (key(primary={"state": "DESTROY_SCHEDULED"}), f"key `{KEY}` is DESTROY_SCHEDULED"),
    (key(primary={}), f"key `{KEY}` is without a version"),
    (key(rotationPeriod=None), f"key `{KEY}` does not rotate"),
    (lambda w: w.keys.clear(), f"key `{KEY}` does not exist"),
]


@pytest.mark.parametrize(("spoil", "seen"), REST)
def test_what_ends_the_proof_of_encryption(world: World, spoil: Callable[[World], Any], seen: str) -> None:
    """Each says what was seen, what is needed and how to put it right."""
    spoil(world)
    rest, public = world.look()
    assert (rest.outcome, rest.observed, public.outcome) == ("failed", seen, "proved")
    assert rest.expected and rest.fix


def test_without_a_declared_key_any_of_the_provider_will_do(world: World) -> None:
    """Google encrypts whatever rests there."""
    world.bucket.pop("encryption")
    assert world.look(key=None)[0].outcome == "proved"


@pytest.mark.parametrize("everyone", ["allUsers", "allAuthenticatedUsers"])
def test_a_policy_for_everyone(world: World, everyone: str) -> None:
    """Anyone at all, and anyone with a Google account; also under a condition."""
    condition = {"title": "t", "expression": "request.time < timestamp('2027-01-01T00:00:00Z')"}
    world.bindings.append({"role": "roles/storage.objectViewer", "members": [everyone], "condition": condition})
    _, public = world.look()
    assert (public.outcome, public.observed) == ("failed", f"its policy lets everyone in: {everyone} has roles/storage.objectViewer")


@pytest.mark.parametrize(
    ("changes", "seen"),
    [
        ({"publicAccessPrevention": "inherited"}, "bucket `data` does not prevent public access"),
        ({"uniformBucketLevelAccess": {"enabled": False}}, "access lists of single objects count in `data`"),
    ],
)
def test_settings_that_leave_a_door_open(world: World, changes: dict[str, Any], seen: str) -> None:
    """Nobody is let in yet; nothing keeps it so."""
    world.bucket["iamConfiguration"].update(changes)
    assert world.look()[1].observed == seen


def test_what_could_not_be_asked_is_neither_proved_nor_failed(world: World) -> None:
    """A refusal, no such bucket, and nobody who answers."""
    for declared in ({"name": "other"}, {"endpoint": "http://127.0.0.1:9"}):
        found = world.look(**declared)
        assert [one.outcome for one in found] == ["unchecked", "unchecked"]
    world.refuse = True
    found = world.look()
    assert [one.outcome for one in found] == ["unchecked", "unchecked"]
    assert all(one.observed.startswith("Google Cloud could not be asked: ") and one.fix for one in found)
