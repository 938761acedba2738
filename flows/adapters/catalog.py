"""The catalog from YAML: one file, or every file of a folder as one catalog."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from flows.adapters.declared import Declared, load_yaml, validate
from flows.adapters.yaml_marks import Mark
from flows.adapters.yaml_marks import Path as DataPath
from flows.core.errors import Problem, UserError
from flows.core.governance.labels import Catalog, CatalogPart


@dataclass(frozen=True, slots=True)
class CatalogFiles:
    """The catalog with the merged document it was read from, so that checks can name lines."""

    catalog: Catalog
    document: Declared

    def problem(self, name: str, what: str, *, field: str | None = None, expected: str | None = None, fix: str | None = None) -> Problem:
        """A problem of the entry of that name."""
        index = next(position for position, entry in enumerate(self.document.data["entries"]) if entry["name"] == name)
        path = ("entries", index, field) if field else ("entries", index)
        return self.document.problem(path, what, expected=expected, fix=fix)


def load_catalog(path: Path, *, as_of: datetime | None = None) -> Catalog:
    """The catalog of the file, or of all `*.yaml` of the folder; of several `as_of` and `max_age_hours` the strictest hold.

    `as_of` overrides the files': whoever has just fetched them from where compliance keeps them knows that they are current.

    Raises:
        UserError: everything that is wrong, each with its file and line.
    """
    return read_catalog(path, as_of=as_of).catalog


def read_catalog(path: Path, *, as_of: datetime | None = None) -> CatalogFiles:
    """As `load_catalog`, with the document.

    Raises:
        UserError: as `load_catalog`.
    """
    documents: list[Declared] = []
    parts: list[CatalogPart] = []
    problems: list[Problem] = []
    for file in _files(path):
        try:
            document = load_yaml(file)
            parts.append(validate(CatalogPart, document))
            documents.append(document)
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(problems=problems)
    merged = _merged(path, documents, parts)
    problems = [*_doubled_workloads(documents), *_doubled(merged)]
    told = {(problem.file, problem.line, problem.field) for problem in problems}
    try:
        catalog = validate(Catalog, merged)
    except UserError as error:
        problems += [problem for problem in error.problems if (problem.file, problem.line, problem.field) not in told]
    if problems:
        raise UserError(problems=problems)
    return CatalogFiles(catalog if as_of is None else catalog.model_copy(update={"as_of": as_of}), merged)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(path.glob("*.yaml"))
    if not files:
        raise UserError(
            "no catalog here", file=str(path), expected="one `*.yaml` at least", fix="without a catalog every dataset is unknown"
        )
    return files


def _merged(path: Path, documents: Sequence[Declared], parts: Sequence[CatalogPart]) -> Declared:
    if len(documents) == 1:
        return documents[0]
    entries: list[Any] = []
    workloads: dict[str, Any] = {}
    marks: dict[DataPath, Mark] = {(): Mark(documents[0].file, 1)}
    for document in documents:
        offset = len(entries)
        entries += document.data.get("entries") or []
        for known, mark in document.marks.items():
            if known[:1] == ("entries",) and len(known) > 1 and isinstance(known[1], int):
                marks["entries", known[1] + offset, *known[2:]] = mark
            elif known[:1] == ("workloads",):
                marks.setdefault(known, mark)
        workloads |= document.data.get("workloads") or {}
    data = {
        "as_of": min(part.as_of for part in parts).isoformat(),
        "max_age_hours": str(min(part.max_age_hours for part in parts)),
        "entries": entries,
        "workloads": workloads,
    }
    return Declared(data, str(path), marks)


def _doubled_workloads(documents: Sequence[Declared]) -> Iterator[Problem]:
    seen: set[str] = set()
    for document in documents:
        for name in document.data.get("workloads") or {}:
            if name in seen:
                yield document.problem(("workloads", name), f"workload `{name}` twice", fix="keep one")
            seen.add(name)


def _doubled(document: Declared) -> list[Problem]:
    first: dict[str, DataPath] = {}
    problems = []
    for index, entry in enumerate(document.data.get("entries") or []):
        name = entry["name"]
        if name in first:
            mark = document.mark(first[name])
            problems.append(
                document.problem(("entries", index, "name"), f"dataset `{name}` twice, first at {mark.file}:{mark.line}", fix="keep one")
            )
        first.setdefault(name, ("entries", index, "name"))
    return problems
