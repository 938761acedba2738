"""Equal inputs have equal hashes, however they were written; different inputs do not."""

from __future__ import annotations

import re
import tomllib
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from flows.core.canonical import content_hash
from flows.core.placement import Conditions, documents, input_hashes
from flows.core.placement.hashing import TRADEWIND, content_form
from flows.core.placement.request import Request
from tests.core.placement.world import AT, TinyPolicy, catalog, decide, estate, request

MINIMAL = {"workload": "nafld", "step": "train"}


@pytest.mark.parametrize(
    "written",
    [
        {"version": 1},
        {"restrict": {"clouds": [], "spot": None}},
        {"objective": {"usd_per_kg_co2": 0.0}},
        {"resources": {"nodes": 1, "cpus": "0.000"}},
        {"requested_by": {"user": "anonymous", "roles": []}},
    ],
)
def test_writing_a_default_out_changes_nothing(written):
    """Left out or written out: the same request."""
    assert content_form(Request.model_validate({**MINIMAL, **written})) == MINIMAL


@pytest.mark.parametrize("number", [40, 40.0, "40.00", "4e1", Decimal("40")])
def test_numbers_are_hashed_by_value(number):
    """Forty is forty."""
    assert content_form(Request.model_validate({**MINIMAL, "budget_usd": number}))["budget_usd"] == "40"


def test_small_and_large_numbers_are_plain_decimals():
    """No exponents in what is hashed."""
    form = content_form(Request.model_validate({**MINIMAL, "budget_usd": 1e-6, "resources": {"memory_gib": 1e6}}))
    assert (form["budget_usd"], form["resources"]["memory_gib"]) == ("0.000001", "1000000")


def test_instants_are_hashed_in_utc():
    """One instant, two offsets, one hash."""
    windows = [{"window": {"earliest": text}} for text in ("2026-01-05T08:00:00Z", "2026-01-05T10:00:00+02:00")]
    assert len({content_hash(content_form(Request.model_validate({**MINIMAL, **window}))) for window in windows}) == 1


def test_every_input_has_its_own_hash_and_document():
    """A decision names the hash of each stored document."""
    parts = (request(), estate(), catalog(), Conditions())
    hashes = input_hashes(parts[0], parts[1], TinyPolicy(), *parts[2:])
    assert {kind: content_hash(document) for kind, document in documents(*parts).items()}.items() <= hashes.items()
    assert hashes["policies"] == "tiny"
    assert re.fullmatch(r"tradewind \S+, tiny policy 1, tzdata \d{4}[a-z]", hashes["engine"])


def test_a_stored_document_gives_the_model_back():
    """What replay reads is what was decided from."""
    asked = request(budget_usd=4.5, latency={"from": ["DE"], "max_ms": 60})
    assert Request.model_validate(content_form(asked)) == asked
    where = estate()
    assert content_form(type(where).model_validate(where.document)) == where.document


def test_the_decisions_id_depends_on_inputs_and_instant():
    """Another moment or another request is another decision."""
    ids = {
        decide().decision_id,
        decide().decision_id,
        decide(at=AT + timedelta(hours=1)).decision_id,
        decide(request(budget_usd=99)).decision_id,
    }
    assert len(ids) == 3


def test_the_engines_version_is_the_projects():
    """One version number, told twice, must not drift apart."""
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    assert project["version"] == TRADEWIND
