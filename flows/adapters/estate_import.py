"""An estate made of price catalogs: a site and a pool for each region, written whole or not at all."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from flows.adapters.declared import load_csv, validate
from flows.adapters.estate import KINDS, load_estate
from flows.adapters.skypilot import SPOT_DROPPED, Imported, Row, read_catalogs
from flows.core.canonical import plain
from flows.core.errors import Problem, UserError
from flows.core.fields import Country, Model, Name
from flows.core.governance.blocs import ISO_COUNTRIES
from flows.core.placement.estate import Estate, Id

OPERATOR_COUNTRY = {"aws": "US", "azure": "US", "gcp": "US"}
"""Where the company that runs a cloud has its seat."""
POOL_TYPE = {"aws": "ecs", "azure": "kubernetes", "gcp": "vertex-ai"}
"""What rents plain machine types of a cloud by their names."""
ASSUMED = ("ccpa", "dpf", "hipaa", "pci", "scc")
"""What `assume_certified` takes for granted, with no last day."""
OFFER_COLUMNS = (
    "site", "InstanceType", "AcceleratorName", "AcceleratorCount", "vCPUs", "MemoryGiB", "Price", "SpotPrice", "Region",
    "AvailabilityZone", "Arch", "source", "as_of",
)  # fmt: skip
README = "README.md"
WRITTEN = frozenset({README, "blocs.yaml", *(kind.file for kind in KINDS.values())})
"""All files that an import may write: a folder with any other is not replaced."""


class Region(Model):
    """A row of the table of regions: where a cloud's region is, and whose grid feeds it."""

    cloud: Id
    region: Id
    country: Country
    grid_zone: Name | None = None


