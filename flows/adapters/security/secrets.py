"""Secrets where none may be: in declarations, in what the orchestrator holds in the clear, and in logs. Told by place, never by value.

Texts are searched by the detectors of `detect-secrets`, offline: none of its verifications is made, since those ask servers, and no comment
in a text switches it off. Values that stand under a name such as `DB_PASSWORD` are secrets whatever they look like, unless they are
templates that a block fills in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from flows.core.errors import Unavailable, UserError

DETECTORS = (
    "AWSKeyDetector", "ArtifactoryDetector", "AzureStorageKeyDetector", "BasicAuthDetector", "CloudantDetector", "DiscordBotTokenDetector",
    "GitHubTokenDetector", "GitLabTokenDetector", "IbmCloudIamDetector", "IbmCosHmacDetector", "JwtTokenDetector", "MailchimpDetector",
    "NpmDetector", "OpenAIDetector", "PrivateKeyDetector", "PypiTokenDetector", "SendGridDetector", "SlackDetector", "SoftlayerDetector",
    "SquareOAuthDetector", "StripeDetector", "TelegramBotTokenDetector", "TwilioKeyDetector",
)  # fmt: skip
"""Those that know a secret by its form; the ones that go by entropy would call every hash one."""
DECLARED = (".yaml", ".yml", ".json", ".csv", ".cedar", ".cedarschema", ".template")
NAMED = r"(?:pass(?:word|wd|phrase)|secret|token|credentials?|api_?-?key|access_?-?key|private_?-?key|auth_string|connection_?string)"
SECRET_NAME = re.compile(rf"(?:^|[_.\-]|[a-z](?=[A-Z])){NAMED}(?:_?-?(?:value|id))?$", re.IGNORECASE)
WRITTEN = re.compile(rf"""(?P<name>[A-Za-z0-9_.\-]*{NAMED})["']?\s*[:=]\s*(?P<value>"[^"]*"|'[^']*'|[^\s,{{}}\[\]#"']+)""", re.IGNORECASE)
"""A name and its value in a line of YAML, JSON, or an assignment."""
HARMLESS = re.compile(r"^(?:|null|~|true|false|none|\$\{.*\}|\{\{.*\}\}|\$[A-Z_]*|<[^>]*>|[*x.]+|service=.*)$", re.IGNORECASE | re.DOTALL)
WRAPPERS = ("default", "value", "example", "const")
"""Keys that say nothing of their value: the one above does."""
PAGE = 200
MOST_PAGES = 10
TIMEOUT = 15.0
"""Seconds for one answer."""


@dataclass(frozen=True, slots=True)
class Text:
    """Something to search: where it is, the pool that it belongs to (None: all), and what it says."""

    where: str
    pool: str | None
    body: Any
    loose: bool = False
    """Prose, such as a log: only what has the form of a secret counts."""


@dataclass(frozen=True, slots=True)
class Leak:
    """A secret where none may be; never the secret itself."""

    where: str
    pool: str | None
    kind: str

    def __str__(self) -> str:
        return f"{self.where}: {self.kind}"


def search(texts: Iterable[Text]) -> list[Leak]:
    """Every secret in the texts, each place and kind once, in order.

    Raises:
        UserError: the library is not installed.
    """
    try:
        from detect_secrets.core.scan import scan_line
        from detect_secrets.settings import transient_settings
    except ModuleNotFoundError:
        raise UserError("the search for secrets needs `detect-secrets`, which is not installed", fix="install it") from None
    found: dict[Leak, None] = {}
    filters = [{"path": "detect_secrets.filters.heuristic.is_templated_secret"}]
    with transient_settings({"plugins_used": [{"name": name} for name in DETECTORS], "filters_used": filters}):
        for text in texts:
            for field, value in _values(text.body):
                where = f"{text.where}: `{field}`" if field else text.where
                for number, line in enumerate(value.splitlines(), 1):
                    at = f"{where}:{number}" if not field and not text.loose else where
                    found.update((Leak(at, text.pool, one.type.lower()), None) for one in scan_line(line))
                    if not text.loose and not field:
                        found.update((Leak(at, text.pool, f"a value under `{name}`"), None) for name in _written(line))
                if field and SECRET_NAME.search(_last(field)) and not HARMLESS.match(value.strip()):
                    found[Leak(where, text.pool, "a value in the clear")] = None
    return list(found)


def _written(line: str) -> Iterator[str]:
    if line.lstrip().startswith(("#", "//")):
        return
    for match in WRITTEN.finditer(line):
        if SECRET_NAME.search(match["name"]) and not HARMLESS.match(match["value"].strip("\"'")):
            yield match["name"]


def _last(field: str) -> str:
    """The name that says what a value is: the last one that is no wrapper."""
    return next((part for part in reversed(field.split(".")) if part not in WRAPPERS), "")


def _values(body: Any, field: str = "") -> Iterator[tuple[str, str]]:
    """Each text in a JSON value with its path; of `{name: …, value: …}` the name is the path."""
    if isinstance(body, str):
        yield field, body
    elif isinstance(body, Mapping):
        if isinstance(body.get("name"), str) and isinstance(body.get("value"), str):
            yield f"{field}.{body['name']}".lstrip("."), body["value"]
            body = {key: value for key, value in body.items() if key not in ("name", "value")}
        for key, value in body.items():
            yield from _values(value, f"{field}.{key}".lstrip("."))
    elif isinstance(body, (list, tuple)):
        for number, value in enumerate(body):
            yield from _values(value, f"{field}.{number}".lstrip("."))


def declarations(folder: Path) -> Iterator[Text]:
    """Every file of the declarations."""
    for path in sorted(folder.rglob("*")):
        if path.suffix in DECLARED and path.is_file():
            yield Text(f"{folder.name}/{path.relative_to(folder)}", None, path.read_text(encoding="utf-8", errors="replace"))


def orchestrator(api_url: str, *, since: datetime, headers: Mapping[str, str]) -> Iterator[Text]:
    """What Prefect holds in the clear: pools' job templates, deployments' job variables and parameters, variables, recent runs and logs.

    Runs and logs are read from the newest, at most 2000 of each.

    Raises:
        Unavailable: the server does not answer, or refuses.
    """
    import httpx

    try:
        with httpx.Client(base_url=api_url, timeout=TIMEOUT, headers=dict(headers)) as client:
            yield from _held(client, since)
    except (httpx.HTTPError, ValueError) as error:
        raise Unavailable(
            f"the Prefect server could not be read: {error}", fix="see that it runs, and that this command may read it"
        ) from error


def _held(client: Any, since: datetime) -> Iterator[Text]:
    pools: dict[str, str | None] = {}
    for pool in _pages(client, "work_pools", {}, most=100):
        yield Text(f"work pool `{pool['name']}`", pool["name"], pool.get("base_job_template") or {})
    for one in _pages(client, "deployments", {}, most=100):
        held = {"job_variables": one.get("job_variables"), "parameters": one.get("parameters"), "pull_steps": one.get("pull_steps")}
        yield Text(f"deployment `{one['name']}`", one.get("work_pool_name"), held)
    for one in _pages(client, "variables", {}, most=100):
        yield Text("Prefect variable", None, {one["name"]: one.get("value")})
    recent = {"flow_runs": {"expected_start_time": {"after_": since.isoformat()}}, "sort": "EXPECTED_START_TIME_DESC"}
    for run in _pages(client, "flow_runs", recent):
        pools[run["id"]] = run.get("work_pool_name")
        held = {"job_variables": run.get("job_variables"), "parameters": run.get("parameters")}
        yield Text(f"run `{run['name']}`", run.get("work_pool_name"), held)
    newest = {"logs": {"timestamp": {"after_": since.isoformat()}}, "sort": "TIMESTAMP_DESC"}
    for line in _pages(client, "logs", newest):
        run = line.get("flow_run_id")
        yield Text(f"log of run `{run}`" if run else "log of a worker", pools.get(run), line.get("message") or "", loose=True)


def _pages(client: Any, noun: str, wanted: Mapping[str, Any], most: int = MOST_PAGES) -> Iterator[dict[str, Any]]:
    for page in range(most):
        answer = client.post(f"{str(client.base_url).rstrip('/')}/{noun}/filter", json={**wanted, "limit": PAGE, "offset": page * PAGE})
        answer.raise_for_status()
        rows = answer.json()
        yield from rows
        if len(rows) < PAGE:
            return
