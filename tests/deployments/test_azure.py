"""Azure as configuration: sites, a pool and a template more, and nothing else; `docs/azure.md` is this test in words.

Decided and applied as desired state; Prefect's worker for Azure is not installed here, and no Azure was asked.
"""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from jsonschema.validators import Draft202012Validator

from deployments.apply.declared import load
from deployments.apply.desired import Declared, desired
from deployments.apply.options import ApplyOptions
from flows.adapters.catalog import load_catalog
from flows.adapters.declaration_checks import Folders, check
from flows.adapters.estate import load_estate
from flows.adapters.policy import CedarPolicy
from flows.adapters.settings import PROJECT_ROOT, Settings
from flows.adapters.workload_declarations import load_declarations
from flows.core.placement.engine import place
from flows.core.placement.job_variables import job_variables, run_tags
from flows.core.placement.model import Conditions, Decision, Principal, Request, Restrict
from tests.deployments.declarations import flows

ADDED = Path(__file__).parent / "azure"
NOON = datetime(2026, 11, 24, 11, tzinfo=UTC)
GERMANY, US = "azure-germanywestcentral", "azure-eastus"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is declared, with Azure: rows appended to four files, one template more."""
    copied = tmp_path_factory.mktemp("azure") / "deployments"
    shutil.copytree(PROJECT_ROOT / "deployments", copied, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("sites.yaml", "pools.yaml", "offers.csv", "egress.csv"):
        path = copied / "estate" / name
        path.write_text(path.read_text() + (ADDED / name).read_text())
    shutil.copy(ADDED / "azure-container-instance.json", copied / "templates")
    return copied


@pytest.fixture(scope="module")
def declared(folder: Path) -> Declared:
    """All that apply would make of it."""
    return load(Settings(profile="cloud", deployments=folder), ApplyOptions())


def decide(folder: Path, workload: str) -> Decision:
    """A training of the workload that may run in Azure only."""
    estate = load_estate(folder / "estate")
    step = load_declarations(folder / "workloads")[workload].step("train")
    request = Request(
        workload=workload,
        step="train",
        requested_by=Principal(user="schedule", roles=("operator",)),
        resources=step.resources,
        runtime=step.runtime,
        restrict=Restrict(clouds=("azure",)),
    )
    policy = CedarPolicy.load(folder / "policies", estate.blocs)
    return place(request, estate, policy, load_catalog(folder / "catalog"), Conditions(), NOON)


def test_the_declarations_fit_together(folder: Path) -> None:
    """No error; warnings only of users' round trips, which nobody has measured to Azure."""
    found = check(Folders(*(folder / name for name in ("estate", "policies", "catalog", "workloads"))), NOON)
    assert [one for one in found if one.severity == "error" or "round-trip" not in one.problem.what] == []


def test_restricted_health_data_is_trained_at_the_site_in_germany(folder: Path) -> None:
    """The policies know countries and contracts, not clouds: the site in the US is rejected by its residency rule."""
    decision = decide(folder, "nafld")
    assert decision.chosen is not None
    assert decision.chosen.pool == f"{GERMANY}-aci"
    reasons = {reason.kind for row in decision.rejected if row.site == US for reason in row.reasons}
    assert "policy" in reasons


def test_public_data_goes_where_it_is_cheapest(folder: Path) -> None:
    """Either site may have it."""
    decision = decide(folder, "flight_delay")
    assert decision.chosen is not None
    assert decision.chosen.site in (GERMANY, US)


def test_apply_wants_the_pools_and_a_deployment_of_each_step(declared: Declared) -> None:
    """Of Prefect's own type for Azure, with the site's identity in the template."""
    wanted = {(one.kind, one.name): one.fields for one in desired(declared, flows())}
    pool = wanted["pool", f"{GERMANY}-aci"]
    body = pool["template"]["job_configuration"]
    assert pool["type"] == "azure-container-instance"
    assert f"TRADEWIND_SITE={GERMANY} " in body["command"]
    assert body["arm_template"]["resources"][0]["tags"]["tradewind-site"] == GERMANY
    assert wanted["deployment", f"train/{GERMANY}-aci"]["pool"] == f"{GERMANY}-aci"


def test_the_chosen_offer_fits_the_template(folder: Path, declared: Declared) -> None:
    """vCPUs and GiB as Azure counts them."""
    chosen = decide(folder, "nafld").chosen
    assert chosen is not None
    estate = load_estate(folder / "estate")
    pool = estate.pool_by_name[chosen.pool]
    (offer,) = [offer for offer in estate.offers_of(pool) if offer.name == chosen.offer]
    found = job_variables(pool.type, offer, spot=chosen.spot, nodes=1, tags=run_tags("nafld", "train", "i"), image="sha256:" + "0" * 64)
    (spec,) = [spec for spec in declared.pools if spec.name == pool.name]
    Draft202012Validator(spec.template["variables"]).validate(found)
    assert (found["cpu"], found["memory"]) == (offer.cpus, offer.memory_gib)


def test_only_files_under_deployments_differ(folder: Path) -> None:
    """Four files with rows appended, and one template."""
    original = PROJECT_ROOT / "deployments"
    files = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
    changed = {
        str(name) for name in files if not (original / name).exists() or (original / name).read_bytes() != (folder / name).read_bytes()
    }
    estate = {f"estate/{name}" for name in ("sites.yaml", "pools.yaml", "offers.csv", "egress.csv")}
    assert changed == estate | {"templates/azure-container-instance.json"}
    assert json.loads((folder / "templates" / "azure-container-instance.json").read_text())["variables"]["additionalProperties"] is False
