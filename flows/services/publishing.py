"""Datasets, models and their lineage for the catalogs of other houses: names, labels and versions; no owner, no person, no row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from flows.adapters.catalogs.declared import connect
from flows.core.errors import UserError
from flows.core.governance.blocs import ANYWHERE
from flows.core.governance.bridge import Entity, Process
from flows.core.governance.labels import ResidencyClash
from flows.core.planning import OUTPUTS
from flows.store import ledger, replicas, runs
from flows.store.database import State

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from flows.core.governance.bridge import Bridge, BridgeDeclaration, Published
    from flows.core.governance.labels import Catalog, Entry
    from flows.services.declarations import Declarations


def publish(
    state: State,
    declarations: Declarations,
    bridges: Sequence[BridgeDeclaration],
    *,
    principal: str,
    at: datetime,
    client: Callable[[BridgeDeclaration], Any] = connect,
) -> dict[str, Published]:
    """Create or update everything at each bridge, by qualified name; sending it again changes nothing.

    Raises:
        UserError: a bridge refuses the credentials, has none, or is declared with `publish: false`.
        PolicyDenied: its account may not write.
        Unavailable: it does not answer.
    """
    if shut := [bridge.name for bridge in bridges if not bridge.publish]:
        raise UserError(f"bridge `{shut[0]}` is declared with `publish: false`", file="deployments/catalogs.yaml")
    with state.reading() as tx:
        entities, lineage = described(tx, declarations, at)
    done = {}
    for bridge in bridges:
        connected = client(bridge)
        there: Bridge = connected
        try:
            found = there.publish(entities, lineage)
        finally:
            connected.close()
        done[bridge.name] = found
        counts = {"created": len(found.created), "updated": len(found.updated), "unchanged": len(found.unchanged)}
        with state.transaction() as tx:
            body = {"bridge": bridge.name, **counts, "failed": dict(found.failed)}
            ledger.append(tx, "publication", body, principal=principal, at=at)
    return done


def described(tx: Session, declarations: Declarations, at: datetime) -> tuple[list[Entity], list[Process]]:
    """What is published: an entity per catalog entry, a process per workload and step that reads one."""
    catalog = declarations.catalog
    entities = [_entity(tx, declarations, entry, at) for entry in catalog.entries]
    lineage = [
        _process(tx, catalog, workload, step, names)
        for workload, steps in sorted(catalog.workloads.items())
        for step, names in sorted(steps.items())
    ]
    return entities, lineage


def qualified_name(entry: Entry) -> str:
    """The name by which an entry is one and the same in every catalog."""
    return f"tradewind://{entry.home}/{entry.name}"


def _entity(tx: Session, declarations: Declarations, entry: Entry, at: datetime) -> Entity:
    newest = replicas.latest(tx, entry.name)
    try:
        label = declarations.catalog.label_of(entry.name, at, declarations.estate.blocs)
    except ResidencyClash:
        label = None
    told = {} if label is None else label.to_json()
    residency = told.get("residency", "unknown")
    attributes = {
        "kind": entry.kind,
        "home": entry.home,
        "sizeGb": format(entry.size_gb, "f"),
        "classification": told.get("classification", "unknown"),
        "regimes": ",".join(told.get("regimes", ())),
        "residency": residency if residency in (ANYWHERE, "unknown") else ",".join(residency),
        "version": newest.version if newest is not None else "",
    }
    return Entity(entry.name, qualified_name(entry), entry.title or "", attributes)


def _process(tx: Session, catalog: Catalog, workload: str, step: str, names: frozenset[str]) -> Process:
    made = [entry for kind in OUTPUTS.get(step, ()) if (entry := catalog.entry(f"{workload}-{kind}")) is not None]
    outputs = tuple(sorted(qualified_name(entry) for entry in made))
    read = {qualified_name(entry) for name in names if (entry := catalog.entry(name)) is not None}
    (last,) = runs.recent(tx, workload=workload, step=step, state="completed", limit=1) or (None,)
    attributes = {
        "workload": workload,
        "step": step,
        "lastRun": last.id if last else "",
        "lastDecision": (last.decision_id or "") if last else "",
    }
    return Process(f"{workload}.{step}", f"tradewind://{workload}/{step}", tuple(sorted(read - set(outputs))), outputs, attributes)
