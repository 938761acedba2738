"""`tradewind catalog import|publish|bridges`: to and from the catalogs that a company has already."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from flows.adapters.settings import Settings
    from flows.core.governance.labels import Catalog, Label
    from flows.services.importing_labels import Import

Name = Annotated[str | None, typer.Option("--bridge", help="One bridge; left out: all.")]
CATALOG = "catalog"
"""What policy is asked about: no workload, the catalog as a whole."""
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def seen(catalog: Catalog, settings: Settings) -> Catalog:
    """The declared catalog with what the bridges last said; the state and its libraries are needed only if a bridge is declared.

    Raises:
        UserError: the declaration of bridges is wrong, or the state database is another version's.
    """
    from flows.adapters.catalogs.declared import load_bridges

    declared = load_bridges(settings.deployments, catalog)
    if not declared:
        return catalog
    from flows.services.importing_labels import catalog_seen

    return catalog_seen(catalog, declared, settings)


def import_(bridge: Name = None, as_json: AsJson = False) -> None:
    """Import labels from the declared bridges; exit 1 if an entry failed: then nothing of its bridge was stored."""
    from flows.adapters.settings import Settings
    from flows.services.declarations import Declarations
    from flows.services.identity import permit, who
    from flows.services.importing_labels import chosen, import_labels

    settings, at = Settings(), datetime.now(UTC)
    declared = Declarations.declared(settings)
    identity = who(settings)
    permit(declared, identity, "import", workload=CATALOG, environment="prod", step="govern", at=at)
    wanted = chosen(declared.bridges, bridge)
    done = import_labels(settings, wanted, declared.catalog, declared.estate.blocs, principal=identity.name, at=at)
    if as_json:
        typer.echo(json.dumps([one.to_json() for one in done], indent=1))
    else:
        typer.echo("\n".join(line for one in done for line in _told(one)) or "no bridge is declared")
    if any(one.failed for one in done):
        raise typer.Exit(1)


def publish(bridge: Name = None, as_json: AsJson = False) -> None:
    """Publish datasets, models and lineage to the declared bridges, and send OpenLineage events that were kept; exit 1 if any failed."""
    from flows.adapters.settings import Settings
    from flows.services import lineage, publishing
    from flows.services.declarations import Declarations
    from flows.services.identity import permit, who
    from flows.services.importing_labels import chosen
    from flows.store.database import State

    settings, at = Settings(), datetime.now(UTC)
    declarations = Declarations.load(settings)
    identity = who(settings)
    permit(declarations, identity, "publish", workload=CATALOG, environment="prod", step="govern", at=at)
    wanted = chosen(declarations.bridges, bridge)
    if bridge is None:
        wanted = tuple(one for one in wanted if one.publish)
    with closing(State(settings.state_url)) as state:
        done = publishing.publish(state, declarations, wanted, principal=identity.name, at=at)
    sent, kept = lineage.send_kept(settings)
    if as_json:
        told = {name: {**asdict(found), "failed": dict(found.failed)} for name, found in done.items()}
        typer.echo(json.dumps({"bridges": told, "events": {"sent": sent, "kept": kept}}, indent=1))
    else:
        for name, found in done.items():
            counts = f"{len(found.created)} created, {len(found.updated)} updated, {len(found.unchanged)} unchanged"
            typer.echo(f"{name}: {counts}, {len(found.failed)} failed")
            for entity, why in found.failed.items():
                typer.echo(f"  {entity}: {why}")
        if not done:
            typer.echo("no bridge is declared")
        if sent or kept:
            typer.echo(f"OpenLineage: {sent} events sent, {kept} still kept")
    if any(found.failed for found in done.values()):
        raise typer.Exit(1)


def bridges(as_json: AsJson = False) -> None:
    """Show the declared bridges, and how old what they last said is."""
    from flows.adapters.settings import Settings
    from flows.services.declarations import Declarations

    at = datetime.now(UTC)
    declarations = Declarations.load(Settings())
    rows: list[dict[str, Any]] = [
        {
            "bridge": bridge.name,
            "kind": bridge.kind,
            "dataset": name,
            "read": one.as_of.isoformat(timespec="seconds") if one.as_of else None,
            "stale": one.stale_at(at),
            "label": one.label.to_json() if one.label else None,
        }
        for bridge in declarations.bridges
        for name in sorted(bridge.entries)
        for entry in (declarations.catalog.entry(name),)
        for one in (entry.imported if entry else ())
        if one.source == bridge.name
    ]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
        return
    for row in rows:
        age = f"read {row['read']}" if row["read"] else "never read"
        typer.echo(
            f"{row['bridge']} ({row['kind']})  {row['dataset']}  {age}{', stale' if row['stale'] else ''}  {_json_label(row['label'])}"
        )
    if not rows:
        typer.echo("no bridge is declared")


def _told(one: Import) -> list[str]:
    if one.failed:
        lines = [f"{one.bridge}: nothing imported, {len(one.failed)} of {len(one.failed) + len(one.labels)} entries failed"]
        return lines + [f"  {name}: {why}" for name, why in sorted(one.failed.items())]
    lines = [f"{one.bridge}: {len(one.labels)} entries imported, {len(one.changed)} labels changed, {len(one.conflicts)} conflicts"]
    for found in one.conflicts:
        holds = _label(found.holds) if found.holds else "no country is left: placed nowhere"
        lines.append(f"  {found.dataset}: here {_label(found.here)}; there {_label(found.there)}; holds: {holds}")
    return lines


def _label(label: Label | None) -> str:
    return _json_label(label.to_json() if label else None)


def _json_label(label: dict[str, Any] | None) -> str:
    if label is None:
        return "nothing said"
    residency = label["residency"] if isinstance(label["residency"], str) else ",".join(label["residency"])
    return " ".join(part for part in (label["classification"], ",".join(label["regimes"]), residency) if part)
