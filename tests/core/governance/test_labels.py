"""Labels combine to the strictest; the catalog follows derivations and dated declassifications."""

from collections.abc import Iterable
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


COUNTRIES = ("DE", "FR", "NL", "NO", "AT", "CH", "US", "BR")


def joined(parts: Iterable[Label]) -> Label | None:
    """The join of unnamed labels; None where no country is left: the bottom that swallows everything."""
    try:
        return join({str(number): part for number, part in enumerate(parts)}, BLOCS)
    except ResidencyClash:
        return None


def meaning(found: Label | None) -> object:
    """What a label allows, whatever words its residency is written in."""
    if found is None:
        return "nowhere"
    return found.level, found.regimes, BLOCS.countries(found.residency)


def with_(left: Label | None, right: Label | None) -> Label | None:
    """The join of two, either of which may be the bottom."""
    return None if left is None or right is None else joined([left, right])


def as_strict(high: Label | None, low: Label | None) -> bool:
    """Whether everything that `high` allows, `low` allows too."""
    if high is None or low is None:
        return high is None
    open_to = all(BLOCS.contains(low.residency, country) for country in COUNTRIES if BLOCS.contains(high.residency, country))
    return high.level >= low.level and high.regimes >= low.regimes and open_to


@given(labels)
def test_a_join_with_itself_changes_nothing(one: Label) -> None:
    """Idempotent: a dataset read twice is bound no more than read once."""
    assert meaning(joined([one, one])) == meaning(joined([one])) == meaning(one)


@given(labels, labels)
def test_a_join_is_commutative(left: Label, right: Label) -> None:
    """Word by word."""
    assert joined([left, right]) == joined([right, left])


@given(labels, labels, labels)
def test_a_join_is_associative(one: Label, two: Label, three: Label) -> None:
    """Joined in two steps or all at once, the same is allowed, or nothing at all."""
    assert meaning(with_(joined([one, two]), three)) == meaning(with_(one, joined([two, three]))) == meaning(joined([one, two, three]))


@given(labels, labels, labels)
def test_a_join_is_monotone(low: Label, more: Label, other: Label) -> None:
    """A stricter input never gives a laxer output."""
    high = joined([low, more])
    assert as_strict(with_(high, other), joined([low, other]))


def test_public_anywhere_is_the_neutral_element() -> None:
    """Joined with anything it changes nothing."""
    strict = label("restricted", ("gdpr",), ("EU",))
    assert joined([PUBLIC, strict]) == strict


@st.composite
def catalogs(draw: st.DrawFn) -> Catalog:
    """Up to seven entries, each derived from earlier ones, some with labels of their own, some declassified for a while."""
    entries: list[Entry] = []
    for number in range(draw(st.integers(2, 7))):
        parents = draw(st.lists(st.sampled_from([each.name for each in entries]), max_size=3)) if entries else []
        own = draw(labels if not parents else st.one_of(st.none(), labels))
        until = draw(st.sampled_from([date(2025, 12, 31), date(2026, 12, 31)]))
        lowered = draw(st.one_of(st.none(), st.none(), labels.map(lambda to, until=until: lowering(to, until))))
        entries.append(entry(f"d{number}", own, *parents, declassified=lowered))
    return catalog(*entries)


def lowering(to: Label, until: date) -> Declassification:
    return Declassification(to=to, reason="only sums", approver="dpo", until=until)


def label_in(listed: Catalog, name: str) -> Label | None:
    """The label of an entry, None where its parts clash; every entry of `catalogs` has one."""
    try:
        found = listed.label_of(name, AT, BLOCS)
    except ResidencyClash:
        return None
    assert found is not None
    return found


@given(catalogs(), st.randoms())
def test_labels_do_not_depend_on_the_order_of_the_entries(listed: Catalog, random) -> None:  # type: ignore[no-untyped-def]
    """The files may list them as they like."""
    shuffled = list(listed.entries)
    random.shuffle(shuffled)
    for each in listed.entries:
        assert label_in(listed, each.name) == label_in(catalog(*shuffled), each.name)


@given(catalogs())
def test_a_derived_dataset_is_as_strict_as_each_of_its_parents(listed: Catalog) -> None:
    """Unless it was declassified itself: nothing else lowers."""
    for each in listed.entries:
        if each.declassified is None or not each.declassified.holds_at(AT):
            for parent in each.derived_from:
                assert as_strict(label_in(listed, each.name), label_in(listed, parent))


