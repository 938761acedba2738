"""Retention in practice: listed first, removed at each site after its notice, and never what is needed."""

from __future__ import annotations

import asyncio
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from deployments.cli.erase import listing
from flows.adapters.settings import Settings
from flows.core.canonical import instant
from flows.core.errors import PolicyDenied
from flows.services import retaining
from flows.services.context import DatasetRef
from flows.services.identity import Identity
from flows.store import aliases, ledger, outbox, replicas
from flows.store.database import State
from tests.services.patients import AS_OF, AWAY, HOME, MADE, Clinic, Sites
from tests.tickets import keyed

OFFICER = Identity("ada", ("compliance-officer",), "local")
NOW = MADE + timedelta(days=400)
"""Past the year of features, predictions and reports and the 90 days of quarantine; not past the ten years of raw data."""
DAY = timedelta(days=1)


@pytest.fixture
def clinic(tmp_path: Path) -> Clinic:
    settings = keyed(Settings(home=tmp_path / "home", database_url=None, mlflow_url=None))
    state = State(settings.state_url)
    state.migrate()
    return Clinic(settings, state)


@pytest.fixture
def sites(clinic: Clinic) -> Sites:
    return Sites(clinic.settings)


def round_of(clinic: Clinic, sites: Sites, at: datetime) -> dict[str, str]:
    """What the clock does."""
    return asyncio.run(retaining.carry_out(clinic.state, clinic.settings, sites, owner=f"run-{at}", at=at))


def test_the_first_round_lists_and_the_next_one_removes(clinic: Clinic, sites: Sites) -> None:
    """A day lies between: time to object. Files and record go at every site; what is younger stays."""
    raw = clinic.raw([1], quarantined=[2])
    old = clinic.features([1], raw)
    clinic.copy(old)
    new = clinic.features([1, 2], raw, at=NOW - DAY)
    assert round_of(clinic, sites, NOW) == {}
    assert len(clinic.versions("features")) == 2
    (done,) = round_of(clinic, sites, NOW + DAY).values()
    assert done == "3 versions removed"
    assert clinic.versions("features") == [new.version]
    assert clinic.versions("features", AWAY) == []
    assert clinic.versions("quarantine") == []
    assert clinic.versions("raw") == [raw.version]
    with clinic.state.reading() as tx:
        assert replicas.sites(tx, "nafld-features", old.version) == []


def test_the_ledger_lists_and_counts(clinic: Clinic, sites: Sites) -> None:
    """One row for what would go, none for the same again, one for what went: names of versions and bytes, no value."""
    old = clinic.features([1])
    for at in (NOW, NOW + DAY / 2, NOW + DAY):
        round_of(clinic, sites, at)
    with clinic.state.reading() as tx:
        listed, removed = ledger.rows(tx, kind="retention")
    assert (listed.body["applied"], [one["version"] for one in listed.body["due"]]) == (False, [str(old)])
    assert (removed.body["applied"], removed.body["versions"], removed.body["removed"][0]["site"]) == (True, 1, HOME)


def test_what_a_dry_run_prints(clinic: Clinic) -> None:
    """The golden text: what, where, since when, and what becomes of it."""
    old = clinic.features([1])
    shown = "\n".join(listing(retaining.look(clinic.state, clinic.settings, principal="ada", at=NOW)))
    assert shown == f"{old!s:<50} onprem-fra           since 2027-01-05  listed: goes once its notice is over"
    later = "\n".join(listing(retaining.look(clinic.state, clinic.settings, principal="ada", at=NOW + DAY)))
    assert later.endswith("goes at the next round")
    assert clinic.versions("features") == [old.version]


def serve(clinic: Clinic, ref: DatasetRef) -> None:
    """Make a model the champion, as a promotion's record does."""
    with clinic.state.transaction() as tx:
        aliases.begin_move(tx, "nafld", "champion", expected_version=None, new_version="1", intent_id="i", at=MADE)
        aliases.settle(tx, "nafld", "champion", "i", MADE)
        body = {"workload": "nafld", "version": "1", "dataset": str(ref), "intent": "i"}
        ledger.append(tx, "promotion", body, principal="test", at=MADE)


