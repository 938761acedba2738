"""The declared estate: sites, pools and blocs in YAML, offers, egress, latency and carbon in tables."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from flows.adapters.declared import Declared, load_csv, load_yaml, validate
from flows.adapters.yaml_marks import Mark
from flows.adapters.yaml_marks import Path as DataPath
from flows.core.errors import Problem, UserError
from flows.core.governance.blocs import Blocs
from flows.core.placement.estate import ANY, Carbon, EgressPrice, Estate, Latency, Offer, Pool, Site, Speed

OFFER_COLUMNS = ("site", "InstanceType")
OFFER_OPTIONAL = (
    "AcceleratorName", "AcceleratorCount", "vCPUs", "MemoryGiB", "GpuInfo", "Price", "SpotPrice", "Region", "AvailabilityZone", "Arch",
    "SpotInterruptionsPerHour", "Watts", "source", "as_of",
)  # fmt: skip
FACT = ("source", "as_of")


@dataclass(frozen=True, slots=True)
class Kind:
    """One file of the estate: its name, model, and what makes a row unique."""

    file: str
    model: Any
    key: tuple[str, ...]
    columns: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    needed: bool = True


KINDS: Mapping[str, Kind] = {
    "sites": Kind("sites.yaml", Site, ("id",)),
    "pools": Kind("pools.yaml", Pool, ("name",)),
    "offers": Kind("offers.csv", Offer, ("site", "InstanceType"), OFFER_COLUMNS, OFFER_OPTIONAL),
    "egress": Kind("egress.csv", EgressPrice, ("src", "dst"), ("src", "dst", "usd_per_gb"), ("gbit_per_s", *FACT), needed=False),
    "latency": Kind("latency.csv", Latency, ("country", "site"), ("country", "site"), ("p50_ms", "p99_ms", *FACT), needed=False),
    "carbon": Kind(
        "carbon.csv", Carbon, ("grid_zone", "month", "hour_utc"), ("grid_zone", "month", "hour_utc", "g_per_kwh"), FACT, needed=False
    ),
    "speeds": Kind("speeds.csv", Speed, ("hardware",), ("hardware", "relative", "source"), ("as_of",), needed=False),
}


@dataclass(frozen=True, slots=True)
class EstateFiles:
    """The estate with the documents it was read from, so that checks can name lines."""

    estate: Estate
    documents: Mapping[str, Declared]

    def problem(
        self, kind: str, index: int, what: str, *, field: str | None = None, expected: str | None = None, fix: str | None = None
    ) -> Problem:
        """A problem of one row of one file."""
        return self.documents[kind].problem((index, field) if field else (index,), what, expected=expected, fix=fix)


def load_estate(folder: Path) -> Estate:
    """The estate of the folder.

    `sites.yaml`, `pools.yaml` and `offers.csv` must be there; without `blocs.yaml` no bloc is known, without `egress.csv` no data can
    move, without `latency.csv` no latency target can be met, without `carbon.csv` no carbon is known, without `speeds.csv` a declared
    runtime holds on all hardware. In `carbon.csv`, `*` as month
    or hour stands for every one that no other row names.

    Raises:
        UserError: everything that is wrong in any of the files, each with its line.
    """
    return read_estate(folder).estate


def read_estate(folder: Path) -> EstateFiles:
    """As `load_estate`, with the documents.

    Raises:
        UserError: as `load_estate`.
    """
    if not folder.is_dir():
        raise UserError("no such folder", file=str(folder), expected="a folder with `sites.yaml`, `pools.yaml` and `offers.csv`")
    problems: list[Problem] = []
    documents: dict[str, Declared] = {}
    rows: dict[str, tuple[Any, ...]] = {}
    blocs = Blocs()
    for name, kind in KINDS.items():
        try:
            documents[name] = _read(folder, kind)
            rows[name] = _rows(documents[name], kind)
        except UserError as error:
            problems += error.problems
    try:
        blocs = load_blocs(folder)
    except UserError as error:
        problems += error.problems
    problems += _broken_references(documents)
    if problems:
        raise UserError(problems=problems)
    files = EstateFiles(Estate(**rows, blocs=blocs), documents)
    if problems := _misfit_fractions(files):
        raise UserError(problems=problems)
    return files


def load_blocs(folder: Path) -> Blocs:
    """The blocs of the estate's folder, none if the file is not there.

    Raises:
        UserError: the file is malformed.
    """
    path = folder / "blocs.yaml"
    return validate(Blocs, load_yaml(path)) if path.exists() else Blocs()


def _read(folder: Path, kind: Kind) -> Declared:
    path = folder / kind.file
    if not kind.needed and not path.exists():
        return Declared([], str(path), {})
    if not kind.columns:
        return load_yaml(path)
    document = load_csv(path, kind.columns, optional=kind.optional)
    return _expanded(document) if kind.model is Carbon else document


def _rows(document: Declared, kind: Kind) -> tuple[Any, ...]:
    rows = validate(TypeAdapter(tuple[kind.model, ...]), document, strict=not kind.columns)  # type: ignore[name-defined]
    seen: dict[Hashable, int] = {}
    problems = []
    for index, row in enumerate(document.data):
        key = tuple(row.get(name) for name in kind.key)
        if key in seen:
            told = "`, `".join(str(part) for part in key)
            first = document.mark((seen[key],)).line
            problems.append(document.problem((index,), f"`{told}` twice, first on line {first}", fix="keep the one that is meant"))
        seen.setdefault(key, index)
    if problems:
        raise UserError(problems=problems)
    return rows


def _expanded(document: Declared) -> Declared:
    """A `*` as month or hour written out; rows that name the cell themselves win."""
    exact = {(row.get("grid_zone"), row.get("month"), row.get("hour_utc")) for row in document.data}
    data: list[dict[str, Any]] = []
    marks: dict[DataPath, Mark] = {(): document.mark(())}
    by_precision = sorted(enumerate(document.data), key=lambda item: (item[1].get("month") == ANY) + (item[1].get("hour_utc") == ANY))
    filled: set[tuple[Any, ...]] = set()
    for index, row in by_precision:
        months = [str(month) for month in range(1, 13)] if row.get("month") == ANY else [row.get("month")]
        hours = [str(hour) for hour in range(24)] if row.get("hour_utc") == ANY else [row.get("hour_utc")]
        for month in months:
            for hour in hours:
                cell = (row.get("grid_zone"), month, hour)
                wild = ANY in (row.get("month"), row.get("hour_utc"))
                if wild and (cell in exact or cell in filled):
                    continue
                if wild:
                    filled.add(cell)
                marks[(len(data),)] = document.mark((index,))
                data.append({name: value for name, value in {**row, "month": month, "hour_utc": hour}.items() if value is not None})
    return Declared(data, document.file, marks)


def _broken_references(documents: Mapping[str, Declared]) -> list[Problem]:
    """Rows that name a site which is not declared."""
    listed = documents["sites"].data if "sites" in documents else None
    if not isinstance(listed, list):
        return []
    known = sorted(str(row["id"]) for row in listed if isinstance(row, dict) and "id" in row)
    problems = []
    for name, fields in {"pools": ("site",), "offers": ("site",), "egress": ("src", "dst"), "latency": ("site",)}.items():
        document = documents.get(name)
        for index, row in enumerate(document.data if document and isinstance(document.data, list) else ()):
            for field in fields:
                value = row.get(field) if isinstance(row, dict) else None
                if value is not None and value not in known and not (name == "egress" and value == ANY):
                    expected = f"one of {', '.join(f'`{site}`' for site in known)}"
                    problems.append(
                        documents[name].problem((index, field), f"`{value}` is no site", expected=expected, fix="declare it in sites.yaml")
                    )
    return problems + _unknown_hardware(documents)


def _unknown_hardware(documents: Mapping[str, Declared]) -> list[Problem]:
    """Speeds of what no offer is or has: they would scale nothing, without a word."""
    if not {"offers", "speeds"} <= set(documents):
        return []
    known = {row.get(column) for row in documents["offers"].data for column in ("InstanceType", "AcceleratorName")}
    return [
        documents["speeds"].problem(
            (index, "hardware"),
            f"`{row['hardware']}` is neither an offer nor an accelerator of one",
            expected="a name of `InstanceType` or `AcceleratorName` in offers.csv",
        )
        for index, row in enumerate(documents["speeds"].data)
        if row.get("hardware") is not None and row["hardware"] not in known
    ]


def _misfit_fractions(files: EstateFiles) -> list[Problem]:
    """Kubernetes pools whose offers have another part of a GPU than their runs would get: they would be priced and counted wrongly."""
    problems = []
    for index, pool in enumerate(files.estate.pools):
        if pool.kubernetes is None:
            continue
        fraction = pool.kubernetes.gpu_fraction
        for offer in files.estate.offers_of(pool):
            count = offer.accelerator_count or 0
            if count != (count // 1 if fraction is None else fraction) and count:
                problems.append(
                    files.problem(
                        "pools",
                        index,
                        f"runs of `{pool.name}` get {fraction or 'whole GPUs'}, but `{offer.name}` has {count}",
                        field="kubernetes",
                        expected="a `gpu_fraction` equal to the `AcceleratorCount` of each offer with an accelerator, or neither",
                        fix="give such offers a pool of their own",
                    )
                )
    return problems


def matches(pool: Pool, offer: Offer) -> bool:
    """Whether the pool rents the offer: same site, and one of its patterns fits."""
    return pool.site == offer.site and any(fnmatchcase(offer.name, pattern) for pattern in pool.offers)
