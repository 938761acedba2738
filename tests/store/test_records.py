"""Replicas, verdicts, costs, runs, transfers, reservations and principals."""

from __future__ import annotations

import re
import threading
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from flows.core.errors import IntegrityError, UserError
from flows.store import costs, outbox, principals, replicas, reservations, runs, transfers, verdicts
from flows.store.database import State
from tests.store.conftest import NOW

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)


def rest(state: State, version: str, site: str = "a", **other: Any) -> None:
    """Record a replica."""
    values = {"bytes": 3, "files": {"x": "0"}, "facts": {"as_of": "2026-01-01T00:00:00Z"}, "intent_id": "i", "at": NOW} | other
    with state.transaction() as tx:
        replicas.add(tx, dataset="d", version=version, site=site, **values)


def test_a_version_may_rest_at_several_sites(state: State) -> None:
    """Each site once, in order of name; a replica that is gone is forgotten."""
    for site in ("b", "a", "b"):
        rest(state, "v1", site)
    with state.transaction() as tx:
        assert replicas.sites(tx, "d", "v1") == ["a", "b"]
        assert [row.site for row in replicas.by_dataset(tx)["d"]] == ["a", "b"]
        assert replicas.remove(tx, dataset="d", version="v1", site="a")
        assert not replicas.remove(tx, dataset="d", version="v1", site="a")
        assert replicas.sites(tx, "d", "v1") == ["b"]
        assert replicas.get(tx, "d", "v1", "a") is None


def test_one_version_has_one_content(state: State) -> None:
    """Other bytes or files under the same version are told."""
    rest(state, "v1")
    for other in ({"bytes": 4}, {"files": {"x": "1"}}):
        with pytest.raises(IntegrityError, match="other bytes"):
            rest(state, "v1", "b", **other)


def test_the_latest_replica_is_the_newest_data(state: State) -> None:
    """By the data's own clock first, then by when it came; nothing of the future is seen."""
    rest(state, "old", facts={"as_of": "2026-01-01"}, at=NOW + DAY)
    rest(state, "new", facts={"as_of": NOW})
    rest(state, "newer", site="b", facts={"as_of": NOW}, at=NOW + HOUR)
    rest(state, "unknown", facts={}, at=NOW + DAY * 9)
    with state.reading() as tx:

        def version(**which: Any) -> str | None:
            row = replicas.latest(tx, "d", **which)
            return row.version if row else None

        assert version() == "newer"
        assert version(site="a") == "new"
        assert version(as_of=NOW - HOUR) == "old"
        assert version(as_of=NOW - DAY * 30) is None
        assert replicas.latest(tx, "other") is None


def test_an_as_of_without_time_zone_is_refused(state: State) -> None:
    """A fact that is no instant is not guessed at."""
    with pytest.raises(ValueError, match="time zone"):
        rest(state, "v1", facts={"as_of": "2026-01-01T00:00:00"})


def test_a_verdict_is_frozen(state: State) -> None:
    """The same one again is nothing new, another under its id is told."""
    values: dict[str, Any] = {"id": "v", "kind": "drift", "workload": "w", "as_of": NOW, "intent_id": "i", "at": NOW, "body": {"psi": 0.2}}
    with state.transaction() as tx:
        verdicts.add(tx, passed=False, **values)
        verdicts.add(tx, passed=False, **values)
        verdicts.add(tx, passed=True, **(values | {"id": "later", "as_of": NOW + DAY, "kind": "evaluation"}))
    with pytest.raises(IntegrityError, match="another verdict"), state.transaction() as tx:
        verdicts.add(tx, passed=True, **values)
    with state.reading() as tx:
        row = verdicts.get(tx, "v")
        assert row is not None and (row.passed, row.body) == (False, {"psi": 0.2})
        assert [row.id for row in verdicts.recent(tx, "w")] == ["later", "v"]
        assert [row.id for row in verdicts.recent(tx, "w", "drift")] == ["v"]


