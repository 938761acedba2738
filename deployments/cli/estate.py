"""`tradewind estate`: the declared infrastructure."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.core.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flows.adapters.estate_checks import Finding
    from flows.adapters.estate_import import Report

app = typer.Typer(help="The declared infrastructure: sites, pools, offers, prices.", no_args_is_help=True)


@app.callback()
def estate() -> None:
    """The declared infrastructure: sites, pools, offers, prices."""


@app.command("check")
def check(
    folder: Annotated[Path | None, typer.Option("--estate", help="Folder of the estate; left out: deployments/estate.")] = None,
    policies: Annotated[Path | None, typer.Option(help="Folder of the rules; left out: deployments/policies.")] = None,
    catalog: Annotated[Path | None, typer.Option(help="Catalog file or folder; left out: deployments/catalog, without --estate.")] = None,
    workloads: Annotated[Path | None, typer.Option(help="Folder of workloads; left out: deployments/workloads, without --estate.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Find every inconsistency of estate, catalog, workloads and policy in one pass; exit 2 if there is an error.

    Catalog and workloads name sites of the declared estate: of another one, they are looked at only if they are given.
    """
    from flows.adapters.declaration_checks import Folders
    from flows.adapters.declaration_checks import check as check_now
    from flows.adapters.settings import Settings

    declared = Settings().deployments
    own = folder is None or folder.resolve() == (declared / "estate").resolve()
    folders = Folders(
        estate=folder or declared / "estate",
        policies=policies or declared / "policies",
        catalog=catalog or (declared / "catalog" if own else None),
        workloads=workloads or (declared / "workloads" if own else None),
        templates=declared / "templates",
    )
    findings = check_now(folders, datetime.now(UTC))
    typer.echo(json.dumps(_json(findings), indent=1) if as_json else _text(findings))
    if any(finding.severity == "error" for finding in findings):
        raise typer.Exit(2)


@app.command("import")
def import_(
    skypilot: Annotated[Path, typer.Option(help="Folder of SkyPilot's catalogs: aws/vms.csv, gcp/vms.csv, azure/vms.csv.")],
    regions: Annotated[Path, typer.Option(help="Table of regions: cloud, region, country, grid_zone.")],
    out: Annotated[Path, typer.Option(help="Folder to write the estate to: new or empty.")],
    egress: Annotated[Path | None, typer.Option(help="Table to take as egress.csv; left out: free everywhere.")] = None,
    carbon: Annotated[Path | None, typer.Option(help="Table to take as carbon.csv; left out: none.")] = None,
    latency: Annotated[Path | None, typer.Option(help="Table to take as latency.csv; left out: none.")] = None,
    assume_certified: Annotated[
        bool, typer.Option("--assume-certified", help="Take every certification for granted; each decision then warns of it.")
    ] = False,
    as_of: Annotated[
        str | None, typer.Option(metavar="DAY", help="Day that the prices are of; left out: when each catalog was last written.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the estate that is in the folder.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Make an estate of SkyPilot's price catalogs: a site and an unlimited pool for each region, whole or not at all."""
    from flows.adapters.estate_import import Sources, import_estate
    from flows.adapters.settings import Settings

    sources = Sources(
        catalogs=skypilot,
        regions=regions,
        egress=egress,
        carbon=carbon,
        latency=latency,
        blocs=Settings().deployments / "estate" / "blocs.yaml",
        assume_certified=assume_certified,
        as_of=_day(as_of),
    )
    report = import_estate(sources, out, force=force)
    typer.echo(json.dumps(asdict(report), default=str) if as_json else _told(report))


@app.command("refresh")
def refresh(
    url: Annotated[str, typer.Option(help="Where the catalogs are published: URL/<cloud>/vms.csv, over HTTPS.")],
    into: Annotated[Path, typer.Option(help="Folder of the catalogs, as `estate import --skypilot` reads it.")],
    cloud: Annotated[list[str] | None, typer.Option(help="A cloud to fetch, several times for several; left out: all three.")] = None,
    sha256: Annotated[list[str] | None, typer.Option(metavar="CLOUD=HEX", help="What the bytes of a cloud's catalog must hash to.")] = None,
    timeout: Annotated[float, typer.Option(min=0.1, max=86_400, help="Seconds that one catalog may take.")] = 60.0,
    max_mb: Annotated[float, typer.Option(min=0.001, max=100_000, help="Megabytes (10^6 bytes) that one catalog may have.")] = 64.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print what became of each catalog as JSON.")] = False,
) -> None:
    """Fetch price catalogs anew, if they changed: by ETag, checked, limited in time and size. Exit 6 if the server does not answer so."""
    from flows.adapters import price_refresh
    from flows.adapters.skypilot import CLOUDS

    if unknown := sorted(set(cloud or ()) - set(CLOUDS)):
        raise UserError(f"no cloud `{unknown[0]}`", field="--cloud", expected=f"one of {', '.join(f'`{name}`' for name in CLOUDS)}")
    limits = price_refresh.Limits(seconds=timeout, max_bytes=int(max_mb * 1_000_000))
    clouds = list(dict.fromkeys(cloud or CLOUDS))
    found = price_refresh.refresh(url, into, clouds, checksums=_checksums(sha256 or (), clouds), limits=limits)
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in found]))
    else:
        for one in found:
            typer.echo(f"{one.cloud}: {one.status}, {one.rows:,} rows, {one.bytes:,} bytes, sha256 {one.sha256}")


