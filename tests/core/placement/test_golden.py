"""The cases that a compliance reader can review, under the declared Cedar rules."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from flows.adapters.catalog import load_catalog
from flows.adapters.declared import load_yaml
from flows.adapters.estate import load_estate
from flows.adapters.policy import CedarPolicy
from flows.core.canonical import instant
from flows.core.placement import Conditions, Request, place

ROOT = Path(__file__).resolve().parents[3]
GOLDEN = ROOT / "tests" / "golden"
FOLDERS = ("placement", "placement_classic")
ESTATES = {folder: load_estate(GOLDEN / folder / "estate") for folder in FOLDERS}
CASES = [(folder, case) for folder in FOLDERS for case in load_yaml(GOLDEN / folder / "cases.yaml").data]


@pytest.mark.parametrize(("folder", "case"), CASES, ids=[case["case"] for _, case in CASES])
def test_golden_case(folder, case):
    """The request runs where the case says, and every other pool is refused for exactly the reasons it says."""
    as_of = datetime.fromisoformat(case["catalog_as_of"]) if "catalog_as_of" in case else None
    at = datetime.fromisoformat(case.get("at", "2026-01-05T07:00:00Z"))
    catalog = load_catalog(GOLDEN / folder / "catalog.yaml", as_of=as_of)
    estate = ESTATES[folder]
    decision = place(
        Request.model_validate(case["request"]),
        estate,
        CedarPolicy.load(ROOT / "deployments" / "policies", estate.blocs),
        catalog,
        Conditions.model_validate(case.get("conditions", {})),
        at.astimezone(UTC),
    )
    survivors = [candidate for candidate in (decision.chosen, *decision.alternatives) if candidate is not None]
    ran = [candidate.pool for candidate in survivors]
    nearest_last = reversed([row for row in decision.rejected if row.pool not in ran])
    refused = {row.pool: [*dict.fromkeys(reason.rule for reason in row.reasons)] for row in nearest_last}
    assert (ran, refused) == (case["runs_at"], case["refused"])
    assert list(decision.datasets) == case["datasets"]
    if "total_usd" in case:
        assert float(survivors[0].usd.total) == case["total_usd"]
    if "starts" in case:
        assert instant(survivors[0].start) == case["starts"]
    changes = {row.pool: row.relaxation.change for row in reversed(decision.rejected) if row.relaxation is not None}
    assert case.get("would_need", {}).items() <= changes.items()
    assert not survivors or survivors[0].spot is case.get("spot", False)
