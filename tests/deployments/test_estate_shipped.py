"""The shipped estate, catalog and workloads: consistent, sourced, and telling the story that the demo shows."""

import json
import re
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deployments.cli.catalog import app as catalog_app
from deployments.cli.estate import app as estate_app
from flows.adapters.catalog import load_catalog
from flows.adapters.declaration_checks import Folders, check
from flows.adapters.estate import load_estate
from flows.adapters.policy import CedarPolicy
from flows.adapters.workload_declarations import load_declarations
from flows.core.placement.engine import place
from flows.core.placement.model import Conditions, Decision, OutputUse, Principal, Request, Reservation, Window

DEPLOYMENTS = Path(__file__).parents[2] / "deployments"
NOON = datetime(2026, 11, 24, 11, tzinfo=UTC)
ESTATE = load_estate(DEPLOYMENTS / "estate")
CATALOG = load_catalog(DEPLOYMENTS / "catalog")
POLICY = CedarPolicy.load(DEPLOYMENTS / "policies", ESTATE.blocs)
WORKLOADS = load_declarations(DEPLOYMENTS / "workloads")
FULL = {"pool": "onprem-fra-k8s", "use": {"cpus": 16}, "from": NOON - timedelta(hours=1), "until": NOON + timedelta(days=2)}


def decide(workload: str, step: str, conditions: Conditions | None = None, at: datetime = NOON) -> Decision:
    declaration = WORKLOADS[workload]
    asked = declaration.step(step)  # type: ignore[arg-type]
    request = Request(
        workload=workload,
        step=step,  # type: ignore[arg-type]
        environment=declaration.environment,
        requested_by=Principal(user="schedule", roles=("operator",)),
        outputs=(OutputUse(name=f"{workload}-model", home=declaration.home, keep_days=asked.keep_days),) if step == "train" else (),
        resources=asked.resources,
        runtime=asked.runtime,
        interruptible=asked.interruptible,
        checkpoint_minutes=asked.checkpoint_minutes,
        window=Window(deadline=at + timedelta(hours=float(asked.window_hours or 24))),
        budget_usd=asked.budget_usd,
        objective=asked.objective,
        restrict=asked.restrict,
    )
    return place(request, ESTATE, POLICY, CATALOG, conditions or Conditions(), at)


def permitted(decision: Decision) -> set[str]:
    """The sites of pools that no policy or data rule rejects."""
    rejected = {row.pool for row in decision.rejected if any(reason.kind in ("policy", "data") for reason in row.reasons)}
    return {pool.site for pool in ESTATE.pools if pool.offers and pool.name not in rejected}


NAMES = ("estate", "policies", "catalog", "workloads", "templates")
EXCEPTION = """exceptions:
  - {rule: customer-keys, workload: nafdl, pools: [nowhere-vertex], owner: security, reason: keys are rotated, until: 2099-12-31}
"""


@pytest.fixture
def copy_of(tmp_path: Path) -> Folders:
    """A copy of all declarations to break."""
    for name in NAMES:
        shutil.copytree(DEPLOYMENTS / name, tmp_path / name)
    return Folders(*(tmp_path / name for name in NAMES))


def test_everything_fits_together() -> None:
    """No error and no warning."""
    folders = Folders(*(DEPLOYMENTS / name for name in NAMES))
    assert check(folders, NOON) == []


def test_the_estate_is_small_and_every_row_has_a_source_and_a_day() -> None:
    """Facts that a reader can look up, not a price list."""
    assert len(ESTATE.offers) <= 60
    for row in (*ESTATE.offers, *ESTATE.egress, *ESTATE.latency, *ESTATE.carbon):
        assert row.source and datetime.fromisoformat(str(row.as_of)) <= NOON.replace(tzinfo=None)


def test_there_are_seven_data_sites_and_ten_data_pools() -> None:
    """Two AWS and Google Cloud regions in the US and the EU, one on-prem GPU site, and two more."""
    assert len([site for site in ESTATE.sites if site.id != "control"]) == 7
    assert len([pool for pool in ESTATE.pools if pool.offers]) == 10
    gpu_sites = {offer.site for offer in ESTATE.offers if offer.accelerator}
    assert {"onprem-fra", "aws-eu-central-1", "gcp-europe-west4"} <= gpu_sites


