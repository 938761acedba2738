"""What a run may not bring along: the names that decide who a process is, what it executes and where it talks to.

Pure functions over a run's job variables; the worker (`guarded.py`) turns what they find into a refusal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flows.core.planning import PLACED_STEPS, SITE_STEPS

GUARDED_VARIABLES = ("command", "working_dir")
"""Job variables that only the worker sets."""
GUARDED_NAMES = frozenset(
    {
        "PATH", "HOME", "SHELL", "ENV", "BASH_ENV", "IFS", "TMPDIR", "TMP", "TEMP", "VIRTUAL_ENV",
        "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "FTP_PROXY", "SQLITE_TMPDIR", "JOBLIB_TEMP_FOLDER",
        "GCONV_PATH", "GLIBC_TUNABLES", "HOSTALIASES", "RES_OPTIONS", "LOCPATH", "NLSPATH", "MPLBACKEND", "MPLCONFIGDIR",
    }
)  # fmt: skip
"""Environment names that choose what is executed, where temporary data rests or where traffic goes."""
GUARDED_PREFIXES = (
    "TRADEWIND_", "PREFECT_", "PYTHON", "LD_", "DYLD_", "MALLOC_", "PIP_", "UV_", "GIT_",
    "MLFLOW_", "_MLFLOW_", "FEAST_", "GX_", "OPENLINEAGE_", "OTEL_",
    "AWS_", "GOOGLE_", "GCLOUD_", "CLOUDSDK_", "AZURE_", "SSL_", "REQUESTS_", "CURL_", "XDG_",
)  # fmt: skip
"""Families of such names: identity, interpreter, loader, credentials, servers that data is sent to."""
FREE_NAMES = frozenset({"PREFECT_LOGGING_LEVEL"})
"""Names of a guarded family that do no harm."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One guarded name that was set, and where: `the deployment`, `the flow run`, `the work pool`."""

    name: str
    where: str

    def __str__(self) -> str:
        return f"`{self.name}` in the job variables of {self.where}"


def is_guarded(name: str) -> bool:
    """True for an environment name that only the worker may set; letters in any case, since settings read them so."""
    upper = name.strip().upper()
    return upper not in FREE_NAMES and (upper in GUARDED_NAMES or upper.startswith(GUARDED_PREFIXES))


def violations(variables: Mapping[str, Any] | None, where: str) -> tuple[Violation, ...]:
    """Every guarded name that job variables set, nested (`env: {NAME: …}`) or dotted (`env.NAME`), sorted by name."""
    found = {
        Violation(name, where)
        for path, value in _leaves(variables or {})
        for name in _guarded_part(path)
        if not (path[0] in GUARDED_VARIABLES and value is None)
    }
    return tuple(sorted(found, key=lambda violation: violation.name))


def _leaves(variables: Mapping[str, Any], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in variables.items():
        path = (*above, *str(key).split("."))
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, path)
        else:
            yield path, value


def _guarded_part(path: tuple[str, ...]) -> Iterator[str]:
    if path[0] in GUARDED_VARIABLES:
        yield path[0]
    elif path[0] == "env" and len(path) > 1:
        # a name with a dot is none that a shell knows, but its parts must not hide a guarded one
        yield from (part for part in path[1:] if is_guarded(part))


def placed_step(entrypoint: str | None) -> str | None:
    """The step that a deployment's code is, if it is one that control sends; None for all else."""
    step = (entrypoint or "").rpartition(".")[2]
    return step if step in (*PLACED_STEPS, *SITE_STEPS) and entrypoint == f"flows.{step}.{step}" else None


def foreign_code(entrypoint: str | None, pull_steps: Any, packages: frozenset[str]) -> str | None:
    """Why a deployment's code is not the project's own, or None.

    `packages` are the top-level packages of the project: a module path (`flows.train.train`) under one of them is what may run.
    """
    if pull_steps:
        return "`pull_steps` fetch or run code of their own"
    if not entrypoint:
        return "no `entrypoint`"
    if ":" in entrypoint or "/" in entrypoint:
        return f"`entrypoint` `{entrypoint}` is a file"
    if entrypoint.split(".")[0] not in packages:
        return f"`entrypoint` `{entrypoint}` lies outside the project"
    return None