def _checksums(given: Sequence[str], clouds: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in given:
        cloud, _, hexadecimal = text.partition("=")
        if not re.fullmatch(r"[0-9a-fA-F]{64}", hexadecimal):
            raise UserError(f"`{text}` is no checksum", field="--sha256", expected="a cloud and 64 hexadecimal digits: `aws=5f2c…`")
        if cloud not in clouds:  # left aside, it would let bytes pass that nobody has checked
            known = ", ".join(f"`{name}`" for name in clouds)
            raise UserError(f"the catalog of `{cloud}` is not fetched", field="--sha256", expected=f"one of {known}")
        if cloud in found:
            raise UserError(f"`{cloud}` has two checksums", field="--sha256", expected="one a cloud")
        found[cloud] = hexadecimal.lower()
    return found


def _day(text: str | None) -> date | None:
    if text is None:
        return None
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).date()
    except ValueError:
        raise UserError(f"`{text}` is not a day", field="--as-of", expected="a day such as `2026-12-31`") from None


def _told(report: Report) -> str:
    from flows.adapters.skypilot import SPOT_DROPPED

    offers = ", ".join(f"{cloud} {count:,}" for cloud, count in report.offers.items())
    lines = [
        f"{report.folder}: {report.sites} sites, a pool each; {sum(report.offers.values()):,} offers ({offers}) "
        f"of {report.rows:,} catalog rows"
    ]
    for cloud, whys in report.refused.items():
        lines += [f"refused: {cloud} {count:,} rows, {why}" for why, count in whys.items()]
    lines += [f"spot left out: {cloud} {count:,} rows, {SPOT_DROPPED.partition(':')[0]}" for cloud, count in report.spot_dropped.items()]
    if report.unknown_regions:
        shown = ", ".join(report.unknown_regions[:10])
        more = len(report.unknown_regions) - 10
        lines.append(f"regions left out: {shown}" + (f" and {more} more" if more > 0 else ""))
    if report.other_clouds:
        lines.append(f"clouds left out: {', '.join(report.other_clouds)}")
    return "\n".join([*lines, *(f"warning: {assumed}" for assumed in report.assumptions)])


def _counts(findings: Sequence[Finding]) -> tuple[int, int]:
    errors = sum(finding.severity == "error" for finding in findings)
    return errors, len(findings) - errors


def _text(findings: Sequence[Finding]) -> str:
    from flows.adapters.estate import first

    errors, warnings = _counts(findings)
    lines = [
        f"{severity}: {problem}"
        for severity in ("error", "warning")
        for problem in first(finding.problem for finding in findings if finding.severity == severity)
    ]
    return "\n".join([*lines, f"{errors} errors, {warnings} warnings" if findings else "everything fits: 0 errors, 0 warnings"])


def _json(findings: Sequence[Finding]) -> dict[str, object]:
    errors, warnings = _counts(findings)
    return {
        "errors": errors,
        "warnings": warnings,
        "findings": [{"severity": finding.severity, **asdict(finding.problem)} for finding in findings],
    }