def test_onprem_is_amortised_never_free() -> None:
    """Each on-prem price says how it was reckoned."""
    for offer in ESTATE.offers_by_site["onprem-fra"]:
        assert offer.usd_per_hour and "USD / (" in str(offer.source)


@pytest.mark.parametrize("step", ["train", "evaluate", "score", "watch"])
def test_health_data_is_permitted_at_exactly_two_sites(step: str) -> None:
    """On-prem and the one EU region with an agreement and own keys."""
    assert permitted(decide("nafld", step)) == {"onprem-fra", "aws-eu-central-1"}


def test_every_other_site_is_refused_health_data_for_its_own_reason() -> None:
    """A missing agreement, missing keys, outside the EU: the story of the why-not table."""
    rules = {row.site: {reason.rule for reason in row.reasons if reason.kind == "policy"} for row in decide("nafld", "train").rejected}
    assert rules["gcp-europe-west4"] == {"hipaa-baa"}
    assert rules["aws-eu-north-1"] == {"classification", "customer-keys"}
    assert rules["gcp-europe-west6"] == {"residency"}
    assert rules["aws-us-east-1"] == {"residency"}
    assert rules["gcp-us-central1"] == {"residency", "hipaa-baa", "classification"}


def test_flights_may_be_trained_anywhere() -> None:
    """Internal data without a bound: every data site may have it."""
    assert len(permitted(decide("flight_delay", "train"))) == 7


def test_flights_are_trained_away_from_home_because_it_is_cheaper() -> None:
    """The cheapest place is not where the data lives."""
    chosen = decide("flight_delay", "train").chosen
    assert chosen is not None and chosen.site == "onprem-fra" != WORKLOADS["flight_delay"].home


def test_a_full_pool_moves_the_training() -> None:
    """Flights go to another cloud, health data to the only other permitted site."""
    full = Conditions(reservations=(Reservation.model_validate(FULL),))
    flights, health = decide("flight_delay", "train", full).chosen, decide("nafld", "train", full).chosen
    assert flights is not None and flights.site not in ("onprem-fra", "gcp-us-central1")
    assert health is not None and health.site == "aws-eu-central-1"


def test_the_night_tariff_makes_it_cheaper() -> None:
    """The same training half an hour before midnight costs less than at noon."""
    noon, night = decide("flight_delay", "train").chosen, decide("flight_delay", "train", at=NOON.replace(hour=23)).chosen
    assert noon is not None and night is not None
    assert night.usd.compute < noon.usd.compute


@pytest.mark.parametrize("workload", ["flight_delay", "nafld"])
@pytest.mark.parametrize("step", ["ingest", "materialize"])
def test_raw_data_lands_at_home(workload: str, step: str) -> None:
    """Both workloads take data in where it lives."""
    chosen = decide(workload, step).chosen
    assert chosen is not None and chosen.site == WORKLOADS[workload].home


@pytest.mark.parametrize("workload", ["flight_delay", "nafld"])
def test_every_dataset_carries_the_label_of_its_raw_data(workload: str) -> None:
    """Derived datasets inherit; none is lowered."""
    raw = CATALOG.label_of(f"{workload}-raw", NOON, ESTATE.blocs)
    for kind in ("quarantine", "features", "model", "predictions", "reports"):
        assert CATALOG.label_of(f"{workload}-{kind}", NOON, ESTATE.blocs) == raw


