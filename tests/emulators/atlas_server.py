"""An emulator, not Apache Atlas: a server on this machine that speaks as much of the Atlas v2 REST API as the bridge uses.

Shapes follow the sources of Apache Atlas (`DiscoveryREST`, `EntityREST`, `EntityMutationResponse`), those of Purview's search and token
address its documentation. It holds entities in memory, refuses more guids than `bulk_limit` in one request, and misbehaves on demand:
each item of `faults` answers one request in the API's place.
"""

from __future__ import annotations

import base64
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

Answer = tuple[int, Any, dict[str, str]]
Fault = Callable[[str], Answer | None]


def status(code: int, **headers: str) -> Fault:
    """A fault that answers with this status."""
    return lambda _path: (code, {"errorCode": f"ATLAS-{code}-00-001", "errorMessage": "as asked"}, headers)


@dataclass
class AtlasServer:
    """What the server holds and how it behaves; `seen` are the requests it got, as `METHOD path`."""

    user: str = "reader"
    password: str = "word-made-for-the-test"
    client_id: str = "app"
    client_secret: str = "secret-made-for-the-test"
    bulk_limit: int = 50
    entities: dict[str, dict[str, Any]] = field(default_factory=dict)
    referred: dict[str, dict[str, Any]] = field(default_factory=dict)
    types: dict[str, Any] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    refuse: set[str] = field(default_factory=set)
    hidden: set[str] = field(default_factory=set)
    seen: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    token_seconds: int = 3600
    url: str = ""

    def add(self, type: str, name: str, *words: str, columns: tuple[tuple[str, ...], ...] = (), state: str = "ACTIVE") -> str:
        """Hold an entity with classifications, and columns with theirs; its guid."""
        guid = str(uuid.uuid4())
        parts = []
        for number, own in enumerate(columns):
            part = str(uuid.uuid4())
            qualified = f"{name}.c{number}"
            self.referred[part] = {
                "guid": part,
                "typeName": "column",
                "attributes": {"qualifiedName": qualified},
                "classifications": _words(own),
            }
            parts.append({"guid": part, "typeName": "column"})
        attributes = {"qualifiedName": name, "name": name, "columns": parts}
        self.entities[guid] = {"guid": guid, "typeName": type, "status": state, "attributes": attributes, "classifications": _words(words)}
        return guid

    def classify(self, name: str, *words: str) -> None:
        """Give an entity other classifications."""
        next(one for one in self.entities.values() if one["attributes"]["qualifiedName"] == name)["classifications"] = _words(words)

    def named(self, type: str, name: str) -> dict[str, Any] | None:
        """The entity of a type by its qualified name."""
        known = (one for one in self.entities.values() if one["typeName"] == type and one["attributes"]["qualifiedName"] == name)
        return next(known, None)

    def answer(self, method: str, path: str, body: Any, authorization: str) -> Answer:
        """What the API says."""
        address = urlsplit(path)
        query = parse_qs(address.query)
        where = unquote(address.path)
        if where == "/oauth2/token":
            return self._token(body)
        basic = "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        if authorization not in (basic, *(f"Bearer {token}" for token in self.tokens[-1:])):
            return 401, None, {}
        where = where.removeprefix("/datamap")
        if where == "/api/search/query":
            return self._query(body)
        where = where.removeprefix("/api/atlas/v2")
        if where == "/search/basic":
            return self._search(query["typeName"][0], int(query["limit"][0]), int(query["offset"][0]))
        if where == "/entity/bulk":
            return self._get(query.get("guid", [])) if method == "GET" else self._put(body)
        if where.startswith("/entity/uniqueAttribute/type/"):
            found = self.named(where.rsplit("/", 1)[-1], query["attr:qualifiedName"][0])
            if found is None:
                return 404, {"errorCode": "ATLAS-404-00-009", "errorMessage": "Instance with unique attribute does not exist"}, {}
            return 200, {"entity": found, "referredEntities": self.referred}, {}
        if where.startswith("/types/typedef/name/"):
            known = self.types.get(where.rsplit("/", 1)[-1])
            return (200, known, {}) if known else (404, {"errorCode": "ATLAS-404-00-001"}, {})
        if where == "/types/typedefs":
            self.types |= {one["name"]: one for one in body["entityDefs"]}
            return 200, body, {}
        return 404, {"errorCode": "ATLAS-404-00-000"}, {}

    def _token(self, form: Any) -> Answer:
        given = (form["client_id"][0], form["client_secret"][0], form["grant_type"][0])
        if given != (self.client_id, self.client_secret, "client_credentials"):
            return 401, {"error": "invalid_client"}, {}
        self.tokens.append(uuid.uuid4().hex)
        return 200, {"access_token": self.tokens[-1], "token_type": "Bearer", "expires_in": self.token_seconds}, {}

    def _listed(self, type: str) -> list[dict[str, Any]]:
        rows = sorted(self.entities.values(), key=lambda one: one["attributes"]["qualifiedName"])
        active = [one for one in rows if one["typeName"] == type and one["status"] == "ACTIVE"]
        return [one for one in active if one["attributes"]["qualifiedName"] not in self.hidden]

    def _search(self, type: str, limit: int, offset: int) -> Answer:
        rows = self._listed(type)
        page = [
            {
                "guid": one["guid"],
                "typeName": type,
                "status": one["status"],
                "attributes": {"qualifiedName": one["attributes"]["qualifiedName"]},
                "classificationNames": [word["typeName"] for word in one["classifications"]],
            }
            for one in rows[offset : offset + limit]
        ]
        body = {"queryType": "BASIC", "approximateCount": len(rows), **({"entities": page} if page else {})}
        return 200, body, {}

    def _query(self, body: Any) -> Answer:
        rows = self._listed(body["filter"]["entityType"])
        start = int(body.get("continuationToken") or 0)
        page = [{"id": one["guid"], "qualifiedName": one["attributes"]["qualifiedName"]} for one in rows[start : start + body["limit"]]]
        more = {"continuationToken": str(start + body["limit"])} if start + body["limit"] < len(rows) else {}
        return 200, {"@search.count": len(rows), "value": page, **more}, {}

    def _get(self, guids: list[str]) -> Answer:
        if len(guids) > self.bulk_limit:
            return 400, {"errorCode": "ATLAS-400-00-0BB", "errorMessage": f"at most {self.bulk_limit}"}, {}
        if not guids or any(
            guid not in self.entities or self.entities[guid]["attributes"]["qualifiedName"] in self.refuse for guid in guids
        ):
            return 404, {"errorCode": "ATLAS-404-00-005", "errorMessage": "Given instance guid is invalid/not found"}, {}
        return 200, {"entities": [self.entities[guid] for guid in guids], "referredEntities": self.referred}, {}

    def _put(self, body: Any) -> Answer:
        given = body["entities"]
        if len(given) > self.bulk_limit:
            return 400, {"errorCode": "ATLAS-400-00-0BB", "errorMessage": f"at most {self.bulk_limit}"}, {}
        if any(one["attributes"]["qualifiedName"] in self.refuse for one in given):
            return 400, {"errorCode": "ATLAS-400-00-01A", "errorMessage": "invalid instance creation/updation parameters passed"}, {}
        mutated: dict[str, list[Any]] = {}
        assigned = {}
        for one in given:
            name = one["attributes"]["qualifiedName"]
            for other in [*one["attributes"].get("inputs", []), *one["attributes"].get("outputs", [])]:
                if self.named(other["typeName"], other["uniqueAttributes"]["qualifiedName"]) is None:
                    return 404, {"errorCode": "ATLAS-404-00-00A", "errorMessage": "Referenced entity is not found"}, {}
            held = self.named(one["typeName"], name)
            if held is not None and held["attributes"] == one["attributes"]:
                assigned[one["guid"]] = held["guid"]
                continue
            guid = held["guid"] if held else str(uuid.uuid4())
            assigned[one["guid"]] = guid
            self.entities[guid] = {"guid": guid, "typeName": one["typeName"], "status": "ACTIVE", "attributes": one["attributes"]}
            self.entities[guid]["classifications"] = []
            header = {"guid": guid, "typeName": one["typeName"], "status": "ACTIVE", "attributes": {"qualifiedName": name}}
            mutated.setdefault("UPDATE" if held else "CREATE", []).append(header)
        return 200, {"mutatedEntities": mutated, "guidAssignments": assigned}, {}


def _words(words: tuple[str, ...]) -> list[dict[str, Any]]:
    return [{"typeName": word, "entityStatus": "ACTIVE", "propagate": True} for word in words]


def _handler(atlas: AtlasServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            raw = self.rfile.read(length)
            form = self.headers.get("Content-Type", "").startswith("application/x-www-form-urlencoded")
            body = parse_qs(raw.decode()) if form else json.loads(raw) if raw else None
            atlas.seen.append(f"{self.command} {self.path}")
            fault = atlas.faults.pop(0)(self.path) if atlas.faults else None
            code, told, headers = fault or atlas.answer(self.command, self.path, body, self.headers.get("Authorization", ""))
            data = told if isinstance(told, bytes) else b"" if told is None else json.dumps(told).encode()
            try:
                self.send_response(code)
                for name, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True  # the client did not wait

        do_GET = do_POST = _serve

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Handler


def slow(seconds: float) -> Fault:
    """A fault that answers too late."""

    def wait(_path: str) -> Answer:
        time.sleep(seconds)
        return 200, {}, {}

    return wait


@contextmanager
def serving(atlas: AtlasServer) -> Iterator[AtlasServer]:
    """The server, open on a port of this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(atlas))
    atlas.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield atlas
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
