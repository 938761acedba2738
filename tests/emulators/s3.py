"""S3 for tests: moto's server, which speaks S3's protocol and checks no rights, behind a door that can fail a request as S3 would.

Everything is loopback. Where an answer of AWS's is wanted that moto never gives (a throttled request, a key that is disabled), the door
gives it, in S3's own words.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

import boto3
from werkzeug.serving import WSGIRequestHandler, make_server

from flows.adapters.settings import SiteConnection

Fault = tuple[int, str]
"""HTTP status and S3's error code."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: method, path below the server, names in its query, bytes of its body."""

    method: str
    path: str
    query: frozenset[str]
    size: int


@dataclass
class S3:
    """The running server; `fail` may answer a request in its place, or hold it up."""

    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    fail: Callable[[Asked], Fault | None] = lambda _: None
    _client: Any = None

    def client(self) -> Any:
        """AWS's own client."""
        if self._client is not None:
            return self._client
        keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
        self._client = boto3.client("s3", endpoint_url=self.url, region_name="eu-central-1", **keys)  # type: ignore[call-overload]
        return self._client

    def bucket(self, name: str) -> str:
        """A new bucket."""
        self.client().create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu-central-1"})
        return name

    def connection(self, url: str, **more: Any) -> SiteConnection:
        """A site's declaration of a root here."""
        return SiteConnection(url=url, endpoint=self.url, credentials='{"access_key": "testing", "secret_key": "testing"}', **more)

    def sent(self, method: str, *, below: str = "") -> list[str]:
        """Paths of requests of a method, in order; of a listing, nothing."""
        return [one.path for one in self.asked if one.method == method and one.path.startswith(below) and "list-type" not in one.query]

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """The door."""
        query = frozenset(parse_qs(environ.get("QUERY_STRING", ""), keep_blank_values=True))
        one = Asked(environ["REQUEST_METHOD"], environ["PATH_INFO"], query, int(environ.get("CONTENT_LENGTH") or 0))
        fault = self.fail(one)
        self.asked.append(one)
        if fault is None:
            return self._moto(environ, start_response)  # type: ignore[no-any-return]
        environ["wsgi.input"].read(one.size)
        body = f"<Error><Code>{fault[1]}</Code><Message>{fault[1]} by the test</Message></Error>".encode()
        start_response(f"{fault[0]} Failed", [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))])
        return [] if one.method == "HEAD" else [body]

    def __post_init__(self) -> None:
        from moto.server import DomainDispatcherApplication, create_backend_app

        self._moto: Any = DomainDispatcherApplication(create_backend_app)


class _Quiet(WSGIRequestHandler):
    def log_request(self, *args: Any) -> None:
        """Nothing."""


@contextmanager
def s3() -> Iterator[S3]:
    """A running server."""
    found = S3()
    server = make_server("127.0.0.1", 0, found, threaded=True, request_handler=_Quiet)
    found.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
