"""`tradewind catalog show`: what is declared, what is there, and where each label comes from."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from deployments.cli.catalog import app
from flows.core.errors import UserError
from flows.core.governance.labels import ResidencyClash
from flows.store import replicas
from flows.store.database import State

CATALOG = """
as_of: 2026-11-01T00:00:00Z
max_age_hours: 26304
workloads: {shop: {train: [shop-features]}}
entries:
  - {name: shop-raw, home: onprem-fra, size_gb: 1, owner: sales, title: who bought what, retention_days: 30,
     columns: {people.mail: confidential}, label: {classification: restricted, regimes: [gdpr], residency: [EU]}}
  - {name: shop-sums, home: onprem-fra, size_gb: 1, owner: sales, derived_from: [shop-raw],
     declassified: {to: {classification: internal, residency: [EU]}, reason: only sums, approver: dpo, until: 2999-12-31}}
  - {name: shop-old, home: onprem-fra, size_gb: 1, owner: sales, derived_from: [shop-raw],
     declassified: {to: {classification: public, residency: anywhere}, reason: a trial, approver: dpo, until: 2020-12-31}}
  - {name: shop-features, kind: features, home: onprem-fra, size_gb: 1, owner: sales, derived_from: [shop-sums, shop-old]}
"""


@pytest.fixture
def catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A catalog file, and a home without a state database yet."""
    monkeypatch.setenv("TRADEWIND_HOME", str(tmp_path))
    monkeypatch.delenv("TRADEWIND_DATABASE_URL", raising=False)
    path = tmp_path / "catalog.yaml"
    path.write_text(CATALOG)
    return path


def run(*arguments: str) -> str:
    """Standard output of a command that succeeds."""
    result = CliRunner().invoke(app, ["show", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def one(catalog: Path, name: str) -> dict[str, Any]:
    (row,) = json.loads(run(name, "--catalog", str(catalog), "--json"))
    assert isinstance(row, dict)
    return row


def landed(home: Path) -> None:
    """A version of the raw data, recorded in the state."""
    state = State(f"sqlite:///{home / 'state.db'}")
    state.migrate()
    facts = {
        "as_of": "2026-01-01T00:00:00Z",
        "schema": {"people": {"mail": "string", "pieces": "int64", "guest": "string"}},
        "dropped": ["people.phone"],
        "pseudonymised": ["people.guest"],
        "personal_data": [{"column": "people.mail", "kind": "e-mail addresses", "share": 0.96, "needs": "confidential"}],
    }
    with state.transaction() as tx:
        replicas.add(
            tx,
            dataset="shop-raw",
            version="v1",
            site="onprem-fra",
            bytes=1234,
            files={"a": "b"},
            facts=facts,
            intent_id=None,
            at=datetime(2026, 1, 2, tzinfo=UTC),
        )


def test_every_entry_has_a_line(catalog: Path) -> None:
    """With the label that holds now."""
    lines = run("--catalog", str(catalog)).splitlines()
    assert [line.split()[0] for line in lines] == ["dataset", "shop-raw", "shop-sums", "shop-old", "shop-features"]
    assert lines[4].split()[-3:] == ["restricted", "gdpr", "EU"]


def test_an_entry_tells_what_is_declared_and_what_is_there(catalog: Path, tmp_path: Path) -> None:
    """Owner, retention, classes of columns; replicas, size and schema from the state."""
    landed(tmp_path)
    row = one(catalog, "shop-raw")
    assert (row["owner"], row["retention_days"], row["columns"]) == ("sales", 30, {"people.mail": "confidential"})
    (replica,) = row["replicas"]
    assert (replica["site"], replica["version"], replica["bytes"]) == ("onprem-fra", "v1", 1234)
    assert row["schema"] == {"people": {"mail": "string", "pieces": "int64", "guest": "string"}}


def test_the_page_of_an_entry_tells_it_to_people(catalog: Path, tmp_path: Path) -> None:
    """Columns with their types, classes, findings and what was done to them."""
    landed(tmp_path)
    page = run("shop-raw", "--catalog", str(catalog))
    assert "kept      30 days" in page
    assert "people.mail  string  declared confidential, holds e-mail addresses (96% of the rows looked at)" in page
    assert "people.guest  string  pseudonyms" in page
    assert "people.phone  dropped at ingest" in page
    assert "onprem-fra  v1  1,234 bytes" in page


def test_lineage_names_the_origin_of_the_label(catalog: Path) -> None:
    """A valid declassification ends the join at its entry; an expired one is void and shows so."""
    row = one(catalog, "shop-features")
    assert set(row["label_from"]) == {"shop-sums", "shop-raw"}
    old, sums = row["lineage"]["derived_from"]
    assert (old["name"], old["declassified"]["valid"]) == ("shop-old", False)
    assert (sums["name"], sums["declassified"]["valid"], sums["declassified"]["approver"]) == ("shop-sums", True, "dpo")
    page = run("shop-features", "--catalog", str(catalog))
    assert "declassification EXPIRED, void: until 2020-12-31, approved by dpo: a trial" in page
    assert "declassified: until 2999-12-31, approved by dpo: only sums" in page


def test_a_catalog_shows_without_a_state(catalog: Path) -> None:
    """What is declared needs no stack; what rests where is said to be unknown, not to be nothing."""
    assert one(catalog, "shop-raw")["replicas"] is None
    assert "not known: there is no state database" in run("shop-raw", "--catalog", str(catalog))


def test_an_unknown_entry_is_told_with_the_known_ones(catalog: Path) -> None:
    """The names to choose from."""
    with pytest.raises(UserError, match=r"the catalog has no `shop-rwa`; expected|no `shop-rwa`.*`shop-raw`"):
        run("shop-rwa", "--catalog", str(catalog))


def test_an_empty_residency_names_the_clashing_inputs(catalog: Path) -> None:
    """The label cannot be shown, and the message says whose residencies share no country."""
    other = "  - {name: us, home: x, size_gb: 1, label: {classification: public, residency: [US]}}\n"
    mixed = "  - {name: mixed, home: x, size_gb: 1, derived_from: [us, shop-raw]}\n"
    catalog.write_text(CATALOG + other + mixed)
    with pytest.raises(ResidencyClash, match=r"`shop-raw` \(residency EU\), `us` \(residency US\)"):
        run("--catalog", str(catalog))


def test_every_shipped_entry_says_owner_retention_and_label(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing that Tradewind makes is without them, quarantine and reports included."""
    monkeypatch.setenv("TRADEWIND_HOME", str(tmp_path))
    rows = json.loads(run("--json"))
    assert {row["kind"] for row in rows} == {"dataset", "quarantine", "features", "model", "predictions", "report"}
    assert [row["name"] for row in rows if not (row["owner"] and row["retention_days"] and row["label"] and row["title"])] == []
