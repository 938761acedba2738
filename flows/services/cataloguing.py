"""What is known of each entry of the catalog: declared by compliance, observed in the state, and where its label comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from flows.core.canonical import instant
from flows.core.governance.imports import imports_told
from flows.core.governance.labels import ResidencyClash
from flows.store import replicas

if TYPE_CHECKING:
    from flows.core.governance.blocs import Blocs
    from flows.core.governance.labels import Catalog, Declassification, Entry
    from flows.store.database import State
    from flows.store.models import ReplicaRow

ABOUT_COLUMNS = ("schema", "dropped", "pseudonymised", "personal_data")
"""Facts of a version that are about its columns: names, types, kinds; never a value."""


def describe(catalog: Catalog, blocs: Blocs, at: datetime, observed: Mapping[str, Sequence[ReplicaRow]] | None) -> list[dict[str, Any]]:
    """Each entry as JSON: declared facts, the label at that instant and whose labels make it, replicas, schema, lineage.

    `observed` holds the replicas by dataset, the newest first; None: the state is not known.

    Raises:
        ResidencyClash: labels of the files that meet in an entry share no country; if an import is among them, `clash` tells it instead.
    """
    return [_entry(catalog, entry, blocs, at, observed) for entry in catalog.entries]


def observe(state: State) -> dict[str, list[ReplicaRow]]:
    """All replicas by dataset, the newest first.

    Raises:
        Unavailable: there is no state database, or it does not answer.
    """
    with state.reading() as tx:
        return replicas.by_dataset(tx)


def _entry(
    catalog: Catalog, entry: Entry, blocs: Blocs, at: datetime, observed: Mapping[str, Sequence[ReplicaRow]] | None
) -> dict[str, Any]:
    imported = imports_told(catalog, [entry.name], at, blocs)
    try:
        label, clash = catalog.label_of(entry.name, at, blocs), None
    except ResidencyClash as error:
        if not any(row["clash"] for row in imported):
            raise
        label, clash = None, str(error)  # what another house says must not keep the rest from being shown
    sources = catalog.sources_of(entry.name, at) or {}
    rows = None if observed is None else observed.get(entry.name, ())
    return {
        "name": entry.name,
        "kind": entry.kind,
        "title": entry.title,
        "owner": entry.owner,
        "home": entry.home,
        "size_gb": float(entry.size_gb),
        "retention_days": entry.retention_days,
        "label": None if label is None else label.to_json(),
        "clash": clash,
        "imported": imported,
        "label_from": {name: sources[name].to_json() for name in sorted(sources)},
        "declassified": None if entry.declassified is None else _declassified(entry.declassified, at),
        "declassified_until": entry.declassified.until.isoformat() if entry.declassified else None,
        "columns": {column: entry.columns[column].value for column in sorted(entry.columns)},
        "workloads": sorted(
            f"{workload}/{step}" for workload, steps in catalog.workloads.items() for step in steps if entry.name in steps[step]
        ),
        "derived_from": sorted(entry.derived_from),
        "lineage": lineage(catalog, entry.name, at),
        "replicas": None if rows is None else [_replica(row) for row in rows],
        **({name: rows[0].facts.get(name) for name in ABOUT_COLUMNS} if rows else dict.fromkeys(ABOUT_COLUMNS)),
    }


def lineage(catalog: Catalog, name: str, at: datetime) -> dict[str, Any]:
    """The entry and, below it, what it was derived from: of each its own label, and the valid declassification that ends the join there."""
    entry = catalog.entry(name)
    if entry is None:
        return {"name": name, "kind": None, "own": None, "declassified": None, "derived_from": []}
    lowered = entry.declassified
    return {
        "name": name,
        "kind": entry.kind,
        "own": None if entry.label is None else entry.label.to_json(),
        "declassified": None if lowered is None else _declassified(lowered, at),
        "derived_from": [lineage(catalog, parent, at) for parent in sorted(entry.derived_from)],
    }


def _declassified(lowered: Declassification, at: datetime) -> dict[str, Any]:
    return {
        "to": lowered.to.to_json(),
        "reason": lowered.reason,
        "approver": lowered.approver,
        "requested_by": lowered.requested_by,
        "until": lowered.until.isoformat(),
        "valid": lowered.holds_at(at),
    }


def _replica(row: ReplicaRow) -> dict[str, Any]:
    return {
        "site": row.site,
        "version": row.version,
        "bytes": row.bytes,
        "as_of": None if row.as_of is None else instant(row.as_of),
        "recorded": instant(row.at),
    }
