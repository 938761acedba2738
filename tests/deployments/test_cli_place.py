"""`tradewind place` and `tradewind explain` as a user runs them: output, exit codes, and one clear message for a mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from deployments.cli.main import main
from flows.core.canonical import canonical_json

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests" / "golden" / "placement"
REQUEST = """\
workload: nafld
step: train
requested_by: {user: ada, roles: [data-scientist]}
runtime: {p50_hours: 2, p90_hours: 3}
"""
IMPOSSIBLE = REQUEST + "budget_usd: 0\n"


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Runs `tradewind place` on the text of a request with the golden estate; gives exit code, stdout and stderr."""

    monkeypatch.setenv("COLUMNS", "200")

    def place(text: str, *more: str, command: str = "place") -> tuple[int, str, str]:
        path = tmp_path / "request.yaml"
        path.write_text(text)
        inputs = ["--estate", GOLDEN / "estate", "--catalog", GOLDEN / "catalog.yaml", "--at", "2026-01-05T07:00:00Z"]
        arguments = [str(part) for part in ("tradewind", command, path, *inputs, *more)]
        monkeypatch.setattr(sys, "argv", arguments)
        code = 0
        try:
            main()
        except SystemExit as exit:
            code = int(exit.code or 0)
        told = capsys.readouterr()
        return code, told.out, told.err

    return place


def test_a_placed_request_exits_0_and_prints_one_canonical_line(run):
    """The JSON of the contract, as RFC 8785 has it."""
    code, out, err = run(REQUEST, "--json")
    decision = json.loads(out)
    assert (code, err, out.count("\n")) == (0, "", 1)
    assert out.encode() == canonical_json(decision) + b"\n"
    assert sorted(decision) == [
        "alternatives", "at", "chosen", "datasets", "decision_id", "inputs", "output_label", "rejected", "summary", "warnings"
    ]  # fmt: skip
    assert sorted(decision["inputs"]) == ["catalog", "conditions", "engine", "estate", "policies", "request"]
    assert sorted(decision["chosen"]) == [
        "fallback", "finish_p50", "finish_p90", "kg_co2", "offer", "pool", "site", "spot", "start", "usd", "usd_p90", "usd_per_hour"
    ]  # fmt: skip
    assert sorted(decision["chosen"]["usd"]) == ["carbon", "compute", "delay", "egress", "storage", "total"]
    assert sorted(decision["rejected"][0]) == ["offer", "offers", "pool", "reasons", "relaxation", "site"]
    assert sorted(decision["rejected"][0]["reasons"][0]) == ["kind", "observed", "required", "rule", "source"]


def test_a_workload_that_nobody_knows_is_warned_of(run):
    """Without datasets no label holds it back; the decision stays the same, and one that names its datasets is left alone."""
    unknown = REQUEST.replace("nafld", "nafl")
    code, out, err = run(unknown, "--json")
    assert code == 0 and json.loads(out)["warnings"] == []
    assert "request.yaml:1: `workload`: neither the catalog nor a declaration knows `nafl`" in err and "`nafld`" in err
    assert run(unknown + "datasets: [{name: patients}]\n", "--json")[2] == ""


def test_names_that_the_estate_lacks_are_warned_of_with_what_was_meant(run):
    """On standard error, with line and hint; the decision stays the same."""
    code, out, err = run(
        REQUEST + "restrict:\n  pools: [clinic-fra-k8s, clinic-fra-k9s]\n  clouds: [AWS]\n  offers: ['[']\nresources:\n  arch: amd64\n"
        "  accelerators: {a100: 1}\n",
        "--json",
    )
    assert code == 3 and json.loads(out)["warnings"] == [
        "restrict.clouds: `AWS` is not in this estate",
        "restrict.offers: `[` is not in this estate",
        "restrict.pools: `clinic-fra-k9s` is not in this estate",
    ]
    told = [line.partition("request.yaml:")[2].partition(";")[0] for line in err.splitlines() if line.startswith("warning: ")]
    assert told == [
        "7: `restrict.clouds[0]`: no cloud `AWS` in this estate",
        "6: `restrict.pools[1]`: no pool `clinic-fra-k9s` in this estate",
        "8: `restrict.offers[0]`: no offer `[` in this estate",
        "10: `resources.arch`: no architecture `amd64` in this estate",
        "11: `resources.accelerators.a100`: no accelerator `a100` in this estate",
    ]
    for meant in ("aws", "clinic-fra-k8s", "x86_64", "A100"):
        assert f"did you mean `{meant}`?" in err
    assert run(REQUEST + "restrict: {pools: [clinic-fra-k8s], offers: ['*']}\n", "--json")[2] == ""


def test_conditions_and_what_if_that_name_nothing_are_told_together(run, tmp_path):
    """A misspelt site would be open, misspelt capacity no capacity: refused, the file with its line."""
    moment = tmp_path / "conditions.yaml"
    moment.write_text("queue_hours: {clinic-fra-k8s: 1}\ncordoned: [nowhere]\n")
    changes = ("conditions.cordoned=[oslo]", "estate.pools.clinic-fra-k8s.capacity.a100=2", "conditions.queue_hours.host-oslo-k8s=1")
    code, out, err = run(REQUEST, "--json", "--conditions", str(moment), *(part for each in changes for part in ("--what-if", each)))
    assert (code, out) == (2, "")
    assert "conditions.yaml:2: `cordoned[0]`: no site `nowhere` in this estate" in err
    assert "`--what-if`: `conditions.cordoned.oslo`: no site `oslo` in this estate" in err
    assert "`--what-if`: `estate.pools.clinic-fra-k8s.capacity.a100`: pool `clinic-fra-k8s` has no `a100`" in err and "`A100`?" in err
    assert "host-oslo-k8s`: no" not in err
    assert run(REQUEST, "--json", "--what-if", "estate.pools.clinic-fra-k8s.capacity.A100=3")[0] == 0


