"""Transfers that were allowed once, or never: labels tightened, declassifications ended, records edited, references forged."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from flows.adapters.settings import Settings
from flows.adapters.storage import MANIFEST, SiteStorage, file_sha256
from flows.core.canonical import content_hash
from flows.core.errors import GuardRefused, IntegrityError, PolicyDenied, TradewindError, UserError
from flows.services import placing
from flows.services.context import DatasetRef
from flows.services.local_run import acting_as
from flows.services.running import StepOrder, run_step
from flows.services.stepping import STALE_AFTER
from flows.store import ledger, outbox, replicas
from flows.store.database import State
from flows.store.models import DecisionRow, ReplicaRow
from tests.integration.scanner import traces
from tests.tickets import keyed, sent

PLANTED = "planted-patient-000042"
MARK = re.compile(PLANTED.encode())
AT = datetime(2013, 7, 1, tzinfo=UTC)
HOME, ALLOWED, FORBIDDEN = "onprem-fra", "aws-eu-central-1", "aws-us-east-1"
INTENT = "nafld/transfer/2013-07-01/train"


@dataclass
class Estate:
    """Declarations of the test's own, a state, and patients at home."""

    settings: Settings
    state: State
    ref: DatasetRef

    def site(self, name: str) -> SiteStorage:
        """A site's storage."""
        return SiteStorage(name, self.settings.site_folder(name))

    def declare(self, old: str, new: str) -> None:
        """Change the catalog's file of the patients."""
        path = self.settings.deployments / "catalog" / "nafld.yaml"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    def placed(self, destination: str = ALLOWED, at: datetime | None = None) -> dict[str, Any]:
        """The decision of a transfer."""
        order = placing.PlaceOrder("nafld", "transfer", INTENT, {"data": self.ref}, "scheduler", destination=destination)
        return placing.place_step(self.state, self.settings, order, at=at or datetime.now(UTC))

    def order(self, destination: str = ALLOWED) -> StepOrder:
        """A transfer that control is about to send."""
        decision = self.placed(destination)
        assert decision["chosen"], decision["summary"]
        with self.state.transaction() as tx:
            outbox.ensure(tx, outbox.Intent.of("nafld", "transfer", "2013-07-01", "train", due_at=AT))
            outbox.claim(tx, INTENT, owner="run", at=datetime.now(UTC), stale_after=STALE_AFTER)
        return StepOrder("transfer", "nafld", AT, INTENT, decision["decision_id"], {"data": self.ref}, "run-1")

    def run(self, order: StepOrder, *, ticketed: bool = True, pool: str = f"{HOME}-k8s") -> dict[str, Any]:
        """What the worker at home does with it."""
        with acting_as(HOME, pool):
            return run_step(order, settings=self.settings, ticketed=ticketed)

    def away(self) -> list[Path]:
        """Every file of the home with a patient, but those at the patients' own site."""
        own = self.settings.site_folder(HOME)
        return [path for path in traces(self.settings.home, MARK) if own not in path.parents]


