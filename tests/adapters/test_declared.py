"""Files that people edit: what they say is read as they wrote it, and every mistake is told with its line."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from flows.adapters.declared import load_csv, load_documents, load_yaml, validate
from flows.adapters.yaml_marks import parse
from flows.core.errors import Problem, UserError
from flows.core.fields import Count, Country, Line, Name, NonNegative, Step
from flows.core.governance.labels import Catalog


def written(folder: Path, text: str, name: str = "file.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def problems(path: Path) -> tuple[Problem, ...]:
    with pytest.raises(UserError) as caught:
        validate(Catalog, load_yaml(path))
    return caught.value.problems


def test_values_are_what_people_mean(tmp_path: Path) -> None:
    """Norway is a country, ten at night is text, a day is text, and only true is true."""
    text = 'a: NO\nb: 22:00\nc: 2026-01-05\nd: true\ne: yes\nf: 0.5\ng: 010\nh: ~\ni: "1"\nj: 1e3\nk: 0x10\n'
    values = {
        "a": "NO",
        "b": "22:00",
        "c": "2026-01-05",
        "d": True,
        "e": "yes",
        "f": 0.5,
        "g": 10,
        "h": None,
        "i": "1",
        "j": 1000.0,
        "k": 16,
    }
    assert load_yaml(written(tmp_path, text)).data == values


def test_a_duplicate_key_is_refused_with_both_lines(tmp_path: Path) -> None:
    """The second of two equal keys never wins in silence."""
    with pytest.raises(UserError) as caught:
        load_yaml(written(tmp_path, "a: 1\nb: {c: 1,\n    c: 2}\n"))
    problem = caught.value.problems[0]
    assert (problem.line, problem.field) == (3, "b.c")
    assert "first seen on line 2" in problem.what


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: [1\nb: 2", "not valid YAML"),
        ("", "empty"),
        ("# nothing\n", "empty"),
        ("a: &x [*x]", "aliases"),
        ("a: .inf", "compared"),
        ("a: 1e999", "too large"),
        ("a: " + "9" * 5000, "a number of 5000 characters"),
        ("a: !!python/object:os.system x", "tag"),
        ("a: !secret x", "tag"),
        ("? [1, 2]\n: x", "plain text"),
        ("a: 1\n---\nb: 2\n", "2 documents"),
        ("a: \x00", "not valid YAML"),
        ("[" * 3000, "nested too deeply|not valid YAML"),
    ],
)
def test_text_that_cannot_be_trusted_is_refused(tmp_path: Path, text: str, told: str) -> None:
    """Broken, empty, self-containing, tagged or doubled documents give one message and no traceback."""
    with pytest.raises(UserError, match=told):
        load_yaml(written(tmp_path, text))


def test_only_what_aliases_repeat_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long file is as good as a short one."""
    monkeypatch.setattr("flows.adapters.yaml_marks.MAX_REPEATED", 5)
    assert len(load_yaml(written(tmp_path, "[" + "x," * 50 + "]")).data) == 50
    assert load_yaml(written(tmp_path, "a: &a [x, x]\nb: *a\n")).data["b"] == ["x", "x"]
    with pytest.raises(UserError, match="aliases that repeat more than 5 values"):
        load_yaml(written(tmp_path, "a: &a [x, x]\nb: *a\nc: *a\n"))


def test_aliases_that_multiply_are_refused(tmp_path: Path) -> None:
    """Nine lines that would grow to a billion values."""
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{n}: &{n} [{','.join([f'*{p}'] * 9)}]\n" for p, n in zip("abcdefg", "bcdefgh", strict=True)
    )
    with pytest.raises(UserError, match="aliases"):
        load_yaml(written(tmp_path, bomb))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda path: path.mkdir(), "cannot be read"),
        (lambda path: path.write_bytes(b"a: \xff"), "UTF-8"),
        (lambda path: None, "no such file"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, make, told: str) -> None:  # type: ignore[no-untyped-def]
    """A folder, other bytes than UTF-8, nothing at all."""
    path = tmp_path / "file.yaml"
    make(path)
    with pytest.raises(UserError, match=told) as caught:
        load_documents(path)
    assert caught.value.problems[0].file == str(path)


@given(st.text(max_size=200))
def test_any_text_gives_values_or_one_clear_error(text: str) -> None:
    """Whatever is in the file, nothing but a user error comes out."""
    try:
        parse(text, "file.yaml")
    except UserError as error:
        assert error.problems[0].file == "file.yaml"


def test_all_mistakes_are_told_at_once_with_line_field_and_fix(tmp_path: Path) -> None:
    """Five mistakes in one file, five problems."""
    text = """as_of: 2026-01-05T06:00:00
entriez: []
entries:
  - {name: ehr, home: a, size_gb: 40, lable: x,
     label: {classification: restrictd, residency: [EU]}}
  - {name: m, size_gb: -1}
"""
    found = {(problem.line, problem.field): problem for problem in problems(written(tmp_path, text))}
    assert set(found) == {
        (1, "as_of"),
        (2, "entriez"),
        (4, "entries[0].lable"),
        (5, "entries[0].label.classification"),
        (6, "entries[1].home"),
        (6, "entries[1].size_gb"),
    }
    assert "has no offset" in found[1, "as_of"].what
    assert found[2, "entriez"].fix == "did you mean `entries`?"
    assert found[4, "entries[0].lable"].fix == "did you mean `label`?"
    assert found[5, "entries[0].label.classification"].fix == "did you mean `restricted`?"
    assert found[6, "entries[1].home"].what == "`home` is missing"
    assert found[6, "entries[1].size_gb"].expected == "greater than or equal to 0"


