"""The Prefect server that apply talks to: where it is, what its errors mean, and one apply at a time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from flows.core.errors import TradewindError, Unavailable, UserError

if TYPE_CHECKING:
    from prefect.client.orchestration import PrefectClient

    from flows.adapters.settings import Settings

Answer = TypeVar("Answer")
Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]

BUSY = (429, 503)
BUSY_PAUSES = tuple(0.02 * 2**n for n in range(9))
"""Seconds between tries: 10 s in all."""

LOCK = "tradewind_apply_lock"
"""Name of the server variable that one apply holds."""

STALE = timedelta(minutes=5)
"""A lock this old is left over from an apply that was killed; one of a process that is gone from this machine is so at once."""

WAIT = timedelta(seconds=30)
POLL_SECONDS = 0.5


def api_url(settings: Settings) -> str:
    """Where the server is: `PREFECT_API_URL`, else the running embedded stack, else (cloud profile) the active Prefect profile.

    Raises:
        Unavailable: the embedded stack does not run; apply never starts a server of its own.
        UserError: none is named.
    """
    if url := os.environ.get("PREFECT_API_URL"):
        return url
    if settings.profile == "embedded":
        from deployments.local.records import PREFECT, read_records

        service = read_records(settings.home).services.get(PREFECT)
        if service is None or not service.api_url:
            raise Unavailable("no Prefect server is running for the embedded profile", fix="start the stack with `tradewind up`")
        return service.api_url
    from prefect.settings import get_current_settings

    if url := get_current_settings().api.url:
        return url
    raise UserError("no Prefect server is named", expected="`PREFECT_API_URL`", fix="set it to the API of your Prefect server")


class Api:
    """The server's REST interface: JSON in, JSON out, busy answers asked again.

    A server on SQLite answers 503 when another writer was there first, its own event writer included, and has then done nothing.
    Prefect's client would wait two seconds and more each time; a few milliseconds are enough.
    """

    def __init__(self, client: PrefectClient) -> None:
        self.client = client

    async def call(self, method: Method, path: Any, json: Any = None, **path_params: str) -> Any:
        """The decoded answer to one request; None where the server sends no body."""
        response = await self.patiently(lambda: self.client.request(method, path, path_params=path_params or None, json=json))
        return response.json() if response.content else None

    async def patiently(self, act: Callable[[], Awaitable[Answer]]) -> Answer:
        """Act, again while the server is busy; the last busy answer is raised."""
        from prefect.exceptions import PrefectHTTPStatusError

        for pause in BUSY_PAUSES:
            try:
                return await act()
            except PrefectHTTPStatusError as error:
                if error.response.status_code not in BUSY:
                    raise
            await asyncio.sleep(pause)
        return await act()


@contextlib.asynccontextmanager
async def connect(url: str) -> AsyncIterator[Api]:
    """The server, with the credentials of the active Prefect settings.

    Raises:
        Unavailable: nothing answers there.
        TradewindError: the server refused something.
    """
    from prefect.client.orchestration import PrefectClient
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, get_current_settings, temporary_settings

    api = get_current_settings().api
    auth = api.auth_string.get_secret_value() if api.auth_string else None
    key = api.key.get_secret_value() if api.key else None
    with _told(url), temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
        async with PrefectClient(url, auth_string=auth, api_key=key) as client:
            yield Api(client)


@contextlib.contextmanager
def _told(url: str) -> Iterator[None]:
    import httpx
    from prefect.exceptions import PrefectHTTPStatusError

    try:
        yield
    except PrefectHTTPStatusError as error:
        if error.response.status_code in (401, 403):
            raise UserError(f"`{url}` refused our credentials", fix="set `PREFECT_API_AUTH_STRING` or `PREFECT_API_KEY`") from error
        raise TradewindError(f"{error.request.method} {error.request.url.path}: {_detail(error.response)}") from error
    except httpx.TransportError as error:
        raise Unavailable(f"no Prefect server answers at `{url}`", fix="start it, or look at its log, then apply again") from error


def _detail(response: Any) -> str:
    try:
        body = response.json()
    except ValueError:
        return f"status {response.status_code}"
    return str(body.get("detail") or body.get("exception_detail") or body) if isinstance(body, dict) else str(body)


@contextlib.asynccontextmanager
async def lock(api: Api, *, wait: timedelta = WAIT, stale: timedelta = STALE) -> AsyncIterator[None]:
    """Hold the server's apply lock: a variable that only one apply can create. One left behind by a dead apply is taken over.

    Raises:
        Unavailable: another apply held it all the time.
    """
    deadline = datetime.now(UTC) + wait
    while (id_ := await _take(api)) is None:
        held = await _held(api)
        if held is None:
            continue
        holder = held["value"]
        since = datetime.fromisoformat(holder["since"])
        if datetime.now(UTC) - since > stale or _gone(holder):
            await _release(api, held["id"])
        elif datetime.now(UTC) > deadline:
            raise Unavailable(
                f"another apply is running since {since:%H:%M:%S} UTC, process {holder['pid']} on `{holder['host']}`",
                fix=f"wait for it to end, then apply again; a lock older than {stale.total_seconds():.0f} s is taken over",
            )
        else:
            await asyncio.sleep(POLL_SECONDS)
    try:
        yield
    finally:
        await _release(api, id_)


async def _take(api: Api) -> str | None:
    from prefect.exceptions import PrefectHTTPStatusError

    value = {"host": socket.gethostname(), "pid": os.getpid(), "since": datetime.now(UTC).isoformat()}
    try:
        created = await api.call("POST", "/variables/", {"name": LOCK, "value": value, "tags": ["tradewind"]})
    except PrefectHTTPStatusError as error:
        if error.response.status_code == 409:
            return None
        raise
    return str(created["id"])


async def _held(api: Api) -> dict[str, Any] | None:
    rows: list[dict[str, Any]] = await api.call("POST", "/variables/filter", {"variables": {"name": {"any_": [LOCK]}}})
    return rows[0] if rows else None


def _gone(holder: dict[str, Any]) -> bool:
    import psutil

    return bool(holder["host"] == socket.gethostname() and not psutil.pid_exists(holder["pid"]))


async def _release(api: Api, id_: str) -> None:
    """Delete the lock by its id: one that someone else took over meanwhile has another id and stays."""
    from prefect.exceptions import PrefectHTTPStatusError

    try:
        await api.call("DELETE", "/variables/{id}", id=id_)
    except PrefectHTTPStatusError as error:
        if error.response.status_code != 404:
            raise
