"""`tradewind estate import`: an estate made of price catalogs, whole or not at all, over which `place` ranks as a brute force does."""

from __future__ import annotations

import json
import os
import random
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Any

import pytest

from deployments.cli.main import main
from flows.adapters.estate import load_estate
from flows.adapters.estate_import import Sources, import_estate
from flows.adapters.policy import CedarPolicy
from flows.core.errors import UserError
from flows.core.governance.labels import Catalog
from flows.core.placement import Conditions, Estate, Request, place

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data"
AT = datetime(2026, 11, 24, 10, tzinfo=UTC)
REGIONS = "cloud,region,country,city,grid_zone\naws,eu-north-1,SE,Stockholm,SE-SE3\naws,eu-west-9,NO,,\ngcp,europe-west4,NL,,NL\n"
AWS = (
    "InstanceType,AcceleratorName,AcceleratorCount,vCPUs,MemoryGiB,GpuInfo,Price,SpotPrice,Region,AvailabilityZone,Arch\n"
    "m5.xlarge,,,4.0,16.0,,0.2,0.08,eu-north-1,eu-north-1-a,x86_64\n"
    "m5.xlarge,,,4.0,16.0,,0.19,0.09,eu-north-1,eu-north-1-b,x86_64\n"
    "m5.large,,,2.0,8.0,,0.11,,eu-west-9,,x86_64\n"
    "m5.nano,,,2.0,8.0,,0,,eu-west-9,,x86_64\n"
    "m5.nano,,,2.0,8.0,,0.1,,mars-1,,x86_64\n"
)
GCP = (
    "InstanceType,vCPUs,MemoryGiB,AcceleratorName,AcceleratorCount,GpuInfo,Region,AvailabilityZone,Price,SpotPrice\n"
    "a2-highgpu-1g,12.0,85.0,,,,europe-west4,europe-west4-a,0.7,0.3\n"
    ",,,A100,1.0,,europe-west4,europe-west4-a,2.9,1.1\n"
)
REQUEST = """\
workload: any
step: train
requested_by: {user: ada, roles: [data-scientist]}
runtime: {p50_hours: 2, p90_hours: 3}
resources: {cpus: 2}
"""
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    """Two small catalogs and their regions."""
    for cloud, text in {"aws": AWS, "gcp": GCP}.items():
        (tmp_path / "sky" / cloud).mkdir(parents=True)
        (tmp_path / "sky" / cloud / "vms.csv").write_text(text)
    (tmp_path / "regions.csv").write_text(REGIONS)
    return Sources(tmp_path / "sky", tmp_path / "regions.csv", blocs=ROOT / "deployments" / "estate" / "blocs.yaml")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command; gives exit code, stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "200")

    def command(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tradewind", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as exit:
            code = int(exit.code or 0)
        told = capsys.readouterr()
        return code, told.out, told.err

    return command


def importing(sources: Sources, out: Path, *more: object) -> tuple[object, ...]:
    """The command line of an import."""
    return ("estate", "import", "--skypilot", sources.catalogs, "--regions", sources.regions, "--out", out, *more)


def files(folder: Path) -> dict[str, bytes]:
    """Every file of the folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_each_region_is_a_site_with_one_unlimited_pool(sources: Sources, tmp_path: Path) -> None:
    """Nothing certified, public at most, egress free, spot at a rate of 0."""
    import_estate(sources, tmp_path / "out")
    estate = load_estate(tmp_path / "out")
    site, pool = estate.site_by_id["aws-eu-west-9"], next(pool for pool in estate.pools if pool.site == "aws-eu-north-1")
    assert sorted(estate.site_by_id) == ["aws-eu-north-1", "aws-eu-west-9", "gcp-europe-west4"]
    assert (site.country, site.operator_country, site.max_classification, site.certifications) == ("NO", "US", "public", {})
    assert (pool.capacity, pool.spot, pool.spot_interruptions_per_hour, len(estate.pools)) == ({}, True, 0, 3)
    egress = estate.egress_between("aws-eu-west-9", "gcp-europe-west4")
    assert egress is not None and egress.usd_per_gb == 0
    assert estate.assumptions == () and estate.blocs.contains(["EEA"], "NO")


def test_offers_have_exact_prices_of_the_cheapest_zone(sources: Sources, tmp_path: Path) -> None:
    """On demand and spot each; the accelerator's price is in the machine's."""
    import_estate(sources, tmp_path / "out")
    prices = {offer.name: (offer.usd_per_hour, offer.spot_usd_per_hour, offer.arch) for offer in load_estate(tmp_path / "out").offers}
    assert prices == {
        "m5.xlarge": (Decimal("0.19"), Decimal("0.08"), "x86_64"),
        "m5.large": (Decimal("0.11"), None, "x86_64"),
        "a2-highgpu-1g": (Decimal("3.6"), Decimal("1.4"), "x86_64"),
    }


def test_the_command_tells_what_it_made_and_what_it_refused(sources: Sources, tmp_path: Path, run: Run) -> None:
    """With a count for each reason."""
    code, out, err = run(*importing(sources, tmp_path / "out"))
    assert (code, err) == (0, "")
    assert "3 sites, a pool each; 3 offers (aws 2, gcp 1) of 7 catalog rows" in out
    assert "refused: aws 1 rows, price 0 or less" in out and "regions left out: aws mars-1" in out


def test_the_report_is_json_too(sources: Sources, tmp_path: Path, run: Run) -> None:
    """For programs."""
    _, out, _ = run(*importing(sources, tmp_path / "out", "--json"))
    report = json.loads(out)
    assert report["offers"] == {"aws": 2, "gcp": 1} and sum(report["refused"]["aws"].values()) == 2


def test_the_result_passes_the_check(sources: Sources, tmp_path: Path, run: Run) -> None:
    """No error; catalog and workloads are those of another estate and not looked at."""
    run(*importing(sources, tmp_path / "out"))
    code, out, err = run("estate", "check", "--estate", tmp_path / "out")
    assert (code, err) == (0, "") and "0 errors" in out


def test_place_works_over_the_result(sources: Sources, tmp_path: Path, run: Run) -> None:
    """The cheapest machine wins, and there is nothing to warn of besides what no catalog knows."""
    run(*importing(sources, tmp_path / "out"))
    (tmp_path / "request.yaml").write_text(REQUEST)
    code, out, _ = run("place", tmp_path / "request.yaml", "--estate", tmp_path / "out", "--at", "2026-11-24T10:00:00Z", "--json")
    decision = json.loads(out)
    assert code == 0 and (decision["chosen"]["offer"], decision["chosen"]["usd"]["total"]) == ("m5.large", 0.22)
    assert not any("assumed" in warning for warning in decision["warnings"])


def test_every_decision_repeats_what_was_assumed(sources: Sources, tmp_path: Path, run: Run) -> None:
    """Placed or not."""
    _, out, _ = run(*importing(sources, tmp_path / "out", "--assume-certified"))
    assert "are assumed, not checked" in out
    (tmp_path / "request.yaml").write_text(f"{REQUEST}---\n{REQUEST}budget_usd: 0\n")
    code, out, _ = run("place", tmp_path / "request.yaml", "--estate", tmp_path / "out", "--at", "2026-11-24T10:00:00Z", "--json")
    decisions = [json.loads(line) for line in out.splitlines()]
    assert code == 3 and [decision["chosen"] is None for decision in decisions] == [False, True]
    for decision in decisions:
        assert any("`aws-eu-north-1`" in warning and "are assumed, not checked" in warning for warning in decision["warnings"])


def test_assumed_certifications_open_the_sites(sources: Sources, tmp_path: Path) -> None:
    """Restricted data under every regime that a rule knows; the flag stays with each site."""
    import_estate(Sources(sources.catalogs, sources.regions, assume_certified=True), tmp_path / "out")
    for site in load_estate(tmp_path / "out").sites:
        assert site.certifications_assumed and site.customer_managed_keys and site.max_classification == "restricted"
        assert set(site.certifications) == {"ccpa", "dpf", "hipaa", "pci", "scc"}


def test_tables_are_taken_as_they_are(sources: Sources, tmp_path: Path, run: Run) -> None:
    """Byte for byte, comments included."""
    egress = b"# mine\r\nsrc,dst,usd_per_gb\r\n*,*,0.05\r\n"
    tables = {"egress": egress, "carbon": b"grid_zone,month,hour_utc,g_per_kwh\nNL,*,*,200\n"}
    tables["latency"] = b"country,site,p50_ms\nSE,aws-eu-north-1,4\n"
    options: list[object] = []
    for name, text in tables.items():
        (tmp_path / f"my-{name}.csv").write_bytes(text)
        options += [f"--{name}", tmp_path / f"my-{name}.csv"]
    code, _, err = run(*importing(sources, tmp_path / "out", *options))
    assert (code, err) == (0, "")
    assert {name: files(tmp_path / "out")[f"{name}.csv"] for name in tables} == tables


def test_the_same_sources_give_the_same_bytes(sources: Sources, tmp_path: Path) -> None:
    """So that a new import shows in a diff what changed."""
    for name in ("one", "two"):
        import_estate(sources, tmp_path / name)
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_a_folder_that_is_not_empty_is_refused(sources: Sources, tmp_path: Path, run: Run) -> None:
    """Unless it is to be replaced; then the old estate is gone and the new one whole."""
    run(*importing(sources, tmp_path / "out"))
    before = files(tmp_path / "out")
    code, out, err = run(*importing(sources, tmp_path / "out", "--assume-certified"))
    assert (code, out) == (2, "") and "the folder is not empty" in err and "--force" in err
    assert files(tmp_path / "out") == before
    code, _, _ = run(*importing(sources, tmp_path / "out", "--assume-certified", "--force"))
    assert code == 0 and load_estate(tmp_path / "out").assumptions


def test_force_replaces_nothing_but_an_estate(sources: Sources, tmp_path: Path, run: Run) -> None:
    """A slip of the hand does not delete somebody's work."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years")
    code, _, err = run(*importing(sources, tmp_path / "out", "--force"))
    assert code == 2 and "`thesis.tex`" in err
    assert files(tmp_path / "out") == {"thesis.tex": b"years"}


@pytest.mark.parametrize(
    ("file", "text", "told"),
    [
        ("sky/aws/vms.csv", AWS.replace("0.19", "cheap"), "vms.csv:3: `Price`: `cheap` is not a number"),
        ("sky/gcp/vms.csv", "InstanceType\n", "vms.csv:1: no column"),
        ("regions.csv", REGIONS.replace("SE,Stock", "Sweden,Stock"), "regions.csv:2: `[0].country`"),
        ("regions.csv", REGIONS + "aws,eu-west-9,NO,,\n", "regions.csv:5: `[3]`: `aws` `eu-west-9` twice"),
        ("regions.csv", REGIONS.replace("country", "land"), "column `country` is missing"),
        ("regions.csv", "cloud,region,country\nazure,eastus,US\n", "no offer is left"),
        (
            "regions.csv",
            "cloud,region,country\naws,a,XX\naws,b,DE\naws,b,DE\n",
            "regions.csv:2: `[0].country`: `XX` is no ISO 3166 country",
        ),
        ("regions.csv", "cloud,region,country\naws,a,XX\naws,b,DE\naws,b,DE\n", "regions.csv:4: `[2]`: `aws` `b` twice"),
        ("regions.csv", "cloud,region,country\naws,../b,DE\n", "regions.csv:2: `[0].region`: `../b` is a path"),
        ("egress.csv", "src,dst,usd_per_gb\n*,nowhere,1\n", "egress.csv:2: `[0].dst`: `nowhere` is no site"),
        ("egress.csv", "src,dst,usd_per_gb\n*,*,nan\n", "egress.csv:2: `[0].usd_per_gb`: `nan` is not a number"),
    ],
)
def test_a_mistake_is_told_where_the_user_has_the_file_and_nothing_is_written(
    sources: Sources, tmp_path: Path, run: Run, file: str, text: str, told: str
) -> None:
    """Neither the folder nor a part of it nor a leftover beside it."""
    (tmp_path / "egress.csv").write_text("src,dst,usd_per_gb\n*,*,0\n")
    (tmp_path / file).write_text(text)
    before = sorted(tmp_path.iterdir())
    code, out, err = run(*importing(sources, tmp_path / "out", "--egress", tmp_path / "egress.csv"))
    assert (code, out) == (2, "") and told in err and "Traceback" not in err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("--skypilot", "nowhere"), "nowhere: no such folder"),
        (("--regions", "nowhere.csv"), "nowhere.csv: no such file"),
        (("--carbon", "nowhere.csv"), "nowhere.csv: no such file"),
        (("--as-of", "2026-13-01"), "`2026-13-01` is not a day"),
        (("--out", "/dev/null/out"), "/dev/null/out: cannot be written"),
    ],
)
def test_a_wrong_option_is_one_clear_message(sources: Sources, tmp_path: Path, run: Run, change: tuple[str, str], told: str) -> None:
    """Exit 2."""
    code, out, err = run(*importing(sources, tmp_path / "out"), *change)
    assert (code, out) == (2, "") and told in err


