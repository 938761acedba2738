"""SkyPilot's price catalogs (`<cloud>/vms.csv`) as offers by site: machines and accelerators priced apart are added, zones folded."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

from flows.adapters.declared import read_text
from flows.core.canonical import sha256_hex
from flows.core.errors import Problem, UserError
from flows.core.fields import MAX_NUMBER

CLOUDS = ("aws", "azure", "gcp")
NEEDED = ("InstanceType", "vCPUs", "MemoryGiB", "AcceleratorName", "AcceleratorCount", "Region", "Price", "SpotPrice")
MAX_PROBLEMS = 20
"""A catalog that is wrong throughout is told by its first problems."""

NO_PRICE = "no price"
NOT_POSITIVE = "price 0 or less, or below 0.000001 USD per hour"
INCOMPLETE = "neither a machine nor an accelerator, or an accelerator without its count"
NONE_OF_IT = "an accelerator whose count is 0"
BARE_ACCELERATOR = "an accelerator without a machine of its own"
HOST_ALONE = "a machine whose accelerator has no price in its zone"
HOST_UNKNOWN = "a machine of an accelerator family, with accelerators that are not known"
UNKNOWN_REGION = "a region that the table of regions lacks"
SPOT_DROPPED = "spot price 0 or less, or below 0.000001 USD per hour: taken without spot"
LEAST_USD = Decimal("0.000001")
"""The lowest price that the six decimals of a decision can show; anything below would be free."""

GCP_HOSTS: Mapping[str, tuple[str, int]] = {
    **{f"a2-highgpu-{count}g": ("A100", count) for count in (1, 2, 4, 8)},
    "a2-megagpu-16g": ("A100", 16),
    **{f"a2-ultragpu-{count}g": ("A100-80GB", count) for count in (1, 2, 4, 8)},
    **{f"a3-highgpu-{count}g": ("H100", count) for count in (1, 2, 4, 8)},
    "a3-megagpu-8g": ("H100-MEGA", 8),
    "a3-ultragpu-8g": ("H200", 8),
    "a4-highgpu-8g": ("B200", 8),
    **{f"g2-standard-{cpus}": ("L4", 1) for cpus in (4, 8, 12, 16, 32)},
    "g2-standard-24": ("L4", 2),
    "g2-standard-48": ("L4", 4),
    "g2-standard-96": ("L4", 8),
}
"""Google Cloud's accelerator-optimised machine types and what they always come with; the catalog prices the two in rows of their own."""

GCP_ACCELERATED = re.compile(r"[ag][2-9]")
"""Families whose machines all come with accelerators, priced apart."""

GCP_ARM = ("t2a-", "c4a-", "n4a-")
"""Google Cloud's Arm families; its catalog has no column for it."""

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?\Z", re.ASCII)
_NAME = re.compile(r"[^\s\x00-\x1f]{1,200}\Z")
_LINE = re.compile(r"[^\x00-\x1f]{1,200}\Z")
_MISSING = ("", "nan", "none", "null", "na", "n/a")


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a catalog; `kind` and `accelerator` are empty where it names none, amounts None where it says nothing."""

    line: int
    kind: str
    accelerator: str
    count: Decimal | None
    cpus: Decimal | None
    memory_gib: Decimal | None
    usd_per_hour: Decimal | None
    spot_usd_per_hour: Decimal | None
    region: str
    zone: str
    arch: str


@dataclass(frozen=True, slots=True)
class Origin:
    """The file that offers were read from: its name under the catalogs' folder, the sha256 of its bytes, the day they are of."""

    file: str
    sha256: str
    as_of: date


@dataclass(frozen=True, slots=True)
class Imported:
    """What came of the catalogs: rows by (cloud, region), one a machine type, sorted; and how many rows were refused, by cloud and why."""

    offers: Mapping[tuple[str, str], tuple[Row, ...]]
    refused: Mapping[tuple[str, str], int]
    unknown_regions: tuple[str, ...]
    origins: Mapping[str, Origin]
    rows: int
    other_clouds: tuple[str, ...]


