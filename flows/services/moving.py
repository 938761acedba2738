"""What it would take to move a workload to another site: lines to edit, what policy says of each dataset, bytes and USD."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.core.errors import UserError
from flows.core.placement import Conditions, place
from flows.core.placement.model import DatasetUse, OutputUse, Principal, Request, Restrict
from flows.services.placing import BYTES_PER_GB, TRANSFER_RESOURCES, TRANSFER_RUNTIME

if TYPE_CHECKING:
    from flows.services.declarations import Declarations


@dataclass(frozen=True, slots=True)
class DatasetMove:
    """One dataset: where it rests, bytes by the catalog, USD of copying it; `refused`: rules and what they saw, if it may not move."""

    dataset: str
    home: str
    bytes: int
    usd: Decimal | None
    refused: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MovePlan:
    """`edits` are lines of declarations that name the old home: file, line, text."""

    workload: str
    to: str
    datasets: tuple[DatasetMove, ...]
    edits: tuple[tuple[str, int, str], ...]

    @property
    def allowed(self) -> bool:
        """Whether policy lets every dataset go there."""
        return not any(one.refused for one in self.datasets)

    def to_json(self) -> dict[str, Any]:
        """The plan for programs."""
        return {
            "workload": self.workload,
            "to": self.to,
            "allowed": self.allowed,
            "datasets": [
                {"dataset": one.dataset, "home": one.home, "bytes": one.bytes, "usd": None if one.usd is None else str(one.usd),
                 "refused": list(one.refused)}
                for one in self.datasets
            ],
            "edits": [{"file": file, "line": line, "text": text} for file, line, text in self.edits],
        }  # fmt: skip


def plan(declarations: Declarations, workload: str, to: str, principal: Principal, *, at: datetime) -> MovePlan:
    """Ask policy about each dataset of the workload as a `transfer` step would, and find what declares the old home.

    Raises:
        UserError: there is no such workload or site.
    """
    declared = declarations.workload(workload)
    known = declarations.estate.site_by_id
    if to not in known:
        raise UserError(f"no site `{to}`", expected=", ".join(f"`{name}`" for name in known))
    own = [entry for entry in declarations.catalog.entries if entry.name.startswith(f"{workload}-")]
    homes = {declared.home, *(entry.home for entry in own)} - {to}
    moves = [
        _move(
            declarations, entry.name, entry.home, entry.size_gb or Decimal(0), to, _request(declared.environment, workload, principal), at
        )
        for entry in own
        if entry.home != to
    ]
    files = (declarations.folder / "catalog" / f"{workload}.yaml", declarations.folder / "workloads" / f"{workload}.yaml")
    return MovePlan(workload, to, tuple(moves), tuple(edit for path in files for edit in _edits(path, homes)))


def _request(environment: str, workload: str, principal: Principal) -> dict[str, Any]:
    return {
        "workload": workload,
        "step": "transfer",
        "environment": environment,
        "requested_by": principal,
        "resources": TRANSFER_RESOURCES,
        "runtime": TRANSFER_RUNTIME,
    }


def _move(
    declarations: Declarations, dataset: str, home: str, size: Decimal, to: str, common: Mapping[str, Any], at: datetime
) -> DatasetMove:
    request = Request(
        datasets=(DatasetUse(name=dataset, size_gb=size),),
        outputs=(OutputUse(name=dataset, size_gb=size, home=to, keep_days=Decimal(1)),),
        restrict=Restrict(sites=(home,)),
        **common,
    )
    decision = place(request, declarations.estate, declarations.policy, declarations.catalog, Conditions(), at)
    bytes_ = int(size * BYTES_PER_GB)
    if decision.chosen is not None:
        return DatasetMove(dataset, home, bytes_, decision.chosen.usd.egress)
    rows = [row for row in decision.to_json()["rejected"] if row["site"] == home]
    why = {
        f"{one['rule']}: {one['observed']}; needs {one['required']}" for row in rows for one in row["reasons"] if one["kind"] != "restrict"
    }
    return DatasetMove(dataset, home, bytes_, None, tuple(sorted(why)))


def _edits(path: Path, homes: set[str]) -> list[tuple[str, int, str]]:
    name = f"{path.parent.name}/{path.name}"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return [(name, number, line.strip()) for number, line in enumerate(lines, start=1) if any(home in line for home in homes)]
