"""Grants of Google Cloud IAM: the real client, over REST, against a local server that speaks the parts of its interface that are read.

The server is written from the published REST reference of Resource Manager v3; it is not Google's.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlparse

import pytest

from flows.adapters import grants_gcp
from flows.core.errors import Unavailable, UserError
from flows.core.governance.access import Source
from flows.core.governance.reviews import Grant

pytest.importorskip("google.cloud.resourcemanager_v3", reason="the Google Cloud client is not installed")

UNTIL = "request.time < timestamp('2027-01-01T00:00:00Z')"
POLICIES: dict[str, Any] = {
    "folders/7": {"bindings": [{"role": "roles/viewer", "members": ["group:team@x.org"]}]},
    "projects/ml": {
        "version": 3,
        "bindings": [
            {"role": "roles/owner", "members": ["user:ada@x.org", "deleted:user:bob@x.org?uid=12"]},
            {"role": "roles/storage.objectViewer", "members": ["serviceAccount:w@ml.iam.gserviceaccount.com", "allUsers"]},
            {"role": "roles/browser", "members": ["user:ada@x.org"], "condition": {"title": "2026", "expression": UNTIL}},
        ],
    },
}  # fmt: skip


class Server(BaseHTTPRequestHandler):
    """Two projects in a folder, a page each; a policy for each resource."""

    asked: list[str]

    def _answer(self, status: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        request = json.loads(self.rfile.read(length) or b"{}")
        resource = urlparse(self.path).path.removeprefix("/v3/").removesuffix(":getIamPolicy")
        type(self).asked.append(resource)
        if request.get("options", {}).get("requestedPolicyVersion") != 3:
            self._answer(400, {"error": {"code": 400, "message": "conditions need version 3", "status": "INVALID_ARGUMENT"}})
        elif resource not in POLICIES:
            self._answer(403, {"error": {"code": 403, "message": "The caller does not have permission", "status": "PERMISSION_DENIED"}})
        else:
            self._answer(200, POLICIES[resource])

    def do_GET(self) -> None:
        url = urlparse(self.path)
        query = parse_qs(url.query)
        if url.path == "/v3/projects":
            if query.get("pageToken") == ["2"]:
                self._answer(200, {"projects": [{"name": "projects/2", "projectId": "ml"}]})
            else:
                self._answer(200, {"projects": [], "nextPageToken": "2"})
        else:
            self._answer(200, {})

    def log_message(self, *_: Any) -> None:
        """Quiet."""


@pytest.fixture
def endpoint() -> Iterator[str]:
    """The server's address."""
    Server.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)


def collect(endpoint: str, *resources: str) -> list[Grant]:
    return grants_gcp.collect(Source(name="gcp", kind="gcp", endpoint=endpoint, resources=resources))


def test_every_member_of_every_binding_is_a_grant(endpoint: str) -> None:
    """People, services, everyone and the deleted, each with what the role allows."""
    found = {(grant.principal, grant.permissions[0]): grant for grant in collect(endpoint, "projects/ml")}
    assert {key: grant.kind for key, grant in found.items()} == {
        ("ada@x.org", "roles/owner"): "person",
        ("bob@x.org?uid=12", "roles/owner"): "gone",
        ("w@ml.iam.gserviceaccount.com", "roles/storage.objectViewer"): "service",
        ("allUsers", "roles/storage.objectViewer"): "public",
        ("ada@x.org", "roles/browser"): "person",
    }
    assert found["ada@x.org", "roles/owner"].traits == {"admin", "reads-data"}
    assert found["w@ml.iam.gserviceaccount.com", "roles/storage.objectViewer"].traits == {"reads-data"}


def test_a_condition_is_told_and_named_in_the_command(endpoint: str) -> None:
    """The policy is asked for in version 3: older ones leave conditions out."""
    (grant,) = [one for one in collect(endpoint, "projects/ml") if one.permissions == ("roles/browser",)]
    assert grant.detail == f"if {UNTIL}"
    command = grant.command(grant.principal)
    assert command.startswith("gcloud projects remove-iam-policy-binding ml --member=user:ada@x.org --role=roles/browser")
    assert "title=2026" in command


def test_what_lies_beneath_a_folder_is_read_page_by_page(endpoint: str) -> None:
    """The second page holds the project; its grants are there."""
    grants = collect(endpoint, "folders/7")
    assert Server.asked == ["folders/7", "projects/ml"]
    assert {grant.scopes for grant in grants} == {("folders/7",), ("projects/ml",)}


def test_a_refusal_and_a_server_that_is_down_are_told(endpoint: str) -> None:
    """Nothing is returned that could be taken for a project without grants."""
    with pytest.raises(Unavailable, match="does not have permission"):
        collect(endpoint, "projects/ml", "projects/other")
    with pytest.raises(UserError, match="is no resource of Google Cloud"):
        collect(endpoint, "buckets/x")
    with pytest.raises(Unavailable, match="could not be read"):
        collect("http://127.0.0.1:9", "projects/ml")
