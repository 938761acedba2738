"""An OpenID Connect issuer for tests: a discovery document, one published key, and tokens that it signs."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

AUDIENCE = "tradewind"
KEY_ID = "first"


@dataclass(frozen=True, slots=True)
class Issuer:
    """The running issuer."""

    url: str
    key: Any

    def token(self, person: str, *groups: str, seconds: int = 3600) -> str:
        """A token of a person in these groups."""
        import jwt

        now = int(time.time())
        told = {"iss": self.url, "aud": AUDIENCE, "sub": person, "groups": list(groups), "nbf": now - 5, "exp": now + seconds}
        return jwt.encode(told, self.key, algorithm="RS256", headers={"kid": KEY_ID})

    @property
    def environment(self) -> dict[str, str]:
        """What a program needs to take this issuer's tokens."""
        return {"TRADEWIND_OIDC_ISSUER": self.url, "TRADEWIND_OIDC_AUDIENCE": AUDIENCE}


@contextmanager
def issuer() -> Iterator[Issuer]:
    """A running issuer with a key of its own."""
    import jwt
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    public = {**json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key())), "kid": KEY_ID, "use": "sig", "alg": "RS256"}
    says: dict[str, Any] = {"/keys": {"keys": [public]}}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = says.get(self.path)
            self.send_response(200 if body else 404)
            self.end_headers()
            self.wfile.write(json.dumps(body or {}).encode())

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    url = f"http://127.0.0.1:{server.server_port}"
    says["/.well-known/openid-configuration"] = {"issuer": url, "jwks_uri": f"{url}/keys"}
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield Issuer(url, key)
    finally:
        server.shutdown()
        server.server_close()
