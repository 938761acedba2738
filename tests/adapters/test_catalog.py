"""The catalog's files: one or many, the strictest date, and lines that survive the merge."""

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from flows.adapters.catalog import load_catalog
from flows.core.errors import UserError

A = """
as_of: 2026-01-05T06:00:00Z
max_age_hours: 48
workloads: {one: {train: [raw]}}
entries:
  - {name: raw, home: x, size_gb: 40, label: {classification: restricted, regimes: [gdpr], residency: [EU]}}
"""
B = """
as_of: 2026-01-04T06:00:00+02:00
max_age_hours: 100
workloads: {two: {train: [model]}}
entries:
  - {name: model, kind: model, home: x, size_gb: 0.5, derived_from: [raw],
     declassified: {to: {classification: internal, residency: [EEA]}, reason: sums only, approver: dpo, until: 2026-12-31}}
"""


def test_one_file_is_a_catalog(tmp_path: Path) -> None:
    """Sizes are exact, steps know their datasets."""
    path = tmp_path / "catalog.yaml"
    path.write_text(A)
    catalog = load_catalog(path)
    assert catalog.datasets_of("one", "train") == {"raw"}
    assert catalog.datasets_of("one", "score") == frozenset()
    assert catalog.entries[0].size_gb == Decimal(40)


def test_a_folder_is_one_catalog_of_the_strictest_date(tmp_path: Path) -> None:
    """An entry may derive from one of another file; the oldest facts and the shortest age hold."""
    (tmp_path / "b.yaml").write_text(B)
    (tmp_path / "a.yaml").write_text(A)
    catalog = load_catalog(tmp_path)
    assert [entry.name for entry in catalog.entries] == ["raw", "model"]
    assert set(catalog.workloads) == {"one", "two"}
    assert catalog.as_of == datetime(2026, 1, 4, 4, tzinfo=UTC)
    assert catalog.max_age_hours == 48


def test_a_caller_may_say_how_current_the_files_are(tmp_path: Path) -> None:
    """Whoever has just fetched them knows better than the files."""
    path = tmp_path / "catalog.yaml"
    path.write_text(A)
    now = datetime(2026, 11, 1, tzinfo=UTC)
    assert not load_catalog(path, as_of=now).stale_at(now)


def test_mistakes_of_all_files_come_at_once(tmp_path: Path) -> None:
    """A bad label in each of two files gives two problems, each with its file."""
    (tmp_path / "a.yaml").write_text(A.replace("residency: [EU]", "residency: []"))
    (tmp_path / "b.yaml").write_text(B.replace("residency: [EEA]", "residncy: [EEA]"))
    with pytest.raises(UserError) as caught:
        load_catalog(tmp_path)
    assert {Path(problem.file or "").name for problem in caught.value.problems} == {"a.yaml", "b.yaml"}
    assert any("residency is empty" in problem.what for problem in caught.value.problems)


@pytest.mark.parametrize(
    ("text", "told", "line"),
    [
        (B.replace("[raw]", "[ghost]", 2), "`ghost`", 6),
        (B.replace("name: model", "name: raw"), "`raw` twice, first at .*a.yaml:6", 6),
        (B.replace("{two:", "{one:"), "workload `one` twice", 4),
    ],
)
def test_a_mistake_between_files_names_the_file_and_the_line(tmp_path: Path, text: str, told: str, line: int) -> None:
    """Lines are those of the file where it is written, not of the merged whole."""
    (tmp_path / "a.yaml").write_text(A)
    (tmp_path / "b.yaml").write_text(text)
    with pytest.raises(UserError, match=told) as caught:
        load_catalog(tmp_path)
    problem = caught.value.problems[0]
    assert (Path(problem.file or "").name, problem.line) == ("b.yaml", line)


def test_an_empty_folder_is_no_catalog(tmp_path: Path) -> None:
    """Without a catalog every dataset would be unknown: said at once."""
    with pytest.raises(UserError, match="no catalog here"):
        load_catalog(tmp_path)


@pytest.mark.parametrize(
    ("text", "told", "line"),
    [
        (A.replace("size_gb: 40,", "size_gb: 40, retention_days: 0,"), "greater than or equal to 1", 6),
        (A.replace("size_gb: 40,", "size_gb: 40, columns: {people.mail: secret},"), "public", 6),
        (A.replace("size_gb: 40,", "size_gb: 40, columns: {mail: restricted},"), "`table.column`|pattern", 6),
        (
            A + B[B.index("  - {name: model") :].replace("size_gb: 0.5,", "size_gb: 0.5, owner: dpo,"),
            "`dpo` asks for the declassification",
            8,
        ),
    ],
    ids=["retention", "class", "column", "four eyes"],
)
def test_a_mistake_in_an_entry_names_its_line(tmp_path: Path, text: str, told: str, line: int) -> None:
    """Retention, classes of columns and declassifications are checked where they are written."""
    path = tmp_path / "catalog.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=told) as caught:
        load_catalog(path)
    assert caught.value.problems[0].line == line


