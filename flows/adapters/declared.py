"""Files that people edit: read with their lines, validated strictly, and every mistake told with file, line, field and fix."""

from __future__ import annotations

import csv
import difflib
import io
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema

from flows.adapters.yaml_marks import Mark, dotted, parse
from flows.adapters.yaml_marks import Path as DataPath
from flows.core.errors import Problem, UserError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Declared:
    """Plain values of one document and where each was written."""

    data: Any
    file: str
    marks: Mapping[DataPath, Mark]

    def mark(self, path: DataPath) -> Mark:
        """Where the path, or its nearest parent that exists, was written."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.marks:
                return self.marks[path[:length]]
        return Mark(self.file, 1)

    def at(self, *path: str | int) -> Declared:
        """The part under the path, as a document of its own."""
        data = self.data
        for part in path:
            data = data[part]
        inner = {known[len(path) :]: mark for known, mark in self.marks.items() if known[: len(path)] == path}
        return Declared(data, self.mark(path).file, inner)

    def problem(self, path: DataPath, what: str, *, expected: str | None = None, fix: str | None = None) -> Problem:
        """A problem of the value at the path."""
        mark = self.mark(path)
        return Problem(what, file=mark.file, line=mark.line, field=dotted(path) or None, expected=expected, fix=fix)


def read_text(path: Path) -> str:
    """The file's text without a byte-order mark.

    Raises:
        UserError: there is no such file, or it is not UTF-8 text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        raise UserError("no such file", file=str(path), fix="check the path, or write the file") from None
    except (IsADirectoryError, PermissionError) as error:
        raise UserError(
            f"cannot be read: {(error.strerror or str(error)).lower()}", file=str(path), fix="name a file that you may read"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(
            "not UTF-8 text", file=str(path), line=error.object[: error.start].count(b"\n") + 1, fix="save the file as UTF-8"
        ) from None


def load_documents(path: Path) -> list[Declared]:
    """All YAML documents of the file, at least one.

    Raises:
        UserError: no such file, not YAML, a duplicate key, or nothing in it.
    """
    documents = [Declared(data, str(path), marks) for data, marks in parse(read_text(path), str(path))]
    if not documents:
        raise UserError("the file is empty", file=str(path), line=1, expected="a YAML document")
    return documents


def load_yaml(path: Path) -> Declared:
    """The one YAML document of the file.

    Raises:
        UserError: as `load_documents`, or there are several documents.
    """
    documents = load_documents(path)
    if len(documents) > 1:
        raise UserError(
            f"{len(documents)} documents", file=str(path), line=documents[1].mark(()).line, expected="one document", fix="remove `---`"
        )
    return documents[0]


def load_csv(path: Path, columns: Iterable[str], *, optional: Iterable[str] = (), others: bool = False) -> Declared:
    """The rows of a table as a list of dicts of texts; empty cells are left out, lines starting with `#` are comments.

    `others`: further columns are left aside instead of refused, for tables that somebody else publishes.

    Raises:
        UserError: no such file, a missing, unknown or doubled column, or a row with too many or too few cells.
    """
    file, wanted, allowed = str(path), list(columns), list(optional)
    numbered = [(number, line) for number, line in enumerate(read_text(path).splitlines(), 1) if line.strip() and not line.startswith("#")]
    if not numbered:
        raise UserError("the table is empty", file=file, line=1, expected=f"a header with {_ticked(wanted)}")
    rows = [(number, _cells(file, number, line)) for number, line in numbered]
    header_line, header = rows[0][0], [name.strip() for name in rows[0][1]]
    problems = [
        Problem(
            f"unknown column `{name}`",
            file=file,
            line=header_line,
            expected=f"one of {_ticked(wanted + allowed)}",
            fix=_did_you_mean(name, wanted + allowed),
        )
        for name in header
        if name not in wanted + allowed and not others
    ]
    problems += [
        Problem(f"column `{name}` twice", file=file, line=header_line) for name in sorted({n for n in header if header.count(n) > 1})
    ]
    problems += [
        Problem(f"column `{name}` is missing", file=file, line=header_line, fix="add it to the header")
        for name in wanted
        if name not in header
    ]
    problems += [
        Problem(
            f"{len(cells)} cells", file=file, line=number, expected=f"{len(header)}, as in the header", fix="quote cells that hold a comma"
        )
        for number, cells in rows[1:]
        if len(cells) != len(header)
    ]
    if problems:
        raise UserError(problems=problems)
    marks: dict[DataPath, Mark] = {(): Mark(file, header_line)}
    data = []
    known = {*wanted, *allowed}
    for index, (number, cells) in enumerate(rows[1:]):
        marks[(index,)] = Mark(file, number)
        data.append({name: cell.strip() for name, cell in zip(header, cells, strict=True) if name in known and cell.strip()})
    return Declared(data, file, marks)


def _cells(file: str, number: int, line: str) -> list[str]:
    if '"' not in line and "\0" not in line and len(line) <= csv.field_size_limit():
        return line.split(",")
    try:
        return next(csv.reader(io.StringIO(line)), [])
    except csv.Error as error:
        raise UserError(f"not a row of a table: {error}", file=file, line=number, fix="check quotes and commas") from None


def validate(model: type[T] | TypeAdapter[T], declared: Declared, *, strict: bool = True) -> T:
    """The document as a model; `strict=False` for tables, whose cells are all texts.

    Raises:
        UserError: every problem that pydantic found, each with file, line, field, what was expected and how to fix it.
    """
    adapter: TypeAdapter[T] = model if isinstance(model, TypeAdapter) else TypeAdapter(model)
    try:
        if strict:
            return adapter.validate_json(json.dumps(declared.data), strict=True)
        return adapter.validate_python(declared.data)
    except ValidationError as error:
        raise UserError(problems=_problems(error, declared, adapter)) from None


def _problems(error: ValidationError, declared: Declared, adapter: TypeAdapter[Any]) -> list[Problem]:
    try:
        schema = adapter.json_schema()
    except PydanticInvalidForJsonSchema:
        schema = {}
    return [_problem(dict(found), declared, schema) for found in error.errors(include_url=False)]


def _problem(found: dict[str, Any], declared: Declared, schema: dict[str, Any]) -> Problem:
    context = found.get("ctx") or {}
    path = _real_path((*found["loc"], *context.get("path", ())), declared.data)
    kind, last = found["type"], found["loc"][-1] if found["loc"] else ""
    keys = list(_schema_at(schema, path[:-1]).get("properties", {}))
    if kind == "extra_forbidden":
        return declared.problem(
            path, f"unknown key `{last}`", expected=f"one of {_ticked(keys)}" if keys else None, fix=_did_you_mean(str(last), keys)
        )
    if kind == "missing":
        return declared.problem(path, f"`{last}` is missing", expected=_described(_schema_at(schema, path)), fix=f"add `{last}`")
    if kind in ("enum", "literal_error"):
        allowed = re.findall(r"'([^']*)'", context.get("expected", ""))
        fix = _did_you_mean(str(found["input"]), allowed)
        return declared.problem(path, f"{_shown(found['input'])} is not allowed", expected=f"one of {_ticked(allowed)}", fix=fix)
    message = str(found["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    if kind in ("value_error", "assertion_error") or "path" in context:
        return declared.problem(path, message)
    if kind == "string_pattern_mismatch" and (told := _schema_at(schema, path).get("description")):
        return declared.problem(path, f"{_shown(found['input'])} does not fit", expected=told)
    if kind == "timezone_aware":
        shown = _shown(found["input"])
        return declared.problem(
            path, f"{shown} has no offset", expected="an instant such as `2026-01-05T08:00:00Z`", fix="add `Z` for UTC, or an offset"
        )
    for start in ("Input should be ", "Input should have ", "String should match ", "String should have ", "Value should have "):
        if message.startswith(start):
            verb = "" if start == "Input should be " else start.split()[-1] + " "
            return declared.problem(path, f"{_shown(found['input'])} does not fit", expected=verb + _lowered(message.removeprefix(start)))
    return declared.problem(path, f"{_shown(found['input'])} does not fit: {_lowered(message)}")


def _real_path(loc: Iterable[str | int], data: Any) -> DataPath:
    """The location without pydantic's own words for union members and validators; a missing last key is kept."""
    path: list[str | int] = []
    parts = list(loc)
    for position, part in enumerate(parts):
        inside = (isinstance(data, dict) and part in data) or (isinstance(data, list) and isinstance(part, int) and part < len(data))
        if inside:
            data = data[part]
            path.append(part)
        elif position == len(parts) - 1 and isinstance(data, dict):
            path.append(part)
    return tuple(path)


def _schema_at(schema: dict[str, Any], path: DataPath) -> dict[str, Any]:
    """The JSON schema of the value at the path, or nothing where that cannot be told."""
    definitions = schema.get("$defs", {})

    def resolved(node: dict[str, Any]) -> dict[str, Any]:
        while "$ref" in node:
            node = definitions.get(node["$ref"].rsplit("/", 1)[-1], {})
        for choice in node.get("anyOf", ()):
            if choice.get("type") != "null":
                return resolved(choice)
        return node

    node = resolved(schema)
    for part in path:
        if isinstance(part, int):
            inner = node.get("items", {})
        else:
            extra = node.get("additionalProperties")
            inner = node.get("properties", {}).get(part) or (extra if isinstance(extra, dict) else {})
        node = resolved(inner)
    return node


def _described(schema: dict[str, Any]) -> str | None:
    if "enum" in schema:
        return f"one of {_ticked(schema['enum'])}"
    words = {
        "string": "text",
        "number": "a number",
        "integer": "a whole number",
        "array": "a list",
        "object": "a mapping",
        "boolean": "true or false",
    }
    told: str | None = schema.get("description") or words.get(str(schema.get("type")))
    return told.splitlines()[0] if told else None


def _did_you_mean(word: str, known: Iterable[str]) -> str | None:
    close = difflib.get_close_matches(word, [str(name) for name in known], n=1, cutoff=0.6)
    return f"did you mean `{close[0]}`?" if close else None


def _ticked(words: Iterable[Any]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return f"`{text if len(text) <= 60 else text[:57] + '...'}`"


def _lowered(message: str) -> str:
    return message[:1].lower() + message[1:]