@given(catalogs(), labels, st.data())
def test_a_declassification_lowers_no_other_dataset(listed: Catalog, to: Label, data: st.DataObject) -> None:
    """Only what is made from the declassified one can change; siblings, ancestors and strangers keep their labels."""
    name = data.draw(st.sampled_from([each.name for each in listed.entries]))
    changed = catalog(
        *(
            each.model_copy(update={"declassified": lowering(to, date(2026, 12, 31))}) if each.name == name else each
            for each in listed.entries
        )
    )
    for each in listed.entries:
        if name not in lineage(listed, each.name):
            assert label_in(changed, each.name) == label_in(listed, each.name)


def lineage(listed: Catalog, name: str) -> set[str]:
    """The entry and all it was derived from."""
    found = listed.entry(name)
    assert found is not None
    return {name}.union(*(lineage(listed, parent) for parent in found.derived_from))


@given(catalogs())
def test_an_expired_declassification_is_void(listed: Catalog) -> None:
    """The day after its last, the labels are those of a catalog that never had it."""
    plain = catalog(*(each.model_copy(update={"declassified": None}) for each in listed.entries))
    after = datetime(2027, 1, 1, tzinfo=UTC)
    for each in listed.entries:
        assert listed.sources_of(each.name, after) == plain.sources_of(each.name, after)


def test_another_way_around_a_declassified_dataset_stays_strict() -> None:
    """A report of the sums and of the raw rows is bound by the raw rows."""
    raw = label("restricted", ("hipaa",), ("EU",))
    listed = catalog(
        entry("raw", raw),
        entry("sums", None, "raw", declassified=lowering(label("internal"), date(2026, 12, 31))),
        entry("report", None, "raw", "sums"),
    )
    assert listed.label_of("report", AT, BLOCS) == raw
    assert set(listed.sources_of("report", AT) or ()) == {"raw", "sums"}


def test_labels_of_a_tall_stack_of_diamonds_take_no_time() -> None:
    """Every dataset is visited once, however many ways lead to it."""
    entries = [entry("d0", label("restricted")), entry("e0", label())]
    for number in range(1, 60):
        entries += [entry(f"{side}{number}", None, f"d{number - 1}", f"e{number - 1}") for side in "de"]
    assert catalog(*entries).label_of("d59", AT, BLOCS) == label("restricted")


@pytest.mark.parametrize("mistake", [{"owner": "dpo"}, {"requested_by": "dpo"}], ids=["owner", "requester"])
def test_nobody_approves_a_declassification_alone(mistake: dict[str, str]) -> None:
    """Four eyes: the approver neither owns the dataset nor asked for it."""
    lowered = {"to": label("internal"), "reason": "sums", "approver": "dpo", "until": date(2026, 12, 31)}
    asked = {name: value for name, value in mistake.items() if name == "requested_by"}
    owner = mistake.get("owner", "clinic")
    with pytest.raises(ValidationError, match="`dpo` asks for the declassification of `a` and approves it"):
        Entry.model_validate({"name": "a", "home": "x", "size_gb": 1, "owner": owner, "label": label(), "declassified": lowered | asked})


@pytest.mark.parametrize("field", ["reason", "approver", "until"])
def test_a_declassification_says_why_who_and_until_when(field: str) -> None:
    """Without one of them nothing is lowered: the catalog is refused."""
    lowered = {"to": label("internal"), "reason": "sums", "approver": "dpo", "until": date(2026, 12, 31)}
    del lowered[field]
    with pytest.raises(ValidationError, match=field):
        Declassification.model_validate(lowered)


def test_a_column_cannot_be_above_its_dataset() -> None:
    """A dataset that holds something confidential is confidential; its label must say so."""
    told = "column `t.mail` is confidential in `a`, which is internal"
    values = {"name": "a", "home": "x", "size_gb": 1, "columns": {"t.mail": "confidential"}}
    with pytest.raises(ValidationError, match=told):
        Entry.model_validate(values | {"label": label("internal")})
    with pytest.raises(ValidationError, match="no label of its own"):
        Entry.model_validate(values)
    assert Entry.model_validate(values | {"label": label("restricted")}).columns == {"t.mail": "confidential"}


@pytest.mark.parametrize("days", [0, -1, 36_501, 1.5, "30 days", True])
def test_a_retention_is_a_whole_number_of_days(days: object) -> None:
    """From one day to a hundred years; anything doubtful is refused."""
    with pytest.raises(ValidationError, match="retention_days"):
        Entry.model_validate({"name": "a", "home": "x", "size_gb": 1, "retention_days": days})
