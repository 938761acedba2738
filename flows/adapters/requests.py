"""Requests and conditions from YAML."""

from __future__ import annotations

from pathlib import Path

from flows.adapters.declared import Declared, load_documents, load_yaml, validate
from flows.core.errors import Problem, UserError
from flows.core.placement.estate import Estate
from flows.core.placement.names import Unknown, unknown_in_conditions
from flows.core.placement.request import Conditions, Request


def load_requests(path: Path) -> list[Request]:
    """The requests of the file, one a YAML document.

    Raises:
        UserError: everything that is wrong in any document, each with file, line and field.
    """
    return [request for request, _ in read_requests(path)]


def read_requests(path: Path) -> list[tuple[Request, Declared]]:
    """As `load_requests`, each with the document it was read from.

    Raises:
        UserError: as `load_requests`.
    """
    problems: list[Problem] = []
    requests = []
    for document in load_documents(path):
        try:
            requests.append((validate(Request, document), document))
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(problems=problems)
    return requests


def located(error: UserError, document: Declared) -> UserError:
    """The error with file and line of the request's document, where it only names a field of it."""
    return UserError(
        problems=[
            problem
            if problem.file is not None
            else document.problem(tuple((problem.field or "").split(".")), problem.what, expected=problem.expected, fix=problem.fix)
            for problem in error.problems
        ]
    )


def load_conditions(path: Path) -> Conditions:
    """The conditions of the file.

    Raises:
        UserError: everything that is wrong, each with file, line and field.
    """
    return validate(Conditions, load_yaml(path))


def read_conditions(path: Path, estate: Estate) -> tuple[Conditions, list[Problem]]:
    """As `load_conditions`, with every name in them that the estate does not have.

    Raises:
        UserError: as `load_conditions`.
    """
    document = load_yaml(path)
    conditions = validate(Conditions, document)
    return conditions, [unknown_name(one, document) for one in unknown_in_conditions(conditions, estate)]


def unknown_name(unknown: Unknown, document: Declared) -> Problem:
    """The name with the file and line where the document has it."""
    data, path = document.data, list[str | int]()
    for part in unknown.path:
        path.append(data.index(part) if isinstance(data, list) and isinstance(part, str) else part)
        data = data[path[-1]]
    return document.problem(tuple(path), unknown.what, expected=unknown.expected, fix=unknown.fix)
