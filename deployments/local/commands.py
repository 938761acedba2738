"""How each service of the embedded stack is started: arguments and environment, nothing else."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from deployments.local.ports import ADDRESS
from deployments.local.records import MLFLOW, PREFECT, STACK_VARIABLE, WORKERS
from flows.adapters import signing
from flows.adapters.oidc import TOKEN
from flows.adapters.settings import POOL_VARIABLE, PROJECT_ROOT, SITE_VARIABLE, Settings, exported

QUIET: Mapping[str, str] = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GX_ANALYTICS_ENABLED": "false",
    "FEAST_USAGE": "False",
    "GIT_PYTHON_REFRESH": "quiet",
}
"""Nothing of the stack reports its use to anyone."""
SERVER: Mapping[str, str] = {
    "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
    # the reconciler tends late and waiting runs; nothing here pauses
    "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_PAUSE_EXPIRATIONS_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_REPOSSESSOR_LOOP_SECONDS": "60",
    "PREFECT_SERVER_SERVICES_SCHEDULER_MAX_RUNS": "10",
    "PREFECT_SERVER_SERVICES_SCHEDULER_MIN_RUNS": "1",
}
"""The server's loops that one machine needs."""
RUNS: Mapping[str, str] = {
    # runs share the machine's cores: with one spinning thread a core in each of them, a fit of 2 s took 60 s
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
    "OPENBLAS_NUM_THREADS": "1",
    # the host's doorbell finds due runs; these polls only tell the server that the pools are looked after
    "PREFECT_WORKER_QUERY_SECONDS": "15",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "flows",
    "PREFECT_LOGGING_TO_API_BATCH_INTERVAL": "1",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false",
    "PREFECT_LOGGING_COLORS": "false",
}
"""Workers and, since they inherit it, the runs they start."""


def environment(settings: Settings, extra: Mapping[str, str]) -> dict[str, str]:
    """Environment of a service: the caller's, less what belongs to another server or identity, and the stack's own on top."""
    foreign = (SITE_VARIABLE, POOL_VARIABLE, signing.VARIABLE, TOKEN)
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith(("PREFECT_", "MLFLOW_", "_MLFLOW_")) and name.upper() not in foreign
    }
    chosen = exported(settings)
    return {
        **kept,
        **QUIET,
        **chosen,
        "PYTHONPATH": str(PROJECT_ROOT),
        "PYTHONUNBUFFERED": "1",
        "PREFECT_HOME": str(settings.home / "prefect"),
        STACK_VARIABLE: str(settings.home),
        **extra,
    }


def prefect_command(port: int) -> list[str]:
    """Prefect's server."""
    return ["-P", "-m", "deployments.local.prefect_server", "--port", str(port)]


def prefect_environment(settings: Settings, port: int) -> dict[str, str]:
    """Environment of Prefect's server on that port."""
    return environment(settings, {**SERVER, "PREFECT_UI_API_URL": f"{api_url(port)}"})


def mlflow_command(settings: Settings, port: int) -> list[str]:
    """MLflow's tracking server on SQLite under home."""
    return ["-P", "-m", "deployments.local.mlflow_server", "--database", str(mlflow_database(settings)), "--port", str(port)]


def mlflow_environment(settings: Settings) -> dict[str, str]:
    """Environment of MLflow's server."""
    return environment(settings, {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"})


def mlflow_database(settings: Settings) -> Path:
    """MLflow's database file."""
    return settings.home / "mlflow" / "mlflow.db"


def workers_command() -> list[str]:
    """The host of all guarded workers."""
    return ["-P", "-m", "flows.workers.host"]


def workers_environment(settings: Settings, api: str) -> dict[str, str]:
    """Environment of the worker host, with the keys of every site's data; `settings` name the MLflow server that runs are to use."""
    key = {} if settings.signing_key is None else {signing.VARIABLE: settings.signing_key.get_secret_value()}
    return environment(settings, {**RUNS, **exported(settings, *settings.sites), **key, "PREFECT_API_URL": api})


def api_url(port: int) -> str:
    """Address of Prefect's API on that port."""
    return f"http://{ADDRESS}:{port}/api"


def health_url(name: str, url: str) -> str:
    """What a service answers with 200 once it is ready; empty for one without a port."""
    return {PREFECT: f"{url}/api/health", MLFLOW: f"{url}/health", WORKERS: ""}[name]
