"""The report for auditors: each control with evidence that exists, gaps shown, every text escaped; and its declaration, strictly read."""

from __future__ import annotations

import ast
import csv
import io
import json
import os
import shutil
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from html import escape
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from deployments.cli.main import app
from flows.adapters.settings import PROJECT_ROOT, Settings
from flows.core.errors import UserError
from flows.core.governance.controls import Control, Evidence, Report, Unmapped, answer, report_page, report_sheet, report_text
from flows.core.governance.ledger_kinds import KINDS
from flows.services.compliance import load_controls, report
from flows.store import ledger
from flows.store.database import State
from flows.store.models import PrincipalRow
from tests.tickets import keyed

AT = datetime(2026, 12, 1, 8, tzinfo=UTC)
GOLDEN = PROJECT_ROOT / "tests" / "golden" / "compliance.txt"
CONTROLS, RULES = load_controls(Settings().deployments)


def control(**other: object) -> Control:
    """A control with one kind of row."""
    body = {
        "id": "gdpr-17", "framework": "GDPR", "reference": "Art. 17", "source": "https://example.org/gdpr", "asks": "erasure",
        "proved": "real", "ledger": ("erasure",), "docs": "docs/erasure.md",
    }  # fmt: skip
    return Control.model_validate({**body, **other})


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    declared = shutil.copytree(Settings().deployments, tmp_path / "deployments", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    found = keyed(Settings(home=tmp_path / "home", deployments=declared))
    State(found.state_url).migrate()
    return found


def defined(id: str) -> bool:
    """Whether a test's file defines it, inside its class if the id names one."""
    file, *names = id.split("::")
    body: list[ast.stmt] = ast.parse((PROJECT_ROOT / file).read_text()).body if (PROJECT_ROOT / file).is_file() else []
    for name in names:
        kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        found = [node for node in body if isinstance(node, kinds) and node.name == name]
        if not found:
            return False
        body = found[0].body
    return bool(names) and names[-1].startswith("test_")


@pytest.mark.parametrize("id", sorted({id for one in CONTROLS.controls for id in one.tests}))
def test_every_test_that_is_named_exists(id: str) -> None:
    """A renamed test would leave an auditor with a name and nothing behind it."""
    assert defined(id)


def test_the_search_for_tests_can_fail() -> None:
    """Neither a file, a class nor a test is taken for granted."""
    for id in ("tests/none.py::test_x", "tests/services/test_compliance.py::test_x", "tests/services/test_ticketing.py::TestX::test_a"):
        assert not defined(id)


@pytest.mark.parametrize("page", sorted({one.docs for one in CONTROLS.controls}))
def test_every_page_that_is_named_exists(page: str) -> None:
    """It is where the control is explained."""
    assert (PROJECT_ROOT / page).is_file()


def test_every_rule_and_every_kind_of_row_stands_for_something() -> None:
    """A control, or a reason why for none; loading refuses anything else, as the next test shows."""
    rules = {name for one in CONTROLS.controls for name in one.rules} | CONTROLS.unmapped.rules.keys()
    assert rules == RULES.rules.keys()


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("rules: [hipaa-baa]", "rules: [hipaa-bba]", "no rule `hipaa-bba`"),
        ("rules: [hipaa-baa]", "rules: []", "rule `hipaa-baa` stands for no control"),
        ("ledger: [retention]", "ledger: [retentions]", "no ledger kind `retentions`"),
        ("ledger: [retention]", "ledger: []", "ledger kind `retention` stands for no control"),
        ("  rules: {}", "  rules: {hipaa-baa: no reason at all}", "is listed as unmapped"),
        ("id: gdpr-9\n", "id: gdpr-17\n", "`gdpr-17` is there twice"),
        ("proved: outside", "proved: surely", "surely"),
        ("proved: outside", "proved: emulator", "`outside` is what has no rule"),
        ("reference: Art. 9", "refrence: Art. 9", "refrence"),
        ("source: https://www.ecfr.gov/current/title-45/section-164.308", "source: a book", "a book"),
        ("limits: nothing here makes or stores it", 'limits: ""', "limits"),
        ("tests/services/test_erasing.py::test_the_scan_finds_planted_bytes", "somewhere", "somewhere"),
        ("version: 1", "version: 2", "version"),
    ],
)
def test_a_mistake_is_told_with_its_line(settings: Settings, old: str, new: str, told: str) -> None:
    """Nothing is reported from a declaration that is wrong."""
    path = settings.deployments / "controls.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(UserError) as caught:
        load_controls(settings.deployments)
    assert told in str(caught.value)
    assert all(problem.file == str(path) and problem.line for problem in caught.value.problems)


