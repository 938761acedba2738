"""Cedar as the policy: everything doubtful refuses, every reason shows, and a broken rule never loads."""

import shutil
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from flows.adapters.policy import CedarPolicy, pool_entity, request_of, user_entity
from flows.adapters.policy_proof import paths, without
from flows.core.errors import UserError
from flows.core.governance.blocs import Adequacy, Blocs
from flows.core.governance.labels import Classification, Label
from flows.core.placement import against_pool, place
from flows.core.placement.policy import PoolFacts, Question
from flows.core.placement.request import Principal
from tests.core.placement.world import BLOCS as WORLD_BLOCS
from tests.core.placement.world import catalog, conditions, estate, request

SHIPPED = Path(__file__).parents[2] / "deployments" / "policies"
BLOCS = Blocs(
    blocs={"EEA": frozenset({"EU", "NO"}), "EU": frozenset({"DE", "FR"})},
    adequacy={"CH": Adequacy(), "GB": Adequacy(until=date(2026, 12, 31)), "US": Adequacy(needs="dpf")},
)
GERMANY = PoolFacts("de-pool", "de", "aws", "DE", "US", 3, frozenset({"hipaa", "dpf"}), "eea", True)
AMERICA = PoolFacts("us-pool", "us", "aws", "US", "US", 1, frozenset(), "none", False)
HEALTH = Label(classification=Classification.RESTRICTED, regimes=frozenset({"gdpr", "hipaa"}), residency=frozenset({"EU"}))
ADA = Principal(user="ada", roles=("data-scientist",))
AT = datetime(2026, 6, 1, 8, tzinfo=UTC)
ALLOWED = Question("process", ADA, GERMANY, HEALTH, "train", "nafld", "prod", "", AT, "DE")
SERVING = replace(ALLOWED, action="serve", step="serve", environment="dev")


@pytest.fixture(scope="module")
def policy() -> CedarPolicy:
    return CedarPolicy.load(SHIPPED, BLOCS)


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """A copy of the shipped rules to break."""
    folder = tmp_path / "policies"
    shutil.copytree(SHIPPED, folder)
    return folder


def test_an_allowed_question_has_no_reasons(policy: CedarPolicy) -> None:
    """Health data of the EU, in Germany, under an agreement and own keys."""
    answer = policy.ask([ALLOWED])[0]
    assert answer.allowed
    assert answer.reasons == ()


def test_a_refusal_shows_every_rule_that_forbids(policy: CedarPolicy) -> None:
    """Not only the first: what was seen, what is required, and the file of the rule."""
    answer = policy.ask([replace(ALLOWED, pool=AMERICA, to="US")])[0]
    assert not answer.allowed
    assert [reason.rule for reason in answer.reasons] == ["hipaa-baa", "classification", "customer-keys", "gdpr-destination", "residency"]
    residency = answer.reasons[-1]
    assert (residency.kind, residency.observed, residency.required, residency.source) == (
        "policy",
        "US",
        "one of EU",
        "policies/residency.cedar",
    )


def test_only_a_rule_that_says_so_may_be_excepted(policy: CedarPolicy) -> None:
    """The owner of the rule on keys may grant one, nobody may for residency."""
    reasons = {reason.rule: reason for reason in policy.ask([replace(ALLOWED, pool=AMERICA, to="US")])[0].reasons}
    assert reasons["customer-keys"].exception_by == "security"
    assert reasons["residency"].exception_by is None


def test_without_a_permit_the_answer_is_no(policy: CedarPolicy) -> None:
    """No role, no right."""
    answer = policy.ask([replace(ALLOWED, principal=Principal(user="eve"))])[0]
    assert [reason.rule for reason in answer.reasons] == ["default-deny"]
    assert answer.reasons[0].observed == "no role"


def test_questions_of_one_batch_do_not_leak_into_each_other(policy: CedarPolicy) -> None:
    """The same pool with other facts and the same user with other roles are asked apart, in order."""
    bare = replace(ALLOWED, pool=replace(GERMANY, certifications=frozenset()))
    viewer = replace(ALLOWED, principal=Principal(user="ada", roles=("viewer",)))
    later = replace(ALLOWED, at=datetime(2027, 1, 1, tzinfo=UTC))
    answers = policy.ask([ALLOWED, bare, viewer, later, ALLOWED])
    assert [answer.allowed for answer in answers] == [True, False, False, True, True]