def test_nothing_feasible_exits_3_and_is_printed_all_the_same(run):
    """The reasons are what the user needs most."""
    code, out, _ = run(IMPOSSIBLE, "--json")
    assert code == 3 and json.loads(out)["chosen"] is None


def test_several_documents_are_a_line_each_and_one_infeasible_is_3(run):
    """Every request gets its decision."""
    code, out, _ = run(f"{REQUEST}---\n{IMPOSSIBLE}", "--json")
    assert code == 3
    assert [json.loads(line)["chosen"] is None for line in out.splitlines()] == [False, True]


def test_the_table_names_the_chosen_pool_and_why_not_the_others(run):
    """For people."""
    code, out, _ = run(REQUEST)
    assert code == 0
    assert "pools may run `train` of `nafld`" in out and "chosen" in out and "residency" in out


@pytest.mark.parametrize(
    ("text", "more", "what"),
    [
        (REQUEST + "step: train\n", (), "request.yaml:5: `step`: duplicate key"),
        (REQUEST + "budgt_usd: 1\n", (), "request.yaml:5: `budgt_usd`: unknown key"),
        (f"{REQUEST}---\nworkload: x\n", (), "request.yaml:6: `step`: `step` is missing"),
        (
            REQUEST.replace("runtime: {p50_hours: 2, p90_hours: 3}\n", "").replace("nafld", "other"),
            (),
            "no runtime is known for `train` of `other`",
        ),
        (REQUEST, ("--at", "2026-01-05T07:00:00"), "`2026-01-05T07:00:00` has no offset"),
        (REQUEST, ("--at", "today"), "`today` is not an instant"),
        (REQUEST, ("--estate", "nowhere"), "nowhere: no such folder"),
        (REQUEST, ("--policies", "nowhere"), "nowhere"),
        (REQUEST, ("--catalog", "nowhere.yaml"), "nowhere.yaml: no such file"),
        (REQUEST, ("--conditions", "nowhere.yaml"), "nowhere.yaml: no such file"),
        (REQUEST, ("--colour",), "No such option"),
    ],
    ids=lambda value: None if isinstance(value, str) and "\n" in value else str(value),
)
def test_bad_input_exits_2_with_nothing_on_stdout(run, text, more, what):
    """One message, no traceback, nothing half-printed."""
    code, out, err = run(text, "--json", *more)
    assert (code, out) == (2, "")
    assert what in err and "Traceback" not in err


def test_a_request_that_is_not_there_exits_2(monkeypatch, capsys):
    """The path as the user wrote it."""
    monkeypatch.setattr(sys, "argv", ["tradewind", "place", "missing.yaml"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert "missing.yaml: no such file" in capsys.readouterr().err


def test_place_loads_no_server_library(tmp_path):
    """Offline: neither Prefect nor the state database nor any model or feature library is imported."""
    path = tmp_path / "request.yaml"
    path.write_text(REQUEST)
    script = (
        "import sys\nfrom deployments.cli.main import main\n"
        "try:\n    main()\nexcept SystemExit as exit:\n    assert not exit.code, exit.code\n"
        "assert not {'prefect', 'sqlalchemy', 'mlflow', 'feast', 'pandas', 'evidently', 'great_expectations'} & set(sys.modules)\n"
    )
    arguments = ["place", str(path), "--json", "--estate", str(GOLDEN / "estate"), "--catalog", str(GOLDEN / "catalog.yaml")]
    subprocess.run([sys.executable, "-c", script, *arguments, "--at", "2026-01-05T07:00:00Z"], check=True, cwd=ROOT, capture_output=True)


def test_explain_shows_a_stored_decision(run, tmp_path, monkeypatch, capsys):
    """By the beginning of its id; an unknown one is bad input."""
    from datetime import UTC, datetime

    from flows.store import decisions
    from flows.store.database import State

    _, out, _ = run(REQUEST, "--json")
    decision = json.loads(out)
    url = f"sqlite:///{tmp_path / 'state.db'}"
    state = State(url)
    state.migrate()
    with state.transaction() as tx:
        decisions.save(tx, decision, {"request": {"workload": "nafld", "step": "train"}}, at=datetime(2026, 1, 5, tzinfo=UTC))
    monkeypatch.setenv("TRADEWIND_DATABASE_URL", url)
    monkeypatch.setattr(sys, "argv", ["tradewind", "explain", decision["decision_id"][:12]])
    main_code(main)
    assert decision["summary"] in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["tradewind", "explain", "nothing"])
    assert main_code(main) == 2
    assert "no decision `nothing` is stored" in capsys.readouterr().err


def main_code(command) -> int:
    """The exit code of the command."""
    try:
        command()
    except SystemExit as exit:
        return int(exit.code or 0)
    return 0
