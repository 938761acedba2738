"""What a worker asks before it opens any data: was this run sent here, with this data, and may it still be here?"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flows.adapters.settings import Settings
from flows.core.errors import GuardRefused, PolicyDenied, TradewindError
from flows.services import placing
from flows.services.context import DatasetRef, StepContext, StepResult
from flows.services.local_run import acting_as
from flows.services.running import StepOrder, run_step
from flows.services.stepping import STALE_AFTER
from flows.store import ledger, outbox, runs
from flows.store.database import State
from tests.services.tiny import publish, tiny_steps
from tests.tickets import keyed, sent

AS_OF = datetime(2013, 7, 1, tzinfo=UTC)
INTENT = "nafld/ingest/2013-07-01/manual"
opened: list[str] = []


def looked(ctx: StepContext) -> StepResult:
    """A step that says that it was reached."""
    opened.append(ctx.site)
    return publish(ctx)


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    found = keyed(Settings(home=tmp_path / "home"))
    State(found.state_url).migrate()
    opened.clear()
    with tiny_steps(ingest=f"{__name__}:looked"):
        yield found


@pytest.fixture
def order(settings: Settings) -> StepOrder:
    """The order that the lifecycle would dispatch: ingest of nafld, placed at home."""
    state = State(settings.state_url)
    decision = placing.place_step(state, settings, placing.PlaceOrder("nafld", "ingest", INTENT, {}, "scheduler"), at=datetime.now(UTC))
    assert decision["chosen"]["pool"] == "onprem-fra-k8s"
    with state.transaction() as tx:
        outbox.ensure(tx, outbox.Intent.of("nafld", "ingest", "2013-07-01", "manual", due_at=AS_OF))
        outbox.claim(tx, INTENT, owner="run", at=datetime.now(UTC), stale_after=STALE_AFTER)
    return StepOrder("ingest", "nafld", AS_OF, INTENT, decision["decision_id"], {}, "run-1")


def refused(settings: Settings, order: StepOrder, *, site: str = "onprem-fra", pool: str = "onprem-fra-k8s") -> TradewindError:
    """How the walls behind the ticket refuse it: they hold even where a ticket would let it pass."""
    with acting_as(site, pool), pytest.raises(TradewindError) as caught:
        run_step(order, settings=settings, ticketed=False)
    assert opened == [], "the step was reached"
    return caught.value


def test_what_was_sent_here_runs_here(settings: Settings, order: StepOrder) -> None:
    """At the pool of its decision, and what it made is on record."""
    with acting_as("onprem-fra", "onprem-fra-k8s"):
        kept = run_step(sent(settings, order, "onprem-fra-k8s"), settings=settings)
    assert opened == ["onprem-fra"]
    assert kept["outputs"]["nafld-raw"].startswith("nafld-raw@")


@pytest.mark.parametrize(("site", "pool"), [("aws-us-east-1", "aws-us-east-1-ecs"), ("aws-eu-central-1", "aws-eu-central-1-ecs")])
def test_a_decision_for_another_pool_is_refused_and_ledgered(settings: Settings, order: StepOrder, site: str, pool: str) -> None:
    """Whoever starts the deployment of another pool with these parameters gets nothing, even where policy would allow it."""
    assert isinstance(refused(settings, order, site=site, pool=pool), GuardRefused)
    with State(settings.state_url).reading() as tx:
        (row,) = ledger.rows(tx, kind="guard-refusal")
        assert row.body["pool"] == pool
        (run,) = runs.recent(tx)
        assert run.state == "failed"
        row_of_intent = outbox.get(tx, INTENT)
        assert row_of_intent is not None and row_of_intent.state == "running", "the run that was really sent goes on"


@pytest.mark.parametrize(
    "edited",
    [
        {"decision_id": "f" * 64},
        {"workload": "flight_delay"},
        {"step": "score"},
        {"inputs": {"raw": DatasetRef("flight_delay-raw", "0" * 16)}},
    ],
    ids=["no such decision", "another workload", "another step", "other data"],
)
def test_an_edited_dispatch_is_refused(settings: Settings, order: StepOrder, edited: dict[str, object]) -> None:
    """A decision covers one step of one workload with its own data, and nothing else."""
    assert isinstance(refused(settings, replace(order, **edited)), GuardRefused)  # type: ignore[arg-type]


def test_a_decision_of_another_intent_is_refused(settings: Settings, order: StepOrder) -> None:
    """A replay under another intent is not what was decided."""
    other = "nafld/ingest/2013-08-01/manual"
    with State(settings.state_url).transaction() as tx:
        outbox.ensure(tx, outbox.Intent.of("nafld", "ingest", "2013-08-01", "manual", due_at=AS_OF))
    assert isinstance(refused(settings, replace(order, intent_id=other)), GuardRefused)


def test_policy_is_asked_again_at_the_site(settings: Settings, order: StepOrder, tmp_path: Path) -> None:
    """A label that was tightened after the decision stops the run before it opens anything."""
    declared = shutil.copytree(settings.deployments, tmp_path / "deployments", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    catalog = declared / "catalog" / "nafld.yaml"
    catalog.write_text(catalog.read_text().replace("residency: [EU]", "residency: [FR]"))
    error = refused(Settings(home=settings.home, deployments=declared, signing_key=settings.signing_key), order)
    assert isinstance(error, PolicyDenied)
    assert "residency" in str(error)


def test_without_an_identity_nothing_runs(settings: Settings, order: StepOrder) -> None:
    """A process that no worker started has no site."""
    with pytest.raises(GuardRefused, match="no site identity"):
        run_step(order, settings=settings)
