"""`tradewind review` over a real state database and the shipped declarations."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deployments.cli.review import app
from flows.core.errors import GuardRefused, Unavailable, UserError
from flows.services import reviewing
from flows.store.database import State


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> State:
    """A state database where the settings look for it, and nobody's cloud."""
    monkeypatch.setenv("TRADEWIND_HOME", str(tmp_path / "home"))
    for name in ("TRADEWIND_DATABASE_URL", "TRADEWIND_PRINCIPAL", "TRADEWIND_TOKEN", "TRADEWIND_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    made = State(f"sqlite:///{tmp_path / 'home' / 'state.db'}")
    made.migrate()
    return made


def run(*arguments: str, code: int = 0) -> str:
    """Standard output of a command that ends with this code."""
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.stdout


def service_grant() -> str:
    grants = json.loads(run("show", "--json"))["grants"]
    return next(one["id"] for one in grants if one["kind"] == "service")


def test_a_review_is_made_listed_shown_and_attested() -> None:
    """As text and as JSON; what is to be revoked comes with its command."""
    assert run("list") == "no review yet: `tradewind review run` makes one\n"
    made = json.loads(run("run", "--json"))
    assert (made["state"], made["unread"]) == ("open", {})
    (listed,) = json.loads(run("list", "--json"))
    assert (listed["review"], listed["open"]) == (made["review"], made["grants"])
    assert f"{made['grants']} of {made['grants']} grants wait for a decision" in run("show")
    id = service_grant()
    kept = run("attest", made["review"], "--grant", id, "--keep", "--reason", "needed")
    assert kept.startswith(f"{id}: keep until 20")
    (told,) = json.loads(run("attest", "latest", "--grant", id, "--revoke", "--reason", "no more", "--json"))
    assert (told["state"], told["because"]) == ("revoke", "no more")
    assert "edit deployments/roles.yaml: take" in run("attest", "latest", "--grant", id, "--revoke", "--reason", "no more")
    assert f"{made['grants'] - 1} of {made['grants']} grants open" in run("list")


def test_files_are_written_where_the_user_says(tmp_path: Path) -> None:
    """A page and a sheet; the sheet comes back filled in."""
    run("run")
    page, sheet = tmp_path / "review.html", tmp_path / "review.csv"
    run("show", "--html", str(page), "--csv", str(sheet))
    assert page.read_text().startswith("<!doctype html>")
    with sheet.open(newline="") as stream:
        rows = list(csv.reader(stream))
    row = next(row for row in rows if row[4] == "service")
    row[-3:] = ["keep", "needed", ""]
    with sheet.open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    assert run("attest", "latest", "--csv", str(sheet)).startswith(f"{row[1]}: keep until")
    with pytest.raises(UserError, match="cannot be written"):
        run("show", "--html", str(tmp_path / "none" / "x.html"))


def test_a_source_that_is_down_ends_in_its_own_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Exit 6, named, and still in the list as incomplete."""
    import shutil

    from flows.adapters.settings import PROJECT_ROOT

    folder = tmp_path / "deployments"
    shutil.copytree(PROJECT_ROOT / "deployments", folder, ignore=shutil.ignore_patterns("*.py", "__pycache__", "skeleton"))
    declared = (folder / "access.yaml").read_text()
    (folder / "access.yaml").write_text(declared.replace("{name: aws, kind: aws, profiles: [cloud]}", "{name: aws, kind: aws}"))
    monkeypatch.setenv("TRADEWIND_DEPLOYMENTS", str(folder))

    def down(source: object) -> list[object]:
        raise Unavailable("no answer")

    monkeypatch.setattr(reviewing, "COLLECT", {"aws": down})
    assert "not read: aws: no answer" in run("run", code=6)
    assert " incomplete " in run("list")
    assert "not read: aws" in run("show")


def test_wrong_options_are_told() -> None:
    """Each in one message; one's own grant is a wall."""
    run("run")
    id = service_grant()
    for arguments in (
        ("--grant", id),
        ("--grant", id, "--keep", "--revoke", "--reason", "x"),
        ("--grant", id, "--keep"),
        ("--grant", id, "--keep", "--reason", "x", "--until", "soon"),
        ("--grant", id, "--revoke", "--reason", "x", "--until", "2027-01-01"),
        ("--csv", "x.csv", "--keep"),
        ("--grant", "g-0", "--keep", "--reason", "x"),
    ):
        with pytest.raises(UserError):
            run("attest", "latest", *arguments)
    with pytest.raises(UserError, match=r"no review `2020-01-01\.1`"):
        run("show", "2020-01-01.1")
    own = next(one["id"] for one in json.loads(run("show", "--json"))["grants"] if one["principal"] == "local")
    with pytest.raises(GuardRefused, match="your own grant"):
        run("attest", "latest", "--grant", own, "--keep", "--reason", "x")


def test_the_flow_loads_no_client_of_a_cloud() -> None:
    """In a fresh interpreter: each is loaded by the source that needs it."""
    heavy = ("boto3", "kubernetes", "google.cloud.resourcemanager_v3", "psycopg", "mlflow", "feast", "pandas")
    code = f"import sys, flows.govern; print(*[name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_the_flow_makes_what_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its function, without a server: the first time a review, the second time none."""
    import asyncio

    from flows.govern import govern

    first, second = asyncio.run(govern.fn()), asyncio.run(govern.fn())
    assert first["review"]["state"] == "open"
    assert second["review"] is None