def spend(state: State, run_id: str, kind: costs.Kind, usd: Any, pool: str = "p", at: Any = NOW) -> None:
    """Record a cost."""
    parts: dict[str, Any] = {"usd_compute": usd, "usd_egress": "0.1", "usd_storage": 0, "seconds": 1.5, "kg_co2": 0.000001}
    with state.transaction() as tx:
        costs.add(tx, run_id=run_id, decision_id="d", workload="w", step="train", pool=pool, site="s", kind=kind, at=at, **parts)


def test_costs_add_up_exactly(state: State) -> None:
    """A tenth ten times is one, by pool and by workload."""
    for number in range(10):
        spend(state, f"r{number}", "decided", 0.1, pool=f"p{number % 2}")
    with state.reading() as tx:
        (first, second), (whole,) = costs.by_pool(tx), costs.by_workload(tx)
    assert (first.key, second.key, first.runs, second.usd_compute) == ("p0", "p1", 5, Decimal("0.5"))
    assert (whole.usd_compute, whole.usd_total, whole.usd_decided, whole.kg_co2, whole.seconds) == (1, 2, 2, Decimal("0.00001"), 15)
    assert whole.to_json()["usd_total"] == 2.0


def test_a_settled_cost_takes_the_decided_ones_place(state: State) -> None:
    """The bill counts once it is there; what was expected is kept beside it; a run costs once."""
    spend(state, "r", "decided", 1)
    spend(state, "r", "settled", 3)
    spend(state, "r", "settled", 2)
    spend(state, "other", "decided", 5, at=NOW - DAY)
    with state.reading() as tx:
        (line,) = costs.by_pool(tx, NOW)
        assert (line.runs, line.settled_runs, line.usd_compute, line.usd_decided) == (1, 1, 2, Decimal("1.1"))
        assert [row.usd_compute for row in costs.rows(tx)] == [1, 2, 5]


def test_a_run_has_a_beginning_and_an_end(state: State) -> None:
    """Where, by whom and how long; a run that begins again is running again."""
    values: dict[str, Any] = {"workload": "w", "step": "train", "pool": "p", "site": "s", "intent_id": "i", "decision_id": None}
    with state.transaction() as tx:
        runs.start(tx, id="r", pid=1, at=NOW, **values)
        runs.finish(tx, "r", "failed", NOW + HOUR, "no disk")
        row = runs.start(tx, id="r", pid=2, at=NOW + HOUR, **values)
        assert (row.state, row.pid, row.error, row.seconds) == ("running", 2, None, None)
        runs.finish(tx, "r", "completed", NOW + HOUR * 2)
        runs.start(tx, id="later", pid=None, at=NOW + HOUR * 3, **(values | {"step": "score"}))
        assert [(row.id, row.seconds) for row in runs.recent(tx)] == [("later", None), ("r", 3600.0)]
        assert [row.id for row in runs.recent(tx, step="train", state="completed", workload="w", intent_id="i", since=NOW)] == ["r"]
    with pytest.raises(UserError, match="no run"), state.transaction() as tx:
        runs.finish(tx, "nobody", "failed", NOW)


def test_a_transfer_is_recorded_once_a_run(state: State) -> None:
    """The same copy of the same run adds nothing; another run's does."""
    values: dict[str, Any] = {"dataset": "d", "version": "v", "source": "a", "destination": "b", "bytes": 3_000_000_000, "seconds": 1.0}
    with state.transaction() as tx:
        for run in ("r", "r", "s"):
            transfers.add(tx, **values, usd="0.09", run_id=run, intent_id="i", at=NOW, cause="train")
        assert [(row.run_id, row.bytes, row.usd) for row in transfers.recent(tx, dataset="d")] == [
            ("s", 3_000_000_000, Decimal("0.09")),
            ("r", 3_000_000_000, Decimal("0.09")),
        ]