def test_only_rows_of_the_period_count(settings: Settings) -> None:
    """From its beginning on, and before its end; the newest are named by number, opaque principal and hash."""
    state = State(settings.state_url)
    with state.transaction() as tx:
        made = [ledger.append(tx, "erasure", {"n": day}, principal="ada", at=AT + timedelta(days=day)) for day in range(5)]
        seqs, hashes = [row.seq for row in made], [row.hash for row in made]
    found = report(state, settings, since=AT + timedelta(days=1), until=AT + timedelta(days=4), at=AT + timedelta(days=9))
    (one,) = (each for each in found.answers if each.control.id == "gdpr-17")
    evidence = one.ledger["erasure"]
    assert (one.state, evidence.rows) == ("evidence", 3)
    assert [(seq, hash_) for seq, _, _, hash_ in evidence.newest] == list(zip(seqs, hashes, strict=True))[3:0:-1]
    assert '"ada"' not in json.dumps(found.to_json())


def test_a_control_without_a_row_is_a_gap(settings: Settings) -> None:
    """It is shown, in every form of the report, and says what is missing; so is what people do outside."""
    found = report(State(settings.state_url), settings, since=None, until=None, at=AT)
    assert len(found.answers) == len(CONTROLS.controls)
    gaps = {one.control.id: one.gaps for one in found.answers}
    assert gaps["gdpr-17"] == ("no row of `erasure` in the period",)
    assert gaps["ai-act-27"] == ("nothing in this system answers it",)
    sheet = list(csv.DictReader(io.StringIO(report_sheet(found))))
    assert [row["control"] for row in sheet] == [one.control.reference for one in found.answers]
    page = report_page(found)
    assert all(escape(one.control.reference) in page for one in found.answers)
    assert escape("no row of `erasure` in the period") in page


def test_a_rule_past_its_review_is_a_gap() -> None:
    """Evidence that nobody looked at in time is none."""
    made = answer(control(rules=("role-erase",)), {"erasure": Evidence(1)}, {"role-erase": date(2026, 1, 1)})
    assert made.gaps == ("rule `role-erase` was due for review by 2026-01-01",)


def test_a_ledger_that_was_changed_heads_the_report(settings: Settings) -> None:
    """Its rows are no evidence: the command ends with 5 and the page says so first."""
    from sqlalchemy import text

    state = State(settings.state_url)
    with state.transaction() as tx:
        ledger.append(tx, "erasure", {"n": 1}, principal="ada", at=AT)
        tx.execute(text("UPDATE ledger SET principal = 'p-0000000000000000'"))
    found = report(state, settings, since=None, until=None, at=AT)
    assert not found.chain_ok
    assert "does not hold" in report_page(found)


def test_a_period_that_ends_before_it_begins_is_told(settings: Settings) -> None:
    """Rather than an empty report."""
    with pytest.raises(UserError, match="ends before it begins"):
        report(State(settings.state_url), settings, since=AT, until=AT - timedelta(days=1), at=AT)


def everything(state: State) -> None:
    """A row of every kind, by one principal whose id is fixed."""
    with state.transaction() as tx:
        tx.add(PrincipalRow(id="p-0000000000000001", name="ada"))
        tx.flush()
        for minute, kind in enumerate(KINDS):
            ledger.append(tx, kind, {"n": minute}, principal="ada", at=AT + timedelta(minutes=minute))


def test_the_report_is_the_one_that_was_reviewed(settings: Settings) -> None:
    """Every control with what it asks, its rules, tests and rows, as `tests/golden/compliance.txt` has it: a change shows in its review.

    After an intended change: `TRADEWIND_GOLDEN=write` with this test writes the file anew.
    """
    state = State(settings.state_url)
    everything(state)
    made = report_text(report(state, settings, since=AT, until=AT + timedelta(days=1), at=AT + timedelta(days=1)), full=True) + "\n"
    if os.environ.get("TRADEWIND_GOLDEN") == "write":
        GOLDEN.write_text(made)
    assert made == GOLDEN.read_text()


