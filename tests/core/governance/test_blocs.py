"""Countries, blocs and the GDPR's ground for a destination."""

from datetime import date

import pytest
from pydantic import ValidationError

from flows.core.governance.blocs import Adequacy, Blocs

BLOCS = Blocs(
    blocs={"EEA": frozenset({"EU", "NO"}), "EU": frozenset({"DE", "FR"})},
    adequacy={"CH": Adequacy(), "GB": Adequacy(until=date(2027, 1, 1)), "US": Adequacy(needs="dpf")},
)
DAY = date(2026, 6, 1)


def test_a_bloc_holds_the_countries_of_the_blocs_inside_it() -> None:
    """The EEA contains Germany through the EU."""
    assert BLOCS.countries(["EEA"]) == {"DE", "FR", "NO"}
    assert BLOCS.contains(["EEA"], "DE")
    assert not BLOCS.contains(["EU"], "NO")


def test_anywhere_is_every_country() -> None:
    """`anywhere` holds even countries that no bloc names."""
    assert BLOCS.countries(["anywhere", "DE"]) is None
    assert BLOCS.contains(["anywhere"], "BR")


def test_an_unknown_code_stands_for_itself_only() -> None:
    """A misspelt bloc opens no country."""
    assert not BLOCS.contains(["EUU"], "DE")
    assert not BLOCS.known("EUU")


@pytest.mark.parametrize(
    ("country", "held", "day", "basis"),
    [
        ("DE", (), DAY, "eea"),
        ("CH", (), DAY, "adequacy"),
        ("GB", (), date(2027, 1, 1), "adequacy"),
        ("GB", (), date(2027, 1, 2), "none"),
        ("GB", ("scc",), date(2027, 1, 2), "safeguards"),
        ("US", (), DAY, "none"),
        ("US", ("dpf",), DAY, "adequacy"),
        ("US", ("scc",), DAY, "safeguards"),
        ("IN", ("dpf",), DAY, "none"),
    ],
)
def test_the_ground_for_a_destination(country: str, held: tuple[str, ...], day: date, basis: str) -> None:
    """A dated decision holds through its last day; a need must be met; clauses work anywhere."""
    assert BLOCS.gdpr_basis(country, held, day) == basis


@pytest.mark.parametrize(
    ("blocs", "told"),
    [
        ({"EU": frozenset({"XX"})}, "neither a country nor a bloc"),
        ({"A": frozenset({"B"}), "B": frozenset({"A"})}, "contains itself"),
        ({"DE": frozenset({"FR"})}, "name of a country"),
    ],
)
def test_blocs_that_make_no_sense_are_refused(blocs: dict[str, frozenset[str]], told: str) -> None:
    """A member nobody knows, a bloc inside itself, a bloc named like a country."""
    with pytest.raises(ValidationError, match=told):
        Blocs(blocs=blocs)


def test_adequacy_of_no_country_is_refused() -> None:
    """Adequacy is found of countries, not of blocs."""
    with pytest.raises(ValidationError, match="no country"):
        Blocs(adequacy={"EU": Adequacy()})
