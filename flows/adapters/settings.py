"""Every setting of Tradewind in one model, `TRADEWIND_*`; and the identity that a worker gives its runs."""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from flows.core.errors import GuardRefused, Problem, UserError

PROJECT_ROOT = Path(__file__).resolve().parents[2]
PREFIX = "TRADEWIND_"
SITE_VARIABLE = f"{PREFIX}SITE"
POOL_VARIABLE = f"{PREFIX}POOL"
CONTROL = "control"
OTHERS = (
    "SITE", "POOL", "WORKLOAD", "FEATURES", "FEAST_REGISTRY", "FEAST_REDIS", "ERASURE_KEY", "SAGEMAKER_ROOT", "FOLLOWER_COMMAND",
    "POOL_CONCURRENCY", "CONTROL_CONCURRENCY", "RECONCILE_EVERY", "RECONCILE_ACTIVE", "GOVERN_EVERY", "GOVERN_ACTIVE",
    "ANCHORS", "STACK", "PORT_PREFECT", "PORT_MLFLOW", "GOLDEN", "WRITE_GOLDEN",
)  # fmt: skip
"""What is no setting, but read elsewhere: by runs and workers, by `apply`, by the command, by tests."""
FAMILIES = tuple(f"{PREFIX}{name}_" for name in ("CATALOG", "PSEUDONYM_KEY", "FROM_SECRET", "BENCH"))
_SHOULD = re.compile(r"^\w+ should (?:be |match |have )(.*?)(?:, unable to .*)?$")


class SiteConnection(BaseModel):
    """How the data of one site is reached; nothing here but `credentials` and `online_url` is secret."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    url: str = Field(pattern=r"^(file|s3|gs)://", description="root of the site's data")
    endpoint: str | None = Field(
        default=None, pattern=r"^https?://[^/@]+/?$", description="object store that speaks S3 but is not AWS's; left out: the cloud's own"
    )
    kms_key: str | None = Field(default=None, description="reference of the key that encrypts it")
    credentials: SecretStr | None = Field(default=None, description="left out: the worker's own identity")
    online_url: SecretStr | None = Field(default=None, description="online feature store of the site")

    @property
    def public(self) -> dict[str, str]:
        """What a run at another site may know of it."""
        return {name: value for name in ("url", "endpoint", "kms_key") if (value := getattr(self, name)) is not None}

    @property
    def secret(self) -> dict[str, str]:
        """What beside it only the site's own runs may know."""
        told = {"credentials": self.credentials, "online_url": self.online_url}
        return {name: value.get_secret_value() for name, value in told.items() if value is not None}


