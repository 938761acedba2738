"""Approved images and dated exceptions: data beside the rules, refused whenever anything about them is in doubt."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from flows.adapters.policy import CedarPolicy
from flows.core.errors import UserError
from flows.core.governance.blocs import Blocs
from flows.core.governance.labels import Classification, Label
from flows.core.placement import place
from flows.core.placement.policy import PoolFacts, Question
from flows.core.placement.request import Principal
from tests.core.placement.world import BLOCS as WORLD_BLOCS
from tests.core.placement.world import catalog, conditions, estate, request, site

SHIPPED = Path(__file__).parents[2] / "deployments" / "policies"
BLOCS = Blocs.model_validate(WORLD_BLOCS)
DIGEST = "sha256:" + "0123456789abcdef" * 4
AT = datetime(2026, 6, 1, 8, tzinfo=UTC)
BARE = PoolFacts("de-pool", "de", "aws", "DE", "US", 3, frozenset(), "eea", False)
SECRET = Label(classification=Classification.RESTRICTED, regimes=frozenset(), residency=frozenset({"EU"}))
ASKED = Question(
    "process", Principal(user="ada", roles=("ml-engineer",)), BARE, SECRET, "train", "nafld", "dev", "", AT, "DE", "ehr", AT.date()
)
GRANTED = "{rule: customer-keys, workload: nafld, datasets: [ehr], owner: security, reason: key rotation, until: 2026-06-30}"


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """A copy of the shipped rules."""
    folder = tmp_path / "policies"
    shutil.copytree(SHIPPED, folder)
    return folder


def granting(folder: Path, *rows: str) -> CedarPolicy:
    (folder / "exceptions.yaml").write_text("exceptions:\n" + "".join(f"  - {row}\n" for row in rows))
    return CedarPolicy.load(folder, BLOCS)


def approving(folder: Path, more: str = "") -> CedarPolicy:
    (folder / "approved_images.yaml").write_text(f"images:\n  - {{digest: {DIGEST}, what: trainer, approver: security{more}}}\n")
    return CedarPolicy.load(folder, BLOCS)


def test_an_exception_lets_through_and_is_told(rules: Path) -> None:
    """The answer is yes, and says by whose exception, through which day and why."""
    answer = granting(rules, GRANTED).ask([ASKED])[0]
    assert answer.allowed
    assert answer.excepted == (
        "exception to rule `customer-keys` for `process` of `ehr` at `de-pool` by security through 2026-06-30: key rotation",
    )


def test_an_answer_that_needs_no_exception_tells_none(rules: Path) -> None:
    """A pool with own keys is allowed on its own merits."""
    answer = granting(rules, GRANTED).ask([replace(ASKED, pool=replace(BARE, customer_managed_keys=True))])[0]
    assert (answer.allowed, answer.excepted) == (True, ())


@pytest.mark.parametrize(
    "other",
    [
        {"through": date(2026, 7, 1)},
        {"through": None},
        {"workload": "churn"},
        {"dataset": "claims"},
        {"dataset": ""},
        {"principal": Principal(user="eve")},
    ],
    ids=["ends too late", "no last day", "another workload", "another dataset", "no dataset", "no role"],
)
def test_an_exception_covers_only_what_it_says(rules: Path, other: dict[str, object]) -> None:
    """Beyond its day, workload or data it lets nothing through, and it never stands for a permit."""
    answer = granting(rules, GRANTED).ask([replace(ASKED, **other)])[0]  # type: ignore[arg-type]
    assert (answer.allowed, answer.excepted) == (False, ())


def test_an_exception_to_one_rule_leaves_all_others(rules: Path) -> None:
    """What is still forbidden shows its reasons."""
    answer = granting(rules, GRANTED).ask([replace(ASKED, pool=replace(BARE, country="US"))])[0]
    assert [reason.rule for reason in answer.reasons] == ["residency"]
    assert answer.excepted == ()


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (GRANTED.replace("customer-keys", "customer-key"), "did you mean `customer-keys`?"),
        (GRANTED.replace("customer-keys", "residency"), "rule `residency` allows no exceptions"),
        (GRANTED.replace("owner: security", "owner: ada"), "`ada` cannot grant an exception"),
        (GRANTED.replace("until: 2026-06-30", "until: soon"), "`soon` is not a day"),
        (GRANTED.replace(", until: 2026-06-30", ""), "`until` is missing"),
        (GRANTED.replace("datasets", "dataset"), "unknown key `dataset`"),
    ],
)
def test_a_wrong_exception_is_refused_with_its_line(rules: Path, row: str, told: str) -> None:
    """Nothing that was meant to narrow is silently left out."""
    with pytest.raises(UserError) as caught:
        granting(rules, row)
    assert told in str(caught.value)
    assert "exceptions.yaml:2" in str(caught.value)


@pytest.mark.parametrize(
    ("file", "old", "new", "told"),
    [
        ("classification.cedar", ' || context.exceptions.contains("customer-keys")', "", "does not listen to its exceptions"),
        ("classification.cedar", '@exceptions("yes")\n', "", "asks for exceptions that it does not allow"),
        ("classification.cedar", 'contains("customer-keys")', 'contains("residency")', "does not listen to its exceptions"),
    ],
)
def test_a_rule_and_its_exceptions_must_agree(rules: Path, file: str, old: str, new: str, told: str) -> None:
    """`@exceptions("yes")` and the clause that hears them come together, under the rule's own id."""
    path = rules / file
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(UserError, match=told):
        CedarPolicy.load(rules, BLOCS)


