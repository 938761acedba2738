"""`tradewind erase` and `tradewind retention` as they are typed: what is asked, what is said, and that the key is repeated nowhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deployments.cli.erase import told
from deployments.cli.main import app
from flows.adapters.settings import Settings
from flows.core.errors import TradewindError, Unavailable, UserError
from flows.store.database import State

WHO = "nafld-patient-000007"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRADEWIND_HOME", str(tmp_path))
    State(Settings().state_url).migrate()
    return tmp_path


def refused(*arguments: str, text: str | None = None) -> TradewindError:
    error = CliRunner().invoke(app, list(arguments), input=text).exception
    assert isinstance(error, TradewindError)
    return error


@pytest.mark.parametrize("arguments", [("erase",), ("erase", WHO, "--from-file", "-")])
def test_whom_is_told_once(arguments: tuple[str, ...]) -> None:
    """As a word or from a file, not neither and not both."""
    assert isinstance(refused(*arguments), UserError)


def test_a_file_that_is_not_there_is_a_message() -> None:
    """Where a traceback would show the command's own values."""
    assert "cannot be read" in str(refused("erase", "--from-file", "/nowhere/key"))


@pytest.mark.parametrize("arguments", [("erase", WHO), ("erase", "--from-file", "-", "--yes")])
def test_without_a_stack_nothing_happens_and_nobody_is_named(arguments: tuple[str, ...]) -> None:
    """The message says what to start, and not whom it was about."""
    error = refused(*arguments, text=f"{WHO}\n")
    assert isinstance(error, Unavailable)
    assert WHO not in str(error)


def test_retention_looks_first() -> None:
    """Without `--apply` nothing is needed but the records."""
    assert CliRunner().invoke(app, ["retention"]).stdout == "nothing is past its retention\n"
    assert json.loads(CliRunner().invoke(app, ["retention", "--json"]).stdout) == {"due": [], "kept": []}


def test_what_an_erasure_prints() -> None:
    """Counts, what must still be retrained, the scan."""
    result = {
        "request": "r1",
        "applied": True,
        "found": {"onprem-fra": {"nafld-raw": {"versions": 1, "rows": 3}}},
        "elsewhere": {"onprem-fra": ["datasets/other-raw"]},
        "models": {"waiting": ["nafld-model@m"], "retrain": "nafld/lifecycle/2014-07-01/erasure-r1"},
        "rewritten": {"nafld-raw@a": "nafld-raw@b"},
        "removed": ["nafld-reports@c"],
        "proof": {"sha256": "ab" * 32, "sites": 2, "files": 1200, "bytes": 34567},
    }
    assert list(told("nafld", result)) == [
        "nafld: request r1, erased",
        "  onprem-fra           nafld-raw                    1 versions, 3 rows",
        "  onprem-fra           also in datasets/other-raw, which are not of this workload: left as they are",
        "  nafld-model@m learnt from it and serves: it goes once a retrain has replaced it",
        "  retrain: nafld/lifecycle/2014-07-01/erasure-r1",
        "  1 versions written again, 1 removed",
        "  no byte of the key is left: 1,200 files, 34,567 bytes at 2 sites, scan abababababababab",
    ]
