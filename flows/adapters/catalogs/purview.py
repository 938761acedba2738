"""Microsoft Purview: the Atlas v2 API of its data map, a search of its own, and OAuth 2.0 client credentials (RFC 6749, 4.4)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from flows.adapters.catalogs.atlas import MAX_PAGES, Atlas
from flows.adapters.catalogs.rest import REFRESH_BEFORE_SECONDS, Clock, Rest, WallClock, secret
from flows.core.errors import Unavailable, UserError
from flows.core.governance.bridge import BridgeDeclaration

API_VERSION = "2023-09-01"


class ClientCredentials:
    """A token of the identity provider, kept in memory and fetched anew before it expires."""

    def __init__(self, bridge: BridgeDeclaration, clock: Clock) -> None:
        self.bridge, self.clock = bridge, clock
        self._id, self._secret = secret(bridge, "CLIENT_ID"), secret(bridge, "CLIENT_SECRET")
        self._token, self._until = "", 0.0

    def headers(self) -> Mapping[str, str]:
        """See `Credentials`.

        Raises:
            UserError: the identity provider refuses the client.
            Unavailable: it does not answer.
        """
        if self.clock.now() >= self._until - REFRESH_BEFORE_SECONDS:
            self._fetch()
        return {"Authorization": f"Bearer {self._token}"}

    def refused(self) -> bool:
        """Let the next request fetch a new token."""
        self._until = 0.0
        return True

    def _fetch(self) -> None:
        import httpx

        form = {"grant_type": "client_credentials", "client_id": self._id, "client_secret": self._secret, "scope": self.bridge.scope}
        name = self.bridge.name
        try:
            answer = httpx.post(str(self.bridge.token_url), data=form, timeout=self.bridge.timeout_seconds, follow_redirects=False)
            found = answer.json()
        except (httpx.TransportError, ValueError):
            raise Unavailable(f"bridge `{name}`: the token address gave no token", fix="see `token_url`") from None
        if answer.status_code >= 500:
            raise Unavailable(f"bridge `{name}`: the token address answered {answer.status_code}", fix="try again later")
        if answer.status_code != 200 or not isinstance(found, dict) or not isinstance(found.get("access_token"), str):
            fix = f"correct `{self.bridge.credential('CLIENT_ID')}` and `{self.bridge.credential('CLIENT_SECRET')}`"
            raise UserError(f"bridge `{name}`: the token address refuses the client", fix=fix)
        self._token, self._until = found["access_token"], self.clock.now() + float(found.get("expires_in", 0))


class Purview(Atlas):
    """One Purview account."""

    base = "/datamap/api/atlas/v2"

    def _connect(self, clock: Clock | None) -> Rest:
        clock = clock or WallClock()
        return Rest(self.bridge, ClientCredentials(self.bridge, clock), clock)

    def _search(self, type: str) -> Iterator[tuple[str, str]]:
        token: str | None = None
        for _ in range(MAX_PAGES):
            body: dict[str, Any] = {"keywords": None, "limit": self.bridge.page_size, "filter": {"entityType": type}}
            if token is not None:
                body["continuationToken"] = token
            answer = self.rest.post("/datamap/api/search/query", body, {"api-version": API_VERSION}) or {}
            for row in answer.get("value") or []:
                yield str(row["id"]), str(row.get("qualifiedName"))
            token = answer.get("continuationToken")
            if not token:
                return
