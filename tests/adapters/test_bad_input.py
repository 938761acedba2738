"""Whatever is wrong with a file: one message with file, line and fix; no traceback, no hang, no key left out in silence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from deployments.cli.main import app
from flows.core.errors import UserError
from tests.adapters.bad_input import (
    AT,
    CONDITIONS,
    EXCEPTIONS,
    GOLDEN,
    IMAGES,
    POLICIES,
    REQUEST,
    Literal,
    changed,
    damaged,
    decide,
    places,
    plain_document,
    refusal,
    rows_of,
    scribbled,
    table,
    test_policies,
    written,
)

ESTATE_YAML = ("sites.yaml", "pools.yaml", "blocs.yaml")
ESTATE_CSV = ("offers.csv", "egress.csv", "latency.csv", "carbon.csv")
fuzzed = settings(max_examples=25, deadline=5000, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder of valid files: request, conditions, catalog, estate/ and policies/."""
    (tmp_path / "request.yaml").write_text(written(REQUEST))
    (tmp_path / "conditions.yaml").write_text(written(CONDITIONS))
    shutil.copy(GOLDEN / "catalog.yaml", tmp_path)
    shutil.copytree(GOLDEN / "estate", tmp_path / "estate")
    shutil.copytree(POLICIES, tmp_path / "policies")
    return tmp_path


def told(files: Path, name: str, text: str) -> UserError | None:
    """What is refused when the file holds this text; every problem names a file and a line of it."""
    file = files / name
    before = file.read_text()
    file.write_text(text)
    try:
        if name.startswith("policies/"):
            error = refusal(lambda: test_policies(files / "policies"))
        else:
            error = refusal(lambda: decide(files / "request.yaml", files / "estate", files / "catalog.yaml", files / "conditions.yaml"))
    finally:
        file.write_text(before)
    for problem in error.problems if error is not None else ():
        in_request = problem.file is None and problem.field is not None  # the command adds file and line
        assert in_request or (problem.file and (problem.line or Path(problem.file).suffix == ".cedar")), problem
        assert "Traceback" not in str(problem)
        assert "\n" not in problem.what
    return error


def test_the_valid_files_are_valid(files: Path) -> None:
    """What is damaged below is whole to begin with."""
    assert told(files, "request.yaml", written(REQUEST)) is None
    assert told(files, "policies/exceptions.yaml", written(EXCEPTIONS)) is None
    assert told(files, "policies/approved_images.yaml", written(IMAGES)) is None


DOCUMENTS: dict[str, Any] = {
    "request.yaml": REQUEST,
    "conditions.yaml": CONDITIONS,
    "catalog.yaml": plain_document(GOLDEN / "catalog.yaml"),
    **{f"estate/{name}": plain_document(GOLDEN / "estate" / name) for name in ESTATE_YAML},
    "policies/exceptions.yaml": EXCEPTIONS,
    "policies/approved_images.yaml": IMAGES,
    "policies/cases.yaml": plain_document(POLICIES / "cases.yaml"),
}
FREE = {
    "request.yaml": {("resources", "accelerators")},
    "conditions.yaml": {("replicas",), ("reservations", 0, "use"), ("queue_hours",), ("budget_left_usd",)},
    "catalog.yaml": {("workloads",), ("workloads", "nafld")},
    "estate/blocs.yaml": {("blocs",), ("adequacy",)},
}
"""Mappings whose keys are the user's own names."""


@pytest.mark.parametrize("name", DOCUMENTS)
@fuzzed
@given(data=st.data())
def test_a_damaged_document_gives_a_message_or_a_decision(files: Path, name: str, data: st.DataObject) -> None:
    """Values of the wrong kind, lost, unknown and doubled keys."""
    told(files, name, written(data.draw(damaged(DOCUMENTS[name]))))


@pytest.mark.parametrize("name", ESTATE_CSV)
@fuzzed
@given(data=st.data())
def test_a_damaged_table_gives_a_message_or_a_decision(files: Path, name: str, data: st.DataObject) -> None:
    """Cells of the wrong kind, lost, unknown and doubled columns and rows."""
    rows = data.draw(damaged(rows_of(GOLDEN / "estate" / name)))
    told(files, f"estate/{name}", table(rows) if isinstance(rows, list) else written(rows))


@pytest.mark.parametrize("name", [*DOCUMENTS, *(f"estate/{name}" for name in ESTATE_CSV), "policies/residency.cedar"])
@fuzzed
@given(data=st.data())
def test_a_scribbled_file_gives_a_message_or_a_decision(files: Path, name: str, data: st.DataObject) -> None:
    """Characters cut, typed over and pasted, control characters among them."""
    told(files, name, data.draw(scribbled((files / name).read_text())))


