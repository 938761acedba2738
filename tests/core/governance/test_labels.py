"""Labels combine to the strictest; the catalog follows derivations and dated declassifications."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from flows.core.governance.blocs import Blocs
from flows.core.governance.labels import (
    EVERYWHERE,
    PUBLIC,
    Catalog,
    Classification,
    Declassification,
    Entry,
    Label,
    ResidencyClash,
    join,
)

BLOCS = Blocs(blocs={"EEA": frozenset({"EU", "NO"}), "EU": frozenset({"DE", "FR", "NL"}), "DACH": frozenset({"DE", "AT", "CH"})})
AT = datetime(2026, 1, 5, 8, tzinfo=UTC)


def label(classification: str = "internal", regimes: tuple[str, ...] = (), residency: tuple[str, ...] = ("anywhere",)) -> Label:
    return Label(classification=Classification(classification), regimes=frozenset(regimes), residency=frozenset(residency))


def entry(name: str, own: Label | None = None, *parents: str, declassified: Declassification | None = None) -> Entry:
    return Entry(name=name, home="a", size_gb=Decimal(1), label=own, derived_from=frozenset(parents), declassified=declassified)


def catalog(*entries: Entry) -> Catalog:
    return Catalog(as_of=AT, entries=entries)


labels = st.builds(
    label,
    st.sampled_from(["public", "internal", "confidential", "restricted"]),
    st.lists(st.sampled_from(["gdpr", "hipaa", "pci"]), max_size=3).map(tuple),
    st.one_of(
        st.just(("anywhere",)), st.lists(st.sampled_from(["EEA", "EU", "DACH", "DE", "FR", "NL", "US"]), min_size=1, max_size=4).map(tuple)
    ),
)


def test_a_join_is_the_strictest_of_all() -> None:
    """Highest classification, all regimes, only the countries open to every one."""
    joined = join({"a": label("restricted", ("gdpr",), ("EEA",)), "b": label("public", ("pci",), ("EU", "US"))}, BLOCS)
    assert joined == label("restricted", ("gdpr", "pci"), ("EU",))


def test_a_join_without_labels_is_public_anywhere() -> None:
    """A request that touches no dataset is bound by nothing."""
    assert join({}, BLOCS) == PUBLIC


def test_countries_left_of_two_overlapping_blocs_are_named_one_by_one() -> None:
    """No bloc has exactly these countries, so they are written out."""
    assert join({"a": label(residency=("EU",)), "b": label(residency=("DACH",))}, BLOCS).residency == {"DE"}


def test_a_clash_names_only_the_datasets_that_clash() -> None:
    """The third dataset, which may be anywhere, is not blamed."""
    with pytest.raises(ResidencyClash, match=r"`eu`.*`us`") as caught:
        join({"us": label(residency=("US",)), "eu": label(residency=("EU",)), "free": label()}, BLOCS)
    assert caught.value.datasets == ("eu", "us")


def test_a_clash_of_three_that_agree_in_pairs_names_all_three() -> None:
    """Every two of them share a country, all three share none."""
    three = {"a": label(residency=("DE", "FR")), "b": label(residency=("FR", "NL")), "c": label(residency=("NL", "DE"))}
    with pytest.raises(ResidencyClash) as caught:
        join(three, BLOCS)
    assert caught.value.datasets == ("a", "b", "c")


@given(st.lists(labels, min_size=1, max_size=5))
def test_a_join_never_opens_a_country_and_never_lowers_a_level(parts: list[Label]) -> None:
    """Whatever is joined, each part's rule still holds for the whole."""
    named = {str(number): part for number, part in enumerate(parts)}
    try:
        joined = join(named, BLOCS)
    except ResidencyClash:
        return
    for part in parts:
        assert joined.level >= part.level
        assert joined.regimes >= part.regimes
        for country in ("DE", "FR", "NL", "NO", "AT", "CH", "US", "BR"):
            assert BLOCS.contains(part.residency, country) or not BLOCS.contains(joined.residency, country)


@given(st.lists(labels, min_size=1, max_size=5), st.randoms())
def test_a_join_does_not_depend_on_the_order(parts: list[Label], random) -> None:  # type: ignore[no-untyped-def]
    """Shuffled datasets give the same label, word by word."""
    named = [(str(number), part) for number, part in enumerate(parts)]
    shuffled = list(named)
    random.shuffle(shuffled)

    def attempt(pairs: list[tuple[str, Label]]) -> object:
        try:
            return join(dict(pairs), BLOCS).to_json()
        except ResidencyClash as clash:
            return clash.datasets

    assert attempt(named) == attempt(shuffled)