@pytest.fixture
def estate(tmp_path: Path) -> Estate:
    declared = shutil.copytree(Settings().deployments, tmp_path / "deployments", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    settings = keyed(Settings(home=tmp_path / "home", deployments=declared))
    state = State(settings.state_url)
    state.migrate()
    return Estate(settings, state, planted(settings, state, "nafld-features"))


def planted(settings: Settings, state: State, dataset: str, text: str = PLANTED) -> DatasetRef:
    """A version at home, published and on record."""
    home = SiteStorage(HOME, settings.site_folder(HOME))
    with home.draft(dataset) as draft:
        (draft / "rows.txt").write_text(text)
        made = home.publish(dataset, draft, {})
    with state.transaction() as tx:
        replicas.add(
            tx, dataset=dataset, version=made.version, site=HOME, bytes=made.bytes, files=made.files, facts={}, intent_id=None, at=AT
        )
    return DatasetRef(dataset, made.version)


def test_an_allowed_transfer_arrives_and_the_scan_finds_it(estate: Estate) -> None:
    """At its one destination, so that finding nothing below means something."""
    order = estate.order()
    estate.run(sent(estate.settings, order, f"{HOME}-k8s"))
    assert {path.relative_to(estate.settings.home / "sites").parts[0] for path in estate.away()} == {ALLOWED}


@pytest.mark.parametrize("destination", [FORBIDDEN, "gcp-us-central1", "control"])
def test_a_transfer_to_a_forbidden_site_is_not_decided(estate: Estate, destination: str) -> None:
    """No place may run it, so there is nothing to send."""
    try:
        decision = estate.placed(destination)
    except TradewindError:
        return  # control is no home of data: not even a request
    assert decision["chosen"] is None


def test_a_label_that_was_tightened_stops_a_transfer_on_its_way(estate: Estate) -> None:
    """Decided, signed, sent; then the label was narrowed to another country: the worker asks again before it opens a file."""
    order = sent(estate.settings, estate.order(), f"{HOME}-k8s")
    estate.declare("residency: [EU]", "residency: [FR]")
    with pytest.raises(PolicyDenied, match="residency"):
        estate.run(order)
    assert estate.away() == []


class TestDeclassification:
    """A label that was lowered with an end."""

    LOWERED = "retention_days: 365, derived_from: [nafld-raw]"

    def lower(self, estate: Estate, until: str, approver: str = "dpo") -> None:
        estate.declare(
            self.LOWERED,
            f"{self.LOWERED},\n     declassified: {{to: {{classification: internal, residency: anywhere}}, reason: counts only, "
            f"approver: {approver}, until: {until}}}",
        )

    def test_while_it_holds_the_data_may_travel(self, estate: Estate) -> None:
        """So that the refusals below mean something."""
        self.lower(estate, "2999-12-31")
        assert estate.placed(FORBIDDEN)["chosen"]

    def test_once_it_has_ended_the_label_is_the_old_one(self, estate: Estate) -> None:
        """No decision."""
        self.lower(estate, "2020-12-31")
        assert estate.placed(FORBIDDEN)["chosen"] is None

    @pytest.mark.parametrize("how", ["ended", "taken back"])
    def test_a_transfer_that_was_sent_while_it_held_is_refused_afterwards(self, estate: Estate, how: str) -> None:
        """A run may wait for hours for its worker."""
        self.lower(estate, "2999-12-31")
        order = sent(estate.settings, estate.order(FORBIDDEN), f"{HOME}-k8s")
        if how == "ended":
            estate.declare("until: 2999-12-31", "until: 2020-12-31")
        else:
            path = estate.settings.deployments / "catalog" / "nafld.yaml"
            path.write_text(re.sub(r",\n     declassified: \{.*\}\}", "}", path.read_text()))
        with pytest.raises(PolicyDenied):
            estate.run(order)
        assert estate.away() == []

    def test_an_edited_one_is_in_the_ledger(self, estate: Estate) -> None:
        """Whoever may write the catalog's files lowers a label: the next decision records that it did, and the chain holds it."""
        estate.placed()
        self.lower(estate, "2999-12-31", approver="nobody")
        estate.placed()
        estate.declare("until: 2999-12-31", "until: 2999-12-30")
        estate.placed()
        estate.placed()
        with estate.state.reading() as tx:
            bodies = [row.body for row in ledger.rows(tx, kind="declassification")]
        assert [(body["dataset"], body["until"]) for body in bodies] == [("nafld-features", "2999-12-31"), ("nafld-features", "2999-12-30")]
        assert "nobody" not in str(bodies), "people are opaque ids in the ledger"


@pytest.mark.parametrize("ticketed", [True, False], ids=["with a ticket", "past the ticket"])
def test_a_decision_edited_in_the_database_sends_nothing_elsewhere(estate: Estate, ticketed: bool) -> None:
    """Its destination is part of the request that it was made for; the worker asks policy about that request, by its hash."""
    order = sent(estate.settings, estate.order(), f"{HOME}-k8s")
    with estate.state.transaction() as tx:
        row = tx.get_one(DecisionRow, order.decision_id)
        body = {**row.body, "chosen": {**row.body["chosen"], "pool": f"{FORBIDDEN}-ecs", "site": FORBIDDEN}}
        tx.execute(update(DecisionRow).where(DecisionRow.id == order.decision_id).values(body=body))
    with pytest.raises(GuardRefused):
        estate.run(order, ticketed=ticketed)
    assert estate.away() == []


@pytest.mark.parametrize(
    ("forge", "told"),
    [
        (lambda ref, other: {"data": DatasetRef("nafld-raw", "0" * 16)}, "signed|cover"),
        (lambda ref, other: {"data": DatasetRef(ref.dataset, f"../{other.dataset}/{other.version}")}, "signed|path"),
        (lambda ref, other: {"data": DatasetRef(ref.dataset, other.version)}, "signed|rest"),
        (lambda ref, other: {"data": ref, "more": other}, "signed|cover"),
    ],
    ids=["another dataset", "a path", "another's version", "one more"],
)
@pytest.mark.parametrize("ticketed", [True, False], ids=["with a ticket", "past the ticket"])
def test_a_forged_reference_is_refused(
    estate: Estate, forge: Callable[[DatasetRef, DatasetRef], dict[str, DatasetRef]], told: str, ticketed: bool
) -> None:
    """Each wall alone holds it: the signature, and what stands behind the signature."""
    other = planted(estate.settings, estate.state, "nafld-raw", PLANTED + " raw")
    order = sent(estate.settings, estate.order(), f"{HOME}-k8s")
    with pytest.raises((GuardRefused, IntegrityError, UserError), match=told if ticketed else "."):
        estate.run(replace(order, inputs=forge(estate.ref, other)), ticketed=ticketed)
    assert estate.away() == []


def test_a_replica_that_was_edited_is_seen(estate: Estate) -> None:
    """The table's row of files says another file now: what control signed does not fit it."""
    order = sent(estate.settings, estate.order(), f"{HOME}-k8s")
    with estate.state.transaction() as tx:
        tx.execute(update(ReplicaRow).values(files={"rows.txt": "0" * 64}))
    with pytest.raises(IntegrityError, match="not what was published"):
        estate.run(order)
    assert estate.away() == []


def test_bytes_that_were_exchanged_with_their_record_are_not_carried(estate: Estate) -> None:
    """At the source a version's files and its own manifest were replaced together; a transfer carries only what control signed."""
    order = sent(estate.settings, estate.order(), f"{HOME}-k8s")
    folder = estate.site(HOME).root / "datasets" / estate.ref.dataset / estate.ref.version
    (folder / "rows.txt").unlink()
    (folder / "rows.txt").write_text(PLANTED + " and another patient")
    body = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(re.sub(r'"rows.txt": "\w+"', f'"rows.txt": "{file_sha256(folder / "rows.txt")}"', body))
    with pytest.raises(IntegrityError, match="is not what control sent"):
        estate.run(order)
    assert estate.away() == []


def test_a_transfer_under_the_name_of_public_data_is_not_signed(estate: Estate) -> None:
    """Patients in a folder of the flights, and a row that says they are flights: the name of a version is the hash of its files."""
    files = {"rows.txt": estate.site(HOME).describe(estate.ref.dataset, estate.ref.version).files["rows.txt"]}
    forged = DatasetRef("nafld-features", "f" * 16)
    assert content_hash(files)[:16] != forged.version
    with estate.state.transaction() as tx:
        replicas.add(tx, dataset=forged.dataset, version=forged.version, site=HOME, bytes=1, files=files, facts={}, intent_id=None, at=AT)
    order = replace(estate.order(), inputs={"data": forged})
    with pytest.raises(IntegrityError, match="not what was published"):
        sent(estate.settings, order, f"{HOME}-k8s")
    assert estate.away() == []


def test_a_ticket_that_waited_too_long_sends_nothing(estate: Estate) -> None:
    """A stale decision is not carried out, however right it was."""
    order = sent(estate.settings, estate.order(), f"{HOME}-k8s", at=datetime.now(UTC) - timedelta(days=1))
    with pytest.raises(GuardRefused, match="the ticket holds from"):
        estate.run(order)
    assert estate.away() == []


def test_a_transfer_cannot_be_replayed_at_another_pool(estate: Estate) -> None:
    """The destination's own worker has no more right to fetch than any other."""
    order = sent(estate.settings, estate.order(), f"{HOME}-k8s")
    for ticketed in (True, False):
        with acting_as(ALLOWED, f"{ALLOWED}-ecs"), pytest.raises(GuardRefused):
            run_step(order, settings=estate.settings, ticketed=ticketed)
    assert estate.away() == []
