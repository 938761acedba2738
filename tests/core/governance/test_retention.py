"""What is past its retention: by days since it was first recorded, needed or not, and only after notice."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from flows.core.governance.retention import Expired, Resting, expired, removable

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def rest(days_old: float, dataset: str = "d", version: str = "v", site: str = "here") -> Resting:
    return Resting(dataset, version, site, 10, NOW - days_old * DAY)


def test_a_version_expires_at_the_end_of_its_last_day() -> None:
    """Counted to the instant: 30 days are 30 times 24 hours from when it was recorded."""
    assert expired([rest(29.999)], {"d": 30}, {}, at=NOW) == ()
    assert [one.since for one in expired([rest(30)], {"d": 30}, {}, at=NOW)] == [NOW]


def test_a_dataset_without_days_stays_for_ever() -> None:
    """Nobody declared an end, or nobody knows the dataset: removal is never a guess."""
    assert expired([rest(9000), rest(9000, "unknown")], {"d": None}, {}, at=NOW) == ()


def test_a_copy_is_as_old_as_its_original() -> None:
    """Moving a version to another site does not make it younger."""
    found = expired([rest(40), rest(1, site="there")], {"d": 30}, {}, at=NOW)
    assert [one.resting.site for one in found] == ["here", "there"]


def test_what_is_needed_says_why_it_is_kept() -> None:
    """It is found all the same, so that people see what outlives its retention."""
    (one,) = expired([rest(40)], {"d": 30}, {"d@v": "it is the champion"}, at=NOW)
    assert one.kept_because == "it is the champion"
    assert one.to_json()["kept_because"] == "it is the champion"


def test_nothing_goes_before_its_notice_is_over() -> None:
    """Listed a day ago with a notice of a day: it may go; a minute less, or never listed: it may not."""
    found = expired([rest(40)], {"d": 30}, {}, at=NOW)
    key = found[0].key
    assert removable(found, {key: NOW - DAY}, at=NOW, notice=DAY) == found
    assert removable(found, {key: NOW - DAY + timedelta(minutes=1)}, at=NOW, notice=DAY) == ()
    assert removable(found, {}, at=NOW, notice=timedelta()) == ()


def test_a_listing_of_an_earlier_life_does_not_count() -> None:
    """A version that went and was made again expires later than it was listed: it is listed anew."""
    found = expired([rest(40)], {"d": 30}, {}, at=NOW)
    assert removable(found, {found[0].key: found[0].since - timedelta(seconds=1)}, at=NOW, notice=DAY) == ()


RESTING = st.lists(
    st.builds(rest, st.floats(0, 100), st.sampled_from("abc"), st.sampled_from("vw"), st.sampled_from(["here", "there"])),
    max_size=8,
)
DAYS = st.dictionaries(st.sampled_from("abc"), st.none() | st.integers(1, 60))
NEEDED = st.dictionaries(st.sampled_from([f"{dataset}@{version}" for dataset in "abc" for version in "vw"]), st.just("needed"))


@given(RESTING, DAYS, NEEDED, st.integers(0, 48))
def test_what_goes_is_old_listed_and_needed_by_nobody(
    rows: list[Resting], days: dict[str, int | None], needed: dict[str, str], hours: int
) -> None:
    """Whatever rests, is declared and is needed."""
    found = expired(rows, days, needed, at=NOW)
    listed = {one.key: NOW - timedelta(hours=hours) for one in found}
    gone: tuple[Expired, ...] = removable(found, listed, at=NOW, notice=DAY)
    for one in gone:
        limit = days[one.resting.dataset]
        assert limit is not None
        assert min(row.recorded_at for row in rows if row.name == one.resting.name) + limit * DAY <= NOW
        assert one.resting.name not in needed
        assert hours >= 24
    assert set(gone) <= set(found)


@given(RESTING, DAYS, NEEDED)
def test_more_days_never_expire_more(rows: list[Resting], days: dict[str, int | None], needed: dict[str, str]) -> None:
    """A longer retention keeps at least what the shorter one kept; the order of rows does not matter."""
    longer = {name: None if limit is None else limit + 5 for name, limit in days.items()}
    found = expired(rows, days, needed, at=NOW)
    assert {one.key for one in expired(rows, longer, needed, at=NOW)} <= {one.key for one in found}
    assert {one.key for one in expired(rows[::-1], days, needed, at=NOW)} == {one.key for one in found}
