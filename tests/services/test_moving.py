"""What a move would take is told before anything moves: lines, bytes, USD, and what policy says of each dataset."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from typer.testing import CliRunner

from deployments.cli.main import app
from flows.adapters.settings import Settings
from flows.core.errors import UserError
from flows.core.placement.model import Principal
from flows.services.declarations import Declarations
from flows.services.moving import MovePlan, plan

AT = datetime(2026, 11, 24, tzinfo=UTC)


def planned(workload: str, to: str) -> MovePlan:
    declarations = Declarations.declared(Settings())
    return plan(declarations, workload, to, Principal(user="move", roles=declarations.roles.named("scheduler")), at=AT)


def test_each_dataset_has_its_bytes_and_its_price() -> None:
    """By the catalog's sizes and the estate's egress prices."""
    found = planned("flight_delay", "aws-us-east-1")
    estate = Declarations.declared(Settings()).estate
    assert found.allowed and len(found.datasets) == 6
    (raw,) = (one for one in found.datasets if one.dataset == "flight_delay-raw")
    price = estate.egress_between("gcp-us-central1", "aws-us-east-1")
    assert price is not None and raw.bytes == 20_000_000 and raw.usd == (Decimal("0.02") * price.usd_per_gb).quantize(Decimal("0.000001"))


def test_what_policy_forbids_is_told_with_its_rule() -> None:
    """Health data may not go where no business associate agreement holds, whatever is edited."""
    found = planned("nafld", "gcp-europe-west4")
    assert not found.allowed and all(one.usd is None for one in found.datasets)
    assert {reason.partition(":")[0] for one in found.datasets for reason in one.refused} == {"hipaa-baa"}
    assert planned("nafld", "aws-eu-central-1").allowed


def test_every_line_that_names_the_old_home_is_listed() -> None:
    """Of the two files that declare the workload, each with its number."""
    found = planned("flight_delay", "aws-us-east-1")
    assert {file for file, _, _ in found.edits} == {"catalog/flight_delay.yaml", "workloads/flight_delay.yaml"}
    for file, number, text in found.edits:
        assert (Settings().deployments / file).read_text().splitlines()[number - 1].strip() == text and "gcp-us-central1" in text


def test_a_site_that_is_not_declared_is_a_mistake() -> None:
    """One message that names those that are."""
    with pytest.raises(UserError, match=r"no site `mars`; expected .*`onprem-fra`"):
        planned("nafld", "mars")


def test_check_exits_three_where_it_may_not_move() -> None:
    """As `place` does."""
    runner = CliRunner()
    assert runner.invoke(app, ["move", "nafld", "--to", "gcp-europe-west4", "--check"]).exit_code == 3
    allowed = runner.invoke(app, ["move", "flight_delay", "--to", "aws-us-east-1", "--check"])
    assert allowed.exit_code == 0 and "0.002235 USD" in allowed.stdout
