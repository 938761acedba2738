"""Bridges to Atlas and Purview over HTTP, against an emulator of the Atlas v2 REST API on this machine (not Apache Atlas itself)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.adapters.catalogs.atlas import Atlas
from flows.adapters.catalogs.declared import load_bridges
from flows.adapters.catalogs.purview import Purview
from flows.adapters.catalogs.rest import TRIES, TokenBucket
from flows.core.errors import PolicyDenied, TradewindError, Unavailable, UserError
from flows.core.governance.bridge import Address, BridgeDeclaration, Entity, Process
from flows.core.governance.labels import Catalog
from tests.emulators.atlas_server import AtlasServer, serving, slow, status

NOW = datetime(2026, 1, 5, 8, tzinfo=UTC).timestamp()


class TestClock:
    """A clock that passes only by waiting."""

    __test__ = False

    def __init__(self) -> None:
        self.at = NOW
        self.waits: list[float] = []

    def now(self) -> float:
        """The instant."""
        return self.at

    def sleep(self, seconds: float) -> None:
        """Wait at once."""
        self.waits.append(seconds)
        self.at += seconds


@pytest.fixture
def clock() -> TestClock:
    return TestClock()


@pytest.fixture
def atlas(monkeypatch: pytest.MonkeyPatch) -> Iterator[AtlasServer]:
    made = AtlasServer()
    for name, value in (
        ("USER", made.user),
        ("PASSWORD", made.password),
        ("CLIENT_ID", made.client_id),
        ("CLIENT_SECRET", made.client_secret),
    ):
        monkeypatch.setenv(f"TRADEWIND_CATALOG_HERE_{name}", value)
    with serving(made) as server:
        yield server


def bridge(atlas: AtlasServer, kind: str = "atlas", **changes: object) -> BridgeDeclaration:
    wanted = {
        "name": "here",
        "kind": kind,
        "url": atlas.url,
        "token_url": f"{atlas.url}/oauth2/token",
        "timeout_seconds": 5,
        "capacity_units": 4,
    }
    return BridgeDeclaration.model_validate(wanted | changes)


def tables(count: int) -> dict[str, Address]:
    return {f"d{number}": Address(type="table", qualified_name=f"t{number:03d}") for number in range(count)}


def asked(atlas: AtlasServer, what: str) -> int:
    return sum(what in line for line in atlas.seen)


@pytest.mark.parametrize(("kind", "client", "search"), [("atlas", Atlas, "/search/basic"), ("purview", Purview, "/api/search/query")])
def test_a_search_is_read_page_by_page_and_entities_in_bulk(
    atlas: AtlasServer, clock: TestClock, kind: str, client: type[Atlas], search: str
) -> None:
    """Every declared entity is found, however many pages it takes, and no request asks for more than the bulk limit."""
    atlas.bulk_limit = 10
    for number in range(25):
        atlas.add("table", f"t{number:03d}", "PII" if number % 2 else "OPEN")
    read = client(bridge(atlas, kind, page_size=7, bulk_size=10), clock).labels(tables(25))
    assert read.failed == {}
    assert read.found == {f"d{number}": ("PII",) if number % 2 else ("OPEN",) for number in range(25)}
    assert (asked(atlas, search), asked(atlas, "/entity/bulk"), asked(atlas, "uniqueAttribute")) == (4, 3, 0)


def test_a_columns_classification_counts_for_its_table(atlas: AtlasServer, clock: TestClock) -> None:
    """And only for its own table."""
    atlas.add("table", "t000", "OPEN", columns=(("EMAIL",), ()))
    atlas.add("table", "t001")
    assert Atlas(bridge(atlas), clock).labels(tables(2)).found == {"d0": ("EMAIL", "OPEN"), "d1": ()}


def test_what_the_search_does_not_show_yet_is_asked_for_by_name(atlas: AtlasServer, clock: TestClock) -> None:
    """The index lags behind the entities."""
    atlas.add("table", "t000", "PII")
    atlas.hidden.add("t000")
    assert Atlas(bridge(atlas), clock).labels(tables(1)).found == {"d0": ("PII",)}
    assert asked(atlas, "uniqueAttribute") == 1


def test_what_is_missing_or_deleted_is_named(atlas: AtlasServer, clock: TestClock) -> None:
    """The others are read all the same."""
    atlas.add("table", "t000", "PII")
    atlas.add("table", "t001", state="DELETED")
    read = Atlas(bridge(atlas), clock).labels(tables(3))
    assert read.found == {"d0": ("PII",)}
    assert set(read.failed) == {"d1", "d2"}
    assert "deleted" in read.failed["d1"]


def test_one_guid_that_is_gone_does_not_spoil_its_piece(atlas: AtlasServer, clock: TestClock) -> None:
    """The server refuses the whole piece; each is then asked for alone."""
    for number in range(3):
        atlas.add("table", f"t{number:03d}", "PII")
    atlas.refuse.add("t001")
    assert set(Atlas(bridge(atlas), clock).labels(tables(3)).found) == {"d0", "d1", "d2"}
    assert asked(atlas, "/entity/bulk") == 4


@pytest.mark.parametrize(
    ("header", "waited"),
    [("7", 7.0), (format_datetime(datetime.fromtimestamp(NOW + 9, UTC), usegmt=True), 9.0), (None, 0.5), ("soon", 0.5)],
)
def test_too_many_requests_are_sent_again_when_the_server_says(
    atlas: AtlasServer, clock: TestClock, header: str | None, waited: float
) -> None:
    """In seconds, as an HTTP date, or after our own pause."""
    atlas.add("table", "t000", "PII")
    atlas.faults.append(status(429, **({"Retry_After": header} if header else {})))
    assert Atlas(bridge(atlas), clock).labels(tables(1)).found == {"d0": ("PII",)}
    assert clock.waits == [waited]


def test_a_wait_that_is_too_long_ends_at_once(atlas: AtlasServer, clock: TestClock) -> None:
    """Nobody sits through an hour."""
    atlas.faults.append(status(429, Retry_After="3600"))
    with pytest.raises(Unavailable, match="3600 s"):
        Atlas(bridge(atlas), clock).labels(tables(1))
    assert clock.waits == []


@pytest.mark.parametrize("code", [500, 503])
def test_a_server_that_recovers_is_read(atlas: AtlasServer, clock: TestClock, code: int) -> None:
    """The pauses double."""
    atlas.add("table", "t000", "PII")
    atlas.faults += [status(code)] * 3
    assert Atlas(bridge(atlas), clock).labels(tables(1)).found == {"d0": ("PII",)}
    assert clock.waits == [0.5, 1.0, 2.0]


@pytest.mark.parametrize(
    ("fault", "error", "requests"),
    [
        (status(401), UserError, 1),
        (status(403), PolicyDenied, 1),
        (status(400), UserError, 1),
        (status(302, Location="http://127.0.0.1:1/"), UserError, 1),
        (status(503), Unavailable, TRIES),
        (lambda _path: (200, b'{"entities": [', {}), Unavailable, 1),
        (lambda _path: (200, b"<html>sign in</html>", {}), Unavailable, 1),
        (lambda _path: (200, ["no", "mapping"], {}), Unavailable, 1),
        (lambda _path: (200, {"entities": [{"noguid": 1}]}, {}), Unavailable, 1),
    ],
    ids=["401", "403", "400", "redirect", "503 for good", "cut off", "a page", "a list", "another shape"],
)
def test_what_goes_wrong_is_one_clear_error(
    atlas: AtlasServer, clock: TestClock, fault: object, error: type[TradewindError], requests: int
) -> None:
    """Never with a credential in it, and never sent on to another address."""
    atlas.faults += [fault] * requests  # type: ignore[list-item]
    with pytest.raises(error, match=r"bridge `here`|the catalog") as caught:
        Atlas(bridge(atlas), clock).labels(tables(1))
    assert len(atlas.seen) == requests
    assert atlas.password not in str(caught.value)


def test_a_slow_answer_is_given_up_and_asked_for_again(atlas: AtlasServer, clock: TestClock) -> None:
    """Within the declared time."""
    atlas.add("table", "t000", "PII")
    atlas.faults.append(slow(0.6))
    assert Atlas(bridge(atlas, timeout_seconds=0.2), clock).labels(tables(1)).found == {"d0": ("PII",)}


def test_a_server_that_is_not_there_is_unavailable(clock: TestClock, atlas: AtlasServer) -> None:
    """After all tries."""
    with pytest.raises(Unavailable, match=f"{TRIES} tries"):
        Atlas(bridge(atlas, url="http://127.0.0.1:1"), clock).labels(tables(1))


def test_without_credentials_nothing_is_asked(atlas: AtlasServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the variable."""
    monkeypatch.delenv("TRADEWIND_CATALOG_HERE_PASSWORD")
    with pytest.raises(UserError, match="TRADEWIND_CATALOG_HERE_PASSWORD"):
        Atlas(bridge(atlas))
    assert atlas.seen == []


