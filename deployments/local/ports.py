"""Ports of the embedded stack: free ones, and who holds one that is not."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

import psutil

from deployments.local.records import MLFLOW, PREFECT
from flows.core.errors import Unavailable, UserError

ADDRESS = "127.0.0.1"
USUAL_PORTS: Mapping[str, int] = {PREFECT: 4200, MLFLOW: 5000}
"""Where the services listen unless told otherwise or the port is taken."""
VARIABLES: Mapping[str, str] = {name: f"TRADEWIND_PORT_{name.upper()}" for name in USUAL_PORTS}


def is_free(port: int) -> bool:
    """True when a server may listen on the port of this machine's loopback address."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ADDRESS, port))
        except OSError:
            return False
    return True


def any_free() -> int:
    """A port that nobody uses now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((ADDRESS, 0))
        return int(probe.getsockname()[1])


def holder(port: int) -> str:
    """The process that listens on a port, in words; empty where the system does not tell."""
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.Error:
        return ""
    for connection in connections:
        if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port and connection.pid:
            try:
                return f"process {connection.pid} ({psutil.Process(connection.pid).name()})"
            except psutil.Error:
                return f"process {connection.pid}"
    return ""


def fixed_ports(given: Mapping[str, int]) -> dict[str, int]:
    """Ports that a person fixed: those `given`, else `TRADEWIND_PORT_PREFECT` and `TRADEWIND_PORT_MLFLOW`; 0 means any free one.

    Raises:
        UserError: not a port, or no service of that name.
    """
    unknown = sorted(set(given) - set(USUAL_PORTS))
    if unknown:
        raise UserError(f"no service `{unknown[0]}` has a port", expected=" or ".join(f"`{name}`" for name in USUAL_PORTS))
    fixed: dict[str, int] = {}
    for name, variable in VARIABLES.items():
        text = str(given[name]) if name in given else os.environ.get(variable, "")
        if not text:
            continue
        if not text.isdecimal() or not 0 <= int(text) <= 65535:
            raise UserError(
                f"`{text}` is not a port of `{name}`", field=None if name in given else variable, expected="a number from 0 to 65535"
            )
        fixed[name] = int(text)
    return fixed


def choose(name: str, fixed: Mapping[str, int], last: Mapping[str, int], taken: set[int]) -> int:
    """The port of one service: the fixed one, else the last one, else the usual one, else any free one; added to `taken`.

    Raises:
        Unavailable: the fixed port is in use.
    """
    if fixed.get(name):
        port = fixed[name]
        if port in taken or not is_free(port):
            who = holder(port)
            raise Unavailable(
                f"port {port} for `{name}` is in use" + (f" by {who}" if who else ""),
                fix=f"stop what uses it, or choose another one with `{VARIABLES[name]}` or `--port {name}=NUMBER`",
            )
    elif name in fixed:
        port = any_free()
    else:
        wanted = (candidate for candidate in (last.get(name), USUAL_PORTS[name]) if candidate and candidate not in taken)
        port = next((candidate for candidate in wanted if is_free(candidate)), 0) or any_free()
    taken.add(port)
    return port