@pytest.mark.parametrize(
    ("file", "old", "new", "told"),
    [
        ("estate/pools.yaml", '"cpu-*"', '"gpu-*"', "`gpu-*` of `onprem-fra-k8s` fits no offer"),
        ("estate/pools.yaml", "A100: 1}", "A10: 1}", "has no `A10`"),
        ("estate/sites.yaml", "country: CH\n", "country: ZZ\n", "`ZZ` is no ISO country"),
        ("estate/sites.yaml", "hipaa: 2028-12-31, pci", "hipaa: 2020-12-31, pci", "ran out on 2020-12-31"),
        ("estate/sites.yaml", "grid_zone: CH", "grid_zone: CH2", "no carbon figures"),
        ("estate/egress.csv", "onprem-fra,*", "onprem-fra,aws-us-east-1", "no egress price from `onprem-fra` to"),
        ("catalog/nafld.yaml", "home: onprem-fra\n", "home: gcp-europe-west4\n", "may not hold `nafld-raw`: hipaa-baa"),
        ("catalog/nafld.yaml", "residency: [EU]", "residency: [EUU]", "neither a country nor a bloc"),
        ("catalog/nafld.yaml", "regimes: [gdpr, hipaa]", "regimes: [gdpr, hippa]", "known-regimes"),
        ("catalog/nafld.yaml", "    train: [nafld-features]", "    train: [nafld-feature]", "no dataset `nafld-feature`"),
        ("catalog/nafld.yaml", "2026-11-01", "2016-11-01", "stale"),
        ("workloads/nafld.yaml", "sites: [onprem-fra]", "sites: [onprem-ffm]", "`onprem-ffm` is none of the estate's sites"),
        ("workloads/nafld.yaml", "home: onprem-fra", "home: control", "`control` is no data site"),
        ("policies/residency.cedar", "unless", "unles", "not Cedar"),
        (
            "estate/sites.yaml",
            "hipaa: null",
            "HIPAA: null",
            "no rule asks for certification `HIPAA` of `onprem-fra`\n  fix: did you mean `hipaa`",
        ),
        ("estate/sites.yaml", "multiplier: 0.6", "multiplier: 60", "costs 60 times its price"),
        ("estate/sites.yaml", 'from: "22:00", to: "06:00"', 'from: "22:00", to: "22:00"', "is the whole day"),
        ("estate/pools.yaml", "template: kubernetes", "template: kubernets", "template `kubernets`, which is not there"),
        ("estate/latency.csv", "CH,aws-us-east-1", "XX,aws-us-east-1", "latency.csv:2: `[0].country`: `XX` is no ISO country"),
        ("estate/latency.csv", "CH,aws-us-east-1,91,141.5", "CH,aws-us-east-1,91,14.5", "`p99_ms` 14.5 is less than `p50_ms` 91"),
        ("estate/latency.csv", "CH,aws-us-east-1,91,141.5", "CH,aws-us-east-1,,", "no round-trip time from `CH` to `aws-us-east-1`"),
        ("estate/offers.csv", "arm64", "ARM64", "offers.csv:2: `[0].Arch`: `ARM64` is no architecture\n  fix: write `arm64`"),
        ("estate/offers.csv", "x86_64", "amd64", "fix: write `x86_64`"),
        ("estate/offers.csv", ",2024-02-21\n", ",yesterday\n", "offers.csv:2: `[0].as_of`: `yesterday` is not a day"),
        ("estate/carbon.csv", ",2024-12-31\n", ",2094-12-31\n", "`2094-12-31` is yet to come"),
        ("estate/carbon.csv", "CH,*,*", "CHH,*,*", "zones where no site is: `CHH`\n  fix: did you mean `CH`"),
        ("estate/blocs.yaml", "needs: dpf", "needs: dfp", "needs `dfp`, which no site holds\n  fix: did you mean `dpf`"),
        (
            "estate/blocs.yaml",
            "until: 2031-12-27",
            "until: 2021-12-27",
            "blocs.yaml:13: `adequacy.GB`: the adequacy decision for `GB` ended",
        ),
        ("policies/exceptions.yaml", "exceptions: []", EXCEPTION, "names `nafdl`, which is not declared\n  fix: did you mean `nafld`"),
        ("policies/exceptions.yaml", "exceptions: []", EXCEPTION, "names `nowhere-vertex`, which is not declared"),
        (
            "workloads/nafld.yaml",
            "defaults:\n",
            "defaults:\n  restrict: {pools: [nowhere]}\n",
            "nafld.yaml:16: `defaults.restrict.pools`: `nowhere` is none",
        ),
        ("workloads/nafld.yaml", "defaults:\n", "defaults:\n  restrict: {offers: [m9.*]}\n", "`m9.*` fits none of the estate's offers"),
        ("workloads/nafld.yaml", "memory_gib: 16,", "memory_gib: 16, accelerators: {H1000: 1},", "no offer of the estate has `H1000`"),
    ],
)
def test_an_inconsistency_is_found(copy_of: Folders, file: str, old: str, new: str, told: str) -> None:
    """Each of these would otherwise show only when something runs."""
    path = copy_of.estate.parent / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    assert any(told in str(finding.problem) for finding in check(copy_of, NOON))


