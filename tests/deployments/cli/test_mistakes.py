"""A user's mistake is one message that names the option, the variable or the file; never a traceback, never a silent other meaning."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deployments.apply.options import ApplyOptions
from flows.adapters.settings import PROJECT_ROOT, unknown_variables
from flows.store.database import State
from tests.deployments.cli.conftest import Command


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("PROFILE", "secret-1", "`TRADEWIND_PROFILE`: wrong value; expected 'embedded' or 'cloud'"),
        ("SITES", "{secret-1", "`TRADEWIND_SITES`: no JSON"),
        ("SITES", '{"fra": {"url": "secret-1"}}', "`TRADEWIND_SITES.fra.url`: wrong value; expected pattern '^(file|s3|gs)://'"),
        ("IMAGE", "secret-1", "`TRADEWIND_IMAGE`: wrong value; expected pattern '^sha256:[0-9a-f]{64}$'"),
        ("SILENT_SECONDS", "secret-1", "`TRADEWIND_SILENT_SECONDS`: wrong value; expected a valid number"),
        ("SILENT_SECONDS", "5", "`TRADEWIND_SILENT_SECONDS`: wrong value; expected greater than or equal to 60"),
    ],
)
def test_a_wrong_variable_is_named_and_its_value_is_not(
    tradewind: Command, monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str
) -> None:
    """Whatever the command: a value may be a secret."""
    monkeypatch.setenv(f"TRADEWIND_{name}", value)
    code, out, err = tradewind("costs", "show")
    assert (code, out) == (2, "")
    assert told in err and "secret" not in err and "Traceback" not in err


def test_a_variable_that_nothing_reads_is_warned_of(tradewind: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `TRADEWIND_PROFIL=cloud` one would run embedded and not know."""
    monkeypatch.setenv("TRADEWIND_PROFIL", "secret-1")
    _, _, err = tradewind("costs", "show")
    assert "warning: `TRADEWIND_PROFIL`: nothing reads this variable\n  fix: did you mean `TRADEWIND_PROFILE`?" in err
    assert "secret" not in err


def test_every_variable_that_the_project_names_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of runs, workers, tests and measurements too; a new one is added to the list."""
    files = [
        path
        for folder in ("flows", "deployments", "feature_repo", "infra", "bench", "docs", "tests/golden", "tests/services")
        for path in (PROJECT_ROOT / folder).rglob("*")
        if path.suffix in (".py", ".md", ".yaml", ".tf", ".sh", ".toml", ".template") and path.is_file()
    ]
    named = {word for path in files for word in re.findall(r"\bTRADEWIND_[A-Z0-9_]*[A-Z0-9]\b", path.read_text())}
    named |= {f"TRADEWIND_{name.upper()}" for name in ApplyOptions.model_fields}
    assert len(named) > 40
    for name in named:
        monkeypatch.setenv(name, "x")
    assert [problem.field for problem in unknown_variables()] == []


LONG = "a" * 300
EARLY, LATE = "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-10:00"
GOLDEN = PROJECT_ROOT / "tests" / "golden" / "placement"
REQUEST = """\
workload: nafld
step: train
requested_by: {user: ada, roles: [data-scientist]}
runtime: {p50_hours: 2, p90_hours: 3}
"""


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("replay", "--since", LATE), f"`--since`: `{LATE}` is no instant"),
        (("replay", "--since", "2026-01-01", "--until", LATE), f"`--until`: `{LATE}` is no instant"),
        (("costs", "show", "--since", EARLY), f"`--since`: `{EARLY}` is no instant"),
        (("report", "compliance", "--since", EARLY), f"`--since`: `{EARLY}` is no instant"),
        (("ledger", "export", "--out", "o", "--until", EARLY), f"`--until`: `{EARLY}` is no instant"),
        (("replay", "--since", "2027-01-01", "--until", "2026-01-01"), "`--since`: the period ends before it begins"),
        (("ledger", "export", "--out", "o", "--since", "2027-01-01", "--until", "2026-01-01"), "the period ends before it begins"),
        (("run", "nafld", "--as-of", "foo"), "`--as-of`: `foo` is not an instant; expected"),
        (("backfill", "nafld", "--from", "foo", "--to", "2013-01-01"), "`--from`: `foo` is not an instant; expected"),
        (("backfill", "nafld", "--from", "2013-01-01", "--to", "foo"), "`--to`: `foo` is not an instant; expected"),
        (("backfill", "nafld", "--from", "2013-01-01T00:00:00", "--to", "foo"), "`--from`: `2013-01-01T00:00:00` has no offset; expected"),
        (("backfill", "nafld", "--from", "1970-01-01", "--to", "2499-01-01", "--every", "1"), "`--every`: 193,215 clocks from"),
        (("explain", ""), "`DECISION`: no decision is named"),
        (("costs", "export", "--out", ""), "`--out`: `.` cannot be written"),
        (("costs", "export", "--out", LONG), "`--out`: `aaa"),
        (("policy", "test", "--estate", "nowhere"), "nowhere: no such folder"),
        (("place", LONG), "file name too long"),
        (("place", "loop"), "too many levels of symbolic links"),
        (("new", LONG), "cannot name a workload"),
        (("catalog", "show", "--catalog", LONG), "file name too long"),
        (("estate", "check", "--estate", LONG), "file name too long"),
        (("estate", "refresh", "--url", "https://127.0.0.1:1", "--into", LONG), "file name too long"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, tuple) else "",
)
def test_a_mistake_is_one_message(
    tradewind: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], told: str
) -> None:
    """Exit 2, nothing on stdout, the option or the file, what was expected said once."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    State(f"sqlite:///{tmp_path / 'state.db'}").migrate()
    code, out, err = tradewind(*arguments)
    assert (code, out) == (2, "")
    assert told in err and "Traceback" not in err and err.count("such as `2026-01-05T08:00:00Z`") < 2