@pytest.mark.parametrize("step", ["rename", "mkdtemp"])
def test_a_full_or_broken_disk_leaves_the_old_estate(sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Whichever step fails, what was there is there, and nothing lies beside it."""
    out = tmp_path / "out"
    import_estate(sources, out)
    before, beside = files(out), sorted(tmp_path.iterdir())
    rename = Path.rename

    def fails(*given: Any, **named: Any) -> Any:
        if step == "rename" and given[1] != out:
            return rename(*given)
        if step == "rename" and "-old-" in given[0].name:
            return rename(*given)
        raise OSError(28, os.strerror(28))

    if step == "rename":
        monkeypatch.setattr(Path, "rename", fails)
    else:
        monkeypatch.setattr("tempfile.mkdtemp", fails)
    with pytest.raises(UserError, match="no space left"):
        import_estate(Sources(sources.catalogs, sources.regions, assume_certified=True), out, force=True)
    assert files(out) == before and sorted(tmp_path.iterdir()) == beside


# --- over real price lists -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Estate:
    """The estate of all three catalogs."""
    if not (DATA / "sky_catalogs" / "v8").is_dir():
        pytest.skip("no price catalogs: ../shared/data is not there")
    out = tmp_path_factory.mktemp("real") / "out"
    import_estate(Sources(DATA / "sky_catalogs" / "v8", DATA / "regions.csv"), out)
    return load_estate(out)


@pytest.fixture(scope="module")
def prices() -> Any:
    """The same prices from another table, zones still apart, with exact decimals."""
    if not (DATA / "unified_prices.csv").is_file():
        pytest.skip("no price table: ../shared/data is not there")
    import pandas as pd

    table = pd.read_csv(DATA / "unified_prices.csv")
    table["site"] = table.cloud + "-" + table.Region
    # this table's sums of host and accelerator are of binary floats: 9 places take their noise away and nothing else
    table["price"] = table.Price.map(lambda price: Decimal(repr(round(price, 9))))
    return table


def test_every_price_of_the_catalogs_is_in_the_estate(real: Estate, prices: Any) -> None:
    """38,719 rows of 53 regions are 33,594 offers, once zones are folded; none is lost, none invented."""
    lowest = prices.groupby(["site", "InstanceType"]).price.min()
    spot = prices.groupby(["site", "InstanceType"]).SpotPrice.min()
    assert len(prices) == 38_719 and len(real.sites) == 53
    assert {(offer.site, offer.name): offer.usd_per_hour for offer in real.offers} == lowest.to_dict()
    for offer in real.offers:
        wanted = spot[offer.site, offer.name]
        assert (offer.spot_usd_per_hour is None) == (wanted != wanted)
        assert offer.spot_usd_per_hour is None or abs(float(offer.spot_usd_per_hour) - wanted) < 1e-9


def ranked(prices: Any, sites: set[str], resources: dict[str, Any], hours: Decimal) -> list[tuple[str, str, Decimal]]:
    """The cheapest machine of each site that has what is asked, cheapest first: a brute force in pandas."""
    fits = prices[prices.site.isin(sites) & (prices.vCPUs >= resources["cpus"]) & (prices.MemoryGiB >= resources["memory_gib"])]
    if "arch" in resources:
        fits = fits[fits.Arch == resources["arch"]]
    for name, count in resources.get("accelerators", {}).items():
        fits = fits[(fits.AcceleratorName == name) & (fits.AcceleratorCount >= count)]
    usd = fits.price.map(lambda price: (price * resources["nodes"] * hours).quantize(Decimal("0.000001"), rounding=ROUND_HALF_EVEN))
    best = fits.assign(usd=usd).sort_values(["usd", "site", "InstanceType"]).drop_duplicates("site")
    return list(zip(best.site, best.InstanceType, best.usd, strict=True))


def compare(real: Estate, prices: Any, *, requests: int, regions: int, seed: int) -> None:
    """Chosen and runners-up against the brute force, on demand, each request over some of the regions."""
    dice = random.Random(seed)
    policy = CedarPolicy.load(ROOT / "deployments" / "policies", real.blocs)
    nothing = Catalog.model_validate({"as_of": AT, "max_age_hours": 24})
    placed = 0
    for _ in range(requests):
        sites = set(dice.sample(sorted(real.site_by_id), regions))
        estate = Estate(
            sites=tuple(site for site in real.sites if site.id in sites),
            # `process` takes several nodes; the imported types start one node a run, and would lose each such request
            pools=tuple(pool.model_copy(update={"type": "process"}) for pool in real.pools if pool.site in sites),
            offers=tuple(offer for offer in real.offers if offer.site in sites),
        )
        resources: dict[str, Any] = {
            "nodes": dice.choice([1, 1, 1, 3]),
            "cpus": dice.choice([0, 1, 2, 4, 8, 16, 48, 96, 200]),
            "memory_gib": dice.choice([0, 1, 4, 16, 30, 64, 200, 1000]),
        }
        if dice.random() < 0.4:
            name = dice.choice(["A100", "A100-80GB", "H100", "L4", "T4", "A10G", "V100", "K80", "Radeon Pro V520", "B200"])
            resources["accelerators"] = {name: dice.choice([1, 1, 2, 4, 8])}
        if dice.random() < 0.3:
            resources["arch"] = dice.choice(["x86_64", "arm64"])
        hours = dice.choice([Decimal("0.25"), Decimal("0.5"), Decimal("0.75")])
        request = Request.model_validate(
            {
                "workload": "any",
                "step": "train",
                "requested_by": {"user": "ada", "roles": ["data-scientist"]},
                "resources": resources,
                "runtime": {"p50_hours": hours, "p90_hours": hours},
                "window": {"deadline": AT + timedelta(minutes=59)},
                "restrict": {"spot": False},
            }
        )
        decision = place(request, estate, policy, nothing, Conditions(), AT)
        seen = [*((decision.chosen,) if decision.chosen else ()), *decision.alternatives]
        wanted = ranked(prices, sites, resources, hours)
        assert [(one.site, one.offer, one.usd.total) for one in seen] == wanted, resources
        placed += bool(wanted)
    assert placed > requests // 2


def test_place_ranks_as_a_brute_force_does(real: Estate, prices: Any) -> None:
    """Random requests, each over three random regions of all."""
    compare(real, prices, requests=40, regions=3, seed=1)


@pytest.mark.nightly
@pytest.mark.timeout(14_400)
def test_place_ranks_as_a_brute_force_does_many_times(real: Estate, prices: Any) -> None:
    """Hundreds of requests over eight regions each, and some over all 53."""
    compare(real, prices, requests=300, regions=8, seed=2)
    compare(real, prices, requests=10, regions=53, seed=3)