def test_all_inconsistencies_are_found_in_one_pass(copy_of: Folders) -> None:
    """A mistake in each of four places gives findings of each."""
    for file, old, new in (
        ("estate/pools.yaml", "type: ecs", "type: esc"),
        ("catalog/nafld.yaml", "classification: restricted", "classification: secret"),
        ("workloads/nafld.yaml", "owner: clinic", "ownr: clinic"),
        ("policies/gdpr.cedar", "gdpr_basis)", "gdpr_base)"),
    ):
        path = copy_of.estate.parent / file
        path.write_text(path.read_text().replace(old, new, 1))
    files = {Path(finding.problem.file or "").name for finding in check(copy_of, NOON)}
    assert {"pools.yaml", "nafld.yaml", "gdpr.cedar"} <= files


def checked(folders: Folders) -> list[str]:
    """What the command finds, sorted; whatever else is wrong, no finding comes twice."""
    options = [text for name in ("estate", "policies", "catalog", "workloads") for text in (f"--{name}", str(getattr(folders, name)))]
    found = json.loads(CliRunner().invoke(estate_app, ["check", *options, "--json"]).output)["findings"]
    told = sorted(json.dumps(finding) for finding in found)
    assert len(set(told)) == len(told)
    return told


@pytest.mark.parametrize(
    ("file", "right", "wrong", "told"),
    [
        ("pools.yaml", "site: aws-us-east-1\n", "site: nowhere\n", 2),
        ("offers.csv", "\ngcp-us-central1,", "\nnowhere,", 6),
        ("egress.csv", "onprem-fra,*", "nowhere,*", 1),
        ("egress.csv", "aws-eu-central-1,aws-us-east-1", "nowhere,elsewhere", 2),
        ("latency.csv", "DE,onprem-fra", "DE,nowhere", 1),
        ("speeds.csv", "a100-16c-128g,", "a100,", 1),
        ("pools.yaml", "name: gcp-europe-west6-cloudrun", "name: gcp-us-central1-cloudrun", 1),
    ],
)
def test_a_row_that_contradicts_others_hides_nothing_and_nothing_follows_from_it(
    copy_of: Folders, file: str, right: str, wrong: str, told: int
) -> None:
    """Beside it the check finds exactly what it finds once that row is put right."""
    (copy_of.estate / "speeds.csv").write_text("hardware,relative,source\na100-16c-128g,2,a benchmark\n")
    pools = (copy_of.estate / "pools.yaml").read_text()
    (copy_of.estate / "pools.yaml").write_text(pools.replace('["cpu-*", "a100-*"]', '["cpu-*", "zzz-*"]'))
    workload = (copy_of.workloads / "nafld.yaml").read_text()
    (copy_of.workloads / "nafld.yaml").write_text(workload.replace("sites: [onprem-fra]", "sites: [onprem-ffm]", 1))
    before, path = checked(copy_of), copy_of.estate / file
    text = path.read_text()
    assert right in text and {"zzz-*", "onprem-ffm"} <= set(re.findall(r"zzz-\*|onprem-ffm", "".join(before)))
    path.write_text(text.replace(right, wrong))
    after = checked(copy_of)
    assert set(before) <= set(after) and len(after) == len(before) + told


