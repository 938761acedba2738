"""Files that people edit: read with their lines, validated strictly, and every mistake told with file, line, field and fix."""

from __future__ import annotations

import csv
import difflib
import io
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema

from flows.adapters.yaml_marks import Mark, dotted, parse
from flows.adapters.yaml_marks import Path as DataPath
from flows.core.canonical import plain
from flows.core.errors import Problem, UserError

T = TypeVar("T")

KEY = "[key]"
"""How pydantic ends the location of a key that does not fit."""
SHOULD = re.compile(r"^\w+ should (?:be|have|match) (.*?)(?: after validation, not \d+)?$", re.DOTALL)
KINDS = {
    "string": "text",
    "number": "a number",
    "integer": "a whole number",
    "array": "a list",
    "object": "a mapping",
    "boolean": "true or false",
}


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
        with open(path, encoding="utf-8-sig", opener=_opened) as stream:
            return stream.read()
    except (FileNotFoundError, NotADirectoryError):
        raise UserError("no such file", file=str(path), fix="check the path, or write the file") from None
    except OSError as error:
        raise UserError(
            f"cannot be read: {(error.strerror or str(error)).lower()}", file=str(path), fix="name a file that you may read"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(
            "not UTF-8 text", file=str(path), line=error.object[: error.start].count(b"\n") + 1, fix="save the file as UTF-8"
        ) from None


def _opened(name: str, flags: int) -> int:
    """Without waiting for whoever might write to a pipe that nobody writes to: it is empty."""
    handle = os.open(name, flags | os.O_NONBLOCK)
    os.set_blocking(handle, True)
    return handle


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
            return adapter.validate_json(json.dumps(declared.data), strict=True, by_alias=True, by_name=False)
        return adapter.validate_python(declared.data, by_alias=True, by_name=False)
    except ValidationError as error:
        raise UserError(problems=_problems(error, declared, adapter)) from None


def _problems(error: ValidationError, declared: Declared, adapter: TypeAdapter[Any]) -> list[Problem]:
    try:
        schema = adapter.json_schema()
    except PydanticInvalidForJsonSchema:
        schema = {}
    told = error.errors(include_url=False)
    longer = {found["loc"][:length] for found in told for length in range(len(found["loc"]))}
    groups: dict[tuple[DataPath, bool], list[dict[str, Any]]] = {}
    for found in told:
        if found["type"] == "too_short" and found["loc"] in longer:
            continue
        inside = _inside(found["loc"], declared.data)
        ours = len(inside) == len(found["loc"]) or found["loc"][len(inside)] == KEY or found["type"] in ("missing", "extra_forbidden")
        groups.setdefault((found["loc"] if ours else inside, ours), []).append(dict(found))
    return [
        problem
        for (path, ours), group in groups.items()
        for problem in ([_problem(one, declared, schema) for one in group] if ours else _union(path, group, declared, schema))
    ]


def _union(path: DataPath, group: list[dict[str, Any]], declared: Declared, schema: dict[str, Any]) -> list[Problem]:
    """What is wrong with a value of several possible kinds: told of the one that it was meant as, else of all in one problem."""
    deepest = max((found["loc"] for found in group), key=len)
    meant = [found for found in group if len(deepest) > len(path) + 1 and found["loc"][: len(path) + 1] == deepest[: len(path) + 1]]
    other_kind = ("value_error", "literal_error")
    meant = meant or [found for found in group if not found["type"].endswith("_type") and found["type"] not in other_kind]
    if meant:
        return [_problem(found, declared, schema) for found in meant]
    kinds = [told for choice in _schemas_at(schema, path) if (told := _described(choice))]
    return [declared.problem(path, f"{_shown(group[0]['input'])} does not fit", expected=" or ".join(dict.fromkeys(kinds)) or None)]


def _problem(found: dict[str, Any], declared: Declared, schema: dict[str, Any]) -> Problem:
    context = found.get("ctx") or {}
    path = _real_path((*found["loc"], *context.get("path", ())), declared.data)
    kind, last, is_key = found["type"], found["loc"][-1] if found["loc"] else "", found["loc"][-1:] == (KEY,)
    keys = list(_schema_at(schema, path[:-1]).get("properties", {}))
    if kind == "extra_forbidden":
        return declared.problem(
            path, f"unknown key `{last}`", expected=f"one of {_ticked(keys)}" if keys else None, fix=_did_you_mean(str(last), keys)
        )
    if kind == "missing":
        return declared.problem(path, f"`{last}` is missing", expected=_described(_schema_at(schema, path)), fix=f"add `{last}`")
    if kind in ("enum", "literal_error"):
        allowed = [text or other for text, other in re.findall(r"'([^']*)'|([\w.-]+\b)(?<!\bor)", context.get("expected", ""))]
        quoted = found["input"] in allowed and isinstance(found["input"], str)
        shown, fix = f'`"{found["input"]}"`' if quoted else _shown(found["input"]), _did_you_mean(str(found["input"]), allowed)
        expected = f"one of {_ticked(allowed)}" if len(allowed) > 1 else _ticked(allowed)
        return declared.problem(path, f"{shown} is not allowed", expected=expected, fix="take the quotes away" if quoted else fix)
    message = str(found["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
    message = re.sub(r"Decimal\('([^']*)'\)", lambda number: plain(Decimal(number[1])), message)
    if kind in ("value_error", "assertion_error") or "path" in context:
        return declared.problem(path, message)
    if kind == "string_pattern_mismatch":
        named = _schema_at(schema, path[:-1]).get("propertyNames", {}) if is_key else _schema_at(schema, path)
        return declared.problem(path, f"{_shown(found['input'])} does not fit", expected=named.get("description") or "other characters")
    if kind == "timezone_aware":
        shown = _shown(found["input"])
        return declared.problem(
            path, f"{shown} has no offset", expected="an instant such as `2026-01-05T08:00:00Z`", fix="add `Z` for UTC, or an offset"
        )
    if should := SHOULD.match(message):
        expected = re.sub(r"^(?:a valid|an) (string|integer|array|object|boolean)$", lambda word: KINDS[word[1]], should[1])
        return declared.problem(path, f"{_shown(found['input'])} does not fit", expected=_lowered(expected))
    return declared.problem(path, f"{_shown(found['input'])} does not fit: {_lowered(message)}")


def _inside(loc: DataPath, data: Any) -> DataPath:
    """The longest beginning of the location that lies in the data."""
    for position, part in enumerate(loc):
        known = isinstance(part, int) and part < len(data) if isinstance(data, (list, tuple)) else isinstance(data, dict) and part in data
        if not known:
            return loc[:position]
        data = data[part]
    return loc


def _real_path(loc: Iterable[str | int], data: Any) -> DataPath:
    """The location without pydantic's own words for union members and validators; a missing last key is kept."""
    path: list[str | int] = []
    parts = [part for part in loc if part != KEY]
    for position, part in enumerate(parts):
        inside = (isinstance(data, dict) and part in data) or (isinstance(data, list) and isinstance(part, int) and part < len(data))
        if inside:
            data = data[part]
            path.append(part)
        elif position == len(parts) - 1 and isinstance(data, dict):
            path.append(part)
    return tuple(path)


def _schema_at(schema: dict[str, Any], path: DataPath) -> dict[str, Any]:
    """The JSON schema of the value at the path, of the first kind of several, or nothing where that cannot be told."""
    return next(iter(_schemas_at(schema, path)), {})


def _schemas_at(schema: dict[str, Any], path: DataPath) -> list[dict[str, Any]]:
    """The JSON schemas of every kind of value that may be at the path."""
    definitions = schema.get("$defs", {})

    def kinds(node: dict[str, Any]) -> list[dict[str, Any]]:
        while "$ref" in node:
            node = definitions.get(node["$ref"].rsplit("/", 1)[-1], {})
        if "anyOf" in node:
            return [kind for choice in node["anyOf"] if choice.get("type") != "null" for kind in kinds(choice)]
        return [node]

    def under(node: dict[str, Any], part: str | int) -> dict[str, Any]:
        if isinstance(part, int):
            return node.get("items") or {}
        keyed = [node.get("additionalProperties"), *node.get("patternProperties", {}).values()]
        return node.get("properties", {}).get(part) or next((inner for inner in keyed if isinstance(inner, dict)), {})

    found = kinds(schema)
    for part in path:
        found = [kind for node in found if (inner := under(node, part)) for kind in kinds(inner)]
    return found


def _described(schema: dict[str, Any]) -> str | None:
    if "enum" in schema:
        return f"one of {_ticked(schema['enum'])}"
    if "const" in schema:
        return f"`{schema['const']}`"
    told: str | None = schema.get("description") or KINDS.get(str(schema.get("type")))
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
