"""A thin client of a catalog's REST API: credentials from the environment, a rate limit, bounded retries, errors that say what to do.

Why our own: `apache-atlas` 0.0.16 (November 2024) and `pyapacheatlas` 0.16.0 (December 2023) were read before. Both stand on requests,
the second also on openpyxl; both page and send in bulk; neither retries, knows Retry-After, sets a time-out or limits its rate, and the
second speaks to the `/catalog` addresses that Purview left for `/datamap`. What would be left of either is its addresses. httpx is here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Protocol

from flows.core.errors import PolicyDenied, TradewindError, Unavailable, UserError

if TYPE_CHECKING:
    import httpx

    from flows.core.governance.bridge import BridgeDeclaration

TRIES = 5
LONGEST_WAIT_SECONDS = 60.0
FIRST_WAIT_SECONDS = 0.5
REFRESH_BEFORE_SECONDS = 60.0
PASSING = (429, 500, 502, 503, 504)
"""Answers that may be another one a moment later."""


class Clock(Protocol):
    """Time, and waiting for it."""

    def now(self) -> float:
        """Seconds since 1970, UTC."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class WallClock:
    """The real one."""

    def now(self) -> float:
        """See `Clock`."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        """See `Clock`."""
        time.sleep(seconds)


@dataclass
class TokenBucket:
    """At most `rate` operations per second, a second's worth at once; a larger piece waits for a full bucket and leaves a debt."""

    rate: float
    clock: Clock
    _level: float = field(init=False)
    _at: float = field(init=False)

    def __post_init__(self) -> None:
        self._level, self._at = self.rate, self.clock.now()

    def take(self, operations: int = 1) -> None:
        """Wait until so many operations may be sent."""
        self._refill()
        lacking = min(operations, self.rate) - self._level
        if lacking > 0:
            self.clock.sleep(lacking / self.rate)
            self._refill()
        self._level -= operations

    def _refill(self) -> None:
        now = self.clock.now()
        self._level = min(self.rate, self._level + max(0.0, now - self._at) * self.rate)
        self._at = now


class Credentials(Protocol):
    """What proves to the catalog who asks."""

    def headers(self) -> Mapping[str, str]:
        """The headers of one request."""
        ...

    def refused(self) -> bool:
        """The catalog did not take them; whether there may be newer ones."""
        ...


def secret(bridge: BridgeDeclaration, what: str) -> str:
    """One credential of a bridge, from the environment.

    Raises:
        UserError: it is not set.
    """
    name = bridge.credential(what)
    found = os.environ.get(name)
    if not found:
        raise UserError(f"bridge `{bridge.name}` has no credentials: `{name}` is not set", fix="set it in the environment of control")
    return found


class Rest:
    """Requests to one catalog. `operations` of a request are the entities it reads or writes: each counts against the rate."""

    def __init__(self, bridge: BridgeDeclaration, credentials: Credentials, clock: Clock | None = None) -> None:
        import httpx

        self.bridge, self.credentials, self.clock = bridge, credentials, clock or WallClock()
        self.bucket = TokenBucket(float(bridge.operations_per_second), self.clock)
        self.http = httpx.Client(timeout=bridge.timeout_seconds, follow_redirects=False)

    def close(self) -> None:
        """Close the connections."""
        self.http.close()

    def get(self, path: str, params: Any = None, *, operations: int = 1) -> Any:
        """The JSON behind a path; None if there is nothing.

        Raises:
            UserError: the catalog refuses the credentials or the request.
            PolicyDenied: the account may not do this.
            Unavailable: no answer, or none that can be read, after several tries.
        """
        return self._json("GET", path, params, None, operations)

    def post(self, path: str, body: Any, params: Any = None, *, operations: int = 1) -> Any:
        """As `get`; sent again like it, so only what may be sent twice."""
        return self._json("POST", path, params, body, operations)

    def _json(self, method: str, path: str, params: Any, body: Any, operations: int) -> Any:
        answer = self._answer(method, path, params, body, operations)
        if answer.status_code == 404:
            return None
        if answer.status_code >= 300:
            raise self._refusal(answer, method, path)
        try:
            return answer.json()
        except ValueError:
            raise Unavailable(
                f"bridge `{self.bridge.name}` answered `{path}` with something that is not JSON",
                fix="see whether something stands between, such as a sign-in page",
            ) from None

    def _answer(self, method: str, path: str, params: Any, body: Any, operations: int) -> httpx.Response:
        import httpx

        renewed = False
        for tried in range(1, TRIES + 1):
            self.bucket.take(operations)
            try:
                answer = self.http.request(
                    method, f"{self.bridge.url}{path}", params=params, json=body, headers=dict(self.credentials.headers())
                )
            except httpx.TransportError as error:
                told, wait = type(error).__name__, None
            else:
                if answer.status_code == 401 and not renewed and self.credentials.refused():
                    renewed = True
                    continue
                if answer.status_code not in PASSING:
                    return answer
                told, wait = f"status {answer.status_code}", _retry_after(answer.headers.get("Retry-After"), self.clock)
            if tried < TRIES:
                pause = FIRST_WAIT_SECONDS * 2 ** (tried - 1) if wait is None else wait
                if pause > LONGEST_WAIT_SECONDS:
                    raise self._unavailable(f"asks to wait {pause:.0f} s")
                self.clock.sleep(pause)
        raise self._unavailable(f"did not answer `{path}` in {TRIES} tries: {told}")

    def _unavailable(self, what: str) -> Unavailable:
        return Unavailable(f"bridge `{self.bridge.name}` {what}", fix="try again later; what was imported before holds until it is stale")

    def _refusal(self, answer: httpx.Response, method: str, path: str) -> TradewindError:
        name, status = self.bridge.name, answer.status_code
        if status == 401:
            return UserError(f"bridge `{name}` refuses the credentials", fix=f"correct `{self.bridge.credential('…')}` in the environment")
        if status == 403:
            return PolicyDenied(f"bridge `{name}`: the account may not {method} `{path}`", fix="ask the catalog's owner for the right")
        return UserError(f"bridge `{name}` refuses {method} `{path}` with {status}{_told(answer)}")


def _told(answer: httpx.Response) -> str:
    """Atlas's own words for an error, as much of them as one line holds."""
    try:
        found = answer.json()
        return f": {found['errorCode']}, {str(found.get('errorMessage', ''))[:200]}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""


def _retry_after(text: str | None, clock: Clock) -> float | None:
    """Seconds to wait by a Retry-After header, which holds seconds or an HTTP date (RFC 9110, 10.2.3); None if it says nothing."""
    if text is None:
        return None
    if text.strip().isdigit():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.fromtimestamp(clock.now(), UTC)).total_seconds())


Connect = Callable[["BridgeDeclaration"], Any]