@pytest.mark.parametrize("residency", ["anywhere", ["anywhere"]])
def test_anywhere_may_be_written_with_or_without_brackets(residency: object) -> None:
    """Both mean every country, and print as the plain word."""
    written = Label.model_validate({"classification": "public", "residency": residency})
    assert written.residency == EVERYWHERE
    assert written.to_json()["residency"] == "anywhere"


@pytest.mark.parametrize(
    ("residency", "told"),
    [
        ([], "residency is empty"),
        (["anywhere", "DE"], "beside other codes"),
        (["de"], "pattern"),
        ([["DE"]], "string"),
        (3, "array|iterable|set"),
    ],
)
def test_a_residency_that_makes_no_sense_is_refused(residency: object, told: str) -> None:
    """An empty list would leave no place at all."""
    with pytest.raises(ValidationError, match=told):
        Label.model_validate({"classification": "public", "residency": residency})


def test_a_label_must_say_its_residency() -> None:
    """Left out is not the same as anywhere."""
    with pytest.raises(ValidationError, match="residency"):
        Label.model_validate({"classification": "public"})


def test_a_dataset_inherits_from_all_its_ancestors() -> None:
    """Grandparents count, and an own label can only add."""
    listed = catalog(
        entry("raw", label("restricted", ("hipaa",), ("EU",))),
        entry("mid", None, "raw"),
        entry("end", label("public", ("gdpr",), ("EEA",)), "mid"),
    )
    assert listed.label_of("end", AT, BLOCS) == label("restricted", ("gdpr", "hipaa"), ("EU",))


def test_a_declassification_holds_through_its_last_day() -> None:
    """On the day after, the ancestors' label is back, for the dataset and for all made from it."""
    lowered = Declassification(to=label("internal", ("gdpr",), ("EEA",)), reason="only sums", approver="dpo", until=date(2026, 1, 31))
    listed = catalog(
        entry("raw", label("restricted", ("hipaa",), ("EU",))),
        entry("sums", None, "raw", declassified=lowered),
        entry("chart", None, "sums"),
    )
    last = datetime(2026, 1, 31, 23, 59, tzinfo=UTC)
    assert listed.label_of("chart", last, BLOCS) == label("internal", ("gdpr",), ("EEA",))
    assert listed.label_of("chart", last + timedelta(minutes=1), BLOCS) == label("restricted", ("hipaa",), ("EU",))


def test_the_last_day_is_a_utc_day() -> None:
    """Midnight in Honolulu is already the next day."""
    lowered = Declassification(to=label("public"), reason="old", approver="dpo", until=date(2026, 1, 31))
    listed = catalog(entry("raw", label("restricted"), declassified=lowered))
    honolulu = datetime.fromisoformat("2026-01-31T23:00:00-10:00")
    assert listed.label_of("raw", honolulu, BLOCS) == label("restricted")


def test_nothing_is_assumed_of_what_has_no_label() -> None:
    """No entry, no label, or an ancestor without one: unknown."""
    listed = catalog(entry("bare"), entry("child", label("public"), "bare"))
    assert listed.label_of("missing", AT, BLOCS) is None
    assert listed.label_of("bare", AT, BLOCS) is None
    assert listed.label_of("child", AT, BLOCS) is None


@pytest.mark.parametrize(
    ("entries", "told"),
    [
        ((entry("a", label()), entry("a", label())), "declared twice"),
        ((entry("a", label(), "ghost"),), "`ghost`"),
        ((entry("a", label(), "b"), entry("b", label(), "a")), "derived from itself"),
    ],
)
def test_a_catalog_that_makes_no_sense_is_refused(entries: tuple[Entry, ...], told: str) -> None:
    """Doubled names, unknown parents, circles."""
    with pytest.raises(ValidationError, match=told):
        catalog(*entries)


def test_a_catalog_is_stale_too_far_from_its_day() -> None:
    """Exactly at the limit it still holds."""
    listed = Catalog(as_of=AT, max_age_hours=Decimal(24))
    assert not listed.stale_at(AT + timedelta(hours=24))
    assert listed.stale_at(AT + timedelta(hours=24, seconds=1))
    assert listed.stale_at(AT - timedelta(hours=25))
