"""What a dispatched run asks its cloud for: what was decided for it, from the estate as it is."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from flows.adapters.settings import PROJECT_ROOT, Settings
from flows.core.errors import UserError
from flows.services import asking, placing
from flows.store.database import State

DIGEST = "sha256:" + "0a" * 32
INTENT = "nafld/ingest/2013-07-01/manual"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """The cloud profile on a copy of the declarations."""
    copied = shutil.copytree(PROJECT_ROOT / "deployments", tmp_path / "deployments", ignore=shutil.ignore_patterns("__pycache__"))
    found = Settings(profile="cloud", home=tmp_path / "home", deployments=Path(copied), image=DIGEST)
    State(found.state_url).migrate()
    return found


@pytest.fixture
def decided(settings: Settings) -> dict[str, Any]:
    """A placed ingest, at the data centre; the embedded profile asks no site for its proofs."""
    settings = Settings(home=settings.home, deployments=settings.deployments)
    order = placing.PlaceOrder("nafld", "ingest", INTENT, {}, "scheduler")
    return placing.place_step(State(settings.state_url), settings, order, at=datetime.now(UTC))


def asked(settings: Settings, deployment: str, **parameters: Any) -> dict[str, Any]:
    """The job variables of a first try."""
    return asking.of_run(State(settings.state_url), settings, deployment, {"workload": "nafld", **parameters}, key=f"{INTENT}#0")


def test_a_run_asks_for_what_was_decided(settings: Settings, decided: dict[str, Any]) -> None:
    """Its offer, its way to buy, the released image, and the tags of the bill."""
    chosen = decided["chosen"]
    found = asked(settings, f"ingest/{chosen['pool']}", decision_id=decided["decision_id"])
    assert chosen["offer"] == "cpu-4c-16g"
    assert (found["cpu"], found["memory"], found["purchase"]) == ("4", "16384Mi", "on-demand")
    assert (found["image"], found["workload"], found["step"]) == (DIGEST, "nafld", "ingest")
    assert INTENT not in json.dumps(found)
    assert found == asked(settings, f"ingest/{chosen['pool']}", decision_id=decided["decision_id"])


def test_what_nobody_placed_there_asks_for_the_cheapest(settings: Settings) -> None:
    """A purge runs where data rests, on demand."""
    found = asked(settings, "purge/aws-eu-central-1-ecs")
    assert (found["instance_type"], found["purchase"]) == ("c7g.xlarge", "on-demand")


def test_a_decision_for_another_pool_says_nothing_of_this_one(settings: Settings, decided: dict[str, Any]) -> None:
    """A transfer may run at either end."""
    assert asked(settings, "transfer/aws-us-east-1-ecs", decision_id=decided["decision_id"])["instance_type"] == "c7g.xlarge"


def test_an_offer_that_is_gone_is_told(settings: Settings, decided: dict[str, Any]) -> None:
    """The run would not be what was decided."""
    chosen = decided["chosen"]
    path = settings.deployments / "estate" / "offers.csv"
    lines = [line for line in path.read_text().splitlines() if not line.startswith(f"{chosen['site']},{chosen['offer']},")]
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=f"no longer rents `{chosen['offer']}`"):
        asked(settings, f"ingest/{chosen['pool']}", decision_id=decided["decision_id"])


def test_a_release_that_nobody_named_is_asked_for(settings: Settings) -> None:
    """The message names the setting."""
    without = Settings(profile="cloud", home=settings.home, deployments=settings.deployments)
    with pytest.raises(UserError, match=r"`TRADEWIND_IMAGE`: no image is known for `purge/aws-eu-central-1-ecs`"):
        asked(without, "purge/aws-eu-central-1-ecs")


@pytest.mark.parametrize("deployment", ["promote/control", "purge/elsewhere"])
def test_process_pools_get_none(settings: Settings, deployment: str) -> None:
    """Control's runs are processes of its worker."""
    assert asked(settings, deployment) == {}


def test_the_embedded_profile_gets_none(settings: Settings) -> None:
    """Its guarded pools take none, whatever their cloud type is."""
    embedded = Settings(home=settings.home, deployments=settings.deployments)
    assert asked(embedded, "purge/aws-eu-central-1-ecs") == {}
