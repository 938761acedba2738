"""Requests and conditions from YAML."""

from __future__ import annotations

from pathlib import Path

from flows.adapters.declared import load_documents, load_yaml, validate
from flows.core.errors import Problem, UserError
from flows.core.placement.request import Conditions, Request


def load_requests(path: Path) -> list[Request]:
    """The requests of the file, one a YAML document.

    Raises:
        UserError: everything that is wrong in any document, each with file, line and field.
    """
    problems: list[Problem] = []
    requests = []
    for document in load_documents(path):
        try:
            requests.append(validate(Request, document))
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(problems=problems)
    return requests


def load_conditions(path: Path) -> Conditions:
    """The conditions of the file.

    Raises:
        UserError: everything that is wrong, each with file, line and field.
    """
    return validate(Conditions, load_yaml(path))
