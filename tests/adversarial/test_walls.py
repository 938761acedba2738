"""Each wall in front of a forbidden transfer, alone and taken out: one that stands is enough, and without any the bytes do arrive."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from itertools import chain, combinations
from typing import Any

import pytest
from sqlalchemy import update

from flows.core.canonical import canonical_json, sha256_hex
from flows.core.errors import GuardRefused, PolicyDenied, TradewindError
from flows.services import placing
from flows.services.context import DatasetRef
from flows.services.declarations import Declarations
from flows.services.local_run import acting_as
from flows.services.running import StepOrder, run_step
from flows.services.stepping import STALE_AFTER
from flows.store import decisions, outbox
from flows.store.models import DecisionRow, DocumentRow
from tests.adversarial.test_transfers import ALLOWED, AT, FORBIDDEN, HOME, INTENT, Estate, estate, planted
from tests.tickets import sent

__all__ = ["estate"]
WALLS = ("ticket", "policy")


def edit_the_decision(estate: Estate, order: StepOrder) -> StepOrder:
    """With the database open: another destination in the request, stored under its own hash, and the decision pointed at it."""
    with estate.state.transaction() as tx:
        row = tx.get_one(DecisionRow, order.decision_id)
        request = decisions.document(tx, row.body["inputs"]["request"])
        outputs = [{**output, "home": FORBIDDEN} for output in request["outputs"]]
        text = canonical_json({**request, "outputs": outputs}).decode()
        tx.add(DocumentRow(hash=sha256_hex(text.encode()), body=text, at=AT))
        body = {**row.body, "inputs": {**row.body["inputs"], "request": sha256_hex(text.encode())}}
        tx.execute(update(DecisionRow).where(DecisionRow.id == order.decision_id).values(body=body))
    return order


def take_out(monkeypatch: pytest.MonkeyPatch, walls: tuple[str, ...]) -> None:
    """Remove the worker's own question to policy; the ticket is left out by whoever starts the run."""
    if "policy" in walls:
        monkeypatch.setattr(Declarations, "require", lambda *_, **__: None)


@pytest.mark.parametrize("out", chain.from_iterable(combinations(WALLS, n) for n in range(3)), ids=lambda out: "+".join(out) or "none")
def test_a_destination_written_into_the_database(estate: Estate, monkeypatch: pytest.MonkeyPatch, out: tuple[str, ...]) -> None:
    """Ticket and policy each hold it alone; with both taken out the patients are at the forbidden site, so it is an attack."""
    order = edit_the_decision(estate, sent(estate.settings, estate.order(), f"{HOME}-k8s"))
    take_out(monkeypatch, out)
    if set(out) == set(WALLS):
        estate.run(order, ticketed=False)
        assert {path.relative_to(estate.settings.home / "sites").parts[0] for path in estate.away()} == {FORBIDDEN}
        return
    with pytest.raises((GuardRefused, PolicyDenied)):
        estate.run(order, ticketed="ticket" not in out)
    assert estate.away() == []


@pytest.mark.parametrize("asked", [True, False])
def test_a_decision_that_is_stale_because_a_label_was_tightened(estate: Estate, monkeypatch: pytest.MonkeyPatch, asked: bool) -> None:
    """Its ticket holds for hours; it is the worker's own question that stops it, and without that question the bytes would go."""
    order = sent(estate.settings, estate.order(), f"{HOME}-k8s")
    estate.declare("residency: [EU]", "residency: [FR]")
    if asked:
        with pytest.raises(PolicyDenied, match="residency"):
            estate.run(order)
        assert estate.away() == []
    else:
        take_out(monkeypatch, ("policy",))
        estate.run(order)
        assert estate.away()


@pytest.mark.parametrize("kind", ["raw", "quarantine", "features", "model", "predictions", "reports"])
@pytest.mark.parametrize("destination", [FORBIDDEN, "gcp-us-central1"])
def test_whatever_was_made_of_patients_is_bound_to_their_places(estate: Estate, kind: str, destination: str) -> None:
    """A model file, a report with its samples, predictions: none is sent where the rows may not be, and the same of flights is."""
    made = {}
    for workload in ("nafld", "flight_delay"):
        ref = planted(estate.settings, estate.state, f"{workload}-{kind}", f"{workload} {kind}")
        order = placing.PlaceOrder(workload, "transfer", INTENT, {"data": ref}, "scheduler", destination=destination)
        made[workload] = placing.place_step(estate.state, estate.settings, order, at=datetime.now(UTC))
    assert made["nafld"]["chosen"] is None
    assert {reason["rule"] for row in made["nafld"]["rejected"] for reason in row["reasons"]} >= {"residency"}
    assert made["flight_delay"]["chosen"], made["flight_delay"]["summary"]