def test_answers_go_to_an_adequate_country_only_while_the_decision_holds(policy: CedarPolicy) -> None:
    """Adequacy of Great Britain ends on a day; the day after, it no longer counts."""
    personal = Label(classification=Classification.INTERNAL, regimes=frozenset({"gdpr"}), residency=frozenset({"anywhere"}))
    to_gb = replace(SERVING, label=personal, to="GB")
    last = datetime(2026, 12, 31, 23, 59, tzinfo=UTC)
    after = datetime(2027, 1, 1, tzinfo=UTC)
    assert [answer.allowed for answer in policy.ask([replace(to_gb, at=last), replace(to_gb, at=after)])] == [True, False]


def test_the_last_day_of_a_run_is_judged_and_not_its_first(policy: CedarPolicy) -> None:
    """Of two runs from the same instant, the one that goes on past the decision's last day may not answer to Great Britain."""
    personal = Label(classification=Classification.INTERNAL, regimes=frozenset({"gdpr"}), residency=frozenset({"anywhere"}))
    to_gb = replace(SERVING, label=personal, to="GB")
    ends, goes_on = replace(to_gb, through=date(2026, 12, 31)), replace(to_gb, through=date(2027, 1, 1))
    answers = policy.ask([ends, goes_on, ends])
    assert [[reason.rule for reason in answer.reasons] for answer in answers] == [[], ["gdpr-serve"], []]


def test_a_run_answers_to_an_adequate_country_only_if_it_ends_in_time() -> None:
    """Under the shipped rules: adequacy must hold through the end at p90, and for the worker's question on the day that it asks."""
    where = estate(
        blocs={**WORLD_BLOCS, "adequacy": {"GB": {"until": "2026-01-05"}}},
        latency=[{"country": "GB", "site": "fra", "p50_ms": 1, "p99_ms": 2}],
    )
    policy = CedarPolicy.load(SHIPPED, where.blocs)
    personal = {"classification": "internal", "regimes": ["gdpr"], "residency": "anywhere"}
    labels = catalog({"name": "ehr", "home": "fra", "size_gb": 1, "label": personal})
    asked = request(step="score", latency={"from": ["GB"], "max_ms": 50}, restrict={"pools": ["fra-k8s"]})
    early, late, after = (datetime(2026, 1, day, hour, tzinfo=UTC) for day, hour in ((5, 7), (5, 22), (6, 0)))

    decided = place(asked, where, policy, labels, conditions(), early)
    assert decided.chosen is not None and decided.chosen.finish_p90.date() == early.date()
    refused = place(asked, where, policy, labels, conditions(), late)
    assert refused.chosen is None
    assert {reason.rule for row in refused.rejected if row.site == "fra" for reason in row.reasons} == {"gdpr-serve"}

    assert against_pool(asked, where, policy, labels, "fra-k8s", late) == ()
    assert [reason.rule for reason in against_pool(asked, where, policy, labels, "fra-k8s", late, after)] == ["gdpr-serve"]
    assert [reason.rule for reason in against_pool(asked, where, policy, labels, "fra-k8s", after)] == ["gdpr-serve"]


def test_an_offset_changes_nothing(policy: CedarPolicy) -> None:
    """Instants are compared, not their texts."""
    assert policy.ask([replace(ALLOWED, at=datetime.fromisoformat("2026-06-01T10:00:00.123456+02:00"))])[0].allowed


@pytest.mark.parametrize("path", list(paths(request_of(ALLOWED)["context"])), ids=".".join)
@pytest.mark.parametrize("question", [ALLOWED, SERVING], ids=["process", "serve"])
def test_a_question_without_any_one_attribute_is_refused(policy: CedarPolicy, question: Question, path: tuple[str, ...]) -> None:
    """Cedar would skip a forbid that reads it, and so permit."""
    whole = request_of(question)
    entities = [user_entity(question.principal), pool_entity(question.pool)]
    assert policy.evaluate([whole], entities, AT.date())[0].allowed
    ruling = policy.evaluate([{**whole, "context": without(whole["context"], path)}], entities, AT.date())[0]
    assert not ruling.allowed
    assert ruling.errors