@pytest.mark.parametrize(
    ("file", "right", "wrong", "told", "hidden"),
    [
        ("estate/pools.yaml", "  capacity: {nodes: 8}", "  capacity: {nodes: -8}", 1, ""),
        ("estate/pools.yaml", "- name: aws-us-east-1-ecs", "- nam: aws-us-east-1-ecs", 2, ""),
        ("estate/sites.yaml", "country: CH\n", "country: Switzerland\n", 1, ""),
        ("estate/sites.yaml", "id: gcp-europe-west6", "idd: gcp-europe-west6", 2, "nowhere"),
        ("estate/sites.yaml", "- id: control", "- [id: control", 1, "nowhere|onprem-fra"),
        ("estate/offers.csv", "4,8,0.1649", "4,8,cheap", 1, ""),
        ("estate/offers.csv", "InstanceType", "InstanceTyp", 2, "zzz|A100|a100"),
        ("estate/offers.csv", "AcceleratorName", "AcceleratorNam", 1, "A100|a100"),
        ("estate/offers.csv", "Price,SpotPrice", "Pric,SpotPric", 2, "A100|a100"),
        ("estate/egress.csv", "onprem-fra,*,", "onprem-fra,*,-", 1, ""),
        ("estate/egress.csv", "src,dst", "scr,dst", 2, ""),
        ("estate/latency.csv", "DE,onprem-fra,", "DE,onprem-fra,-", 1, ""),
        ("estate/latency.csv", "country", "contry", 2, ""),
        ("estate/carbon.csv", "CH,*,*,15.05", "CH,*,*,little", 1, ""),
        ("estate/blocs.yaml", "[EU, IS", "[EU, UK", 1, ""),
        ("workloads/flight_delay.yaml", "owner:", "ownr:", 2, ""),
    ],
)
def test_what_cannot_be_read_hides_nothing_else_and_nothing_follows_from_it(
    copy_of: Folders, file: str, right: str, wrong: str, told: int, hidden: str
) -> None:
    """`hidden` is in what the check finds of that file's rows and can tell only once they are put right."""
    for broken, old, new in (
        ("estate/pools.yaml", '["cpu-*", "a100-*"]', '["cpu-*", "zzz-*"]'),
        ("estate/egress.csv", "aws-eu-central-1,aws-us-east-1", "aws-eu-central-1,nowhere"),
        ("workloads/nafld.yaml", "home: onprem-fra", "home: nowhere"),
        ("catalog/nafld.yaml", "home: onprem-fra, size_gb: 0.001", "home: nowhere, size_gb: 0.001"),
        ("policies/gdpr.cedar", "gdpr_basis)", "gdpr_base)"),
    ):
        path = copy_of.estate.parent / broken
        path.write_text(path.read_text().replace(old, new, 1))
    before, path = checked(copy_of), copy_of.estate.parent / file
    text = path.read_text()
    assert right in text and len(before) == 7
    path.write_text(text.replace(right, wrong, 1))
    after = checked(copy_of)
    assert len(set(after) - set(before)) == told
    assert all(hidden and re.search(hidden, json.loads(one)["what"]) for one in set(before) - set(after))