@pytest.mark.parametrize(
    ("image", "more", "allowed"),
    [
        (DIGEST, "", True),
        (f"registry/trainer@{DIGEST}", "", True),
        ("registry/trainer:latest", "", False),
        (DIGEST.replace("0", "1"), "", False),
        (DIGEST, ", until: 2026-06-01", True),
        (DIGEST, ", until: 2026-05-31", False),
        ("", "", True),
    ],
    ids=["digest", "name and digest", "tag", "another digest", "last day", "day after", "no image"],
)
def test_production_runs_only_approved_images(rules: Path, image: str, more: str, allowed: bool) -> None:
    """By digest and day; a run without an image has none to approve."""
    pool = replace(BARE, customer_managed_keys=True)
    answer = approving(rules, more).ask([replace(ASKED, pool=pool, environment="prod", image=image)])[0]
    assert answer.allowed is allowed
    assert [reason.rule for reason in answer.reasons] == ([] if allowed else ["approved-image"])


def test_an_image_must_be_approved_through_the_last_day(rules: Path) -> None:
    """Approved on the day that the run starts is not enough."""
    policy = approving(rules, ", until: 2026-06-01")
    asked = replace(ASKED, pool=replace(BARE, customer_managed_keys=True), environment="prod", image=DIGEST)
    answers = policy.ask([asked, replace(asked, through=date(2026, 6, 2))])
    assert [[reason.rule for reason in answer.reasons] for answer in answers] == [[], ["approved-image"]]


def test_the_last_days_are_those_of_exceptions_and_images(rules: Path) -> None:
    """What holds until it is taken off the list has none."""
    assert granting(rules, GRANTED).last_days == {date(2026, 6, 30)}
    assert approving(rules, ", until: 2026-06-01").last_days == {date(2026, 6, 1), date(2026, 6, 30)}
    assert approving(rules).last_days == {date(2026, 6, 30)}


@pytest.mark.parametrize(
    ("until", "at", "starts"),
    [("2026-01-05", "T07", True), ("2026-01-05", "T22", False), ("2026-01-06", "T22", True)],
    ids=["ends that day", "ends the day after", "approved a day longer"],
)
def test_a_run_is_placed_only_while_its_image_stays_approved(rules: Path, until: str, at: str, starts: bool) -> None:
    """In production the image's approval must hold through the end at p90, three hours later."""
    policy = approving(rules, f", until: {until}")
    asked, now = request(environment="prod", image=DIGEST), datetime.fromisoformat(f"2026-01-05{at}:00:00Z")
    decided = place(asked, estate(), policy, catalog(), conditions(), now)
    assert (decided.chosen is not None) is starts
    assert {reason.rule for row in decided.rejected if row.site == "fra" for reason in row.reasons} == (
        set() if starts else {"approved-image"}
    )


@pytest.mark.parametrize("file", ["approved_images.yaml", "exceptions.yaml"])
def test_without_its_list_nothing_is_approved_or_excepted(rules: Path, file: str) -> None:
    """A missing file is an empty list."""
    (rules / file).unlink()
    policy = CedarPolicy.load(rules, BLOCS)
    assert (policy.data.images, policy.data.exceptions) == ((), ())


def test_the_lists_are_part_of_the_rules(rules: Path) -> None:
    """A decision names the exact lists that it was made under, and a replay finds them."""
    before = CedarPolicy.load(rules, BLOCS)
    after = granting(rules, GRANTED)
    assert before.hash != after.hash
    assert "key rotation" in after.document["exceptions.yaml"]


def test_a_decision_tells_the_exception_it_needed_while_the_run_ends_in_time(rules: Path) -> None:
    """The last slot whose run ends by the exception's day at p90 is taken, none after; the warning says who granted it."""
    policy = granting(rules, GRANTED.replace("2026-06-30", "2026-01-05"))
    where = estate(sites=[site("fra"), site("muc"), site("iad", "US")])
    labels = catalog({"name": "ehr", "home": "fra", "size_gb": 10, "label": {"classification": "restricted", "residency": ["EU"]}})
    decided = place(request(), where, policy, labels, conditions(), datetime(2026, 1, 5, 7, tzinfo=UTC))
    assert decided.chosen is not None
    assert any("exception to rule `customer-keys`" in warning and "through 2026-01-05" in warning for warning in decided.warnings)
    late = place(
        request(window={"earliest": "2026-01-05T21:30:00Z"}), where, policy, labels, conditions(), datetime(2026, 1, 5, 7, tzinfo=UTC)
    )
    assert late.chosen is None
    assert {reason.rule for row in late.rejected if row.site == "fra" for reason in row.reasons} == {"customer-keys"}