def test_a_token_is_kept_and_fetched_anew_before_it_expires(atlas: AtlasServer, clock: TestClock) -> None:
    """One token for many requests, another once a minute of it is left."""
    atlas.add("table", "t000", "PII")
    client = Purview(bridge(atlas, "purview"), clock)
    client.labels(tables(1))
    client.labels(tables(1))
    assert len(atlas.tokens) == 1
    clock.at += atlas.token_seconds - 59
    assert client.labels(tables(1)).found == {"d0": ("PII",)}
    assert len(atlas.tokens) == 2


def test_a_token_that_was_revoked_is_replaced_once(atlas: AtlasServer, clock: TestClock) -> None:
    """A second refusal is an error."""
    atlas.add("table", "t000", "PII")
    client = Purview(bridge(atlas, "purview"), clock)
    client.labels(tables(1))
    atlas.tokens.append("another")
    assert client.labels(tables(1)).found == {"d0": ("PII",)}
    atlas.faults += [status(401), lambda _path: None, status(401)]
    with pytest.raises(UserError, match="refuses the credentials"):
        client.labels(tables(1))


def test_a_client_that_the_token_address_refuses_is_told(atlas: AtlasServer, clock: TestClock) -> None:
    """Without its secret."""
    atlas.client_secret = "another-one-made-for-the-test"
    with pytest.raises(UserError, match="CLIENT_SECRET") as caught:
        Purview(bridge(atlas, "purview"), clock).labels(tables(1))
    assert "secret-made-for-the-test" not in str(caught.value)


