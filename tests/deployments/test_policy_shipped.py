"""The shipped rules against their table; and the table against broken rules, since a table that cannot fail proves nothing."""

import json
import re
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deployments.cli.policy import app
from flows.adapters.estate import load_blocs
from flows.adapters.policy import CedarPolicy
from flows.adapters.policy_cases import Report, question_of, read_cases, run_cases
from flows.core.errors import UserError

DEPLOYMENTS = Path(__file__).parents[2] / "deployments"
BLOCS = load_blocs(DEPLOYMENTS / "estate")
AT = datetime(2026, 11, 24, tzinfo=UTC)
RULE = re.compile(r'(?:^@\w+\(".*"\)\n)*^@id\("([^"]+)"\)\n(?:^@\w+\(".*"\)\n)*^(?:permit|forbid) \((?:.|\n)*?^\S*.*;\n', re.MULTILINE)
RULES = sorted(CedarPolicy.load(DEPLOYMENTS / "policies", BLOCS).rules)


def run(folder: Path, at: datetime = AT) -> Report:
    table, document = read_cases(folder)
    return run_cases(CedarPolicy.load(folder, BLOCS), table, document, at)


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    """A copy of the shipped rules to break."""
    folder = tmp_path / "policies"
    shutil.copytree(DEPLOYMENTS / "policies", folder)
    return folder


def test_every_case_comes_out_as_written() -> None:
    """All cases pass, every rule has an allow and a deny case and all annotations, and nothing waits for a reviewer."""
    report = run(DEPLOYMENTS / "policies")
    assert [outcome.case for outcome in report.outcomes if not outcome.passed] == []
    assert (report.problems, report.warnings) == ((), ())


@pytest.mark.parametrize("action", ["process", "store", "transfer", "serve"])
def test_what_is_forbidden_is_forbidden_for_every_action(action: str) -> None:
    """Each case that a rule on data stops, it stops whatever the action is called: the destination counts."""
    policy = CedarPolicy.load(DEPLOYMENTS / "policies", BLOCS)
    table, _ = read_cases(DEPLOYMENTS / "policies")
    stopped = [
        case
        for case in table.cases
        if case.expect == "deny" and policy.rules[case.rule].effect == "forbid" and case.given.action not in ("serve", "promote")
    ]
    questions = [replace(question_of(table.defaults, case.given, AT), action=action) for case in stopped]  # type: ignore[arg-type]
    for case, answer in zip(stopped, policy.ask(questions), strict=True):
        assert {case.rule, *case.also} <= {reason.rule for reason in answer.reasons}


@pytest.mark.parametrize("rule", RULES)
def test_the_table_notices_a_rule_that_is_gone(rules: Path, rule: str) -> None:
    """Whichever rule is taken out, at least one case fails."""
    for path in rules.glob("*.cedar"):
        path.write_text(RULE.sub(lambda found: "" if found[1] == rule else found[0], path.read_text()))
    left = CedarPolicy.load(rules, BLOCS)
    assert rule not in left.rules
    assert len(left.rules) == len(RULES) - 1
    table, document = read_cases(rules)
    assert any(outcome.case.rule == rule and not outcome.passed for outcome in run_cases(left, table, document, AT).outcomes)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("residency.cedar", "resource.country in context.label.residency", "resource.operator_country in context.label.residency"),
        ("residency.cedar", 'action in Action::"data"', 'action == Action::"transfer"'),
        ("gdpr.cedar", 'action in Action::"data"', 'action == Action::"transfer"'),
        ("gdpr.cedar", '"eea", "adequacy", "safeguards"', '"eea", "adequacy", "safeguards", "none"'),
        ("classification.cedar", "<=", ">="),
        ("classification.cedar", "level >= 3", "level > 3"),
        ("classification.cedar", "level >= 3", "level >= 2"),
        ("certifications.cedar", 'contains("hipaa")\n};', 'contains("pci")\n};'),
        ("certifications.cedar", 'contains("pci")\n};', 'contains("hipaa")\n};'),
        ("control.cedar", "containsAll", "containsAny"),
        ("certifications.cedar", 'resource.cloud == "onprem" || ', ""),
        ("certifications.cedar", ' || resource.certifications.contains("ccpa")', ""),
        ("classification.cedar", "  resource.customer_managed_keys ||", "  true ||"),
        ("images.cedar", 'context.environment == "prod" && ', ""),
        ("images.cedar", ' || context.step == "serve"', ""),
        ("images.cedar", 'context.image != "" || ', ""),
        ("roles.cedar", 'context.environment != "prod"', "true"),
        ("roles.cedar", '"materialize", "transfer"', '"ingest", "materialize", "transfer"'),
    ],
)
def test_the_table_notices_a_rule_that_says_something_else(rules: Path, file: str, old: str, new: str) -> None:
    """Small edits that a reviewer could miss make a case fail."""
    path = rules / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    assert any(not outcome.passed for outcome in run(rules).outcomes)


def test_a_rule_without_cases_is_a_problem(rules: Path) -> None:
    """A new rule must come with an allow and a deny case."""
    (rules / "new.cedar").write_text('@id("new")\nforbid (principal, action, resource) when { context.workload == "x" };\n')
    told = [problem.what for problem in run(rules).problems]
    assert "rule `new` has no case that expects allow" in told
    assert "rule `new` has no case that expects deny" in told
    assert "rule `new` has no `@basis`" in told