def test_bad_cells_bad_columns_and_doubled_rows_come_at_once(copy_of: Folders) -> None:
    """None hides another."""
    path = copy_of.estate / "egress.csv"
    path.write_text("src,dst,usd_per_gb,gbit\n*,*,1,1\n*,*,1,1\n*,onprem-fra,-1,1\n*,nowhere,,1\n")
    found = [finding.problem for finding in check(copy_of, NOON) if finding.problem.file == str(path)]
    assert [(one.line, one.what.split(" ")[0]) for one in found] == [
        (1, "unknown"), (4, "`-1`"), (5, "`usd_per_gb`"), (3, "`*`,"), (5, "`nowhere`"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("file", "fix"),
    [
        ("estate/egres.csv", "did you mean `egress.csv`?"),
        ("estate/speed.csv", "did you mean `speeds.csv`?"),
        ("estate/Carbon.csv", "did you mean `carbon.csv`?"),
        ("estate/blocs.yml", "did you mean `blocs.yaml`?"),
        ("estate/prices.csv", "rename it, or keep it elsewhere"),
        ("catalog/zz.yml", "did you mean `zz.yaml`?"),
        ("workloads/zz.yml", "did you mean `zz.yaml`?"),
        ("policies/exception.yaml", "did you mean `exceptions.yaml`?"),
        ("policies/more.CEDAR", "rename it, or keep it elsewhere"),
    ],
)
def test_a_file_that_nothing_reads_is_told(copy_of: Folders, file: str, fix: str) -> None:
    """It would be taken for part of the declarations."""
    path = copy_of.estate.parent / file
    path.write_text("")
    (finding,) = check(copy_of, NOON)
    assert (finding.severity, finding.problem.file, finding.problem.fix) == ("warning", str(path), fix)


@pytest.mark.parametrize(
    "file",
    ["estate/blocs.yaml", "estate/egress.csv", "estate/sites.yaml", "policies/exceptions.yaml", "policies/more.cedar", "catalog/more.yaml"],
)
@pytest.mark.parametrize("to", ["", "nowhere"])
def test_a_link_that_leads_nowhere_is_not_a_file_that_is_left_out(copy_of: Folders, file: str, to: str) -> None:
    """Dangling or a loop."""
    path = copy_of.estate.parent / file
    path.unlink(missing_ok=True)
    path.symlink_to(to or path.name)
    assert [finding.problem.file for finding in check(copy_of, NOON) if finding.severity == "error"] == [str(path)]


def test_a_table_that_is_wrong_throughout_is_told_by_its_first_findings(copy_of: Folders) -> None:
    """As text; as data, all are there."""
    rows = "".join(f"nowhere,m{row},1\n" for row in range(50))
    (copy_of.estate / "offers.csv").write_text("site,InstanceType,Price\n" + rows)
    options = ["check", "--estate", str(copy_of.estate)]
    lines = CliRunner().invoke(estate_app, options).output.splitlines()
    assert sum("`nowhere` is no site" in line for line in lines) == 20 and any("and 30 more" in line for line in lines)
    assert len(json.loads(CliRunner().invoke(estate_app, [*options, "--json"]).output)["findings"]) >= 50


def test_a_part_of_a_gpu_that_fits_no_offer_hides_nothing(copy_of: Folders) -> None:
    """The estate cannot be loaded with it, and is looked at all the same."""
    path = copy_of.estate / "pools.yaml"
    path.write_text(
        path.read_text().replace("queue: tradewind\n", "queue: tradewind\n    gpu_fraction: 0.5\n").replace('"g5.*"', '"zzz-*"')
    )
    found = "".join(checked(copy_of))
    assert "runs of `onprem-fra-k8s` get 0.5" in found and "`zzz-*` of `aws-us-east-1-ecs` fits no offer" in found


def test_the_check_command_says_that_everything_fits() -> None:
    """Exit 0 and one line."""
    result = CliRunner().invoke(estate_app, ["check"])
    assert result.exit_code == 0
    assert result.output == "everything fits: 0 errors, 0 warnings\n"


def test_the_check_command_fails_on_an_error(copy_of: Folders) -> None:
    """Exit 2, with the findings as data."""
    (copy_of.estate / "offers.csv").unlink()
    result = CliRunner().invoke(estate_app, ["check", "--estate", str(copy_of.estate), "--json"])
    assert result.exit_code == 2
    assert json.loads(result.output)["findings"][0]["what"] == "no such file"


def test_the_catalog_command_shows_labels() -> None:
    """Every dataset in a table, one dataset as data."""
    table = CliRunner().invoke(catalog_app, ["show"])
    assert table.exit_code == 0
    assert "nafld-model" in table.output and "gdpr, hipaa" in table.output
    one = json.loads(CliRunner().invoke(catalog_app, ["show", "nafld-model", "--json"]).output)
    assert one[0]["label"] == {"classification": "restricted", "regimes": ["gdpr", "hipaa"], "residency": ["EU"]}
