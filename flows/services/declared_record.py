"""What is declared, on record: the policies that decisions meet, the labels that the catalog gives, and what `apply` changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.core.canonical import content_hash, sha256_hex
from flows.core.errors import UserError
from flows.services.declarations import Declarations
from flows.store import ledger, principals

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from flows.adapters.settings import Settings
    from flows.store.database import State

DECLARED = (".yaml", ".yml", ".csv", ".json", ".cedar", ".cedarschema")


def policies_met(tx: Session, declarations: Declarations, *, principal: str, at: datetime) -> None:
    """A row when the policies are not those that were met last, and one for each declassification that is not as it was met last."""
    files = {path: sha256_hex(text.encode()) for path, text in declarations.policy.document.items()}
    body = {"policies": declarations.policy.hash, "files": files}
    ledger.append_if_changed(tx, "policy-version", body, same=("policies",), principal=principal, at=at)
    for entry in declarations.catalog.entries:
        if (lower := entry.declassified) is not None:
            told = {"dataset": entry.name, "to": lower.to.to_json(), "until": lower.until.isoformat(), "reason": lower.reason}
            told["approver"] = principals.id_for(tx, lower.approver)
            ledger.append_if_changed(tx, "declassification", told, same=tuple(told), of=("dataset",), principal=principal, at=at)


def applied(state: State, settings: Settings, changes: Sequence[Mapping[str, Any]], *, principal: str, at: datetime) -> None:
    """After an apply: the configuration, if it or the orchestrator changed; the policies; and each dataset whose label is another now.

    Raises:
        UserError: a declaration is wrong.
    """
    declarations = Declarations.load(settings)
    to = declared_hash(settings.deployments)
    with state.transaction() as tx:
        last = ledger.rows(tx, kind="configuration", limit=1)
        before = last[0].body["to"] if last else None
        if changes or before != to:
            ledger.append(tx, "configuration", {"from": before, "to": to, "changes": list(changes)}, principal=principal, at=at)
        policies_met(tx, declarations, principal=principal, at=at)
        known = {row.body["dataset"]: row.body.get("after") for row in ledger.rows(tx, kind="label-change") if "bridge" not in row.body}
        labels = _labels(declarations, at)
        for dataset in sorted(labels.keys() | known.keys()):
            if dataset not in known or labels.get(dataset) != known[dataset]:
                body = {"dataset": dataset, "before": known.get(dataset), "after": labels.get(dataset)}
                ledger.append(tx, "label-change", body, principal=principal, at=at)


def declared_hash(folder: Path) -> str:
    """The sha256 of what is declared: of each declaration's path and content."""
    found = sorted(path for path in folder.rglob("*") if path.suffix in DECLARED and path.is_file())
    return content_hash([[path.relative_to(folder).as_posix(), sha256_hex(path.read_bytes())] for path in found])


def _labels(declarations: Declarations, at: datetime) -> dict[str, Any]:
    """Each dataset's label as rules see it; None where nothing is known or no country is left."""
    labels: dict[str, Any] = {}
    for entry in declarations.catalog.entries:
        try:
            label = declarations.catalog.label_of(entry.name, at, declarations.estate.blocs)
        except UserError:
            label = None
        labels[entry.name] = label.to_json() if label is not None else None
    return labels
