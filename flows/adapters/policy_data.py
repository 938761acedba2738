"""What rules look up besides the question: images that production may run, and dated exceptions; both are part of the rules' text."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Annotated, TypeVar

from pydantic import Field

from flows.adapters.declared import Declared, validate
from flows.adapters.yaml_marks import parse
from flows.core.errors import Problem, UserError
from flows.core.fields import Day, Line, Model, Name, Names

if TYPE_CHECKING:
    from flows.adapters.cedar_rules import Rule
    from flows.core.placement.policy import Question

IMAGES_FILE = "approved_images.yaml"
EXCEPTIONS_FILE = "exceptions.yaml"
DATA_FILES = (IMAGES_FILE, EXCEPTIONS_FILE)

M = TypeVar("M", bound=Model)

Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$", description="a digest such as `sha256:` and 64 hexadecimal digits")]


class ApprovedImage(Model):
    """An image that production may run through the day `until`, left out: until it is taken off the list."""

    digest: Digest
    what: Line
    approver: Line
    until: Day | None = None


class ApprovedImages(Model):
    """The list; what is not on it is not approved."""

    images: tuple[ApprovedImage, ...] = ()


class Granted(Model):
    """A dated exception to one rule, for one workload; `datasets` and `pools` narrow it, left out: all that the workload has."""

    rule: Name
    workload: Name
    datasets: Names = ()
    pools: Names = ()
    owner: Line
    reason: Line
    until: Day

    def covers(self, question: Question) -> bool:
        """Whether it is granted for this question, from its instant through the last day that the question names."""
        return (
            question.through is not None
            and question.through <= self.until
            and question.workload == self.workload
            and (not self.datasets or question.dataset in self.datasets)
            and (not self.pools or question.pool.name in self.pools)
        )

    def told(self, question: Question) -> str:
        """As a decision tells that it made use of it."""
        of = f" of `{question.dataset}`" if question.dataset else ""
        where = f"`{question.action}`{of} at `{question.pool.name}`"
        return f"exception to rule `{self.rule}` for {where} by {self.owner} through {self.until}: {self.reason}"


class Exceptions(Model):
    """All exceptions of a folder of rules."""

    exceptions: tuple[Granted, ...] = ()


@dataclass(frozen=True, slots=True)
class PolicyData:
    """Images and exceptions as read, with the document of the exceptions, so that checks can name lines."""

    images: tuple[ApprovedImage, ...] = ()
    exceptions: tuple[Granted, ...] = ()
    document: Declared | None = None

    def approves(self, image: str, on: date) -> bool:
        """Whether the image, named by its digest or as `name@digest`, is on the list that day."""
        digest = image.rpartition("@")[2]
        return any(known.digest == digest and (known.until is None or on <= known.until) for known in self.images)

    def expired(self, on: date) -> list[Problem]:
        """Exceptions that no longer hold that day."""
        return [
            self.document.problem(
                ("exceptions", index), f"the exception to `{row.rule}` ended on {row.until}", fix="take it out, or have it granted again"
            )
            for index, row in enumerate(self.exceptions)
            if self.document is not None and row.until < on
        ]

    def unknown(self, pools: Iterable[str], datasets: Iterable[str], workloads: Iterable[str]) -> list[Problem]:
        """Names in exceptions that are not declared: such an exception lets nothing through."""
        problems = []
        for index, row in enumerate(self.exceptions):
            for field, names, known in (
                ("workload", (row.workload,), sorted(workloads)),
                ("datasets", row.datasets, sorted(datasets)),
                ("pools", row.pools, sorted(pools)),
            ):
                for name in names:
                    if name not in known and self.document is not None:
                        close = difflib.get_close_matches(name, known, n=1)
                        fix = f"did you mean `{close[0]}`?" if close else "name one that is declared"
                        what = f"the exception to `{row.rule}` names `{name}`, which is not declared"
                        problems.append(self.document.problem(("exceptions", index, field), what, fix=fix))
        return problems


def policy_data(texts: Mapping[str, tuple[str, str]], rules: Mapping[str, Rule] | None) -> PolicyData:
    """Images and exceptions from the texts of a folder; `texts` maps a file's name to its path as the user knows it and its text.

    `rules` None: not all could be read, so that exceptions are not held against them.

    Raises:
        UserError: malformed, or an exception to a rule that is not there, allows none, or is another owner's.
    """
    problems: list[Problem] = []
    try:
        images, _ = _read(texts, IMAGES_FILE, ApprovedImages)
    except UserError as error:
        problems += error.problems
    try:
        granted, document = _read(texts, EXCEPTIONS_FILE, Exceptions)
    except UserError as error:
        raise UserError(problems=[*problems, *error.problems]) from None
    for index, row in enumerate(granted.exceptions if rules is not None else ()):
        problems += _wrong(row, ("exceptions", index), document, rules or {})
    if problems:
        raise UserError(problems=problems)
    return PolicyData(images.images, granted.exceptions, document)


def _wrong(row: Granted, path: tuple[str | int, ...], document: Declared, rules: Mapping[str, Rule]) -> Iterable[Problem]:
    open_to = sorted(rule.id for rule in rules.values() if rule.excepts)
    if row.rule not in rules:
        close = difflib.get_close_matches(row.rule, rules, n=1)
        fix = f"did you mean `{close[0]}`?" if close else "name a rule by its `@id`"
        yield document.problem((*path, "rule"), f"no rule `{row.rule}`", expected=f"one of {_ticked(open_to)}", fix=fix)
    elif not rules[row.rule].excepts:
        what = f"rule `{row.rule}` allows no exceptions"
        yield document.problem((*path, "rule"), what, expected=f"one of {_ticked(open_to)}", fix="change the request, or the rule")
    elif row.owner != rules[row.rule].annotations.get("owner"):
        owner = rules[row.rule].annotations.get("owner", "nobody")
        what = f"`{row.owner}` cannot grant an exception to `{row.rule}`"
        yield document.problem((*path, "owner"), what, expected=f"`{owner}`", fix="have the rule's owner grant it")


def _read(texts: Mapping[str, tuple[str, str]], name: str, model: type[M]) -> tuple[M, Declared]:
    """The file's model and document; a file that is not there, or holds only comments, is an empty list."""
    file, text = texts.get(name, (name, ""))
    documents = parse(text, file)
    if len(documents) > 1:
        raise UserError(f"{len(documents)} documents", file=file, expected="one document", fix="remove `---`")
    data, marks = documents[0] if documents else ({}, {})
    document = Declared(data, file, marks)
    return validate(model, document), document


def _ticked(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"
