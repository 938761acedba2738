"""Google Cloud's REST, with the ambient identity, and its errors in our words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote

from flows.core.errors import Unavailable

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
SECONDS = 20


def of(labels: Mapping[str, str], name: str) -> str:
    """A label of Prefect's: its worker for Cloud Run writes `prefect.io/x` as `prefect-io-x`, that for Vertex AI as `prefect-io_x`."""
    plain = name.replace(".", "-")
    return labels.get(plain.replace("/", "-")) or labels.get(plain.replace("/", "_"), "")


class Rest:
    """Asks one API."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._session: Any = None

    def get(self, path: str, **query: str) -> Mapping[str, Any]:
        """One answer.

        Raises:
            Unavailable: no answer, or a refusal.
        """
        asked = "&".join(f"{key}={quote(value)}" for key, value in query.items())
        return self._ask("GET", f"{path}?{asked}" if asked else path) or {}

    def pages(self, path: str, items: str, **query: str) -> Iterator[Mapping[str, Any]]:
        """Every item of every page."""
        token = ""
        while True:
            page = self.get(path, **query, **({"pageToken": token} if token else {}))
            yield from page.get(items, [])
            token = page.get("nextPageToken", "")
            if not token:
                return

    def end(self, method: str, path: str) -> None:
        """POST or DELETE; what is gone, or has ended, is as good as ended."""
        self._ask(method, path, fine=(400, 404, 409))

    def _ask(self, method: str, path: str, fine: tuple[int, ...] = ()) -> Mapping[str, Any] | None:
        import google.auth
        from google.auth.exceptions import GoogleAuthError
        from google.auth.transport.requests import AuthorizedSession
        from requests import RequestException

        url = f"{self._root}/{path}"
        try:
            if self._session is None:
                self._session = AuthorizedSession(google.auth.default(scopes=[SCOPE])[0])
            answer = self._session.request(method, url, timeout=SECONDS)
        except (GoogleAuthError, RequestException) as error:
            first = str(error).partition("\n")[0]
            raise Unavailable(
                f"`{self._root}` gave no answer: {first}", fix="renew the credentials, or see status.cloud.google.com"
            ) from error
        if answer.status_code in fine:
            return None
        if answer.status_code >= 400:
            raise Unavailable(f"{method} {url} answered {answer.status_code}: {_told(answer)}", fix="grant control's role what it lacks")
        found: Mapping[str, Any] = answer.json() if answer.content else {}
        return found


def instant(text: str | None) -> datetime | None:
    """An instant as Google writes it, with up to nine digits of a second."""
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text).replace("Z", "+00:00")) if text else None


def _told(answer: Any) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return str(answer.text)[:200]