@dataclass(frozen=True, slots=True)
class Sources:
    """What an estate is imported from. Tables that are left out: egress is free everywhere, latency and carbon are not known."""

    catalogs: Path
    regions: Path
    egress: Path | None = None
    carbon: Path | None = None
    latency: Path | None = None
    blocs: Path | None = None
    assume_certified: bool = False
    as_of: date | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What an import made and what it refused: counts of rows by cloud, then by why."""

    folder: Path
    rows: int
    sites: int
    offers: Mapping[str, int]
    refused: Mapping[str, Mapping[str, int]]
    spot_dropped: Mapping[str, int]
    unknown_regions: tuple[str, ...]
    other_clouds: tuple[str, ...]
    assumptions: tuple[str, ...]


def import_estate(sources: Sources, out: Path, *, force: bool = False) -> Report:
    """Write the estate of the catalogs to the folder `out`, which `load_estate` then reads.

    `force` replaces an estate that is there already. Whatever goes wrong, `out` is left as it was.

    Raises:
        UserError: everything that is wrong in any source, or `out` is not free.
    """
    _refuse_taken(out, force=force)
    regions = read_regions(sources.regions)
    found = read_catalogs(sources.catalogs, regions, as_of=sources.as_of)
    if not found.offers:
        shown = ", ".join(found.unknown_regions[:5]) or "none"
        raise UserError(
            "no offer is left", file=str(sources.catalogs), expected=f"priced machines in the regions of {sources.regions}; seen: {shown}"
        )
    files = {**_tables(sources), **_documents(sources, regions, found)}
    given = {KINDS[name].file: path for name in ("egress", "carbon", "latency") if (path := getattr(sources, name))}
    estate = _write(files, out, given | ({"blocs.yaml": sources.blocs} if sources.blocs else {}))
    refused: dict[str, dict[str, int]] = {}
    for (cloud, why), count in found.refused.items():
        refused.setdefault(cloud, {})[why] = count
    return Report(
        folder=out,
        rows=found.rows,
        sites=len(found.offers),
        offers=_counted(found),
        refused={cloud: {why: n for why, n in whys.items() if why != SPOT_DROPPED} for cloud, whys in refused.items()},
        spot_dropped={cloud: whys[SPOT_DROPPED] for cloud, whys in refused.items() if SPOT_DROPPED in whys},
        unknown_regions=found.unknown_regions,
        other_clouds=found.other_clouds,
        assumptions=estate.assumptions,
    )


def read_regions(path: Path) -> dict[tuple[str, str], Region]:
    """The regions by (cloud, region); columns besides `cloud`, `region`, `country` and `grid_zone` are left aside.

    Raises:
        UserError: everything that is wrong in the table.
    """
    document = load_csv(path, ("cloud", "region", "country"), optional=("grid_zone",), others=True)
    rows = validate(TypeAdapter(tuple[Region, ...]), document, strict=False)
    regions: dict[tuple[str, str], Region] = {}
    problems: list[Problem] = []
    for index, row in enumerate(rows):
        if (row.cloud, row.region) in regions:
            problems.append(document.problem((index,), f"`{row.cloud}` `{row.region}` twice", fix="keep one"))
        if row.country not in ISO_COUNTRIES:
            what, expected = f"`{row.country}` is no ISO 3166 country", "a code such as `DE`"
            problems.append(document.problem((index, "country"), what, expected=expected, fix="look the code up: nothing may run there"))
        regions[row.cloud, row.region] = row
    if problems:
        raise UserError(problems=problems)
    return regions


def _counted(found: Imported) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for (cloud, _), rows in found.offers.items():
        counts[cloud] += len(rows)
    return dict(sorted(counts.items()))


def _refuse_taken(out: Path, *, force: bool) -> None:
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise UserError("there is something else here", file=str(out), expected="a folder, or nothing", fix="name another folder")
    names = {path.name for path in out.iterdir()} if out.exists() else set()
    if names and not force:
        raise UserError("the folder is not empty", file=str(out), fix="name another folder, or replace the estate in it with --force")
    if others := sorted(name for name in names if name not in WRITTEN or not (out / name).is_file()):
        told = ", ".join(f"`{name}`" for name in others[:5])
        raise UserError(
            f"the folder holds what no import wrote: {told}",
            file=str(out),
            expected="an estate and nothing else",
            fix="name another folder",
        )


def _tables(sources: Sources) -> dict[str, bytes]:
    """Egress, carbon, latency and blocs, byte for byte."""
    files = {}
    for name in ("egress", "carbon", "latency"):
        path: Path | None = getattr(sources, name)
        if path is not None:
            load_csv(path, KINDS[name].columns, optional=KINDS[name].optional)
            files[KINDS[name].file] = path.read_bytes()
    if sources.blocs is not None and sources.blocs.exists():
        files["blocs.yaml"] = sources.blocs.read_bytes()
    return files


def _documents(sources: Sources, regions: Mapping[tuple[str, str], Region], found: Imported) -> dict[str, bytes]:
    files = {
        "sites.yaml": _yaml(_SITES_HEAD, (_site(regions[key], certified=sources.assume_certified) for key in sorted(found.offers))),
        "pools.yaml": _yaml(_POOLS_HEAD, (_pool(cloud, region, rows) for (cloud, region), rows in sorted(found.offers.items()))),
        "offers.csv": _offers(found),
        README: _readme(sources, found),
    }
    if sources.egress is None:
        day = max(origin.as_of for origin in found.origins.values())
        files["egress.csv"] = f"src,dst,usd_per_gb,gbit_per_s,source,as_of\n*,*,0,,assumed: no table was given,{day}\n".encode()
    return files


_SITES_HEAD = "# One site for each region of the price catalogs. Storage is not priced, power usage effectiveness is left at 1.\n"
_POOLS_HEAD = "# One pool for each site: every offer of it, unlimited. Interruptions of spot count as 0 an hour, which nobody measured.\n"


def _site(region: Region, *, certified: bool) -> dict[str, Any]:
    site: dict[str, Any] = {
        "id": f"{region.cloud}-{region.region}",
        "cloud": region.cloud,
        "region": region.region,
        "country": region.country,
        "operator_country": OPERATOR_COUNTRY[region.cloud],
        "max_classification": "restricted" if certified else "public",
        "certifications": dict.fromkeys(ASSUMED) if certified else {},
    }
    if certified:
        site |= {"certifications_assumed": True, "customer_managed_keys": True}
    return site if region.grid_zone is None else {**site, "grid_zone": region.grid_zone}


def _pool(cloud: str, region: str, rows: tuple[Row, ...]) -> dict[str, Any]:
    pool: dict[str, Any] = {"name": f"{cloud}-{region}-{POOL_TYPE[cloud]}", "site": f"{cloud}-{region}", "type": POOL_TYPE[cloud]}
    if any(row.spot_usd_per_hour is not None for row in rows):
        pool |= {"spot": True, "spot_interruptions_per_hour": 0}
    return pool


def _yaml(head: str, items: Iterator[dict[str, Any]]) -> bytes:
    """A list of flat mappings; every text is quoted, so that no reader takes `NO` for false."""
    text = [head]
    for item in items:
        lines = [f"{name}: {json.dumps(value)}" for name, value in item.items()]
        text.append("\n- " + "\n  ".join(lines) + "\n")
    return "".join(text).encode()


def _offers(found: Imported) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(OFFER_COLUMNS)
    for (cloud, region), rows in sorted(found.offers.items()):
        origin = found.origins[cloud]
        source = f"SkyPilot {origin.file} {origin.sha256[:12]}"
        for row in rows:
            amounts = (row.count, row.cpus, row.memory_gib, row.usd_per_hour, row.spot_usd_per_hour)
            count, cpus, memory, price, spot = ("" if amount is None else plain(amount) for amount in amounts)
            where = (row.region, row.zone, row.arch, source, origin.as_of.isoformat())
            writer.writerow((f"{cloud}-{region}", row.kind, row.accelerator, count, cpus, memory, price, spot, *where))
    return text.getvalue().encode()


def _readme(sources: Sources, found: Imported) -> bytes:
    counts = _counted(found)
    names = ", ".join(f"`{name}`" for name in ASSUMED)
    certified = (
        f"- Ceilings `restricted`, own keys and {names} are ASSUMED at every site; every decision says so."
        if sources.assume_certified
        else "- No site holds a certification; nothing above `public` may go there until `sites.yaml` says what was signed."
    )
    lines = [
        "# An estate from price catalogs",
        "",
        "Made by `tradewind estate import`. USD per hour and node; Google Cloud's machines with accelerators; of all zones the lowest",
        "price.",
        "",
        "| catalog | as of | offers | sha256 |",
        "|---|---|---|---|",
        *(f"| {one.file} | {one.as_of} | {counts.get(cloud, 0)} | {one.sha256} |" for cloud, one in sorted(found.origins.items())),
        "",
        certified,
        "- Capacity is unlimited, interruptions of spot are 0 an hour, storage and start-up are not priced, watts are not known.",
        "- Egress, latency, carbon: " + _given(sources) + ".",
    ]
    if found.refused:
        lines += ["", "| cloud | rows | not taken as they were, since |", "|---|---|---|"]
        lines += [f"| {cloud} | {count} | {why} |" for (cloud, why), count in found.refused.items()]
    return ("\n".join(lines) + "\n").encode()


def _given(sources: Sources) -> str:
    told = {"egress": "egress free everywhere (assumed)", "latency": "no latency known", "carbon": "no carbon known"}
    return "; ".join(f"{name} as given" if getattr(sources, name) else missing for name, missing in told.items())


def _write(files: Mapping[str, bytes], out: Path, given: Mapping[str, Path]) -> Estate:
    """The files in their folder, all at once, once they have been read as an estate."""
    where = out.absolute().parent
    try:
        where.mkdir(parents=True, exist_ok=True)
        stage = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=where))
    except OSError as error:
        raise _unwritable(out, error) from None
    try:
        for name, content in files.items():
            _write_file(stage / name, content)
        stage.chmod(0o755)
        estate = _read_back(stage, out, given)
        _swap(stage, out.absolute())
    except OSError as error:
        raise _unwritable(out, error) from None
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return estate


def _write_file(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _read_back(stage: Path, out: Path, given: Mapping[str, Path]) -> Estate:
    """The estate as written; its problems are told where the user has the file."""
    real = {str(stage / name): str(path) for name, path in given.items()}

    def told(problem: Problem) -> Problem:
        file = problem.file or ""
        return replace(problem, file=real.get(file, file.replace(str(stage), str(out))))

    try:
        return load_estate(stage)
    except UserError as error:
        raise UserError(problems=[told(problem) for problem in error.problems]) from None


def _swap(stage: Path, out: Path) -> None:
    """Put the stage in the place of what is there; if that fails, what was there stays."""
    if not out.exists() or not any(out.iterdir()):
        stage.rename(out)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{out.name}-old-", dir=out.parent))
    out.rename(old)
    try:
        stage.rename(out)
    except BaseException:
        old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _unwritable(out: Path, error: OSError) -> UserError:
    return UserError(f"cannot be written: {(error.strerror or str(error)).lower()}", file=str(out), fix="name a folder that you may write")
