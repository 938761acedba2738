"""The declared estate: sites, pools and blocs in YAML, offers, egress, latency and carbon in tables."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pydantic import TypeAdapter, ValidationError

from flows.adapters.declared import Declared, load_csv, load_yaml, validate
from flows.adapters.yaml_marks import Mark
from flows.adapters.yaml_marks import Path as DataPath
from flows.core.errors import Problem, UserError
from flows.core.fields import Integer
from flows.core.governance.blocs import Blocs
from flows.core.placement.estate import ANY, Carbon, EgressPrice, Estate, Latency, Offer, Pool, Site, Speed

OFFER_COLUMNS = ("site", "InstanceType")
OFFER_OPTIONAL = (
    "AcceleratorName", "AcceleratorCount", "vCPUs", "MemoryGiB", "GpuInfo", "Price", "SpotPrice", "Region", "AvailabilityZone", "Arch",
    "SpotInterruptionsPerHour", "Watts", "source", "as_of",
)  # fmt: skip
FACT = ("source", "as_of")
BLOCS = "blocs.yaml"
MOST = 20
"""A file that is wrong throughout is told by its first problems."""
_INTEGER: TypeAdapter[int] = TypeAdapter(Integer)
Wrong = tuple[str, int, Problem]
"""A row that contradicts others: its kind, its index, and why."""
_ROW = re.compile(r"\[(\d+)\](?:\.([^.\[]+))?")
"""The index of a row in a problem's field, and the key in it."""


class Unread(SimpleNamespace):
    """A row that cannot be read, with what it says beside that; of all else, it may say anything (None)."""

    def __getattr__(self, name: str) -> None:
        return None


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
    """The estate with the documents it was read from, so that checks can name lines.

    By kind: `kept` is the index in its document of each row of the estate, `lost` are the rows that contradict others or cannot be
    read (a whole file that cannot be read: one `Unread`, of `blocs` too).
    """

    estate: Estate
    documents: Mapping[str, Declared]
    kept: Mapping[str, Sequence[int]]
    lost: Mapping[str, Sequence[Any]]

    def problem(
        self, kind: str, index: int, what: str, *, field: str | None = None, expected: str | None = None, fix: str | None = None
    ) -> Problem:
        """A problem of one row of the estate, where its file has it."""
        row = self.kept[kind][index]
        return self.documents[kind].problem((row, field) if field else (row,), what, expected=expected, fix=fix)

    def lost_at(self, kind: str, site: str) -> list[Any]:
        """The lost rows that may be meant for the site: they name it, or what is no site."""
        others = self.named("sites", "id") - {None, site}
        return [row for row in self.lost[kind] if row.site not in others]

    def named(self, kind: str, field: str) -> set[Any]:
        """What rows of the kind say in the field, lost ones too; None is among it if one that cannot be read may say anything."""
        return {getattr(row, field) for row in (*getattr(self.estate, kind), *self.lost[kind])}


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
    files, problems = examine(folder)
    if files is None or problems:
        raise UserError(problems=first(problems))
    return files


def first(problems: Iterable[Problem]) -> list[Problem]:
    """The first problems of each file, and how many more it has."""
    counts, shown = Counter[str | None](), list[Problem]()
    for problem in problems:
        counts[problem.file] += 1
        if counts[problem.file] <= MOST:
            shown.append(problem)
    return shown + [
        Problem(f"and {count - MOST:,} more", file=file, fix="`tradewind estate check --json` tells all")
        for file, count in counts.items()
        if count > MOST
    ]


def examine(folder: Path) -> tuple[EstateFiles | None, list[Problem]]:
    """The estate without the rows that cannot be read or contradict others, for checks and never to decide over, and all that is wrong.

    None: there is no such folder.
    """
    if not folder.is_dir():
        return None, [Problem("no such folder", file=str(folder), expected="a folder with `sites.yaml`, `pools.yaml` and `offers.csv`")]
    problems: list[Problem] = []
    documents: dict[str, Declared] = {}
    rows: dict[str, dict[int, Any]] = {}
    unread: dict[str, dict[int, Unread]] = {}
    for name, kind in KINDS.items():
        documents[name], found = _read(folder, kind)
        rows[name], unread[name], wrong_cells = _rows(documents[name], kind, whole=not found)
        problems += [*found, *wrong_cells]
    blocs = Blocs()
    documents["blocs"] = Declared({}, str(folder / BLOCS), {})
    try:
        blocs, documents["blocs"] = read_blocs(folder)
    except UserError as error:
        problems += error.problems
        unread["blocs"] = {0: Unread()}
    doubled = [one for name in KINDS for one in _doubled(name, documents[name])]
    wrong = [*doubled, *_broken_references(documents, unread), *_unknown_hardware(documents, unread)]
    out = {(name, index) for name, index, _ in wrong}
    known = {row.id for row in rows["sites"].values()}
    out |= {(name, index) for name in ("pools", "offers") for index, row in rows[name].items() if row.site not in known}
    kept = {name: [index for index in found if (name, index) not in out] for name, found in rows.items()}
    lost = {name: [row for index, row in found.items() if (name, index) in out] for name, found in rows.items()} | {"blocs": []}
    for name, unreadable in unread.items():
        lost[name] = [*lost[name], *unreadable.values()]
    whole = {name: tuple(found[index] for index in kept[name]) for name, found in rows.items()}
    estate = validate(Estate, Declared({**whole, "blocs": blocs}, str(folder), {}), strict=False)
    files = EstateFiles(estate, documents, kept, lost)
    return files, [*problems, *dict.fromkeys(problem for *_, problem in wrong), *_misfit_fractions(files)]