@pytest.mark.parametrize("name", DOCUMENTS)
def test_no_unknown_key_is_left_out_in_silence(files: Path, name: str) -> None:
    """Wherever a mapping has fixed keys, one more is refused by its name and line."""
    document = DOCUMENTS[name]
    for path in places(document):
        # a table of cases is long, and each case has the same keys
        if name == "policies/cases.yaml" and path[:2] not in [("cases", 0), ("cases", 40), ()] and path[:1] != ("defaults",):
            continue
        spoiled = changed(document, path, "added", 1)
        if spoiled == document or any(len(path) >= len(free) and path == free for free in FREE.get(name, ())):
            continue
        if path[-1:] in [("certifications",), ("capacity",)]:
            continue
        error = told(files, name, written(spoiled))
        assert error is not None, path
        assert any("suprise" in str(problem) for problem in error.problems), path


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (("latency", "from"), ["UK"], "did you mean `GB`?"),
        (("window", "deadline"), "2026-01-05T08:00:00Z", "`earliest` is not before `deadline`"),
        (("window", "deadline"), "2026-01-05T08:00:00", "has no offset"),
        (("window", "deadline"), "2499-01-01T00:00:00Z", "longer than 366 days"),
        (("window",), {"earliest": "2499-01-05T08:00:00Z"}, "`window.earliest`: more than 366 days after the decision"),
        (("budget_usd",), Literal(".nan"), "is not a number that can be compared"),
        (("budget_usd",), Literal(".inf"), "is not a number that can be compared"),
        (("budget_usd",), -1, "greater than or equal to 0"),
        (("datasets",), [{"name": "patients"}, {"name": "patients"}], "dataset `patients` is named twice"),
        (("outputs", 0, "home"), "nowhere", "which is no site"),
        (("environment",), "production", "one of `dev`, `staging`, `prod`"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_wrong_request_ends_the_command_with_file_line_and_advice(
    files: Path, field: tuple[str | int, ...], value: Any, message: str
) -> None:
    """Exit 2, nothing on stdout."""
    file = files / "request.yaml"
    file.write_text(written(changed(REQUEST, field, "replaced", value)))
    command = ["place", str(file), "--estate", str(files / "estate"), "--catalog", str(files / "catalog.yaml"), "--at", AT.isoformat()]
    result = CliRunner().invoke(app, command)
    assert isinstance(result.exception, UserError)
    assert result.stdout == ""
    assert f"{file}:" in str(result.exception)
    assert message in str(result.exception)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("estate/sites.yaml", "country: NL", "country: UK", "did you mean `GB`?"),
        ("estate/blocs.yaml", "GB: {until", "UK: {until", "did you mean `GB`?"),
        ("estate/blocs.yaml", "IS, LI", "UK, LI", "did you mean `GB`?"),
        ("estate/latency.csv", "NO,host-oslo", "UK,host-oslo", "did you mean `GB`?"),
        ("catalog.yaml", "residency: [NO]", "residency: [UK]", "did you mean `GB`?"),
        ("estate/offers.csv", "16,64,1.00", "16,64,NaN", "`NaN` is not a number"),
        ("estate/offers.csv", "16,64,1.00", "16,64,-1.00", "greater than 0"),
        ("estate/offers.csv", "16,64,1.00", "16,64,inf", "`inf` is not a number"),
        ("estate/offers.csv", "16,64,1.00", "16,64,1e400", "does not fit"),
        ("estate/egress.csv", "aws-frankfurt,*,0.09", "aws-frankfurt,*,-0.09", "greater than or equal to 0"),
        ("estate/pools.yaml", "name: aws-virginia-ecs", "name: aws-frankfurt-ecs", "`aws-frankfurt-ecs` twice"),
        ("estate/sites.yaml", "id: host-oslo", "id: aws-virginia", "`aws-virginia` twice"),
        ("catalog.yaml", "name: patients-features", "name: patients", "dataset `patients` twice"),
        ("catalog.yaml", "size_gb: 40, owner: clinic", "size_gb: 40, derived_from: [patients-statistics]", "derived from itself"),
        ("catalog.yaml", "derived_from: [patients],\n     label", "derived_from: [patience],\n     label", "does not have: `patience`"),
    ],
)  # fmt: skip
def test_a_wrong_declaration_is_told_by_file_and_line(files: Path, name: str, old: str, new: str, message: str) -> None:
    """Countries under the wrong code, prices that are no prices, things twice, circles of origin."""
    text = (files / name).read_text()
    assert old in text
    error = told(files, name, text.replace(old, new, 1))
    assert error is not None
    assert message in str(error)
    assert name.rpartition("/")[2] in str(error)


def test_a_deadline_in_the_past_is_no_mistake_but_a_refusal(files: Path) -> None:
    """The decision says so for every pool, and what deadline would do."""
    file = files / "request.yaml"
    file.write_text(json.dumps({**REQUEST, "latency": None, "window": {"deadline": "2025-12-31T00:00:00Z"}, "resources": {}}))
    (decision,) = decide(file)
    assert decision.chosen is None
    assert all("deadline" in {reason.rule for reason in row.reasons} for row in decision.rejected)