def test_an_overdue_review_is_a_warning() -> None:
    """After the day of `@expires` someone should look at the rule; it holds all the same."""
    report = run(DEPLOYMENTS / "policies", datetime(2029, 1, 1, tzinfo=UTC))
    assert len([problem for problem in report.warnings if "due for review on 2028-12-31" in problem.what]) == len(RULES)
    assert report.passed


def test_a_review_day_that_is_no_day_is_a_problem(rules: Path) -> None:
    """A date that nobody can read would never be overdue."""
    path = rules / "residency.cedar"
    path.write_text(path.read_text().replace('@expires("2028-12-31")', '@expires("next year")', 1))
    assert any("`next year` is not a day" in problem.what for problem in run(rules).problems)


def test_a_case_of_no_rule_is_a_problem(rules: Path) -> None:
    """The message names the line of the case."""
    cases = rules / "cases.yaml"
    cases.write_text(cases.read_text().replace("rule: pci-aoc", "rule: pci-aco", 1))
    problem = next(problem for problem in run(rules).problems if "no rule `pci-aco`" in problem.what)
    assert problem.line is not None and problem.field is not None


def test_defaults_must_be_whole(rules: Path) -> None:
    """A question with a hole would be refused for the wrong reason."""
    cases = rules / "cases.yaml"
    cases.write_text(cases.read_text().replace("    gdpr_basis: eea\n", "", 1))
    with pytest.raises(UserError, match=r"pool\.gdpr_basis"):
        read_cases(rules)


def test_the_command_prints_every_case_and_says_yes() -> None:
    """Exit 0, a line a case, a summary."""
    result = CliRunner().invoke(app, ["test", "--at", "2026-11-24"])
    assert result.exit_code == 0
    assert "ok   residency" in result.output
    assert "0 failed, 0 other problems" in result.output


def test_the_command_counts_every_rule_and_every_attribute() -> None:
    """Each rule is missed by a case when it is gone, each attribute refuses every question when it is lost."""
    told = json.loads(CliRunner().invoke(app, ["test", "--at", "2026-11-24", "--json"]).output)
    assert sorted(row["rule"] for row in told["rules"]) == RULES
    assert min(min(row["allow"], row["deny"], row["decided"], row["noticed"]) for row in told["rules"]) > 0
    assert {"context.label.residency", "context.exceptions", "resource.gdpr_basis"} <= {row["attribute"] for row in told["attributes"]}
    assert all(row["refused"] == row["asked"] > 0 for row in told["attributes"])


def test_the_command_fails_on_a_rule_that_no_case_misses(rules: Path) -> None:
    """A rule shadowed by another passes its own cases, and is told as one whose removal nobody notices."""
    (rules / "shadow.cedar").write_text(
        '@id("shadow") @owner("x") @basis("x") @expires("2028-12-31") @message("x") @observed("x") @required("x")\n'
        'forbid (principal, action, resource) when { context.workload == "never" };\n'
    )
    with (rules / "cases.yaml").open("a") as table:
        table.write("  - {rule: shadow, expect: allow, name: passes, given: {}}\n")
    result = CliRunner().invoke(app, ["test", "--policies", str(rules), "--at", "2026-11-24", "--json"])
    told = json.loads(result.output)
    assert result.exit_code == 1
    assert any("no case notices that rule `shadow` is gone" in problem for problem in told["problems"])
    assert any("rule `shadow` decides no case" in warning for warning in told["warnings"])


def test_the_command_fails_where_a_lost_attribute_lets_through(rules: Path) -> None:
    """An attribute that the schema makes optional could be forgotten without a refusal."""
    schema = rules / "schema.cedarschema"
    schema.write_text(schema.read_text().replace("  workload: String,", "  workload?: String,"))
    told = json.loads(CliRunner().invoke(app, ["test", "--policies", str(rules), "--at", "2026-11-24", "--json"]).output)
    assert any("are not refused for the loss of `context.workload`" in problem for problem in told["problems"])


def test_the_command_warns_of_exceptions_that_ended_or_name_nothing(rules: Path) -> None:
    """With the line of the exception; the table itself still passes."""
    (rules / "exceptions.yaml").write_text(
        "exceptions:\n"
        "  - {rule: customer-keys, workload: nafld, owner: security, reason: rotation, until: 2026-01-31}\n"
        "  - {rule: customer-keys, workload: naffld, owner: security, reason: rotation, until: 2027-01-31}\n"
    )
    result = CliRunner().invoke(app, ["test", "--policies", str(rules), "--at", "2026-11-24", "--json"])
    told = json.loads(result.output)["warnings"]
    assert result.exit_code == 0
    assert any("exceptions.yaml:2" in warning and "ended on 2026-01-31" in warning for warning in told)
    assert any("exceptions.yaml:3" in warning and "did you mean `nafld`?" in warning for warning in told)


def test_the_command_names_the_case_that_failed(rules: Path) -> None:
    """Exit 1, and what was said instead of what was expected."""
    path = rules / "residency.cedar"
    path.write_text(path.read_text().replace("resource.country in context.label.residency", "true", 1))
    result = CliRunner().invoke(app, ["test", "--policies", str(rules), "--json"])
    assert result.exit_code == 1
    failed = [case for case in json.loads(result.output)["cases"] if not case["passed"]]
    assert {case["rule"] for case in failed} == {"residency"}
    assert failed[0]["got"] == "allow"
