"""Every setting of Tradewind in one model, `TRADEWIND_*`; and the identity that a worker gives its runs."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from flows.core.errors import GuardRefused

PROJECT_ROOT = Path(__file__).resolve().parents[2]
SITE_VARIABLE = "TRADEWIND_SITE"
POOL_VARIABLE = "TRADEWIND_POOL"
CONTROL = "control"


class Settings(BaseSettings):
    """Settings from the environment; all paths absolute, since a process worker runs in a temporary folder."""

    model_config = SettingsConfigDict(env_prefix="TRADEWIND_", frozen=True, extra="ignore")

    profile: Literal["embedded", "cloud"] = "embedded"
    home: Path = Field(default=PROJECT_ROOT / ".tradewind", description="state of the embedded profile")
    deployments: Path = Field(default=PROJECT_ROOT / "deployments", description="the declarations: estate, policies, catalog, workloads")
    database_url: str | None = Field(default=None, description="state database; left out: SQLite under home")
    mlflow_url: str | None = Field(default=None, description="MLflow tracking server; left out: MLflow on SQLite under home")
    cool_down_minutes: float = Field(
        default=30, ge=0, le=1440, description="how long nothing new starts on a pool that failed a run; 0: at once"
    )
    checkpoint_rows: int = Field(default=100, ge=1, description="ledger rows that wait at most for a signed checkpoint")
    checkpoint_seconds: float = Field(default=30, ge=0, description="how old the last checkpoint may be when a row waits and control looks")
    retention_notice_hours: float = Field(
        default=24, ge=0, description="how long a version past its retention must have been listed before the clock removes it; 0: at once"
    )
    signing_key: SecretStr | None = Field(default=None, description="private key of the control plane, only in its own environment")
    principal: str | None = Field(default=None, description="embedded profile without a token: who acts; left out: the system's user")
    token: SecretStr | None = Field(default=None, description="OIDC token of who acts; never passed on to a run")
    oidc_issuer: str | None = Field(default=None, description="the address of the issuer whose tokens count")
    oidc_audience: str | None = Field(default=None, description="the audience that tokens must be meant for")
    oidc_jwks_url: str | None = Field(default=None, description="where the issuer's keys are; left out: as its discovery document says")
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
        """The folder that holds all data of one site in the embedded profile."""
        return self.home / "sites" / site


def identity() -> tuple[str, str]:
    """(site, pool) of this process, as its worker set them.

    Raises:
        GuardRefused: the process was not started by a Tradewind worker.
    """
    site, pool = os.environ.get(SITE_VARIABLE), os.environ.get(POOL_VARIABLE)
    if not site or not pool:
        raise GuardRefused(
            "this process has no site identity",
            expected=f"{SITE_VARIABLE} and {POOL_VARIABLE}, set by the worker of a pool",
            fix="start the step through its deployment, or use `tradewind run WORKLOAD --local`",
        )
    return site, pool
