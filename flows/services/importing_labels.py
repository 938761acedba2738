"""Labels from the bridges into the state database, all of a bridge's or none; and the catalog as a decision sees it with them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from flows.adapters.catalogs.declared import connect
from flows.core.errors import TradewindError, Unavailable, UserError
from flows.core.governance.bridge import Conflict, conflict, effective, label_from
from flows.core.governance.labels import Label, ResidencyClash
from flows.store import imported_labels, ledger
from flows.store.database import State

if TYPE_CHECKING:
    from flows.adapters.settings import Settings
    from flows.core.governance.blocs import Blocs
    from flows.core.governance.bridge import Bridge, BridgeDeclaration
    from flows.core.governance.labels import Catalog

log = logging.getLogger("flows.bridges")

Connect = Callable[["BridgeDeclaration"], Any]
SYSTEM = "tradewind:bridges"
"""Who imports when nobody asked: the reconciler."""


@dataclass(frozen=True, slots=True)
class Import:
    """What became of one bridge: the label of each entry, those that changed, conflicts with the files, and what failed.

    With any failure nothing of the bridge was stored: what was known before holds until it is stale.
    """

    bridge: str
    labels: dict[str, Label | None] = field(default_factory=dict)
    changed: tuple[str, ...] = ()
    conflicts: tuple[Conflict, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The outcome as a JSON value."""
        return {
            "bridge": self.bridge,
            "stored": not self.failed,
            "labels": {name: label.to_json() if label else None for name, label in sorted(self.labels.items())},
            "changed": sorted(self.changed),
            "conflicts": [one.to_json() for one in self.conflicts],
            "failed": dict(sorted(self.failed.items())),
        }


def chosen(bridges: Sequence[BridgeDeclaration], name: str | None) -> tuple[BridgeDeclaration, ...]:
    """The bridge of that name, or all.

    Raises:
        UserError: there is no such bridge.
    """
    found = tuple(bridge for bridge in bridges if name in (None, bridge.name))
    if name is not None and not found:
        known = ", ".join(f"`{bridge.name}`" for bridge in bridges) or "none is declared"
        raise UserError(f"no bridge `{name}`", file="deployments/catalogs.yaml", expected=known)
    return found


def import_labels(
    settings: Settings,
    bridges: Sequence[BridgeDeclaration],
    catalog: Catalog,
    blocs: Blocs,
    *,
    principal: str,
    at: datetime,
    client: Connect = connect,
) -> list[Import]:
    """Read each bridge once and store what it says. `catalog` is that of the files, without any import.

    Raises:
        UserError: a bridge refuses the credentials, or has none.
        PolicyDenied: its account may not read.
        Unavailable: it does not answer.
    """
    state = State(settings.state_url)
    return [_store(state, bridge, _read(client, bridge), catalog, blocs, principal, at) for bridge in bridges]


def _read(client: Connect, bridge: BridgeDeclaration) -> Any:
    connected = client(bridge)
    reading: Bridge = connected
    try:
        return reading.labels(bridge.entries)
    finally:
        connected.close()


def _store(state: State, bridge: BridgeDeclaration, read: Any, catalog: Catalog, blocs: Blocs, principal: str, at: datetime) -> Import:
    labels: dict[str, Label | None] = {}
    failed = dict(read.failed)
    for name in sorted(set(bridge.entries) - set(failed)):
        try:
            labels[name] = label_from(bridge, read.found[name], blocs)
        except KeyError:
            failed[name] = "the bridge said nothing of it"
        except (ValueError, ResidencyClash) as error:
            failed[name] = str(error).splitlines()[0]
    conflicts = tuple(found for name, label in labels.items() if (found := conflict(catalog, name, label, at, blocs)) is not None)
    changed: list[str] = []
    with state.transaction() as tx:
        if not failed:
            before = {row.dataset: row.label for row in imported_labels.rows(tx, bridge.name)}
            for name, label in labels.items():
                told = label.to_json() if label else None
                if imported_labels.put(tx, bridge=bridge.name, dataset=name, label=told, words=read.found[name], at=at):
                    changed.append(name)
            imported_labels.keep(tx, bridge.name, bridge.entries)
            for name in changed:
                now = labels[name]
                body = {"dataset": name, "bridge": bridge.name, "before": before.get(name), "after": now.to_json() if now else None}
                ledger.append(tx, "label-change", body, principal=principal, at=at)
        done = Import(bridge.name, labels, tuple(changed), conflicts, failed)
        body = done.to_json()
        ledger.append(tx, "import", {**body, "labels": len(labels)}, principal=principal, at=at)
    return done


def refresh(settings: Settings, *, at: datetime, client: Connect = connect) -> list[str]:
    """Import each bridge whose labels are past half of their time, and say what went wrong: the reconciler goes on whatever happens."""
    from flows.services.declarations import Declarations

    declarations = Declarations.declared(settings)
    done = []
    for bridge in declarations.bridges:
        with closing(State(settings.state_url)) as state, state.reading() as tx:
            known = {row.dataset: row.at for row in imported_labels.rows(tx, bridge.name)}
        oldest = min((known.get(name, datetime.min.replace(tzinfo=at.tzinfo)) for name in bridge.entries), default=at)
        if at - oldest < timedelta(hours=float(bridge.ttl_hours)) / 2:
            continue
        try:
            (outcome,) = import_labels(
                settings, [bridge], declarations.catalog, declarations.estate.blocs, principal=SYSTEM, at=at, client=client
            )
        except TradewindError as error:
            log.warning("bridge `%s` was not read: %s", bridge.name, error)
            continue
        for name, why in outcome.failed.items():
            log.warning("bridge `%s` was not imported: `%s`, %s", bridge.name, name, why)
        if not outcome.failed:
            done.append(bridge.name)
    return done


def catalog_with_imports(catalog: Catalog, bridges: Sequence[BridgeDeclaration], settings: Settings) -> Catalog:
    """The catalog of the files with what the bridges last said; the state database is read only if a bridge is declared."""
    if not bridges:
        return catalog
    with closing(State(settings.state_url)) as state, state.reading() as tx:
        known = {
            (row.bridge, row.dataset): (None if row.label is None else Label.model_validate(row.label), row.at)
            for row in imported_labels.rows(tx)
        }
    return effective(catalog, bridges, known)


def catalog_seen(catalog: Catalog, bridges: Sequence[BridgeDeclaration], settings: Settings) -> Catalog:
    """`catalog_with_imports` for commands that need no stack: where no state database answers, no bridge was ever read, hence all is stale.

    Raises:
        UserError: the state database is another version's.
    """
    try:
        return catalog_with_imports(catalog, bridges, settings)
    except Unavailable as error:
        log.warning("what other catalogs said is not known, and counts as stale: %s", error.problems[0].what)
        return effective(catalog, bridges, {})


__all__ = ["Import", "catalog_seen", "catalog_with_imports", "chosen", "import_labels", "refresh"]