def test_reservations_hold_half_open_spans(state: State) -> None:
    """What ends as another begins does not overlap it; an intent holds one; a released one is gone."""
    with state.transaction() as tx:
        row = reservations.add(tx, "p", {"A100": Decimal("4.0"), "cpus": "8"}, NOW, NOW + HOUR, "i")
        assert reservations.to_conditions(row, NOW) == {
            "pool": "p",
            "use": {"A100": "4", "cpus": "8"},
            "from": "2026-01-05T08:00:00Z",
            "until": "2026-01-05T09:00:00Z",
        }
        assert reservations.active(tx, NOW + HOUR) == []
        assert len(reservations.active(tx, NOW + HOUR / 2)) == len(reservations.active(tx, NOW - DAY * 300)) == 1
        reservations.add(tx, "q", {"nodes": 1}, NOW + HOUR, NOW + HOUR * 2, "i")
        assert [row.pool for row in reservations.active(tx, NOW)] == ["q"]
        reservations.release(tx, "i")
        assert reservations.active(tx, NOW) == []


def test_a_run_that_outlasts_its_reservation_holds_it_on(state: State) -> None:
    """As long again from whenever it is asked, until the run has ended; what waits for its slot holds nothing beyond its end."""
    intent = outbox.Intent.of("shop", "train", "2026-01-05", "manual", due_at=NOW)
    with state.transaction() as tx:
        outbox.ensure(tx, intent)
        reservations.add(tx, "p", {"A100": 1}, NOW, NOW + HOUR * 2, intent.id)
        later = NOW + HOUR * 3
        assert reservations.active(tx, later) == []
        outbox.claim(tx, intent.id, owner="run", at=NOW, stale_after=DAY)
        (row,) = reservations.active(tx, later)
        assert reservations.to_conditions(row, later)["until"] == "2026-01-05T13:00:00Z"
        assert reservations.to_conditions(row, NOW)["until"] == "2026-01-05T10:00:00Z"
        outbox.finish(tx, intent.id, {}, later)
        assert reservations.active(tx, later) == []


@pytest.mark.parametrize(("use", "hours"), [({"nodes": -1}, 1), ({"nodes": "NaN"}, 1), ({"nodes": 1}, 0)])
def test_a_reservation_that_makes_no_sense_is_refused(state: State, use: dict[str, Any], hours: int) -> None:
    """No negative amount, no amount that is no number, no empty span."""
    with pytest.raises(ValueError, match="reservation"), state.transaction() as tx:
        reservations.add(tx, "p", use, NOW, NOW + HOUR * hours, "i")


def test_capacity_is_never_promised_twice(state: State) -> None:
    """Eight decisions at once for a pool with room for three: three get it."""

    def decide(number: int) -> None:
        with state.transaction() as tx:
            reservations.hold(tx)
            if len(reservations.active(tx, NOW)) < 3:
                reservations.add(tx, "p", {"nodes": 1}, NOW, NOW + HOUR, f"i{number}")

    threads = [threading.Thread(target=decide, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with state.reading() as tx:
        assert len(reservations.active(tx, NOW)) == 3


def test_a_principal_is_opaque_and_erasable(state: State) -> None:
    """One id for one name, not derived from it; erased, the name is gone and comes back as somebody else."""
    with state.transaction() as tx:
        ada = principals.id_for(tx, "ada")
        assert re.fullmatch(r"p-[0-9a-f]{16}", ada)
        assert principals.id_for(tx, "ada") == ada == principals.id_for(tx, ada)
        assert principals.name_of(tx, ada) == "ada"
        assert principals.erase(tx, "ada") == ada
        assert principals.name_of(tx, ada) is None
        assert principals.erase(tx, "ada") is None
        assert principals.id_for(tx, "ada") != ada
        principals.id_for(tx, "bob")
        assert principals.erase(tx, "bob")
