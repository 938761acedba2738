"""What other catalogs said of datasets, beside what the files say, and whose label holds: for people and programs. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from flows.core.canonical import instant
from flows.core.governance.blocs import Blocs
from flows.core.governance.bridge import same_label
from flows.core.governance.labels import Catalog, Imported, Label, ResidencyClash

BRIDGE, FILES, BOTH = "bridge", "files", "both"
"""Whose label is the one that holds; `both`: they say the same, or the join of them is stricter than each."""
NO_COUNTRY = "no country is left: placed nowhere"
_WINS = {
    BRIDGE: "it is the stricter one and holds",
    FILES: "the files are stricter and hold",
    BOTH: "joined with the files",
}


def imports_told(catalog: Catalog, names: Iterable[str], at: datetime, blocs: Blocs) -> list[dict[str, Any]]:
    """A row for each import that counts for these datasets at that instant, their ancestors' among them, in order of dataset and bridge.

    `label`: what the bridge says, None if nothing. `files`: what the files alone give the dataset, None if unknown.
    `holds`: the label that holds, None if no country is left (`clash`) or it is unknown.
    `stricter`: `bridge`, `files` or `both`; None where the bridge says nothing.
    `as_of`: None if the bridge was never read. What is stale is placed nowhere until it is imported again.
    """
    counted = sorted({(name, one.source): one for of in names for name, one in catalog.imports_of(of, at)}.items())
    if not counted:
        return []
    bare = Catalog(
        **{name: getattr(catalog, name) for name in Catalog.model_fields if name != "entries"},
        entries=tuple(entry.model_copy(update={"imported": ()}) for entry in catalog.entries),
    )
    return [_row(catalog, bare, name, one, at, blocs) for (name, _), one in counted]


def told_in_words(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A line for each row of `imports_told`."""
    return [_line(row) for row in rows]


def _row(catalog: Catalog, bare: Catalog, name: str, one: Imported, at: datetime, blocs: Blocs) -> dict[str, Any]:
    files, _ = _label(bare, name, at, blocs)
    holds, clash = _label(catalog, name, at, blocs)
    return {
        "dataset": name,
        "bridge": one.source,
        "as_of": None if one.as_of is None else instant(one.as_of),
        "max_age_hours": float(one.max_age_hours),
        "stale": one.stale_at(at),
        "label": _json(one.label),
        "files": _json(files),
        "holds": _json(holds),
        "clash": clash,
        "stricter": None if one.label is None else _stricter(one.label, files, holds, blocs),
    }


def _label(catalog: Catalog, name: str, at: datetime, blocs: Blocs) -> tuple[Label | None, bool]:
    try:
        return catalog.label_of(name, at, blocs), False
    except ResidencyClash:
        return None, True


def _stricter(there: Label, files: Label | None, holds: Label | None, blocs: Blocs) -> str:
    """Which one equals the label that holds; a dataset that the files do not know is the bridge's alone."""
    of_bridge = holds is not None and same_label(there, holds, blocs)
    of_files = holds is not None and files is not None and same_label(files, holds, blocs)
    return BOTH if of_bridge == of_files else BRIDGE if of_bridge else FILES


def _line(row: dict[str, Any]) -> str:
    read = f"read {row['as_of']}" if row["as_of"] else "never read"
    parts = [f"{row['dataset']}: {row['bridge']} says {_words(row['label'], 'nothing')}, {read}"]
    if row["clash"]:
        parts.append(f"files say {_words(row['files'], 'nothing that is known')}: {NO_COUNTRY}")
    elif row["stricter"] is not None and row["label"] == row["files"]:
        parts.append("the files say the same")
    elif row["stricter"] is not None:
        parts.append(f"{_WINS[row['stricter']]} (files: {_words(row['files'], 'unknown')}; holds: {_words(row['holds'], 'unknown')})")
    if row["stale"]:
        parts.append(f"STALE after {row['max_age_hours']:g} h: placed nowhere until it is imported again")
    return "; ".join(parts)


def _json(label: Label | None) -> dict[str, Any] | None:
    return None if label is None else label.to_json()


def _words(label: dict[str, Any] | None, unknown: str) -> str:
    if label is None:
        return unknown
    residency = label["residency"] if isinstance(label["residency"], str) else ",".join(label["residency"])
    return " ".join(part for part in (label["classification"], ",".join(label["regimes"]), residency) if part)
