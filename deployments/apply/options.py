"""What apply may be told from the environment: limits, the reconciler's clock, connections of the cloud profile."""

from __future__ import annotations

from datetime import timedelta
from typing import Self

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from flows.adapters.settings import SiteConnection
from flows.core.errors import Problem, UserError


class ApplyOptions(BaseSettings):
    """One variable a field, such as `TRADEWIND_POOL_CONCURRENCY` or `TRADEWIND_RECONCILE_ACTIVE`."""

    model_config = SettingsConfigDict(env_prefix="TRADEWIND_", frozen=True, extra="ignore")

    pool_concurrency: int = Field(default=2, ge=1, description="runs at once in each data pool")
    control_concurrency: int = Field(default=10, ge=1, description="runs at once in the control pool")
    reconcile_every: timedelta = Field(
        default=timedelta(seconds=60), ge=timedelta(seconds=10), description="seconds between reconciler runs"
    )
    reconcile_active: bool = Field(default=True, description="whether the reconciler's schedule is created active")
    govern_every: timedelta = Field(
        default=timedelta(days=1), ge=timedelta(minutes=1), description="seconds between runs of the duties of governance"
    )
    govern_active: bool = Field(default=True, description="whether the schedule of the duties of governance is created active")
    sites: dict[str, SiteConnection] = Field(default_factory=dict, description="cloud profile: JSON, site to its connections")

    @classmethod
    def load(cls) -> Self:
        """The options of this environment.

        Raises:
            UserError: a variable has a wrong value; the value, which may be a secret, is not repeated.
        """
        try:
            return cls()
        except ValidationError as error:
            problems = [
                Problem(
                    f"wrong value: {one['msg'].lower()}",
                    field=".".join((f"TRADEWIND_{str(one['loc'][0]).upper()}", *map(str, one["loc"][1:]))),
                )
                for one in error.errors()
            ]
        except SettingsError:
            problems = [Problem("no JSON", field="TRADEWIND_SITES", expected='`{"<site>": {"url": "s3://…"}}`')]
        raise UserError(problems=problems)
