"""The cohort: an invented calendar, censoring, and labels that come no sooner than a doctor could give them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest

from flows.core.workload import EVENT_TIMESTAMP, LABEL, LABEL_AT
from flows.workloads.nafld import features, source

INDEX = datetime(2000, 1, 1, tzinfo=UTC)
MUCH_LATER = datetime(2010, 1, 1, tzinfo=UTC)


def example(diabetes_day: int | None, last_seen_day: int, as_of: datetime = MUCH_LATER) -> pd.DataFrame:
    """The examples of one person, days counted from the index date; what lies after `as_of` is not known."""

    def days(*given: int | None) -> pd.Series:
        return pd.Series(pd.to_datetime([INDEX + timedelta(days=day) for day in given if day is not None], utc=True)).dt.as_unit("us")

    event = pd.DataFrame({"patient": "p", "event": "diabetes", "occurred_at": days(diabetes_day)})
    ended = pd.DataFrame({"patient": "p", "ended_at": days(last_seen_day), "died": 0.0})
    raw = {
        "patients": pd.DataFrame({"patient": ["p"], "index_date": days(0), "male": [1.0]}),
        "events": event[event["occurred_at"] <= pd.Timestamp(as_of)],
        "followup": ended[ended["ended_at"] <= pd.Timestamp(as_of)],
    }
    return features.examples(raw, as_of)


def test_the_whole_cohort_is_there() -> None:
    """17,549 people with a study number that a scanner can look for."""
    people = source.patients()
    assert len(people) == 17_549
    assert people["patient"].str.fullmatch(r"nafld-patient-\d{6}").all()


def test_the_epoch_spreads_index_dates_evenly_over_the_study_years() -> None:
    """Every year from 1997 to 2014 has about one person in eighteen."""
    shares = source.patients()["index_date"].dt.year.value_counts(normalize=True)
    assert sorted(shares.index) == list(range(1997, 2015))
    assert shares.between(0.045, 0.065).all()


def test_the_epoch_keeps_the_studys_spans() -> None:
    """A diagnosis lies as many days from the index date as the study recorded."""
    diagnosis = source._pickled("nafld3").iloc[0]
    person = f"nafld-patient-{diagnosis['id']:06d}"
    people, events = source.patients().set_index("patient"), source.events()
    found = (
        events[(events["patient"] == person) & (events["event"] == diagnosis["event"])]["occurred_at"] - people.loc[person, "index_date"]
    )
    assert timedelta(days=int(diagnosis["days"])) in found.to_list()


@pytest.mark.parametrize(("day", "label"), [(1, 1.0), (1826, 1.0), (1827, 0.0), (None, 0.0)])
def test_diabetes_within_five_years_is_positive(day: int | None, label: float) -> None:
    """The 1,826th day counts, the day after does not."""
    assert example(day, last_seen_day=3000)[LABEL].tolist() == [label]


@pytest.mark.parametrize("day", [-400, 0])
def test_people_with_diabetes_at_the_index_date_are_no_examples(day: int) -> None:
    """Whoever has it already is not at risk."""
    assert example(day, last_seen_day=3000).empty


def test_a_person_lost_before_five_years_has_no_label() -> None:
    """Followed for less than five years without diabetes: nobody knows."""
    assert example(None, last_seen_day=1825)[LABEL].isna().all()
    assert example(None, last_seen_day=1826)[LABEL].tolist() == [0.0]


def test_a_person_lost_after_a_diagnosis_keeps_the_label() -> None:
    """The event was seen, whatever came after."""
    assert example(100, last_seen_day=200)[LABEL].tolist() == [1.0]


def test_a_positive_label_waits_for_the_five_years_too() -> None:
    """Were a label known at its diagnosis, the newest labelled examples would all be positive."""
    soon = example(100, last_seen_day=3000, as_of=INDEX + timedelta(days=1825))
    assert soon[LABEL].isna().all()
    due = example(100, last_seen_day=3000, as_of=INDEX + timedelta(days=1826))
    assert due[LABEL_AT].tolist() == [pd.Timestamp(INDEX + timedelta(days=1826))]


def test_laboratory_values_are_carried_forward_and_known_a_day_later() -> None:
    """A later row holds the latest value of every test, the earlier ones only what was measured by then."""
    moments = pd.Series(pd.to_datetime(["2001-01-01", "2001-02-01"], utc=True)).dt.as_unit("us")
    labs = pd.DataFrame(
        {"patient": "p", "test": ["hdl", "sbp"], "measured_at": moments, "value": [50.0, 130.0], "known_at": moments + source.LAB_LAG}
    )
    wide = features.labs(labs)
    assert wide[EVENT_TIMESTAMP].dt.strftime("%m-%d").tolist() == ["01-02", "02-02"]
    assert wide["hdl"].tolist() == [50.0, 50.0]
    assert wide["sbp"].isna().tolist() == [True, False]


def test_a_diagnosis_stays_in_the_history() -> None:
    """Flags only ever rise; diabetes itself is not among them."""
    moments = pd.Series(pd.to_datetime(["2001-01-01", "2002-01-01", "2003-01-01"], utc=True)).dt.as_unit("us")
    history = features.history(pd.DataFrame({"patient": "p", "event": ["htn", "MI", "diabetes"], "occurred_at": moments}))
    assert history["had_htn"].tolist() == [1.0, 1.0]
    assert history["had_cardiac"].tolist() == [0.0, 1.0]