@given(st.lists(st.integers(1, 120), min_size=1, max_size=40), st.sampled_from([25.0, 100.0]))
def test_the_rate_is_never_exceeded(pieces: list[int], rate: float) -> None:
    """Between any two requests, no more is sent than one full bucket, the rate, and the one piece that may be larger than it."""
    clock = TestClock()
    bucket = TokenBucket(rate, clock)
    sent: list[tuple[float, int]] = []
    for piece in pieces:
        bucket.take(piece)
        sent.append((clock.at, piece))
    for first in range(len(sent)):
        for last in range(first, len(sent)):
            span = sent[last][0] - sent[first][0]
            total = sum(piece for _, piece in sent[first : last + 1])
            assert total <= rate + span * rate + max(0.0, sent[last][1] - rate) + 1e-3
    assert all(before[0] <= after[0] for before, after in pairwise(sent))


ENTITIES = [Entity(f"d{number}", f"tradewind://d{number}", "", {"kind": "dataset"}) for number in range(7)]
LINEAGE = [Process("w.train", "tradewind://w/train", ("tradewind://d0",), ("tradewind://d1",), {"step": "train"})]


def test_publishing_twice_changes_nothing(atlas: AtlasServer, clock: TestClock) -> None:
    """By qualified name, in pieces within the bulk limit, its own types made once."""
    atlas.bulk_limit = 3
    client = Atlas(bridge(atlas, bulk_size=3), clock)
    first, second = client.publish(ENTITIES, LINEAGE), client.publish(ENTITIES, LINEAGE)
    assert (len(first.created), first.failed) == (8, {})
    assert (second.created, second.updated, len(second.unchanged)) == ((), (), 8)
    assert len(atlas.entities) == 8
    assert asked(atlas, "POST /api/atlas/v2/types/typedefs") == 1
    process = atlas.named("tradewind_process", "tradewind://w/train")
    assert process is not None and process["attributes"]["inputs"][0]["uniqueAttributes"] == {"qualifiedName": "tradewind://d0"}


def test_what_the_catalog_refuses_is_named_and_the_rest_is_there(atlas: AtlasServer, clock: TestClock) -> None:
    """A piece that is refused is sent one by one."""
    atlas.refuse.add("tradewind://d3")
    done = Atlas(bridge(atlas), clock).publish(ENTITIES, LINEAGE)
    assert set(done.failed) == {"tradewind://d3"}
    assert len(done.created) == 7


def test_an_entity_that_failed_inside_a_piece_is_named(atlas: AtlasServer, clock: TestClock) -> None:
    """As the answer's `failedEntities` say."""
    answer = {"mutatedEntities": {}, "guidAssignments": {}, "failedEntities": [{"guid": "-2", "errorCode": "X", "errorMessage": "no"}]}
    atlas.faults += [lambda _path: None, lambda _path: None, lambda _path: None, lambda _path: (200, answer, {})]
    done = Atlas(bridge(atlas), clock).publish(ENTITIES[:2], [])
    assert done.failed == {"tradewind://d1": "no"}


CATALOG = Catalog.model_validate({"as_of": "2026-01-05T06:00:00Z", "entries": [{"name": "ehr", "home": "x", "size_gb": 1}]})
DECLARED = """bridges:
  - name: a
    kind: atlas
    url: https://atlas.example
    entries: {ehr: {type: t, qualified_name: q}}
"""


def test_bridges_are_read_from_their_file(tmp_path: Path) -> None:
    """With what they leave out filled in."""
    (tmp_path / "catalogs.yaml").write_text(DECLARED)
    (found,) = load_bridges(tmp_path, CATALOG)
    assert (found.entries["ehr"].qualified_name, found.operations_per_second, timedelta(hours=float(found.ttl_hours))) == (
        "q",
        25,
        timedelta(days=1),
    )


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("https://", "http://", "https:// address"),
        ("https://", "https://me:word@", "no password"),
        ("kind: atlas", "kind: purview", "token_url"),
        ("ehr:", "ehx:", "the catalog has no `ehx`"),
        ("kind: atlas", "kind: atlas\n    ttl: 3", "ttl"),
        ("    entries", "    ignored: [A]\n    classifications: {A: {classification: secret}}\n    entries", "`secret` is not allowed"),
    ],
)
def test_a_wrong_declaration_is_told_with_its_line(tmp_path: Path, old: str, new: str, told: str) -> None:
    """What, where, what was expected."""
    (tmp_path / "catalogs.yaml").write_text(DECLARED.replace(old, new))
    with pytest.raises(UserError, match=r"catalogs\.yaml:") as caught:
        load_bridges(tmp_path, CATALOG)
    assert told in str(caught.value)
