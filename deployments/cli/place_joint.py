"""`tradewind place --joint`: the steps of several documents placed together, and what step by step would have cost."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from flows.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from datetime import datetime

    from rich.console import Console

    from flows.adapters.declared import Declared
    from flows.core.errors import Problem
    from flows.core.governance.labels import Catalog
    from flows.core.placement import Conditions, Request
    from flows.core.placement.estate import Estate
    from flows.core.placement.joint import Edge, JointDecision
    from flows.core.placement.policy import Policy


def decide(
    documents: Sequence[tuple[Request, Declared]], estate: Estate, policy: Policy, catalog: Catalog, conditions: Conditions, at: datetime
) -> JointDecision:
    """Place the steps of the documents together.

    Raises:
        UserError: a request that makes no sense in this estate, with file and line; datasets that lead in a circle, or that two write.
    """
    from flows.adapters.requests import located
    from flows.core.placement.joint import place_jointly

    names = names_of([request for request, _ in documents])
    steps = {name: request for name, (request, _) in zip(names, documents, strict=True)}
    if twice := list(_written_twice(dict(zip(names, documents, strict=True)), catalog)):
        raise UserError(problems=twice)
    try:
        return place_jointly(steps, edges_of(steps, catalog), estate, policy, catalog, conditions, at)
    except UserError as error:
        found = []
        for problem in error.problems:
            under = next((name for name in names if (problem.field or "").startswith(f"steps.{name}.")), None)
            if under is None:
                found.append(problem)
                continue
            own = UserError(problem.what, field=(problem.field or "")[len(f"steps.{under}.") :], expected=problem.expected, fix=problem.fix)
            found += located(own, documents[names.index(under)][1]).problems
        raise UserError(problems=found) from None


def _written_twice(documents: Mapping[str, tuple[Request, Declared]], catalog: Catalog) -> Iterator[Problem]:
    """Datasets that several steps write; one that also reads its dataset, as a transfer does, follows the step that makes it."""
    makers: dict[str, str] = {}
    for name, (request, document) in documents.items():
        read = {use.name for use in request.datasets} | catalog.datasets_of(request.workload, request.step)
        for index, output in enumerate(request.outputs):
            first = name if output.name in read else makers.setdefault(output.name, name)
            if first != name:
                what = f"`{output.name}` is written by `{first}` and by `{name}`"
                yield document.problem(("outputs", index, "name"), what, expected="one step that writes it", fix="give one another name")


def names_of(requests: Sequence[Request]) -> list[str]:
    """A name for each: its step, with its workload if there are several, numbered where that comes again."""
    alone = len({request.workload for request in requests}) == 1
    found, seen = [], Counter[str]()
    for request in requests:
        name = request.step if alone else f"{request.workload}/{request.step}"
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return found


def edges_of(steps: Mapping[str, Request], catalog: Catalog) -> list[Edge]:
    """A step that reads what another writes gets it from there; as large as the reader says, else as the writer says."""
    from flows.core.placement.joint import Edge

    makers = [(output.name, name, output.size_gb) for name, request in steps.items() for output in request.outputs]
    edges = []
    for name, request in steps.items():
        sizes: dict[str, Decimal | None] = {use.name: use.size_gb for use in request.datasets}
        read = sizes.keys() | catalog.datasets_of(request.workload, request.step)
        for dataset, maker, size in makers:
            if dataset in read and maker != name:
                known = sizes.get(dataset)
                edges.append(Edge(from_=maker, to=name, dataset=dataset, size_gb=size if known is None else known))
    return edges


def show(decision: Mapping[str, Any], console: Console) -> None:
    """Print a joint decision, made now or read from where it was stored, as tables."""
    from rich.text import Text

    from deployments.cli.place import print_table
    from flows.core.placement import joint_explain as told

    console.print(Text(decision["summary"], style="bold"))
    console.print(Text(f"joint decision {decision['decision_id']} at {decision['at']}", style="dim"))
    if rows := told.step_rows(decision):
        print_table(console, None, told.STEP_COLUMNS, rows)
    if rows := told.edge_rows(decision):
        print_table(console, "handed over", told.EDGE_COLUMNS, rows)
    for line in told.totals(decision):
        console.print(Text(line))
    if rows := told.stuck_rows(decision):
        print_table(console, "not possible", told.STUCK_COLUMNS, rows)
    for warning in decision["warnings"]:
        console.print(Text(f"warning: {warning}", style="yellow"))