def read_catalogs(folder: Path, regions: Iterable[tuple[str, str]], *, as_of: date | None = None) -> Imported:
    """The offers of every `aws`, `azure` and `gcp` catalog of the folder, in the (cloud, region) pairs that are known.

    USD per hour, GiB, counts per node. Of several zones the lowest price holds, on demand and spot each; the rest is of the zone that is
    cheapest on demand. `as_of` left out: the UTC day that the file was last written.

    Raises:
        UserError: no such folder or no catalog in it, or a file that is no catalog; carries every problem found, up to a limit.
    """
    if not folder.is_dir():
        raise UserError("no such folder", file=str(folder), expected="a folder with `aws/vms.csv`, `gcp/vms.csv` or `azure/vms.csv`")
    found = {path.parent.name: path for path in sorted(folder.glob("*/vms.csv"))}
    clouds = [cloud for cloud in CLOUDS if cloud in found]
    if not clouds:
        inner = next((path.parent.parent for path in sorted(folder.glob("*/*/vms.csv"))), None)
        fix = f"name `{inner}`" if inner else "name the folder that holds the clouds' folders, one per catalog version"
        raise UserError("no catalog here", file=str(folder), expected="`aws/vms.csv`, `gcp/vms.csv` or `azure/vms.csv`", fix=fix)
    known, problems = set(regions), list[Problem]()
    offers: dict[tuple[str, str], tuple[Row, ...]] = {}
    refused: Counter[tuple[str, str]] = Counter()
    origins, unknown, total = {}, set(), 0
    for cloud in clouds:
        try:
            rows = read_catalog(found[cloud])
        except UserError as error:
            problems += error.problems
            continue
        total += len(rows)
        origins[cloud] = _origin(found[cloud], cloud, as_of)
        kept, lost = offers_of(cloud, rows)
        refused.update({(cloud, why): count for why, count in lost.items()})
        for region in sorted({row.region for row in kept}):
            here = [row for row in kept if row.region == region]
            if (cloud, region) in known:
                offers[cloud, region] = fold(here)
            else:
                refused[cloud, UNKNOWN_REGION] += len(here)
                unknown.add(f"{cloud} {region}")
    if problems:
        raise UserError(problems=problems)
    return Imported(offers, dict(sorted(refused.items())), tuple(sorted(unknown)), origins, total, tuple(sorted(set(found) - set(CLOUDS))))


def read_catalog(path: Path) -> list[Row]:
    """The rows of one `vms.csv`; columns that nothing here asks for are left aside.

    Raises:
        UserError: no such file, a missing column, or cells that are no numbers and names.
    """
    reader = csv.reader(io.StringIO(read_text(path), newline=""))
    try:
        header = [name.strip() for name in next(reader, [])]
        missing = [name for name in NEEDED if name not in header]
        if missing:
            told = ", ".join(f"`{name}`" for name in missing)
            raise UserError(f"no column {told}", file=str(path), line=1, expected="a price catalog of SkyPilot, v5 or later")
        return _rows(path, header, ((reader.line_num, cells) for cells in reader))
    except csv.Error as error:
        raise UserError(f"not a row of a table: {error}", file=str(path), line=reader.line_num, fix="check quotes and commas") from None


def _rows(path: Path, header: Sequence[str], numbered: Iterable[tuple[int, list[str]]]) -> list[Row]:
    place = {name: header.index(name) for name in (*NEEDED, "AvailabilityZone", "Arch") if name in header}
    rows, problems = list[Row](), list[Problem]()
    for line, cells in numbered:
        if not cells:
            continue
        if len(cells) != len(header):
            problems.append(Problem(f"{len(cells)} cells", file=str(path), line=line, expected=f"{len(header)}, as in the header"))
        else:
            cell = {name: cells[index].strip() for name, index in place.items()}
            wrong = [Problem(what, file=str(path), line=line, field=field) for field, what in _wrong(cell)]
            problems += wrong
            if not wrong:
                rows.append(_row(line, cell))
        if len(problems) >= MAX_PROBLEMS:
            problems.append(Problem("too many problems: the rest was not read", file=str(path), line=line))
            break
    if problems:
        raise UserError(problems=problems)
    return rows