def test_a_message_reads_as_one_sentence(tmp_path: Path) -> None:
    """File, line, field, what, expected, fix: in this order, in the user's words."""
    path = written(tmp_path, "as_of: 2026-01-05T06:00:00Z\nentries: [{name: a, home: b, size_gb: 1, kind: tabel}]\n")
    expected = "`dataset`, `quarantine`, `features`, `model`, `predictions`, `report`"
    assert str(problems(path)[0]).startswith(f"{path}:2: `entries[0].kind`: `tabel` is not allowed; expected one of {expected}")


def test_an_error_of_the_whole_is_told_where_it_lies(tmp_path: Path) -> None:
    """The catalog's own checks know the entry, so the message knows the line."""
    first = "as_of: 2026-01-05T06:00:00Z\nentries:\n  - {name: a, home: h, size_gb: 1}\n"
    text = first + "  - {name: b, home: h, size_gb: 1,\n     derived_from: [ghost]}\n"
    problem = problems(written(tmp_path, text))[0]
    assert (problem.line, problem.field) == (5, "entries[1].derived_from")


class Kinds(BaseModel):
    """A value of several kinds, names as keys, a list that may not be empty."""

    model_config = ConfigDict(extra="forbid")

    some: Mapping[Name, Line | tuple[Line, ...] | Count] = Field(default_factory=dict)
    either: Annotated[tuple[Country, ...], Field(min_length=1)] | Literal["anywhere"] = "anywhere"
    days: Annotated[tuple[Literal["sat", "sun"], ...], Field(min_length=1)] = ("sat",)
    steps: Mapping[Step, Mapping[Name, NonNegative]] = Field(default_factory=dict)


@pytest.mark.parametrize(
    ("text", "field", "what", "expected"),
    [
        ("some: {a: {b: 1}}", "some.a", '`{"b": 1}` does not fit', "one line of text or a list or a whole number"),
        ("some: {a: [b, '']}", "some.a[1]", "`` does not fit", "at least 1 character"),
        ("some: {a: 0}", "some.a", "`0` does not fit", "greater than or equal to 1"),
        ("some: {a b: c}", "some.a b", "`a b` does not fit", "a name without spaces"),
        ("either: [de]", "either[0]", "`de` does not fit", "an ISO country of two capital letters, such as `DE`"),
        ("either: []", "either", "`[]` does not fit", "at least 1 item"),
        ("either: nowhere", "either", "`nowhere` does not fit", "a list or `anywhere`"),
        ("days: [Sat]", "days[0]", "`Sat` is not allowed", "one of `sat`, `sun`"),
        ("days: []", "days", "`[]` does not fit", "at least 1 item"),
        ("steps: {train: {a: 1e10}}", "steps.train.a", "`10000000000.0` does not fit", "less than or equal to 1000000000"),
        ("steps: {train: {a: {}}}", "steps.train.a", "`{}` is not a number", None),
        ("steps: {train: 1}", "steps.train", "`1` does not fit", "a mapping"),
        ("steps: {injest: {}}", "steps.injest", "`injest` is not allowed", f"one of {', '.join(f'`{one}`' for one in get_args(Step))}"),
    ],
)
def test_a_mistake_is_one_problem_in_plain_words(tmp_path: Path, text: str, field: str, what: str, expected: str | None) -> None:
    """However many kinds a value might have had, whatever pydantic calls it."""
    with pytest.raises(UserError) as caught:
        validate(Kinds, load_yaml(written(tmp_path, text)))
    assert [(problem.field, problem.what, problem.expected) for problem in caught.value.problems] == [(field, what, expected)]


def test_a_part_of_a_document_keeps_its_lines(tmp_path: Path) -> None:
    """A nested block can be validated by itself."""
    part = load_yaml(written(tmp_path, "a:\n  b:\n    c: 1\n")).at("a", "b")
    assert part.data == {"c": 1}
    assert part.mark(("c",)).line == 3


def test_a_table_is_read_by_its_header(tmp_path: Path) -> None:
    """Columns in any order, empty cells left out, quoted commas kept, blank lines skipped."""
    rows = load_csv(written(tmp_path, 'b,a,c\n1,"x, y",\n\n2,z,3\n', "t.csv"), ("a", "b"), optional=("c",))
    assert rows.data == [{"b": "1", "a": "x, y"}, {"b": "2", "a": "z", "c": "3"}]
    assert rows.mark((1,)).line == 4


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "empty"),
        ("a\n", "column `b` is missing"),
        ("a,b,cc\n", "unknown column `cc`"),
        ("a,b,a\n", "column `a` twice"),
        ("a,b\n1\n", "1 cells"),
        ("a,b\n1,2,3\n", "3 cells"),
    ],
)
def test_a_table_of_another_shape_is_refused(tmp_path: Path, text: str, told: str) -> None:
    """Missing, unknown and doubled columns; rows that are too short or too long."""
    with pytest.raises(UserError, match=told):
        load_csv(written(tmp_path, text, "t.csv"), ("a", "b"), optional=("c",))