def load_blocs(folder: Path) -> Blocs:
    """The blocs of the estate's folder, none if the file is not there.

    Raises:
        UserError: the file is malformed.
    """
    return read_blocs(folder)[0]


def read_blocs(folder: Path) -> tuple[Blocs, Declared]:
    """As `load_blocs`, with the document.

    Raises:
        UserError: as `load_blocs`.
    """
    path = folder / BLOCS
    document = load_yaml(path) if _there(path) else Declared({}, str(path), {})
    return validate(Blocs, document), document


def _there(path: Path) -> bool:
    if path.is_symlink() and not path.exists():
        raise UserError("a link that leads to no file", file=str(path), expected="a file", fix="let it point at one, or take it out")
    return path.exists()


def _read(folder: Path, kind: Kind) -> tuple[Declared, list[Problem]]:
    """The document, of a table with a wrong header what else it says, and why it is not whole."""
    path = folder / kind.file
    nothing = Declared([], str(path), {})
    problems: list[Problem] = []
    try:
        if not _there(path) and not kind.needed:
            return nothing, []
        if not kind.columns:
            return load_yaml(path), []
        document = load_csv(path, kind.columns, optional=kind.optional)
    except UserError as error:
        problems = list(error.problems)
        try:
            document = load_csv(path, (), optional=(*kind.columns, *kind.optional), others=True) if kind.columns else nothing
        except (UserError, OSError):
            return nothing, problems
    return _expanded(document) if kind.model is Carbon else document, problems


def _rows(document: Declared, kind: Kind, *, whole: bool) -> tuple[dict[int, Any], dict[int, Unread], list[Problem]]:
    """The rows that can be read and those that cannot, by index, and why; `whole=False`: the file could not be read as it should."""
    adapter: Any = TypeAdapter(tuple[kind.model, ...])  # type: ignore[name-defined]
    try:
        rows, problems = dict(enumerate(validate(adapter, document, strict=not kind.columns))), list[Problem]()
        bad: dict[int, set[str]] = {}
    except UserError as error:
        problems = _told(error.problems, document, kind, whole=whole)
        if not isinstance(document.data, list):
            return {}, {0: Unread()}, problems
        bad = {}
        for problem in error.problems:
            if row := _ROW.match(problem.field or ""):
                bad.setdefault(int(row[1]), set()).add(row[2])
        good = [index for index in range(len(document.data)) if index not in bad]
        left = Declared([document.data[index] for index in good], document.file, {})
        rows = dict(zip(good, validate(adapter, left, strict=not kind.columns), strict=True))
    if not whole:
        unread = {index: _unread(kind, row, bad.get(index, set())) for index, row in enumerate(document.data)}
        return {}, unread or {0: Unread()}, problems
    return rows, {index: _unread(kind, document.data[index], wrong) for index, wrong in bad.items()}, problems


def _told(problems: Iterable[Problem], document: Declared, kind: Kind, *, whole: bool) -> list[Problem]:
    """Each but once, though a star stands for many rows; nothing that follows from a column that the header lacks."""
    absent = set() if whole else {f"`{name}` is missing" for name in kind.columns if not any(name in row for row in document.data)}
    left = [problem for problem in problems if whole or (problem.what not in absent and "." in (problem.field or ""))]
    if kind.model is not Carbon:
        return left
    once = dict.fromkeys(replace(problem, field=(problem.field or "").partition(".")[2] or None) for problem in left)
    return sorted(once, key=lambda problem: problem.line or 0)


def _unread(kind: Kind, row: Any, wrong: set[str]) -> Unread:
    said = row if isinstance(row, dict) else {}
    keys = {name: field.alias or name for name, field in kind.model.model_fields.items()}
    return Unread(**{name: said[key] for name, key in keys.items() if key in said and key not in wrong})