@pytest.mark.parametrize("path", list(paths(pool_entity(GERMANY)["attrs"])), ids=".".join)
@pytest.mark.parametrize("question", [ALLOWED, SERVING], ids=["process", "serve"])
def test_a_pool_without_any_one_attribute_is_refused(policy: CedarPolicy, question: Question, path: tuple[str, ...]) -> None:
    """Whichever fact is missing, nothing may run there."""
    pool = pool_entity(question.pool)
    entities = [user_entity(question.principal), {**pool, "attrs": without(pool["attrs"], path)}]
    ruling = policy.evaluate([request_of(question)], entities, AT.date())[0]
    assert not ruling.allowed
    assert ruling.errors


def test_a_pool_or_a_user_that_is_not_there_is_refused(policy: CedarPolicy) -> None:
    """Entities left out altogether permit nothing."""
    request, user, pool = request_of(ALLOWED), user_entity(ADA), pool_entity(GERMANY)
    assert not policy.evaluate([request], [user], AT.date())[0].allowed
    assert not policy.evaluate([request], [pool], AT.date())[0].allowed


@pytest.mark.parametrize("field", ["principal", "action", "resource"])
def test_a_question_of_an_unknown_kind_is_an_error(policy: CedarPolicy, field: str) -> None:
    """Actions and entities that the schema does not have."""
    request = {**request_of(ALLOWED), field: {"type": "Ghost", "id": "x"}}
    ruling = policy.evaluate([request], [user_entity(ADA), pool_entity(GERMANY)], AT.date())[0]
    assert not ruling.allowed
    assert ruling.errors


def test_an_evaluation_error_refuses_though_a_permit_matched(rules: Path) -> None:
    """A rule that overflows on the way is skipped by Cedar; the answer is still no."""
    (rules / "overflow.cedar").write_text(
        '@id("overflow")\nforbid (principal, action, resource) when { context.label.level + 9223372036854775807 < 0 };\n'
    )
    answer = CedarPolicy.load(rules, BLOCS).ask([ALLOWED])[0]
    assert not answer.allowed
    assert [reason.rule for reason in answer.reasons] == ["policy-error"]


def test_the_hash_names_the_text_and_nothing_else(rules: Path) -> None:
    """Line ends, the folder's place and the table of cases do not matter; a single letter does."""
    first = CedarPolicy.load(rules, BLOCS).hash
    file = rules / "residency.cedar"
    file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    (rules / "cases.yaml").write_text("changed")
    assert CedarPolicy.load(rules, BLOCS).hash == first == CedarPolicy.load(SHIPPED, BLOCS).hash
    file.write_text(file.read_text().replace("compliance", "complianse", 1))
    assert CedarPolicy.load(rules, BLOCS).hash != first


def test_a_reason_does_not_tell_where_the_folder_lies(rules: Path) -> None:
    """Equal rules give equal bytes, whatever their folder is called."""
    elsewhere = rules.rename(rules.parent / "other")
    reason = CedarPolicy.load(elsewhere, BLOCS).ask([replace(ALLOWED, pool=AMERICA, to="US")])[0].reasons[-1]
    assert reason.source == "policies/residency.cedar"


