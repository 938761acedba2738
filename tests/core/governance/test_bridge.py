"""What other catalogs say joins what the files say, never loosens it, and fails closed when it is old."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from flows.core.governance.blocs import ISO_COUNTRIES, Blocs
from flows.core.governance.bridge import BridgeDeclaration, Bridges, conflict, effective, label_from
from flows.core.governance.labels import Catalog, Classification, Label, ResidencyClash
from flows.core.placement.hashing import content_form

AT = datetime(2026, 1, 5, 8, tzinfo=UTC)
BLOCS = Blocs.model_validate({"blocs": {"EU": ["DE", "FR", "NL"], "EEA": ["EU", "NO"]}})
HOUR = timedelta(hours=1)


def declared(**changes: Any) -> BridgeDeclaration:
    plain = {
        "name": "atlas",
        "kind": "atlas",
        "url": "https://atlas.example",
        "entries": {"raw": {"type": "t", "qualified_name": "q"}},
        "classifications": {
            "PII": {"classification": "confidential", "regimes": ["gdpr"]},
            "EU_ONLY": {"residency": ["EU"]},
            "US_ONLY": {"residency": ["US"]},
        },
        "ignored": ["ETL"],
    }
    return BridgeDeclaration.model_validate(plain | changes)


def catalog(**own: Any) -> Catalog:
    entries = [{"name": "raw", "home": "fra", "size_gb": 1, **own}, {"name": "model", "home": "fra", "size_gb": 1, "derived_from": ["raw"]}]
    return Catalog.model_validate({"as_of": AT, "entries": entries})


def label(classification: str = "internal", residency: Any = "anywhere", regimes: Any = ()) -> Label:
    return Label(classification=Classification(classification), residency=residency, regimes=frozenset(regimes))


labels = st.builds(
    Label,
    classification=st.sampled_from(Classification),
    regimes=st.frozensets(st.sampled_from(["gdpr", "hipaa"])),
    residency=st.sampled_from(
        [frozenset({"anywhere"}), frozenset({"EU"}), frozenset({"DE", "FR"}), frozenset({"US", "DE"}), frozenset({"NO"})]
    ),
)


def no_looser(one: Label, other: Label) -> bool:
    """Whether everything that `one` allows, `other` allows too."""
    inside = {country for country in ISO_COUNTRIES if BLOCS.contains(one.residency, country)}
    return one.level >= other.level and one.regimes >= other.regimes and all(BLOCS.contains(other.residency, country) for country in inside)


@given(labels, labels, st.booleans())
def test_an_import_never_loosens(own: Label, imported: Label, declassified: bool) -> None:
    """Of the dataset, or of what is derived from it; not even what an approver lowered."""
    lowered = {"declassified": {"to": own, "reason": "r", "approver": "dpo", "until": "2027-01-01"}} if declassified else {}
    given_label = label("restricted") if declassified else own
    merged = effective(catalog(label=given_label, **lowered), [declared()], {("atlas", "raw"): (imported, AT)})
    for name in ("raw", "model"):
        try:
            holds = merged.label_of(name, AT, BLOCS)
        except ResidencyClash:
            continue
        assert holds is not None and no_looser(holds, own) and no_looser(holds, imported)


def test_classifications_mean_their_join() -> None:
    """Words that are ignored say nothing."""
    found = label_from(declared(), ["PII", "EU_ONLY", "ETL"], BLOCS)
    assert found == label("confidential", frozenset({"EU"}), ["gdpr"])
    assert label_from(declared(), ["ETL"], BLOCS) is None


def test_a_word_without_a_meaning_is_an_error() -> None:
    """It may be the one that matters."""
    with pytest.raises(ValueError, match="`SECRET`"):
        label_from(declared(), ["PII", "SECRET"], BLOCS)
    with pytest.raises(ResidencyClash):
        label_from(declared(), ["EU_ONLY", "US_ONLY"], BLOCS)


def test_nothing_said_leaves_an_unknown_dataset_unknown() -> None:
    """An entity without classifications does not make a dataset public."""
    merged = effective(catalog(), [declared()], {("atlas", "raw"): (None, AT)})
    assert merged.label_of("raw", AT, BLOCS) is None
    assert merged.label_of("model", AT, BLOCS) is None


def test_an_import_gives_a_dataset_without_a_label_one() -> None:
    """And what is derived from it."""
    merged = effective(catalog(), [declared()], {("atlas", "raw"): (label("confidential"), AT)})
    assert merged.label_of("model", AT, BLOCS) == label("confidential")


@pytest.mark.parametrize(("age", "stale"), [(23, False), (24, False), (25, True), (-25, True), (None, True)])
def test_an_import_is_stale_after_its_time(age: float | None, stale: bool) -> None:
    """Or before it, or if it never was; what is derived from it too, other entries not."""
    known = {} if age is None else {("atlas", "raw"): (label(), AT - age * HOUR)}
    merged = effective(catalog(label=label()), [declared()], known)
    assert [one.stale_at(AT) for _, one in merged.imports_of("model", AT)] == [stale]
    assert merged.imports_of("other", AT) == ()


def test_without_a_bridge_the_catalog_is_the_very_same() -> None:
    """Byte for byte in the document that a decision stores."""
    plain = catalog(label=label())
    assert effective(plain, [], {}) is plain
    assert "imported" not in str(content_form(plain))


def test_the_stored_document_holds_what_was_imported() -> None:
    """So that a replay reads nothing else."""
    merged = effective(catalog(label=label()), [declared()], {("atlas", "raw"): (label("restricted"), AT)})
    assert Catalog.model_validate(content_form(merged)).label_of("raw", AT, BLOCS) == label("restricted")


def test_a_conflict_tells_both_labels_and_the_stricter_one() -> None:
    """The same label in other words is none."""
    plain = catalog(label=label("internal", ["EU"]))
    found = conflict(plain, "raw", label("confidential", ["DE", "US"]), AT, BLOCS)
    assert found is not None and found.holds == label("confidential", ["DE"])
    assert conflict(plain, "raw", label("internal", ["DE", "FR", "NL"]), AT, BLOCS) is None
    clash = conflict(plain, "raw", label("internal", ["US"]), AT, BLOCS)
    assert clash is not None and clash.holds is None and clash.here == label("internal", ["EU"])


def test_two_bridges_of_one_name_are_refused() -> None:
    """Their credentials and rows would be one."""
    with pytest.raises(ValidationError, match="`atlas` is declared twice"):
        Bridges(bridges=(declared(), declared()))