def _doubled(name: str, document: Declared) -> Iterator[Wrong]:
    """Rows for what an earlier row is for; rows of a table that a star stands for are told but once."""
    columns, seen, told = KINDS[name].key, dict[Hashable, int](), dict[tuple[int, int], Problem]()
    for index, row in enumerate(document.data if isinstance(document.data, list) else ()):
        key = tuple(row.get(column) for column in columns) if isinstance(row, dict) else ()
        if not key or not all(isinstance(part, str | int) for part in key):
            continue
        if key in seen:
            mark, earlier = document.mark((index,)), document.mark((seen[key],)).line
            what = f"`{'`, `'.join(str(part) for part in key)}` twice, first on line {earlier}"
            problem = Problem(what, mark.file, mark.line, ", ".join(columns), "one row for each", "keep the one that is meant")
            yield name, index, told.setdefault((mark.line, earlier), problem) if name == "carbon" else problem
        seen.setdefault(key, index)


def _whole(cell: str | None) -> int | str | None:
    """The number however it is written: `01` is 1; what is none is left to be refused."""
    try:
        return _INTEGER.validate_python(cell)
    except ValidationError:
        return cell


def _expanded(document: Declared) -> Declared:
    """A `*` as month or hour written out; rows that name the cell themselves win."""
    rows = [row | {name: _whole(row.get(name)) for name in ("month", "hour_utc")} for row in document.data]
    data: list[dict[str, Any]] = []
    marks: dict[DataPath, Mark] = {(): document.mark(())}
    filled: dict[tuple[Any, ...], int] = {}
    for index, row in sorted(enumerate(rows), key=lambda item: _stars(item[1])):
        months = range(1, 13) if row["month"] == ANY else [row["month"]]
        hours = range(24) if row["hour_utc"] == ANY else [row["hour_utc"]]
        for month in months:
            for hour in hours:
                if filled.setdefault((row.get("grid_zone"), month, hour), _stars(row)) < _stars(row):
                    continue
                marks[(len(data),)] = document.mark((index,))
                data.append({name: value for name, value in {**row, "month": month, "hour_utc": hour}.items() if value is not None})
    return Declared(data, document.file, marks)


def _stars(row: Mapping[str, Any]) -> int:
    return [row["month"], row["hour_utc"]].count(ANY)


def _broken_references(documents: Mapping[str, Declared], unread: Mapping[str, Mapping[int, Unread]]) -> Iterator[Wrong]:
    """Rows that name a site which is not declared, unless one that cannot be read may be it."""
    if any(row.id is None for row in unread["sites"].values()):
        return
    known = dict.fromkeys(sorted(row["id"] for row in documents["sites"].data))
    expected = f"one of {listed([f'`{site}`' for site in known], most=10)}"
    for name, fields in {"pools": ("site",), "offers": ("site",), "egress": ("src", "dst"), "latency": ("site",)}.items():
        document = documents[name]
        for index, row in enumerate(document.data if isinstance(document.data, list) else ()):
            for field in fields:
                value = row.get(field) if isinstance(row, dict) else None
                if isinstance(value, str) and value not in known and not (name == "egress" and value == ANY):
                    told = document.problem((index, field), f"`{value}` is no site", expected=expected, fix="declare it in sites.yaml")
                    yield name, index, told


def _unknown_hardware(documents: Mapping[str, Declared], unread: Mapping[str, Mapping[int, Unread]]) -> Iterator[Wrong]:
    """Speeds of what no offer is or has: they would scale nothing, without a word."""
    if unread["offers"] and len(unread["offers"]) >= len(documents["offers"].data):
        return
    known = {row.get(column) for row in documents["offers"].data for column in ("InstanceType", "AcceleratorName")}
    expected = "a name of `InstanceType` or `AcceleratorName` in offers.csv"
    for index, row in enumerate(documents["speeds"].data):
        if row.get("hardware") is not None and row["hardware"] not in known:
            what = f"`{row['hardware']}` is neither an offer nor an accelerator of one"
            yield "speeds", index, documents["speeds"].problem((index, "hardware"), what, expected=expected)


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


def fits(offer: Any, patterns: Iterable[str]) -> bool:
    """Whether one of the patterns fits the offer's name, or may."""
    return offer.name is None or any(fnmatchcase(offer.name, pattern) for pattern in patterns)


def matches(pool: Any, offer: Any) -> bool:
    """Whether one of the pool's patterns fits the offer, wherever it is, or may."""
    return pool.offers is None or fits(offer, pool.offers)


def listed(names: Sequence[str], most: int = 3) -> str:
    """The first names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
