"""Which retrain follows from a drift verdict."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from flows.core.drift import DriftNumbers, DriftVerdict, judge_drift
from flows.core.retraining import COOL_DOWN, plan_retrain
from flows.core.workload import DriftThresholds

JULY = datetime(2013, 7, 1, tzinfo=UTC)


def a_verdict(auc: float) -> DriftVerdict:
    """A verdict by labels."""
    return judge_drift(DriftNumbers(rows=900, labelled_rows=900, auc_reference=0.7, auc_current=auc), DriftThresholds())


BAD, GOOD = a_verdict(0.5), a_verdict(0.7)


def test_a_verdict_that_holds_asks_for_nothing() -> None:
    """No reason, no intent."""
    assert plan_retrain("flight_delay", GOOD, as_of=JULY).intent is None


def test_a_bad_verdict_opens_one_intent_with_its_reason() -> None:
    """The intent says of which workload, for which day and why."""
    plan = plan_retrain("flight_delay", BAD, as_of=JULY, verdict_id="v1")
    assert plan.intent is not None
    assert plan.intent.id == "flight_delay/lifecycle/2013-07-01/drift"
    assert plan.intent.payload == {"as_of": "2013-07-01T00:00:00Z", "reason": plan.reason, "verdict_id": "v1"}
    assert "0.200" in plan.reason


def test_the_same_day_gives_the_same_intent() -> None:
    """A check that runs twice, or at another hour of the day, opens nothing new."""
    first = plan_retrain("flight_delay", BAD, as_of=JULY).intent
    again = plan_retrain("flight_delay", BAD, as_of=JULY + timedelta(hours=5), last_retrain=JULY).intent
    assert first is not None and again is not None and first.id == again.id


def test_a_retrain_cools_down_on_the_data_clock() -> None:
    """Within the cool-down nothing is opened; at its end it is."""
    soon = plan_retrain("flight_delay", BAD, as_of=JULY + COOL_DOWN - timedelta(days=1), last_retrain=JULY)
    later = plan_retrain("flight_delay", BAD, as_of=JULY + COOL_DOWN, last_retrain=JULY)
    assert soon.intent is None and "cooling down" in soon.reason
    assert later.intent is not None


def test_a_check_of_an_earlier_day_opens_nothing() -> None:
    """A late check of a day before the last retrain is old news."""
    assert plan_retrain("flight_delay", BAD, as_of=JULY - timedelta(days=3), last_retrain=JULY).intent is None


def test_an_instant_without_a_zone_is_refused() -> None:
    """A local time would give another day elsewhere."""
    with pytest.raises(ValueError, match="time zone"):
        plan_retrain("flight_delay", BAD, as_of=JULY.replace(tzinfo=None))
