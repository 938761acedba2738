"""A decision as people read it, and the check that a worker makes before it opens data."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from flows.core.errors import UserError
from flows.core.placement import against_pool
from flows.core.placement.explain import candidate_rows, decision_markdown, rejection_rows, terminal_rows
from tests.core.placement.world import AT, TinyPolicy, catalog, decide, estate, request


def test_the_page_shows_who_won_who_came_next_and_every_reason():
    """Nothing that the decision holds is left out of the page."""
    decision = decide(request(budget_usd=7))
    page = decision_markdown(decision)
    assert decision_markdown(decision.to_json()) == page
    assert decision.decision_id in page and decision.summary in page
    for row in decision.rejected:
        assert row.pool in page
        assert all(reason.rule in page and reason.observed in page and reason.source in page for reason in row.reasons)
    assert "| chosen | muc-k8s | small |" in page
    assert "budget_usd: 7 -> 9" in page


def test_a_decision_without_a_place_says_so():
    """Nothing feasible is an answer too."""
    page = decision_markdown(decide(request(budget_usd=0)))
    assert "No pool may run it." in page and "0/3 pools may run `train` of `nafld`" in page


def test_rows_are_in_rank_order():
    """The chosen first, then the runners-up."""
    assert [row[:2] for row in candidate_rows(decide())] == [("chosen", "muc-k8s"), ("2", "fra-k8s")]
    assert [row[2] for row in rejection_rows(decide())] == ["residency: US; needs one of EU"]


def test_a_pipe_in_a_text_does_not_break_the_table():
    """Names come from people."""
    page = decision_markdown(decide(request(image="a|b", workload="a|b")))
    assert "a\\|b" in page and "`a|b`" not in page


def test_a_worker_asks_for_its_own_pool():
    """Permitted at home, forbidden in the US, and nothing is asked of money or time."""
    asked = request(budget_usd=0, runtime=None)
    assert against_pool(asked, estate(), TinyPolicy(), catalog(), "fra-k8s", AT) == ()
    assert {reason.rule for reason in against_pool(asked, estate(), TinyPolicy(), catalog(), "iad-k8s", AT)} == {"residency"}


def test_a_worker_does_not_open_data_that_nobody_labelled_away_from_home():
    """What is not known counts against the pool, here as in placement."""
    labels = catalog({"name": "ehr", "home": "fra", "size_gb": 1})
    assert against_pool(request(), estate(), TinyPolicy(), labels, "fra-k8s", AT) == ()
    assert {reason.rule for reason in against_pool(request(), estate(), TinyPolicy(), labels, "muc-k8s", AT)} == {"unknown-dataset"}
    later = datetime(2026, 1, 7, tzinfo=UTC)
    assert {reason.rule for reason in against_pool(request(), estate(), TinyPolicy(), labels, "fra-k8s", later)} == {"stale-catalog"}


def test_a_pool_that_does_not_exist_is_told():
    """A worker of an unknown pool opens nothing."""
    with pytest.raises(UserError, match="no pool `fra`"):
        against_pool(request(), estate(), TinyPolicy(), catalog(), "fra", AT)


def test_the_rows_of_a_terminal_name_only_the_parts_that_cost_something() -> None:
    """A total, the parts of it that are not zero, and times to the minute."""
    (*_, start, _done, total, parts), *_others = terminal_rows(decide())
    named = dict(part.split(" ") for part in parts.splitlines())
    assert sum(map(float, named.values())) == pytest.approx(float(total), abs=5e-4)
    assert all(float(usd) > 0 for usd in named.values())
    assert len(start) == len("2026-01-05 08:00Z")