def _wrong(cell: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """(column, what is wrong) of a row."""
    for name in ("vCPUs", "MemoryGiB", "AcceleratorCount", "Price", "SpotPrice"):
        text = cell[name]
        if text.lower() in _MISSING:
            continue
        if not _NUMBER.match(text) or abs(Decimal(text)) > MAX_NUMBER:
            yield name, f"`{text[:60]}` is not a number"
        elif name in ("vCPUs", "MemoryGiB", "AcceleratorCount") and Decimal(text) < 0:
            yield name, f"`{text}` is below 0"
    for name in ("InstanceType", "Region", "Arch"):
        text = cell.get(name, "")
        if (text or name == "Region") and not _NAME.match(text):
            yield name, f"`{text[:60]}` is not a name without spaces"
    for name in ("AcceleratorName", "AvailabilityZone"):
        if (text := cell.get(name, "")) and not _LINE.match(text):
            yield name, f"`{text[:60]!r}` is not one line of text"


def _row(line: int, cell: Mapping[str, str]) -> Row:
    return Row(
        line=line,
        kind=cell["InstanceType"],
        accelerator=cell["AcceleratorName"],
        count=_number(cell["AcceleratorCount"]),
        cpus=_number(cell["vCPUs"]),
        memory_gib=_number(cell["MemoryGiB"]),
        usd_per_hour=_number(cell["Price"]),
        spot_usd_per_hour=_number(cell["SpotPrice"]),
        region=cell["Region"],
        zone=cell.get("AvailabilityZone", ""),
        arch=cell.get("Arch", ""),
    )


def _number(text: str) -> Decimal | None:
    return None if text.lower() in _MISSING else Decimal(text)


def offers_of(cloud: str, rows: Sequence[Row]) -> tuple[list[Row], Counter[str]]:
    """The rows that can be rented, machines with their accelerators; and how many were refused, by why."""
    refused: Counter[str] = Counter()
    priced = []
    for row in rows:
        if not (row.kind or row.accelerator) or bool(row.accelerator) != (row.count is not None):
            refused[INCOMPLETE] += 1
            continue
        if row.count == 0:
            refused[NONE_OF_IT] += 1
            continue
        if row.usd_per_hour is None or row.usd_per_hour < LEAST_USD:
            refused[NO_PRICE if row.usd_per_hour is None else NOT_POSITIVE] += 1
            continue
        if row.spot_usd_per_hour is not None and row.spot_usd_per_hour < LEAST_USD:
            refused[SPOT_DROPPED] += 1
            row = replace(row, spot_usd_per_hour=None)
        priced.append(row)
    if cloud == "gcp":
        priced = _gcp(priced, refused)
    kept = [row for row in priced if row.kind]
    if len(kept) < len(priced):
        refused[BARE_ACCELERATOR] += len(priced) - len(kept)
    return kept, refused


def _gcp(rows: Sequence[Row], refused: Counter[str]) -> list[Row]:
    """Google Cloud's rows with the price of host and accelerator, both of one zone, in one."""
    bare = {(row.accelerator, row.count, row.region, row.zone): row for row in reversed(rows) if not row.kind}
    used, found = set(), []
    for row in rows:
        if row.kind and not row.arch:
            row = replace(row, arch="arm64" if row.kind.startswith(GCP_ARM) else "x86_64")
        if row.kind not in GCP_HOSTS and not row.accelerator and GCP_ACCELERATED.match(row.kind):
            refused[HOST_UNKNOWN] += 1
            continue
        if row.kind not in GCP_HOSTS or row.accelerator:
            found += [row] if row.kind else []
            continue
        name, count = GCP_HOSTS[row.kind]
        key = (name, Decimal(count), row.region, row.zone)
        if key not in bare:
            refused[HOST_ALONE] += 1
            continue
        used.add(key)
        found.append(_together(row, bare[key]))
    unused = sum(not row.kind and (row.accelerator, row.count, row.region, row.zone) not in used for row in rows)
    if unused:
        refused[BARE_ACCELERATOR] += unused
    return found


def _together(host: Row, gpu: Row) -> Row:
    assert host.usd_per_hour is not None and gpu.usd_per_hour is not None
    spot = None
    if host.spot_usd_per_hour is not None and gpu.spot_usd_per_hour is not None:
        spot = host.spot_usd_per_hour + gpu.spot_usd_per_hour
    price = host.usd_per_hour + gpu.usd_per_hour
    return replace(host, accelerator=gpu.accelerator, count=gpu.count, usd_per_hour=price, spot_usd_per_hour=spot)


def fold(rows: Iterable[Row]) -> tuple[Row, ...]:
    """One row a machine type, sorted by it: the lowest price of all zones, on demand and spot each."""
    zones: dict[str, list[Row]] = {}
    for row in rows:
        zones.setdefault(row.kind, []).append(row)
    folded = []
    for _, same in sorted(zones.items()):
        best = min(same, key=lambda row: (row.usd_per_hour or Decimal(0), row.zone, row.line))
        spot = min((row.spot_usd_per_hour for row in same if row.spot_usd_per_hour is not None), default=None)
        folded.append(best if best.spot_usd_per_hour == spot else replace(best, spot_usd_per_hour=spot))
    return tuple(folded)


def _origin(path: Path, cloud: str, as_of: date | None) -> Origin:
    written = datetime.fromtimestamp(path.stat().st_mtime, UTC).date()
    return Origin(f"{cloud}/vms.csv", sha256_hex(path.read_bytes()), as_of or written)
