"""The review as a page and as a sheet."""

from __future__ import annotations

import csv
import io
from datetime import UTC, date, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from flows.core.errors import UserError
from flows.core.governance.review_page import COLUMNS, ReviewLine, ReviewTold, page, read_sheet, sheet
from flows.core.governance.reviews import Finding, Grant, Judged, Standing

AT = datetime(2026, 6, 1, tzinfo=UTC)


def line(id: str, name: str = "ada", *, state: str = "open", findings: tuple[Finding, ...] = (), via: str = "") -> ReviewLine:
    grant = Grant(
        source="aws",
        principal="p-1",
        kind="person",
        permissions=("s3:Get",),
        scopes=("*",),
        slot=id,
        via=via,
        revoke=("aws", "{principal}"),
    )
    return ReviewLine(id, name, grant, Judged(findings), Standing(state, "never reviewed"))  # type: ignore[arg-type]


def told(*lines: ReviewLine, **sources: int | str) -> ReviewTold:
    return ReviewTold("2026-06-01.1", AT, AT, "open", sources or {"aws": len(lines)}, lines)


def filled(*rows: tuple[str, str, str, str], review: str = "2026-06-01.1", delimiter: str = ",") -> str:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter)
    writer.writerow(["review", "grant", "decision", "reason", "until"])
    writer.writerows([review, *row] for row in rows)
    return out.getvalue()


def read(text: str) -> list[tuple[str, str, str, date | None]]:
    found = read_sheet(text, file="sheet.csv", review="2026-06-01.1", grants=frozenset({"g-1", "g-2"}))
    return [(one.grant, one.verdict, one.reason, one.until) for one in found]


def test_a_page_escapes_every_text_and_loads_nothing() -> None:
    """A name, a policy or a finding made of markup stays text; there is no script and no address to fetch."""
    evil = "<script>alert(1)</script>"
    text = page(told(line("g-1", evil, via=evil, findings=(Finding("unused", evil),)), **{evil: evil}))
    assert "<script" not in text
    assert text.count("&lt;script&gt;") >= 5
    assert "default-src 'none'" in text
    assert not [mark for mark in ("http://", "https://", "src=", "href=") if mark in text]


def test_a_page_says_first_what_could_not_be_read() -> None:
    """An unread source is named with its reason above what was read."""
    text = page(told(line("g-1"), aws=1, gcp="no answer"))
    assert "Incomplete" in text
    assert text.index("no answer") < text.index("Sources that were read")
    assert "Incomplete" not in page(told(line("g-1")))


def test_the_worst_comes_first() -> None:
    """What waits before what is decided, then by the worst finding."""
    lines = (
        line("g-a", state="keep", findings=(Finding("policy-breaking", "x"),)),
        line("g-b"),
        line("g-c", findings=(Finding("unused", "x"),)),
        line("g-d", findings=(Finding("policy-breaking", "x"),)),
    )
    rows = list(csv.DictReader(io.StringIO(sheet(told(*lines)))))
    assert [row["grant"] for row in rows] == ["g-d", "g-c", "g-b", "g-a"]


@pytest.mark.parametrize("evil", ["=1+1", "+1", "-1", "@x", "\t=1", "  =1"])
def test_a_sheet_holds_no_formula(evil: str) -> None:
    """A cell that a spreadsheet would compute begins with an apostrophe."""
    (row,) = csv.DictReader(io.StringIO(sheet(told(line("g-1", evil, via=evil)))))
    assert row["principal"] == f"'{evil}"
    assert not [cell for cell in row.values() if cell.lstrip(" ").startswith(("=", "+", "-", "@", "\t"))]


@given(st.text(st.characters(categories=["L", "P", "S", "Z", "Cc"]), max_size=20).map(lambda text: f"a{text}"))
@example("ada\r=1+1")
@example("ada\r\n\x85\u2028eve")
def test_no_name_breaks_a_row(name: str) -> None:
    """A lone carriage return, which Python 3.11 writes unquoted, or any other break: each grant stays one line, no cell begins anew."""
    text = sheet(told(line("g-1", name, via=name), line("g-2")))
    assert len(text.splitlines()) == 3
    read = {row["grant"]: row["principal"] for row in csv.DictReader(io.StringIO(text))}
    assert read == {"g-1": " ".join(name.splitlines()), "g-2": "ada"}


def test_a_sheet_that_is_filled_in_is_read_back() -> None:
    """The written sheet takes decisions in its last three columns; rows without one are left for later."""
    rows = list(csv.reader(io.StringIO(sheet(told(line("g-1"), line("g-2"))))))
    assert tuple(rows[0]) == COLUMNS
    rows[1][-3:] = ["Keep", "needed", "2026-09-01"]
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    assert read(out.getvalue()) == [("g-1", "keep", "needed", date(2026, 9, 1))]


def test_what_a_spreadsheet_does_to_a_file_is_understood() -> None:
    """A byte-order mark, semicolons, and the apostrophe that a formula was given."""
    text = "\ufeff" + filled(("g-1", "revoke", "'=left", ""), delimiter=";")
    assert read(text) == [("g-1", "revoke", "=left", None)]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([("g-1", "keep", "x", ""), ("g-9", "keep", "x", "")], "sheet.csv:3: `grant`: no grant `g-9`"),
        ([("g-1", "keep", "", "")], "sheet.csv:2: `reason`: no reason"),
        ([("g-1", "perhaps", "x", "")], "sheet.csv:2: `decision`: `perhaps` is no decision"),
        ([("g-1", "", "x", "")], "sheet.csv:2: `decision`: no decision"),
        ([("g-1", "keep", "x", "soon")], "sheet.csv:2: `until`: `soon` is no day"),
        ([("g-1", "revoke", "x", "2026-09-01")], "sheet.csv:2: `until`: a grant that is to be revoked has no last day"),
        ([("g-1", "keep", "x", ""), ("g-1", "revoke", "x", "")], "sheet.csv:3: `grant`: `g-1` was decided in line 2 already"),
    ],
)
def test_a_wrong_row_is_told_with_its_line(rows: list[tuple[str, str, str, str]], expected: str) -> None:
    """One message for each, and nothing is taken."""
    with pytest.raises(UserError) as caught:
        read(filled(*rows))
    assert expected in str(caught.value)


def test_all_wrong_rows_are_told_at_once() -> None:
    """Every line, not only the first; a sheet of another review is refused, and one that is none."""
    with pytest.raises(UserError) as caught:
        read(filled(("g-1", "keep", "", ""), ("g-9", "no", "", "")))
    assert [problem.line for problem in caught.value.problems] == [2, 3, 3, 3]
    with pytest.raises(UserError, match="is another review"):
        read(filled(("g-1", "keep", "x", ""), review="2026-01-01.1"))
    with pytest.raises(UserError, match="no column `review`"):
        read("a,b\n1,2\n")