def test_an_import_to_a_place_that_cannot_be_is_one_message(tradewind: Command, tmp_path: Path) -> None:
    """The same for what is written."""
    (tmp_path / "aws").mkdir()
    (tmp_path / "aws" / "vms.csv").write_text(
        "InstanceType,vCPUs,MemoryGiB,AcceleratorName,AcceleratorCount,GpuInfo,Region,AvailabilityZone,Price,SpotPrice\n"
        "m5.large,2,8,,,,r1,,0.1,\n"
    )
    (tmp_path / "regions.csv").write_text("cloud,region,country,grid_zone\naws,r1,DE,DE\n")
    code, out, err = tradewind("estate", "import", "--skypilot", tmp_path, "--regions", tmp_path / "regions.csv", "--out", LONG)
    assert (code, out) == (2, "") and "file name too long" in err


def test_a_request_may_come_through_a_pipe(tmp_path: Path) -> None:
    """`-` is standard input; a pipe that nobody writes to is an empty file, not one to wait for."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    where = ["--json", "--estate", str(GOLDEN / "estate"), "--catalog", str(GOLDEN / "catalog.yaml"), "--at", "2026-01-05T07:00:00Z"]
    done = [
        subprocess.run(
            [sys.executable, "-m", "deployments.cli.main", "place", name, *where],
            input=REQUEST,
            capture_output=True,
            text=True,
            timeout=60,
            cwd=PROJECT_ROOT,
            check=False,
        )
        for name in ("-", str(pipe))
    ]
    assert (done[0].returncode, done[0].stderr, done[0].stdout.count("\n")) == (0, "", 1)
    assert done[1].returncode == 2 and "pipe:1: the file is empty" in done[1].stderr


def test_a_case_of_an_unknown_rule_says_so(tradewind: Command, tmp_path: Path) -> None:
    """Not that it expected what it got."""
    folder = shutil.copytree(PROJECT_ROOT / "deployments" / "policies", tmp_path / "policies")
    cases = (folder / "cases.yaml").read_text()
    (folder / "cases.yaml").write_text(cases.replace("rule: residency", "rule: residencyy", 1))
    code, out, _ = tradewind("policy", "test", "--policies", folder)
    assert code == 1
    assert "no rule `residencyy`" in next(line for line in out.splitlines() if line.startswith("       line"))
    assert not re.search(r"expected (\w+), got \1 ", out)
