"""The shipped estate, catalog and workloads: consistent, sourced, and telling the story that the demo shows."""

import json
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


@pytest.fixture
def copy_of(tmp_path: Path) -> Folders:
    """A copy of all declarations to break."""
    for name in ("estate", "policies", "catalog", "workloads"):
        shutil.copytree(DEPLOYMENTS / name, tmp_path / name)
    return Folders(*(tmp_path / name for name in ("estate", "policies", "catalog", "workloads")))


def test_everything_fits_together() -> None:
    """No error and no warning."""
    folders = Folders(*(DEPLOYMENTS / name for name in ("estate", "policies", "catalog", "workloads")))
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