class TestCache:
    """What rests somewhere from an earlier time, or is remembered, opens nothing now."""

    LOWERED = "retention_days: 365, derived_from: [nafld-raw]"

    def lower(self, estate: Estate, until: str) -> None:
        """Let the features be public until a day."""
        told = f"declassified: {{to: {{classification: public, residency: anywhere}}, reason: counts, approver: dpo, until: {until}}}"
        estate.declare(self.LOWERED, f"{self.LOWERED}, {told}")

    def arrived(self, estate: Estate) -> DatasetRef:
        """A copy of the features at the forbidden site, sent while that was allowed."""
        self.lower(estate, "2999-12-31")
        estate.run(sent(estate.settings, estate.order(FORBIDDEN), f"{HOME}-k8s"))
        assert estate.away(), "the scan finds it"
        return estate.ref

    def onward(self, estate: Estate, ref: DatasetRef) -> tuple[StepOrder, dict[str, Any]]:
        """The order to send that copy on to another site, and the place that was chosen for it."""
        intent = "nafld/transfer/2013-07-01/onward"
        order = placing.PlaceOrder("nafld", "transfer", intent, {"data": ref}, "scheduler", destination="gcp-us-central1")
        decision = placing.place_step(estate.state, estate.settings, order, at=datetime.now(UTC))
        assert decision["chosen"], decision["summary"]
        with estate.state.transaction() as tx:
            outbox.ensure(tx, outbox.Intent.of("nafld", "transfer", "2013-07-01", "onward", due_at=AT))
            outbox.claim(tx, intent, owner="run", at=datetime.now(UTC), stale_after=STALE_AFTER)
        pool = decision["chosen"]["pool"]
        made = StepOrder("transfer", "nafld", AT, intent, decision["decision_id"], {"data": ref}, "run-2")
        return sent(estate.settings, made, pool), decision["chosen"]

    @pytest.mark.parametrize("ended", [False, True], ids=["while it holds", "once it has ended"])
    def test_a_copy_from_looser_times_is_not_sent_on(self, estate: Estate, ended: bool) -> None:
        """A decision and a ticket from then are no cache of the answer: policy is asked by the label of now."""
        order, chosen = self.onward(estate, self.arrived(estate))
        before = len(estate.away())
        if ended:
            estate.declare("until: 2999-12-31", "until: 2020-12-31")
        with acting_as(chosen["site"], chosen["pool"]):
            if ended:
                with pytest.raises(PolicyDenied):
                    run_step(order, settings=estate.settings)
            else:
                run_step(order, settings=estate.settings)
        assert len(estate.away()) == (before if ended else before + 1)

    def test_a_transfer_that_is_done_is_not_done_again_by_its_record(self, estate: Estate) -> None:
        """The copy is removed and the label tightened: the intent that is done, its decision and its ticket bring nothing back."""
        order = sent(estate.settings, estate.order(), f"{HOME}-k8s")
        estate.run(order)
        estate.site(ALLOWED).remove(estate.ref.dataset, estate.ref.version)
        assert estate.away() == []
        estate.declare("residency: [EU]", "residency: [FR]")
        for again in (order, replace(order, run_id="run-2"), replace(order, run_id="run-3", ticket=None)):
            with pytest.raises(TradewindError):
                estate.run(again)
        assert estate.away() == []


FORGED: Mapping[str, Callable[[Any], Any]] = {
    "no ticket": lambda ticket: None,
    "a text": lambda ticket: "trust me",
    "another body": lambda ticket: {**ticket, "body": {**ticket["body"], "deployment": f"transfer/{FORBIDDEN}-ecs"}},
    "no signature": lambda ticket: {"body": ticket["body"]},
}


@pytest.mark.parametrize("how", FORGED)
def test_a_run_started_by_hand_at_the_forbidden_site(estate: Estate, how: str) -> None:
    """`run_deployment` with the parameters of a real dispatch, or a few edited: the forbidden site's own worker refuses it."""
    order = sent(estate.settings, estate.order(), f"{HOME}-k8s")
    with acting_as(FORBIDDEN, f"{FORBIDDEN}-ecs"), pytest.raises(GuardRefused):
        run_step(replace(order, ticket=FORGED[how](order.ticket)), settings=estate.settings)
    assert estate.away() == []
    estate.run(order)
    assert estate.away(), "as it was sent, where it was sent, the same order runs"
