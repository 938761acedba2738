"""A run in the cloud profile asks for its own credentials after the walls and before it opens anything; moto's server, rights enforced."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flows.adapters import step_credentials
from flows.adapters.settings import Settings, SiteConnection
from flows.adapters.storage import site_storage
from flows.core.errors import Unavailable
from flows.services import placing
from flows.services.context import StepContext, StepResult
from flows.services.local_run import acting_as
from flows.services.running import StepOrder, run_step
from flows.services.stepping import STALE_AFTER
from flows.store import ledger, outbox, runs
from flows.store.database import State
from tests.emulators.iam import ACCOUNT, REGION, EnforcingAws, enforcing_aws
from tests.services.tiny import publish, tiny_steps
from tests.tickets import keyed, sent

AS_OF = datetime(2013, 7, 1, tzinfo=UTC)
INTENT = "nafld/ingest/2013-07-01/manual"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/onprem-run"
secrets: list[str] = []


def looked(ctx: StepContext) -> StepResult:
    """A step that notes what it was given, says it where it may be seen, and tries the data of another workload."""
    held = step_credentials.current()
    assert held is not None
    now = held.held(ctx.settings.sites[ctx.site]).get_frozen_credentials()
    secrets.extend((now.secret_key, now.token))
    logging.getLogger("tests").warning("given %r, %s", held, held.public)
    with pytest.raises(Unavailable, match="refused this run"):
        ctx.storage.read("flight_delay-raw", "v1", "data.txt")
    return publish(ctx)


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[EnforcingAws]:
    with enforcing_aws(session_policies=True) as found:
        found.bucket("tradewind-fra", "datasets/flight_delay-raw/v1/data.txt")
        _, keys = found.role("onprem-run", {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]})
        monkeypatch.delenv("AWS_PROFILE", raising=False)
        for name, value in {**keys, "AWS_ENDPOINT_URL": found.url, "AWS_REGION": REGION, step_credentials.ROLE: ROLE}.items():
            monkeypatch.setenv(name, value)
        with found.enforced():
            yield found


@pytest.fixture
def settings(aws: EnforcingAws, tmp_path: Path) -> Iterator[Settings]:
    found = keyed(Settings(home=tmp_path / "home")).model_copy(
        update={"profile": "cloud", "sites": {"onprem-fra": SiteConnection(url="s3://tradewind-fra")}}
    )
    State(found.state_url).migrate()
    secrets.clear()
    with tiny_steps(ingest=f"{__name__}:looked"):
        yield found


@pytest.fixture
def order(settings: Settings) -> StepOrder:
    """The order that the lifecycle would dispatch: ingest of nafld, placed at home."""
    state = State(settings.state_url)
    decision = placing.place_step(state, settings, placing.PlaceOrder("nafld", "ingest", INTENT, {}, "scheduler"), at=datetime.now(UTC))
    with state.transaction() as tx:
        outbox.ensure(tx, outbox.Intent.of("nafld", "ingest", "2013-07-01", "manual", due_at=AS_OF))
        outbox.claim(tx, INTENT, owner="run", at=datetime.now(UTC), stale_after=STALE_AFTER)
    return sent(settings, StepOrder("ingest", "nafld", AS_OF, INTENT, decision["decision_id"], {}, "run-1"), "onprem-fra-k8s")


def test_the_ledger_says_until_when_and_nobody_says_the_secret(
    settings: Settings, order: StepOrder, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Which sites, how, the policy's hash, the end; no key in the ledger, the database, the log or a file."""
    with acting_as("onprem-fra", "onprem-fra-k8s"), caplog.at_level(logging.INFO):
        kept = run_step(order, settings=settings)
        assert kept["outputs"]["nafld-raw"]
    with State(settings.state_url).reading() as tx:
        (row,) = ledger.rows(tx, kind="credentials")
    (given,) = row.body["given"]
    assert (row.body["run"], row.body["step"], given["sites"], given["how"]) == ("run-1", "ingest", ["onprem-fra"], "assume-role")
    assert 0 < (datetime.fromisoformat(given["expires_at"]) - datetime.now(UTC)).total_seconds() <= 3600
    assert len(secrets) == 2
    written = [caplog.text, json.dumps(kept), *(path.read_bytes().decode("latin-1") for path in tmp_path.rglob("*") if path.is_file())]
    assert not [secret for secret in secrets for text in written if secret in text]


def test_what_a_run_made_is_in_the_bucket(settings: Settings, order: StepOrder) -> None:
    """It was written by the run's own session, and its end gave the session back."""
    with acting_as("onprem-fra", "onprem-fra-k8s"):
        kept = run_step(order, settings=settings)
    assert step_credentials.current() is None
    dataset, _, version = kept["outputs"]["nafld-raw"].partition("@")
    assert site_storage("onprem-fra", settings).versions(dataset) == [version]


def test_a_run_without_credentials_opens_nothing(settings: Settings, order: StepOrder, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends failed with one message; the intent stays, to be tried again."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:9")
    with acting_as("onprem-fra", "onprem-fra-k8s"), pytest.raises(Unavailable, match="was given no credentials for `onprem-fra`"):
        run_step(order, settings=settings)
    assert secrets == []
    with State(settings.state_url).reading() as tx:
        (run,) = runs.recent(tx)
        assert run.state == "failed" and "was given no credentials" in str(run.error)
        row = outbox.get(tx, INTENT)
        assert row is not None and row.state == "open" and not ledger.rows(tx, kind="credentials")
