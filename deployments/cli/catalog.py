"""`tradewind catalog`: datasets, homes and labels."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from flows.core.governance.blocs import Blocs
    from flows.core.governance.labels import Catalog, Label

app = typer.Typer(help="The datasets, where they live and what their labels say.", no_args_is_help=True)


@app.callback()
def catalog() -> None:
    """The datasets, where they live and what their labels say."""


@app.command("show")
def show(
    dataset: Annotated[str | None, typer.Argument(help="One dataset; left out: all.")] = None,
    source: Annotated[Path | None, typer.Option("--catalog", help="File or folder of the catalog; left out: deployments/catalog.")] = None,
    estate: Annotated[Path | None, typer.Option(help="Folder whose blocs.yaml names the blocs; left out: deployments/estate.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Show each dataset with the label that holds now: its own joined with all it was derived from."""
    from flows.adapters.catalog import load_catalog
    from flows.adapters.estate import load_blocs
    from flows.adapters.settings import Settings
    from flows.core.errors import UserError

    declared = Settings().deployments
    place = source or declared / "catalog"
    entries = load_catalog(place)
    rows = _rows(entries, load_blocs(estate or declared / "estate"), datetime.now(UTC))
    if dataset is not None:
        rows = [row for row in rows if row["name"] == dataset]
        if not rows:
            known = ", ".join(f"`{entry.name}`" for entry in entries.entries)
            raise UserError(f"the catalog has no `{dataset}`", file=str(place), expected=f"one of {known}")
    typer.echo(json.dumps(rows, indent=1) if as_json else _text(rows))


def _rows(catalog: Catalog, blocs: Blocs, at: datetime) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for entry in catalog.entries:
        label: Label | None = catalog.label_of(entry.name, at, blocs)
        rows.append(
            {
                "name": entry.name,
                "kind": entry.kind,
                "home": entry.home,
                "size_gb": float(entry.size_gb),
                "owner": entry.owner,
                "title": entry.title,
                "derived_from": sorted(entry.derived_from),
                "declassified_until": entry.declassified.until.isoformat() if entry.declassified else None,
                "label": None if label is None else label.to_json(),
                "workloads": sorted(
                    f"{workload}/{step}"
                    for workload, steps in catalog.workloads.items()
                    for step, names in steps.items()
                    if entry.name in names
                ),
            }
        )
    return rows


def _text(rows: list[dict[str, object]]) -> str:
    header = ("dataset", "kind", "home", "GB", "classification", "regimes", "residency")
    table = [header, *(_cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in table) for column in range(len(header))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in table)


def _cells(row: dict[str, object]) -> tuple[str, ...]:
    label = row["label"]
    if not isinstance(label, dict):
        told = ("unknown", "unknown", "home only")
    else:
        residency = label["residency"]
        told = (
            label["classification"],
            ", ".join(label["regimes"]) or "-",
            residency if isinstance(residency, str) else ", ".join(residency),
        )
    return (str(row["name"]), str(row["kind"]), str(row["home"]), f"{row['size_gb']:g}", *told)
