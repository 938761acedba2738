"""Reviews end to end: sources are read, grants judged and stored, people attest, what expires comes back."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from flows.adapters.settings import PROJECT_ROOT, Settings
from flows.core.errors import GuardRefused, IntegrityError, PolicyDenied, Unavailable, UserError
from flows.core.governance.access import Source
from flows.core.governance.review_page import sheet
from flows.core.governance.reviews import Grant
from flows.services import reviewing
from flows.services.declarations import Declarations
from flows.services.identity import Identity
from flows.store import ledger, principals
from flows.store.columns import canonical_text
from flows.store.database import State
from flows.store.models_governance import ReviewGrantRow
from flows.store.reviews import Attested

AT = datetime(2026, 11, 2, 8, tzinfo=UTC)
DAY = timedelta(days=1)
OFFICER = Identity("carla", ("compliance-officer",), "oidc")
ACCESS = """
every_days: 90
due_days: 14
unused_days: 90
keep_days: 180
sources:
  - {name: aws, kind: aws}
  - {name: kube, kind: kubernetes}
people: {ada: {accounts: {aws: [al]}, groups: [data-science]}}
known: [{source: "*", who: [role/*], because: workers}]
allowed: [{source: "*", who: ["*"], permissions: ["s3:*"], because: a test}]
"""


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """The shipped declarations with an access declaration of the test's own."""
    folder = tmp_path / "deployments"
    shutil.copytree(PROJECT_ROOT / "deployments", folder, ignore=shutil.ignore_patterns("*.py", "__pycache__", "skeleton"))
    (folder / "access.yaml").write_text(ACCESS)
    return Settings(home=tmp_path / "home", deployments=folder, database_url=None)


@pytest.fixture
def state(settings: Settings) -> State:
    """A migrated state database."""
    made = State(settings.state_url)
    made.migrate()
    return made


class Cloud:
    """What the two sources give at present; an error stands for a source that is down."""

    def __init__(self) -> None:
        self.aws: list[Grant] | Unavailable = [grant("al"), grant("eve")]
        self.kube: list[Grant] | Unavailable = []

    def collect(self, source: Source) -> list[Grant]:
        found = self.aws if source.name == "aws" else self.kube
        if isinstance(found, Unavailable):
            raise found
        return found


def grant(principal: str, *permissions: str, **more: object) -> Grant:
    words = ("aws", "iam", "detach-user-policy", "--user-name", "{principal}")
    given = {"source": "aws", "kind": "person", "scopes": ("arn:x",), "slot": "p", "revoke": words}
    return Grant.model_validate(given | {"principal": principal, "permissions": permissions or ("s3:GetObject",)} | more)


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> Cloud:
    """Two sources under the test's hand."""
    made = Cloud()
    monkeypatch.setattr(reviewing, "COLLECT", {"aws": made.collect, "kubernetes": made.collect})
    return made


@pytest.fixture
def make(state: State, settings: Settings, cloud: Cloud) -> Callable[..., reviewing.ReviewSummary]:
    """Make a review at an instant."""
    return lambda at=AT: reviewing.review(state, settings, principal="ops", at=at)


def ids(state: State, review: str = "latest") -> dict[str, str]:
    return {line.name: line.id for line in reviewing.told(state, review, at=AT).lines}


def states(state: State, review: str = "latest") -> dict[str, str]:
    return {line.name: line.standing.state for line in reviewing.told(state, review, at=AT).lines}


def test_a_review_holds_every_grant_and_what_is_wrong_with_it(state: State, make: Callable[..., reviewing.ReviewSummary]) -> None:
    """A person's account is known, another is orphaned; the summary counts what waits."""
    found = make()
    assert (found.id, found.state, found.grants, found.open) == ("2026-11-02.1", "open", 2, 2)
    lines = {line.name: [one.kind for one in line.judged.findings] for line in reviewing.told(state, found.id, at=AT).lines}
    assert lines == {"al": [], "eve": ["orphaned"]}
    assert make(AT + timedelta(hours=1)).id == "2026-11-02.2"


def test_names_rest_in_one_table_only(state: State, make: Callable[..., reviewing.ReviewSummary], settings: Settings) -> None:
    """Neither the ledger nor the review's rows hold one; once erased, the opaque id is shown."""
    review = make().id
    reviewing.attest(state, settings, OFFICER, review, [Attested(ids(state)["eve"], "keep", "needed", None)], at=AT)
    with state.reading() as tx:
        stored = canonical_text([row.body for row in ledger.rows(tx)] + [row.body for row in tx.query(ReviewGrantRow)])
    assert not [name for name in ('"eve"', '"carla"', '"al"', '"ops"') if name in stored]
    with state.transaction() as tx:
        gone = principals.erase(tx, "eve")
    assert gone in states(state)
    told = sheet(reviewing.told(state, review, at=AT))
    assert f"--user-name {gone}" in told
    assert not [text for text in (",eve,", "--user-name eve") if text in told]


def test_a_source_that_is_down_makes_the_review_incomplete(
    state: State, cloud: Cloud, make: Callable[..., reviewing.ReviewSummary], settings: Settings
) -> None:
    """Never clean: it names the source and why, stays incomplete when all else is attested, and is overdue after its day."""
    cloud.kube = Unavailable("no route to host")
    found = make()
    assert (found.state, found.unread) == ("incomplete", ("kube",))
    told = reviewing.told(state, found.id, at=AT)
    assert (told.state, told.unread) == ("incomplete", {"kube": "no route to host"})
    everything = [Attested(id, "keep", "needed", None) for id in ids(state).values()]
    reviewing.attest(state, settings, OFFICER, found.id, everything, at=AT)
    assert [(one.state, one.open) for one in reviewing.overview(state, at=AT)] == [("incomplete", 0)]
    assert reviewing.overview(state, at=AT + 15 * DAY)[0].state == "overdue"


def test_what_is_due_is_made_once_and_again_if_incomplete(state: State, settings: Settings, cloud: Cloud) -> None:
    """The schedule comes round each day: a complete review holds for its time, an incomplete one for none."""
    cloud.kube = Unavailable("down")
    assert reviewing.govern(state, settings, at=AT) is not None
    cloud.kube = []
    assert reviewing.govern(state, settings, at=AT + DAY) is not None
    assert reviewing.govern(state, settings, at=AT + 2 * DAY) is None
    assert reviewing.govern(state, settings, at=AT + 91 * DAY) is not None


def test_attestations_are_recorded_with_who_and_why(state: State, make: Callable[..., reviewing.ReviewSummary], settings: Settings) -> None:
    """One row of the ledger each; when all are attested the review is done."""
    review, known = make().id, ids(state)
    reviewing.attest(state, settings, OFFICER, review, [Attested(known["al"], "keep", " still needed ", date(2026, 12, 31))], at=AT)
    (line,) = reviewing.attest(state, settings, OFFICER, review, [Attested(known["eve"], "revoke", "left", None)], at=AT)
    assert line.grant.command(line.name) == "aws iam detach-user-policy --user-name eve"
    with state.reading() as tx:
        rows = [row for row in ledger.rows(tx, kind="review") if row.body["event"] == "attested"]
        told = [(row.body["grant"], row.body["verdict"], row.body["reason"], row.body["until"]) for row in rows]
        assert {principals.name_of(tx, row.principal) for row in rows} == {"carla"}
    assert told == [(known["al"], "keep", "still needed", "2026-12-31"), (known["eve"], "revoke", "left", None)]
    assert reviewing.overview(state, at=AT)[0].state == "done"


def test_unreviewed_after_the_due_date_is_overdue(state: State, make: Callable[..., reviewing.ReviewSummary]) -> None:
    """Not on the day itself; and a later review of the same grants does not hide it."""
    make()
    assert reviewing.overview(state, at=AT + 14 * DAY)[0].state == "open"
    assert reviewing.overview(state, at=AT + 14 * DAY + timedelta(seconds=1))[0].state == "overdue"
    make(AT + 90 * DAY)
    assert [one.state for one in reviewing.overview(state, at=AT + 90 * DAY)] == ["open", "overdue"]


def test_a_grant_that_is_gone_waits_no_longer(state: State, cloud: Cloud, make: Callable[..., reviewing.ReviewSummary]) -> None:
    """If a review that read everything did not find it; one that could not read proves nothing."""
    make()
    cloud.aws = Unavailable("down")
    make(AT + DAY)
    assert [one.open for one in reviewing.overview(state, at=AT + DAY)] == [0, 2]
    cloud.aws = [grant("al")]
    make(AT + 2 * DAY)
    assert [one.open for one in reviewing.overview(state, at=AT + 2 * DAY)] == [1, 0, 1]


def test_the_next_review_opens_what_expired_or_changed(
    state: State, cloud: Cloud, make: Callable[..., reviewing.ReviewSummary], settings: Settings
) -> None:
    """Kept for longer: still kept. Kept until a day, changed, or to be revoked and still there: open again."""
    cloud.aws = [grant(name) for name in ("al", "bob", "cy", "eve")]
    review, known = make().id, ids(state)
    wanted = [
        Attested(known["al"], "keep", "x", date(2027, 3, 1)),
        Attested(known["bob"], "keep", "x", date(2026, 12, 1)),
        Attested(known["cy"], "keep", "x", date(2027, 3, 1)),
        Attested(known["eve"], "revoke", "x", None),
    ]
    reviewing.attest(state, settings, OFFICER, review, wanted, at=AT)
    assert states(state) == {"al": "keep", "bob": "keep", "cy": "keep", "eve": "revoke"}
    cloud.aws = [grant("al", last_used=AT, use_known=True), grant("bob"), grant("cy", "s3:PutObject"), grant("eve")]
    make(AT + 90 * DAY)
    assert states(state) == {"al": "keep", "bob": "open", "cy": "open", "eve": "open"}
    assert ids(state) == known


def test_who_may_attest(state: State, make: Callable[..., reviewing.ReviewSummary], settings: Settings) -> None:
    """Policy says who, and nobody attests an account of their own, under whatever name it goes."""
    review, known = make().id, ids(state)
    wanted = [Attested(known["al"], "keep", "x", None)]
    with pytest.raises(PolicyDenied):
        reviewing.attest(state, settings, Identity("zoe", ("data-scientist",), "oidc"), review, wanted, at=AT)
    with pytest.raises(GuardRefused, match="is your own grant"):
        reviewing.attest(state, settings, Identity("ada", ("compliance-officer",), "oidc"), review, wanted, at=AT)
    assert states(state)["al"] == "open"


@pytest.mark.parametrize(
    ("one", "message"),
    [
        (("g-000000000000", "keep", "x", None), "has no grant"),
        (("al", "keep", "  ", None), "no reason"),
        (("al", "keep", "x", date(2026, 11, 1)), "a day from 2026-11-02 to 2027-05-01"),
        (("al", "keep", "x", date(2027, 5, 2)), "a day from 2026-11-02 to 2027-05-01"),
    ],
)
def test_what_cannot_be_attested_is_told(
    state: State, make: Callable[..., reviewing.ReviewSummary], settings: Settings, one: tuple[str, str, str, date | None], message: str
) -> None:
    """And nothing of what came with it is taken."""
    review, known = make().id, ids(state)
    wanted = [Attested(known["eve"], "keep", "x", None), Attested(known.get(one[0], one[0]), "keep", one[2], one[3])]
    with pytest.raises(UserError, match=message):
        reviewing.attest(state, settings, OFFICER, review, wanted, at=AT)
    assert set(states(state).values()) == {"open"}


def test_a_sheet_goes_out_and_comes_back(state: State, make: Callable[..., reviewing.ReviewSummary], settings: Settings) -> None:
    """All of it or nothing: one wrong row, and no row is taken."""
    review, known = make().id, ids(state)
    rows = list(csv.reader(io.StringIO(sheet(reviewing.told(state, review, at=AT)))))
    column = {row[1]: row for row in rows}
    column[known["al"]][-3:] = ["keep", "needed", "2027-01-31"]
    column[known["eve"]][-3:] = ["revoke", "", ""]

    def text() -> str:
        out = io.StringIO()
        csv.writer(out).writerows(rows)
        return out.getvalue()

    with pytest.raises(UserError, match=r"sheet\.csv:2: `reason`"):
        reviewing.attest_sheet(state, settings, OFFICER, review, text(), file="sheet.csv", at=AT)
    assert set(states(state).values()) == {"open"}
    column[known["eve"]][-2] = "left the company"
    reviewing.attest_sheet(state, settings, OFFICER, review, text(), file="sheet.csv", at=AT)
    assert states(state) == {"al": "keep", "eve": "revoke"}


def test_a_changed_row_of_a_review_is_found(state: State, make: Callable[..., reviewing.ReviewSummary]) -> None:
    """The ledger vouches for the grants that a review found."""
    review = make().id
    with state.transaction() as tx:
        tx.delete(tx.query(ReviewGrantRow).first())
    with pytest.raises(IntegrityError, match="not those that were recorded"):
        reviewing.told(state, review, at=AT)


def test_the_roles_that_may_read_a_site_are_those_that_policy_permits(settings: Settings) -> None:
    """By the same rules that placement asks: an approver processes nothing, a data-scientist does."""
    found = reviewing.readers_of(Declarations.load(settings), "onprem-fra", at=AT)
    assert {"data-scientist", "ml-engineer", "operator"} <= found
    assert not {"viewer", "approver", "compliance-officer"} & found
    with pytest.raises(UserError, match="no site `mars`"):
        reviewing.readers_of(Declarations.load(settings), "mars", at=AT)


def test_the_shipped_declaration_finds_nothing_wrong_with_the_shipped_roles(tmp_path: Path) -> None:
    """The embedded profile reads the project's own roles; what one person plays there is a dated exception."""
    settings = Settings(home=tmp_path, database_url=None)
    state = State(settings.state_url)
    state.migrate()
    found = reviewing.review(state, settings, principal="ops", at=AT)
    lines = reviewing.told(state, found.id, at=AT).lines
    assert found.unread == ()
    assert [line.judged.findings for line in lines if line.judged.findings] == []
    assert [line for line in lines if line.judged.excepted]
