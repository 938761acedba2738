"""Which sites are closed and which pools cool down, in the state database."""

from __future__ import annotations

from datetime import timedelta

import pytest

from flows.store import database, ledger, sites
from flows.store.database import State
from flows.store.models import PrincipalRow
from tests.store.conftest import NOW

MINUTE = timedelta(minutes=1)


def test_a_site_is_open_until_someone_closes_it(state: State) -> None:
    """Cordoned and draining sites are closed, the last change holds, and the name of who said so is kept apart."""
    with state.transaction() as tx:
        assert sites.closed(tx) == {}
        assert sites.change(tx, "fra", "cordoned", reason="disks", principal="ada", at=NOW) == "open"
        assert sites.change(tx, "muc", "draining", reason="", principal="ada", at=NOW) == "open"
        assert sites.change(tx, "fra", "draining", reason="disks", principal="ada", at=NOW + MINUTE) == "cordoned"
    with state.reading() as tx:
        assert [(row.site, row.state, row.reason) for row in sites.closed(tx).values()] == [
            ("fra", "draining", "disks"),
            ("muc", "draining", ""),
        ]
        (person,) = tx.query(PrincipalRow).all()
        assert {row.principal for row in sites.closed(tx).values()} == {person.id}
    with state.transaction() as tx:
        assert sites.change(tx, "fra", "open", reason="", principal="bob", at=NOW + 2 * MINUTE) == "draining"
    with state.reading() as tx:
        assert list(sites.closed(tx)) == ["muc"]


def test_the_same_change_again_changes_nothing(state: State) -> None:
    """Neither a second cordon for the same reason nor opening an open site is a change; another reason is."""
    with state.transaction() as tx:
        assert sites.change(tx, "fra", "open", reason="", principal="ada", at=NOW) is None
        sites.change(tx, "fra", "cordoned", reason="disks", principal="ada", at=NOW)
        assert sites.change(tx, "fra", "cordoned", reason="disks", principal="bob", at=NOW + MINUTE) is None
        assert sites.change(tx, "fra", "cordoned", reason="network", principal="bob", at=NOW + MINUTE) == "cordoned"


def test_a_pool_cools_down_until_its_time(state: State) -> None:
    """The latest instant of all its failures counts, and no longer than that; a second failure of an intent counts anew."""
    with state.transaction() as tx:
        sites.cool(tx, "p", "w/train/1/a", until=NOW + 30 * MINUTE, error="Crashed", at=NOW)
        sites.cool(tx, "p", "w/train/1/b", until=NOW + 10 * MINUTE, error="Crashed", at=NOW)
        sites.cool(tx, "q", "w/train/1/b", until=NOW + 5 * MINUTE, error="Crashed", at=NOW)
        sites.cool(tx, "q", "w/train/1/b", until=NOW + 20 * MINUTE, error="TimedOut", at=NOW)
    with state.reading() as tx:
        assert sites.cooling(tx, NOW) == {"p": NOW + 30 * MINUTE, "q": NOW + 20 * MINUTE}
        assert sites.cooling(tx, NOW + 20 * MINUTE) == {"p": NOW + 30 * MINUTE}
        assert sites.failed_for(tx, "w/train/1/b", NOW) == ["p", "q"]
        assert sites.failed_for(tx, "w/train/1/b", NOW + 10 * MINUTE) == ["q"]
    with state.transaction() as tx:
        sites.end_cooling(tx, ["p"])
    with state.reading() as tx:
        assert list(sites.cooling(tx, NOW)) == ["q"]


def test_an_older_database_gets_the_tables_and_keeps_its_rows(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database of the first schema is brought up to date with all that it holds."""
    with monkeypatch.context() as then:
        then.setattr(database, "HEAD", "0001")
        first = State(url)
        first.migrate()
        with first.transaction() as tx:
            ledger.append(tx, "site-cordon", {}, principal="ada", at=NOW)
        first.close()
    later = State(url)
    later.migrate()
    with later.reading() as tx:
        assert sites.closed(tx) == {}
        assert len(ledger.rows(tx)) == 1
    later.close()