def test_a_renamed_file_is_another_policy(rules: Path) -> None:
    """A reason names its file, so the file's name is part of the rules."""
    first = CedarPolicy.load(rules, BLOCS).hash
    (rules / "residency.cedar").rename(rules / "places.cedar")
    assert CedarPolicy.load(rules, BLOCS).hash != first


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("resource.country in", "resource.contry in", "does not fit the schema"),
        ("context.label.residency\n", "context.label.residence\n", "does not fit the schema"),
        ("unless {", "unles {", "not Cedar"),
        ('@id("residency-serve")', '@id("residency")', "twice"),
        ("{resource.country}", "{resource.contry}", "names `{resource.contry}`"),
        ("{resource.country}", "{\nresource.country}", "names `{resource.country}`"),
    ],
)
def test_a_broken_rule_never_loads(rules: Path, old: str, new: str, told: str) -> None:
    """Misspelt attributes, broken text, doubled ids, reasons that name nothing: told with the file."""
    file = rules / "residency.cedar"
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(UserError, match=told) as caught:
        CedarPolicy.load(rules, BLOCS)
    assert "residency.cedar" in (caught.value.problems[0].file or "")


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("// a; b\npermit (principal,\n  action resource);", 3, "unexpected token `resource`"),
        ('@id("a;b")\npermit (principal, action, resource)\nwhen { 1 ==\n};\n', 4, "unexpected token `}`"),
        ("permit (principal, action, resource)\n\nforbid (principal, action, resource);\n", 3, "unexpected token `(`"),
        ('permit (principal, action, resource);\n@id("a)\nforbid (principal, action, resource);', 2, "invalid token"),
        ("permit (principal, action, resource);\nforbid (principal, action, resource)\nunless {\n  true\n}\n", 2, "unexpected end"),
        ("permit (principal, action, resource);\nforbid (principal, action, resource)\nunles {\n  true\n};\n", 2, "condition: unles"),
        ("permit (principal, action, resource);\n\npermit (principal, action, resource)\nwhen { foo };\n", 3, "variable: foo"),
    ],
)
def test_text_that_is_not_cedar_is_told_with_its_line(rules: Path, text: str, line: int, told: str) -> None:
    """That of what cannot stand there, else that of the rule; strings and comments may hold anything."""
    (rules / "new.cedar").write_text("permit (principal, action, resource);\n" + text)
    with pytest.raises(UserError, match="not Cedar") as caught:
        CedarPolicy.load(rules, BLOCS)
    (problem,) = caught.value.problems
    assert problem.line == line + 1 and told in problem.what


def test_all_that_is_wrong_in_a_folder_of_rules_is_told_at_once(rules: Path) -> None:
    """Two files that are not Cedar, the schema and both lists; what only follows from them is left out."""
    (rules / "gdpr.cedar").write_text("permit (;\n")
    (rules / "new.cedar").write_text("forbid\n(;\n")
    schema = (rules / "schema.cedarschema").read_text()
    (rules / "schema.cedarschema").write_text(schema.replace("entity Role;", "entity Role"))
    (rules / "approved_images.yaml").write_text("images:\n- {digest: x}\n")
    (rules / "exceptions.yaml").write_text("exceptions:\n- {rule: gdpr-basis, workload: w, owner: dpo, reason: r, until: soon}\n")
    with pytest.raises(UserError) as caught:
        CedarPolicy.load(rules, BLOCS)
    found = dict.fromkeys((Path(problem.file or "").name, problem.line) for problem in caught.value.problems)
    after = schema[: schema.index("entity User")].count("\n") + 1
    lists = [("approved_images.yaml", 2), ("exceptions.yaml", 2)]
    assert list(found) == [("schema.cedarschema", after), ("gdpr.cedar", 1), ("new.cedar", 2), *lists]
    assert "no rule" not in str(caught.value)


def test_an_attribute_removed_from_the_schema_is_noticed(rules: Path) -> None:
    """Rules that ask for it no longer load."""
    schema = rules / "schema.cedarschema"
    schema.write_text(schema.read_text().replace("  customer_managed_keys: Bool,\n", ""))
    with pytest.raises(UserError, match="customer-keys"):
        CedarPolicy.load(rules, BLOCS)


@pytest.mark.parametrize(("remove", "told"), [("*.cedar", "no rules here"), ("schema.cedarschema", "no such file")])
def test_a_folder_without_rules_or_schema_is_refused(rules: Path, remove: str, told: str) -> None:
    """Nothing is read as everything allowed."""
    for path in rules.glob(remove):
        path.unlink()
    with pytest.raises(UserError, match=told):
        CedarPolicy.load(rules, BLOCS)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """The message says what should be in it."""
    with pytest.raises(UserError, match="no such folder"):
        CedarPolicy.load(tmp_path / "none", BLOCS)
