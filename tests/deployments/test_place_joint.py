"""`tradewind place --joint` and `explain` of a joint plan as a user runs them."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from deployments.cli.main import main
from flows.core.canonical import canonical_json
from flows.store import plans
from flows.store.database import State

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden" / "placement"
STEPS = """\
workload: nafld
step: materialize
requested_by: {user: ada, roles: [data-scientist]}
runtime: {p50_hours: 2, p90_hours: 3}
outputs: [{name: cohort, size_gb: 500}]
---
workload: nafld
step: train
requested_by: {user: ada, roles: [data-scientist]}
runtime: {p50_hours: 2, p90_hours: 3}
datasets: [{name: cohort}]
"""


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs a command on the golden estate; gives exit code, stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TRADEWIND_HOME", str(tmp_path / "home"))

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tradewind", *arguments])
        code = 0
        try:
            main()
        except SystemExit as exit:
            code = int(exit.code or 0)
        told = capsys.readouterr()
        return code, told.out, told.err

    return command


@pytest.fixture
def joint(run, tmp_path):
    """`place --joint` on the text of a file."""

    def place(text: str, *more: str) -> tuple[int, str, str]:
        path = tmp_path / "steps.yaml"
        path.write_text(text)
        inputs = ("--estate", str(GOLDEN / "estate"), "--catalog", str(GOLDEN / "catalog.yaml"), "--at", "2026-01-05T07:00:00Z")
        return run("place", "--joint", str(path), *inputs, *more)

    return place


def test_steps_are_placed_in_one_canonical_line(joint):
    """What one document writes and another reads is an edge, as large as the writer says."""
    code, out, err = joint(STEPS, "--json")
    decision = json.loads(out)
    assert (code, err, out.encode()) == (0, "", canonical_json(decision) + b"\n")
    (edge,) = decision["edges"]
    assert (edge["from"], edge["to"], edge["dataset"], edge["size_gb"]) == ("materialize", "train", "cohort", 500)
    assert edge["src"] == edge["dst"] == decision["chosen"]["train"]["site"]


def test_the_table_says_what_step_by_step_would_have_cost(joint):
    """For people."""
    code, out, _ = joint(STEPS)
    assert code == 0
    assert "2 steps placed together" in out and "stays at" in out and "step by step" in out and "together" in out


def test_a_step_without_a_place_exits_3_with_its_reasons(joint):
    """Nothing is chosen, and it is printed all the same."""
    code, out, _ = joint(STEPS.replace("datasets: [{name: cohort}]", "datasets: [{name: cohort}]\nbudget_usd: 0"))
    assert code == 3
    assert "`train` has no place" in out and "budget" in out


def test_the_same_step_twice_is_numbered(joint):
    """Two trainings of one workload are two steps, told apart."""
    code, out, _ = joint(STEPS + "---\n" + STEPS.partition("---\n")[2], "--json")
    assert code == 0 and sorted(json.loads(out)["chosen"]) == ["materialize", "train", "train-2"]


def test_steps_that_wait_for_each_other_are_told_in_words_of_the_documents(joint):
    """Who reads what of whom, at the first that reads; a step behind the circle has no part in it."""
    watch = "---\n" + STEPS.partition("---\n")[2].replace("cohort", "model").replace("train", "evaluate")
    text = STEPS.replace("500}]", "500}]\ndatasets: [{name: model}]") + "outputs: [{name: model}]\n" + watch
    code, out, err = joint(text, "--json")
    assert (code, out) == (2, "")
    circle = "`materialize` reads `model`, which `train` writes; `train` reads `cohort`, which `materialize` writes"
    assert f"steps.yaml:6: `datasets`: the steps wait for each other in a circle: {circle}" in err and "edge" not in err


def test_a_dataset_that_two_steps_write_is_refused(joint):
    """Read or not; one that copies what it reads, as a transfer does, is no second writer."""
    twice = STEPS.partition("---\n")[0] + "---\n" + STEPS.partition("---\n")[0]
    for text in (twice, f"{twice}---\n{STEPS.partition('---')[2]}"):
        code, out, err = joint(text, "--json")
        assert (code, out) == (2, "")
        assert "steps.yaml:11: `outputs[0].name`: `cohort` is written by `materialize` and by `materialize-2`" in err
    assert joint(STEPS + "outputs: [{name: cohort}]\n", "--json")[0] == 0


@pytest.mark.parametrize(
    ("text", "more", "what"),
    [
        (
            STEPS.replace("datasets: [{name: cohort}]", "datasets: [{name: cohort}]\nbudgt_usd: 1"),
            (),
            "steps.yaml:12: `budgt_usd`: unknown key",
        ),
        (STEPS + "outputs: [{name: model, home: nowhere}]\n", (), "steps.yaml:12: `outputs`"),
        (STEPS.replace("500}]", "500}]\ndatasets: [{name: model}]") + "outputs: [{name: model}]\n", (), "circle"),
        (STEPS, ("--what-if", "budget_usd=1"), "`--what-if`"),
    ],
    ids=["unknown key", "no such site", "circle", "what-if"],
)
def test_bad_input_exits_2_with_nothing_on_stdout(joint, text, more, what):
    """One message, with the line of the document it is about."""
    code, out, err = joint(text, "--json", *more)
    assert (code, out) == (2, "")
    assert what in err and "Traceback" not in err


def test_explain_shows_a_stored_plan(joint, run, tmp_path):
    """By the beginning of its id: as tables, as JSON, and as a page."""
    body = json.loads(joint(STEPS, "--json")[1])
    state = State(f"sqlite:///{tmp_path / 'home' / 'state.db'}")
    state.migrate()
    with state.transaction() as tx:
        plans.save(tx, body, {}, intent_id="nafld/lifecycle/w/manual", workload="nafld", at=datetime(2026, 1, 5, tzinfo=UTC))
    code, out, _ = run("explain", body["decision_id"][:10])
    assert code == 0 and "joint decision" in out and "step by step" in out
    assert json.loads(run("explain", body["decision_id"], "--json")[1]) == body
    page = tmp_path / "plan.html"
    assert run("explain", body["decision_id"], "--html", str(page))[0] == 0
    assert "<h2>Handed over</h2>" in page.read_text() and "<script" not in page.read_text()