def test_the_champion_and_what_it_learnt_from_stay(clinic: Clinic, sites: Sites, empty_mlflow: Path) -> None:
    """However old: it serves, and drift is told from its features. The reason is said."""
    database = clinic.settings.home / "mlflow" / "mlflow.db"
    database.parent.mkdir(parents=True)
    shutil.copy(empty_mlflow, database)
    features = clinic.features([1])
    champion = clinic.publish("model", {"m": "one"}, {"features": str(features)})
    other = clinic.publish("model", {"m": "two"}, {"features": str(features)})
    serve(clinic, champion)
    late = MADE + timedelta(days=2000)
    kept = {one.resting.name: one.kept_because for one in retaining.look(clinic.state, clinic.settings, principal="ada", at=late).kept}
    assert kept[str(champion)] == "it is the champion or the challenger"
    assert "learnt from it" in str(kept[str(features)])
    round_of(clinic, sites, late + DAY)
    assert clinic.versions("model") == [champion.version]
    assert clinic.versions("features") == [features.version]
    assert other.version not in clinic.versions("model")


def test_what_an_open_intent_needs_stays_until_it_ends(clinic: Clinic, sites: Sites) -> None:
    """A lifecycle that is due reads the newest features of its moment."""
    old = clinic.features([1])
    with clinic.state.transaction() as tx:
        intent = outbox.Intent.of("nafld", "lifecycle", "2014-07-01", "manual", due_at=NOW, payload={"as_of": instant(AS_OF)})
        outbox.ensure(tx, intent)
    (one,) = retaining.look(clinic.state, clinic.settings, principal="ada", at=NOW).found
    assert one.kept_because == f"intent `{intent.id}` is open and may need it"
    round_of(clinic, sites, NOW + DAY)
    assert clinic.versions("features") == [old.version]
    with clinic.state.transaction() as tx:
        outbox.refuse(tx, intent.id, "nobody wants it", NOW)
    for days in (2, 3):
        round_of(clinic, sites, NOW + days * DAY)
    assert clinic.versions("features") == []


def test_what_is_needed_since_it_was_ordered_stays(clinic: Clinic, sites: Sites) -> None:
    """A model became champion between the order and the removal."""
    old = clinic.features([1])
    listed = retaining.look(clinic.state, clinic.settings, principal="ada", at=NOW)
    order = retaining.order(clinic.state, clinic.settings, OFFICER, listed, at=NOW)
    with clinic.state.transaction() as tx:
        outbox.ensure(tx, outbox.Intent.of("nafld", "lifecycle", "2014-07-01", "manual", due_at=NOW, payload={"as_of": instant(AS_OF)}))
    assert round_of(clinic, sites, NOW) == {order: "0 versions removed"}
    assert clinic.versions("features") == [old.version]


def test_an_order_removes_at_once_and_once(clinic: Clinic, sites: Sites) -> None:
    """Whoever may erase need not wait for the clock; the same order again is the same intent."""
    clinic.features([1])
    listed = retaining.look(clinic.state, clinic.settings, principal="ada", at=NOW)
    order = retaining.order(clinic.state, clinic.settings, OFFICER, listed, at=NOW)
    assert retaining.order(clinic.state, clinic.settings, OFFICER, listed, at=NOW + DAY) == order
    assert round_of(clinic, sites, NOW) == {order: "1 versions removed"}
    assert clinic.versions("features") == []


def test_only_compliance_may_order(clinic: Clinic) -> None:
    """Policy says who."""
    clinic.features([1])
    listed = retaining.look(clinic.state, clinic.settings, principal="bob", at=NOW)
    with pytest.raises(PolicyDenied):
        retaining.order(clinic.state, clinic.settings, Identity("bob", ("operator",), "local"), listed, at=NOW)


def test_the_online_store_goes_with_the_last_features(clinic: Clinic, sites: Sites) -> None:
    """Its rows are the newest of them."""
    clinic.features([1])
    online = clinic.storage().path("features", "nafld", "online.db")
    online.write_text("rows")
    for days in (0, 1):
        round_of(clinic, sites, NOW + days * DAY)
    assert not online.exists()


def test_a_kill_before_a_site_has_done_its_part_is_gone_on_from(clinic: Clinic, sites: Sites) -> None:
    """The next round removes what is left, and the ledger counts it once."""
    clinic.features([1])
    round_of(clinic, sites, NOW)
    sites.die = 1
    with pytest.raises(KeyboardInterrupt):
        round_of(clinic, sites, NOW + DAY)
    assert len(clinic.versions("features")) == 1
    with clinic.state.transaction() as tx:  # what the reconciler does once the run is over
        for row in outbox.recent(tx, state=outbox.RUNNING):
            outbox.fail(tx, row.id, "its run ended without a word", datetime.now(UTC))
    round_of(clinic, sites, NOW + 2 * DAY)
    assert clinic.versions("features") == []
    with clinic.state.reading() as tx:
        assert [row.body["applied"] for row in ledger.rows(tx, kind="retention")] == [False, True]