def test_columns_and_retention_are_read(tmp_path: Path) -> None:
    """Classes by `table.column`, days as a whole number."""
    path = tmp_path / "catalog.yaml"
    path.write_text(A.replace("size_gb: 40,", "size_gb: 40, retention_days: 30, columns: {people.mail: confidential},"))
    (entry,) = load_catalog(path).entries
    assert (entry.retention_days, dict(entry.columns)) == (30, {"people.mail": "confidential"})


def test_an_age_that_no_clock_can_count_is_refused(tmp_path: Path) -> None:
    """A number too large for a span of time is told with its line, not as an overflow when something is decided."""
    file = tmp_path / "catalog.yaml"
    file.write_text("as_of: 2026-01-05T06:00:00Z\nmax_age_hours: 1e13\nentries: []\n")
    with pytest.raises(UserError, match="max_age_hours"):
        load_catalog(file)


@pytest.mark.parametrize("step", ["trian", "Train", "promote"])
def test_a_step_that_is_none_is_refused(tmp_path: Path, step: str) -> None:
    """Its datasets would be missing from every decision, and more places would be allowed."""
    file = tmp_path / "catalog.yaml"
    file.write_text(A.replace("{train:", f"{{{step}:"))
    with pytest.raises(UserError, match=f"`{step}` is not allowed; expected one of `ingest`") as caught:
        load_catalog(file)
    assert (caught.value.problems[0].line, caught.value.problems[0].field) == (4, f"workloads.one.{step}")


@pytest.mark.parametrize("size", ["1e30", '"1E+999999"', '"1_000"', '" 5 "', "-1", "true"])
def test_a_size_is_a_plain_number_of_at_most_a_billion(tmp_path: Path, size: str) -> None:
    """As a request's sizes are."""
    file = tmp_path / "catalog.yaml"
    file.write_text(A.replace("size_gb: 40", f"size_gb: {size}"))
    with pytest.raises(UserError) as caught:
        load_catalog(file)
    assert [(problem.line, problem.field) for problem in caught.value.problems] == [(6, "entries[0].size_gb")]


@pytest.mark.parametrize("as_of", ["9999-12-31T23:59:59-10:00", "0001-01-01T00:00:00+10:00", "2026-01-05T06:00:00+99:00"])
def test_a_date_that_no_clock_can_count_is_refused(tmp_path: Path, as_of: str) -> None:
    """Not as an overflow when something is decided."""
    file = tmp_path / "catalog.yaml"
    file.write_text(A.replace("2026-01-05T06:00:00Z", as_of))
    with pytest.raises(UserError) as caught:
        load_catalog(file)
    assert [(problem.line, problem.field) for problem in caught.value.problems] == [(2, "as_of")]


def test_files_that_are_no_yaml_come_at_once(tmp_path: Path) -> None:
    """Beside what is wrong in those that are."""
    for name, text in (("a", "a: ["), ("b", "b: [ ]]"), ("c", A.replace("size_gb: 40", "size_gb: x"))):
        (tmp_path / f"{name}.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        load_catalog(tmp_path)
    assert [Path(problem.file or "").name for problem in caught.value.problems] == ["a.yaml", "b.yaml", "c.yaml"]


def test_contradictions_come_at_once(tmp_path: Path) -> None:
    """A workload twice, a dataset twice, an unknown ancestor and a circle: none hides another, none is told twice."""
    more = "  - {name: a, home: x, size_gb: 1, derived_from: [b]}\n  - {name: b, home: x, size_gb: 1, derived_from: [a, ghost]}\n"
    (tmp_path / "a.yaml").write_text(A)
    (tmp_path / "b.yaml").write_text(A + more)
    with pytest.raises(UserError) as caught:
        load_catalog(tmp_path)
    found = sorted((problem.line or 0, problem.what.replace(f"{tmp_path}/", "")) for problem in caught.value.problems)
    assert found == [
        (4, "workload `one` twice"),
        (6, "dataset `raw` twice, first at a.yaml:6"),
        (7, "`a` is derived from itself"),
        (8, "`b` is derived from datasets that the catalog does not have: `ghost`"),
        (8, "`b` is derived from itself"),
    ]