def test_the_same_ledger_gives_the_same_report(settings: Settings) -> None:
    """In every form, read again by another reader."""
    everything(State(settings.state_url))
    first, second = (report(State(settings.state_url), settings, since=None, until=AT + timedelta(days=1), at=AT) for _ in range(2))
    for form in (report_page, report_sheet, report_text, Report.to_json):
        assert form(first) == form(second)


def test_strict_ends_with_1_while_there_is_a_gap(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """What people answer outside is told in both cases, and is none."""
    empty = run(settings, monkeypatch)("--strict", ends=1)
    assert "gap: no row of `erasure` in the period" in empty
    assert run(settings, monkeypatch)() == empty
    state = State(settings.state_url)
    everything(state)
    told = run(settings, monkeypatch)("--strict", "--until", "2026-12-02")
    assert " gap: " not in told and "0 with a gap, 1 outside this system" in told
    assert "outside: nothing in this system answers it" in told


def test_the_full_text_says_what_rules_and_rows_mean(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the words of those who wrote them."""
    everything(State(settings.state_url))
    told = run(settings, monkeypatch)("--full", "--until", "2026-12-02")
    assert f"rule    role-erase: {RULES.rules['role-erase'].annotations['message']}" in told
    assert f"ledger  erasure, 1 rows: {KINDS['erasure']}" in told
    assert "test    tests/services/test_erasing.py::test_the_scan_finds_planted_bytes" in told


@given(text=st.text(min_size=3).map(lambda text: f"x{text}<script>'\"x"))
def test_a_page_escapes_every_text(text: str) -> None:
    """Whatever is declared, nothing of it is markup."""
    one = answer(control(asks=text, framework=text, reference=text, limits=text), {}, {})
    made = Report(AT, None, AT, text, True, (one,), Unmapped(rules={"r": text}))
    page = report_page(made)
    assert "<script" not in page and "http-equiv" in page


@given(start=st.sampled_from("=+-@"), rest=st.text(max_size=20))
def test_a_sheet_holds_no_formula(start: str, rest: str) -> None:
    """A spreadsheet would run it."""
    one = answer(control(asks=f"{start}xx{rest}"), {}, {})
    made = Report(AT, None, AT, "holds", True, (one,), Unmapped())
    cells = next(csv.reader(io.StringIO(report_sheet(made).partition("\n")[2])))
    assert not any(cell.startswith(("=", "+", "-", "@")) for cell in cells)


def run(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """The command on this home."""
    monkeypatch.setenv("TRADEWIND_HOME", str(settings.home))
    monkeypatch.setenv("TRADEWIND_DEPLOYMENTS", str(settings.deployments))

    def command(*words: str, ends: int = 0) -> str:
        done = CliRunner().invoke(app, ["report", "compliance", *words], catch_exceptions=False)
        assert done.exit_code == ends, done.output
        return done.output

    return command


def test_the_command_writes_files_that_agree(settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A page, a sheet, a text and JSON, in a folder that it makes; what is printed names each control."""
    out = tmp_path / "for" / "auditors"
    printed = run(settings, monkeypatch)("--out", str(out))
    assert {path.suffix for path in out.iterdir()} == {".html", ".csv", ".json", ".txt"}
    body = json.loads((out / "compliance.json").read_text())
    assert [one["reference"] for one in body["controls"]] == [
        row["control"] for row in csv.DictReader(io.StringIO((out / "compliance.csv").read_text()))
    ]
    assert all(f"{one['framework']} {one['reference']}" in printed for one in body["controls"])


def test_json_is_for_programs(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The period, the ledger's state, each control with its state."""
    body = json.loads(run(settings, monkeypatch)("--json", "--since", "2026-01-05", "--until", "2026-02-05"))
    assert (body["since"], body["until"], body["ledger"]["ok"]) == ("2026-01-05T00:00:00Z", "2026-02-05T00:00:00Z", True)
    assert {one["state"] for one in body["controls"]} == {"gap", "outside"}