class Settings(BaseSettings):
    """Settings from the environment; all paths absolute, since a process worker runs in a temporary folder."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore", hide_input_in_errors=True)

    def __init__(self, **values: Any) -> None:
        """Take the settings from the environment, those that are given aside.

        Raises:
            UserError: a variable has a wrong value; the value, which may be a secret, is not repeated.
        """
        try:
            super().__init__(**values)
        except ValidationError as error:
            problems = [_problem(one["loc"], str(one["msg"])) for one in error.errors()]
        except SettingsError:
            problems = [Problem("no JSON", field=f"{PREFIX}SITES", expected='`{"<site>": {"url": "s3://…"}}`')]
        else:
            return
        raise UserError(problems=problems)

    profile: Literal["embedded", "cloud"] = "embedded"
    home: Path = Field(default=PROJECT_ROOT / ".tradewind", description="state of the embedded profile")
    deployments: Path = Field(default=PROJECT_ROOT / "deployments", description="the declarations: estate, policies, catalog, workloads")
    database_url: str | None = Field(default=None, description="state database; left out: SQLite under home")
    mlflow_url: str | None = Field(default=None, description="MLflow tracking server; left out: MLflow on SQLite under home")
    cool_down_minutes: float = Field(
        default=30, ge=0, le=1440, description="how long nothing new starts on a pool that failed a run; 0: at once"
    )
    start_margin_seconds: float = Field(
        default=600, ge=0, description="cloud profile: how much longer than its pool's start-up and queue a run may take to begin"
    )
    silent_seconds: float = Field(
        default=900,
        ge=60,
        description="cloud profile: how long a run that says that it is alive may be silent, five of Prefect's heartbeats",
    )
    sweep_minutes: float = Field(
        default=5,
        ge=0,
        description="cloud profile: how often the reconciler looks for jobs without a run and runs without a job; 0: each time",
    )
    sweep_grace_minutes: float = Field(
        default=10, ge=0, le=1440, description="how long a job may be there without a live run, or a run without a job, before it is ended"
    )
    checkpoint_rows: int = Field(default=100, ge=1, description="ledger rows that wait at most for a signed checkpoint")
    checkpoint_seconds: float = Field(default=30, ge=0, description="how old the last checkpoint may be when a row waits and control looks")
    retention_notice_hours: float = Field(
        default=24, ge=0, description="how long a version past its retention must have been listed before the clock removes it; 0: at once"
    )
    signing_key: SecretStr | None = Field(default=None, description="private key of the control plane, only in its own environment")
    public_keys: str | None = Field(
        default=None, description="control's public keys, base64, between commas, that runs verify with; left out: those beside the anchors"
    )
    principal: str | None = Field(default=None, description="embedded profile without a token: who acts; left out: the system's user")
    token: SecretStr | None = Field(default=None, description="OIDC token of who acts; never passed on to a run")
    oidc_issuer: str | None = Field(default=None, description="the address of the issuer whose tokens count")
    oidc_audience: str | None = Field(default=None, description="the audience that tokens must be meant for")
    oidc_jwks_url: str | None = Field(default=None, description="where the issuer's keys are; left out: as its discovery document says")
    image: str | None = Field(
        default=None, pattern=r"^sha256:[0-9a-f]{64}$", description="cloud profile: digest of the released image, which runs use"
    )
    sites: dict[str, SiteConnection] = Field(
        default_factory=dict, description="JSON, site to its connection; left out: folders under home, in the embedded profile"
    )
    lineage_url: str | None = Field(default=None, description="OpenLineage server; left out: events go to a file under home")
    lineage_api_key: SecretStr | None = Field(default=None, description="bearer key of the OpenLineage server")
    lineage_timeout_seconds: float = Field(default=2, gt=0, le=30, description="how long a step waits for the OpenLineage server, once")

    @cached_property
    def state_url(self) -> str:
        """SQLAlchemy URL of the state database."""
        return self.database_url or f"sqlite:///{self.home / 'state.db'}"

    @cached_property
    def tracking_url(self) -> str:
        """MLflow tracking and registry URI."""
        return self.mlflow_url or f"sqlite:///{self.home / 'mlflow' / 'mlflow.db'}"

    @cached_property
    def anchors(self) -> Path:
        """The folder outside the database that holds ledger heads and public keys."""
        return self.home / "anchors"

    def site_folder(self, site: str) -> Path:
        """The folder of one site in the embedded profile: its data, unless `sites` names another root, and its runs' scratch.

        Raises:
            GuardRefused: it is a link into another site's folder.
        """
        sites = self.home / "sites"
        folder = sites / site
        if folder.is_symlink() and (led := folder.resolve()) != sites.resolve() / site and sites.resolve() in (led, *led.parents):
            raise GuardRefused(
                f"the folder of site `{site}` is a link to `{led}`, which is another site's",
                expected="a folder of its own, or a link to another disk",
                fix=f"remove `{folder}`",
            )
        return folder


def _problem(loc: tuple[str | int, ...], message: str) -> Problem:
    field = ".".join((f"{PREFIX}{str(loc[0]).upper()}", *map(str, loc[1:])))
    if should := _SHOULD.match(message):
        return Problem("wrong value", field=field, expected=should[1])
    return Problem(f"wrong value: {message.lower()}", field=field)


def unknown_variables() -> list[Problem]:
    """A problem for each of our variables in this environment that nothing reads, such as a misspelt one."""
    known = {f"{PREFIX}{name.upper()}" for name in (*OTHERS, *Settings.model_fields)}
    found = sorted(name for name in os.environ if name.upper().startswith(PREFIX) and name.upper() not in known)
    close = {name: difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.8) for name in found}
    return [
        Problem("nothing reads this variable", field=name, fix=f"did you mean `{close[name][0]}`?" if close[name] else None)
        for name in found
        if not name.upper().startswith(FAMILIES)
    ]


def exported(settings: Settings, *sites: str) -> dict[str, str]:
    """The settings as variables of a process that is to have them, without secrets but those of the data of the named sites."""
    secret = {name for name, value in settings if isinstance(value, SecretStr)}
    plain = settings.model_dump(mode="json", exclude={*secret, "sites"})
    found = {f"{PREFIX}{name.upper()}": str(value) for name, value in plain.items() if value is not None}
    if settings.sites:
        told = {name: one.public | (one.secret if name in sites else {}) for name, one in settings.sites.items()}
        found[f"{PREFIX}SITES"] = json.dumps(told)
    return found


@contextlib.contextmanager
def variables(**values: str) -> Iterator[None]:
    """Set environment variables, such as for a library that reads nothing else, then put back what was there."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def identity() -> tuple[str, str]:
    """(site, pool) of this process, as its worker set them.

    Raises:
        GuardRefused: the process was not started by a Tradewind worker, or a setting has a second spelling, which might be read instead.
    """
    for name in os.environ:
        # settings ignore case: what a run brings along must not stand in for what its worker or its command has set
        if name != name.upper() and name.upper().startswith(PREFIX):
            raise GuardRefused(f"`{name}` is set in this process's environment", expected=f"`{name.upper()}`, and no other spelling")
    site, pool = os.environ.get(SITE_VARIABLE), os.environ.get(POOL_VARIABLE)
    if not site or not pool:
        raise GuardRefused(
            "this process has no site identity",
            expected=f"{SITE_VARIABLE} and {POOL_VARIABLE}, set by the worker of a pool",
            fix="start the step through its deployment, or use `tradewind run WORKLOAD --local`",
        )
    return site, pool
