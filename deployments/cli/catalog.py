"""`tradewind catalog`: datasets, homes and labels."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from deployments.cli import catalog_bridge

app = typer.Typer(help="The datasets, where they live and what their labels say.", no_args_is_help=True)
app.command("import")(catalog_bridge.import_)
app.command("publish")(catalog_bridge.publish)
app.command("bridges")(catalog_bridge.bridges)


@app.callback()
def catalog() -> None:
    """The datasets, where they live and what their labels say."""


@app.command("show")
def show(
    dataset: Annotated[str | None, typer.Argument(help="One entry, with everything known of it; left out: a line for each.")] = None,
    source: Annotated[Path | None, typer.Option("--catalog", help="File or folder of the catalog; left out: deployments/catalog.")] = None,
    estate: Annotated[Path | None, typer.Option(help="Folder whose blocs.yaml names the blocs; left out: deployments/estate.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Show each entry with the label that holds now: its own joined with all it was derived from."""
    from flows.adapters.catalog import load_catalog
    from flows.adapters.estate import load_blocs
    from flows.adapters.settings import Settings
    from flows.core.errors import Unavailable, UserError
    from flows.services import cataloguing
    from flows.store.database import State

    settings = Settings()
    place = source or settings.deployments / "catalog"
    entries = load_catalog(place)
    if source is None:
        entries = catalog_bridge.seen(entries, settings)
    if dataset is not None and entries.entry(dataset) is None:
        known = ", ".join(f"`{entry.name}`" for entry in entries.entries)
        raise UserError(f"the catalog has no `{dataset}`", file=str(place), expected=f"one of {known}")
    try:
        observed = cataloguing.observe(State(settings.state_url))
    except Unavailable:
        observed = None  # what is declared can be shown without a stack
    rows = cataloguing.describe(entries, load_blocs(estate or settings.deployments / "estate"), datetime.now(UTC), observed)
    if dataset is not None:
        rows = [row for row in rows if row["name"] == dataset]
    if as_json:
        typer.echo(json.dumps(rows, indent=1))
    else:
        typer.echo("\n".join(_whole(rows[0])) if dataset is not None else _text(rows))


def _whole(row: dict[str, Any]) -> list[str]:
    """Everything that is known of one entry, a fact a line."""
    from flows.core.governance.imports import NO_COUNTRY, told_in_words

    kept = "without end" if row["retention_days"] is None else f"{row['retention_days']} days"
    facts = {
        "title": row["title"],
        "kind": row["kind"],
        "owner": row["owner"],
        "home": row["home"],
        "size": f"{row['size_gb']:g} GB declared",
        "kept": kept,
        "label": _label(row["label"]) if row["clash"] is None else f"{NO_COUNTRY} ({row['clash']})",
        "used by": ", ".join(row["workloads"]),
    }
    lines = [row["name"], *(f"  {name:<9} {value or '-'}" for name, value in facts.items()), "", "label and lineage"]
    lines += _tree(row["lineage"], frozenset(row["label_from"]))
    if row["imported"]:
        lines += ["", "from other catalogs (the stricter label holds)", *(f"  {line}" for line in told_in_words(row["imported"]))]
    lines += ["", "replicas", *_replicas(row["replicas"])]
    return [*lines, "", "columns", *_columns(row)]


def _tree(node: dict[str, Any], sources: frozenset[str], depth: int = 1) -> list[str]:
    """One line an entry, what it was made from below it; `*` marks the labels that are joined."""
    lowered = node["declassified"]
    valid = lowered is not None and lowered["valid"]
    own = _label(lowered["to"] if valid else node["own"]) if valid or node["own"] else "no label of its own"
    mark = "*" if node["name"] in sources else " "
    lines = [f"{mark} {'  ' * (depth - 1)}{node['name']}: {own}"]
    if lowered is not None:
        state = "declassified" if valid else "declassification EXPIRED, void"
        lines.append(f"  {'  ' * depth}{state}: until {lowered['until']}, approved by {lowered['approver']}: {lowered['reason']}")
    for parent in node["derived_from"]:
        lines += _tree(parent, frozenset() if valid else sources, depth + 1)
    return lines


def _replicas(replicas: list[dict[str, Any]] | None) -> list[str]:
    if replicas is None:
        return ["  not known: there is no state database"]
    told = [f"  {row['site']}  {row['version']}  {row['bytes']:,} bytes  as of {row['as_of'] or '-'}" for row in replicas]
    return told or ["  none yet"]


def _columns(row: dict[str, Any]) -> list[str]:
    """Names and types of the newest version, with the declared class and what was found or done."""
    notes: dict[str, list[str]] = {column: [f"declared {level}"] for column, level in row["columns"].items()}
    for column in row["pseudonymised"] or ():
        notes.setdefault(column, []).append("pseudonyms")
    for found in row["personal_data"] or ():
        notes.setdefault(found["column"], []).append(f"holds {found['kind']} ({found['share']:.0%} of the rows looked at)")
    lines = []
    for table, columns in (row["schema"] or {}).items():
        for name, kind in columns.items():
            lines.append(f"  {table}.{name}  {kind}  {', '.join(notes.pop(f'{table}.{name}', []))}".rstrip())
    lines += [f"  {column}  -  {', '.join(told)}" for column, told in sorted(notes.items())]
    lines += [f"  {column}  dropped at ingest" for column in row["dropped"] or ()]
    return lines or ["  not recorded yet"]


def _label(label: dict[str, Any] | None) -> str:
    if label is None:
        return "unknown: counts as restricted, home site only"
    residency = label["residency"] if isinstance(label["residency"], str) else ", ".join(label["residency"])
    return f"{label['classification']}; regimes {', '.join(label['regimes']) or '-'}; residency {residency}"


def _text(rows: list[dict[str, Any]]) -> str:
    header = ["dataset", "kind", "home", "GB", "classification", "regimes", "residency"]
    table = [header, *([*_cells(row)] for row in rows)]
    if any(row["imported"] for row in rows):
        for line, told in zip(table, ["imported", *(_imported(row) for row in rows)], strict=True):
            line.append(told)
    widths = [max(len(line[column]) for line in table) for column in range(len(header))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table)


def _imported(row: dict[str, Any]) -> str:
    """Which other catalogs speak of the entry or of what it was made from, and whose word is stale or holds."""
    from flows.core.governance.imports import BRIDGE

    notes: dict[str, set[str]] = {}
    for one in row["imported"]:
        told = notes.setdefault(one["bridge"], set())
        told |= {note for note, so in (("stale", one["stale"]), ("stricter", one["stricter"] == BRIDGE), ("clash", one["clash"])) if so}
    return ", ".join(f"{bridge} ({', '.join(sorted(told))})" if told else bridge for bridge, told in sorted(notes.items())) or "-"


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    label = row["label"]
    if row["clash"] is not None:
        told = ("no country", "-", "nowhere")
    elif not isinstance(label, dict):
        told = ("unknown", "unknown", "home only")
    else:
        residency = label["residency"]
        told = (
            label["classification"],
            ", ".join(label["regimes"]) or "-",
            residency if isinstance(residency, str) else ", ".join(residency),
        )
    return (str(row["name"]), str(row["kind"]), str(row["home"]), f"{row['size_gb']:g}", *told)
