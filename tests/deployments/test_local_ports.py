"""Where the stack's services listen."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from deployments.local import ports
from flows.core.errors import Unavailable, UserError


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that this process listens on."""
    with socket.socket() as server:
        server.bind((ports.ADDRESS, 0))
        server.listen()
        yield int(server.getsockname()[1])


def test_a_port_in_use_is_not_free(taken: int) -> None:
    """A listening socket is seen."""
    assert not ports.is_free(taken)
    assert ports.is_free(ports.any_free())


def test_the_last_port_is_taken_again() -> None:
    """Addresses stay the same from one start to the next."""
    last = ports.any_free()
    assert ports.choose("prefect", {}, {"prefect": last}, set()) == last


def test_a_last_port_in_use_is_passed_over(taken: int) -> None:
    """Nobody asked for this very port: another one will do."""
    assert ports.choose("mlflow", {}, {"mlflow": taken}, set()) != taken


def test_a_fixed_port_in_use_is_told_with_its_holder(taken: int) -> None:
    """The message names the port, who has it where the system tells, and both ways to choose another one."""
    with pytest.raises(Unavailable) as caught:
        ports.choose("prefect", {"prefect": taken}, {}, set())
    text = str(caught.value)
    assert f"port {taken} for `prefect` is in use" in text
    assert "`TRADEWIND_PORT_PREFECT`" in text and "`--port prefect=NUMBER`" in text
    assert ports.holder(taken) in text


def test_two_services_never_share_a_port() -> None:
    """A port that was chosen a moment ago is not free any more."""
    port = ports.any_free()
    with pytest.raises(Unavailable, match="in use"):
        ports.choose("mlflow", {"mlflow": port}, {}, {port})
    assert ports.choose("mlflow", {"mlflow": 0}, {}, {port}) != port


def test_ports_are_fixed_by_the_environment_or_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the caller gives wins."""
    monkeypatch.setenv("TRADEWIND_PORT_PREFECT", "4201")
    monkeypatch.setenv("TRADEWIND_PORT_MLFLOW", "5001")
    assert ports.fixed_ports({"mlflow": 5002}) == {"prefect": 4201, "mlflow": 5002}


@pytest.mark.parametrize("text", ["http", "-1", "70000", "4200.0"])
def test_what_is_no_port_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """The message names the variable."""
    monkeypatch.setenv("TRADEWIND_PORT_PREFECT", text)
    with pytest.raises(UserError, match="TRADEWIND_PORT_PREFECT"):
        ports.fixed_ports({})


def test_a_port_of_no_service_is_refused() -> None:
    """A misspelt service does not fix anything silently."""
    with pytest.raises(UserError, match="no service `prefekt`"):
        ports.fixed_ports({"prefekt": 1})
