"""Who a process is, as its environment says."""

from __future__ import annotations

import pytest

from flows.adapters.settings import Settings, identity
from flows.core.errors import GuardRefused


@pytest.fixture(autouse=True)
def _run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a run at a site."""
    for name, value in (("PROFILE", "cloud"), ("SITE", "aws-eu-central-1"), ("POOL", "aws-eu-central-1-ecs")):
        monkeypatch.setenv(f"TRADEWIND_{name}", value)


def test_a_run_is_who_its_environment_says() -> None:
    """Site and pool."""
    assert identity() == ("aws-eu-central-1", "aws-eu-central-1-ecs")


@pytest.mark.parametrize("name", ["tradewind_profile", "TRADEWIND_Public_Keys", "tradewind_sites"])
def test_a_second_spelling_of_a_setting_ends_the_run(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Settings ignore case and take the last one; so a run's own `env` could set anew what its command has fixed."""
    monkeypatch.setenv(name, "embedded" if name.endswith("profile") else "{}")
    if name == "tradewind_profile":
        assert Settings().profile == "embedded"
    with pytest.raises(GuardRefused, match=f"`{name}`"):
        identity()
