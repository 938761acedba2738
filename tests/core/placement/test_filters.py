"""Where a request may run: each filter, and that every reason shows."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from flows.core.errors import UserError
from flows.core.placement.asking import verdicts
from flows.core.placement.policy import Answer
from flows.core.placement.scene import resolve
from tests.core.placement.world import (
    AT,
    BLOCS,
    TinyPolicy,
    catalog,
    conditions,
    decide,
    estate,
    offer,
    pool,
    relaxation_of,
    request,
    rules,
    site,
)


def test_the_cheapest_permitted_pool_wins_and_not_the_cheapest():
    """The US pool costs least, but the data may not leave the EU."""
    decision = decide()
    assert decision.chosen is not None and decision.chosen.pool == "muc-k8s"
    assert [other.pool for other in decision.alternatives] == ["fra-k8s"]
    assert rules(decision, "iad-k8s") == {"residency"}
    assert decision.summary == "2/3 pools may run `train` of `nafld`: 1 residency"


def test_every_reason_of_a_rejected_pool_shows():
    """A pool that fails policy, fit, time and budget says so four times, in the order of the filters."""
    asked = request(
        resources={"cpus": 16}, window={"deadline": "2026-01-05T08:00:00Z"}, budget_usd=1, restrict={"pools": ["fra-k8s"]}
    )  # fmt: skip
    decision = decide(asked)
    (row,) = [row for row in decision.rejected if row.pool == "iad-k8s"]
    assert [reason.rule for reason in row.reasons] == ["residency", "restrict-pools", "cpus", "deadline", "budget"]
    assert row.relaxation is None


def test_no_dataset_is_public_data():
    """A request without datasets asks policy for public data, and may run anywhere."""
    policy = TinyPolicy()
    decision = decide(request(datasets=[]), policy=policy)
    assert decision.chosen is not None and decision.chosen.pool == "iad-k8s"
    assert {(question.action, question.label.level) for question in policy.batches[0]} == {("process", 0)}


def test_policy_is_asked_in_one_batch_and_never_per_offer_or_slot():
    """Three pools with many offers and slots make a handful of distinct questions, asked at once."""
    policy = TinyPolicy()
    offers = [offer(at, f"size-{n}", n + 1) for at in ("fra", "muc", "iad") for n in range(5)]
    decide(where=estate(offers=offers), policy=policy)
    assert len(policy.batches) == 1
    asked = sorted((question.pool.name, question.action) for question in policy.batches[0])
    away = [(name, action) for name in ("iad-k8s", "muc-k8s") for action in ("process", "store", "transfer")]
    assert asked == sorted([("fra-k8s", "process"), *away])


def test_a_replica_does_not_spare_the_questions():
    """That a copy rests in Munich already is no permission to keep it there."""
    policy = TinyPolicy()
    decide(moment=conditions(replicas={"ehr": ["muc"]}), policy=policy)
    assert {question.action for question in policy.batches[0] if question.pool.name == "muc-k8s"} == {"process", "store", "transfer"}


def test_outputs_are_asked_for_at_their_home_with_the_join_of_the_inputs_labels():
    """A model that comes to rest elsewhere must be allowed to go there and to stay there."""
    policy = TinyPolicy()
    asked = request(outputs=[{"name": "model", "size_gb": 1, "home": "muc"}], restrict={"pools": ["fra-k8s"]})
    decide(asked, policy=policy)
    at_home = [question for question in policy.batches[0] if question.pool.name == "muc"]
    assert sorted(question.action for question in at_home) == ["store", "transfer"]
    assert {question.label.classification for question in at_home} == {"confidential"}


def test_an_output_whose_home_policy_forbids_keeps_every_pool_out():
    """Training in Munich is fine, leaving the model in the US is not."""
    decision = decide(request(outputs=[{"name": "model", "size_gb": 1, "home": "iad"}]))
    assert decision.chosen is None
    assert rules(decision, "muc-k8s") == {"residency"}


def test_serving_is_asked_for_each_country_of_users():
    """`serve` goes to policy once per country that answers go to."""
    policy = TinyPolicy()
    where = estate(latency=[{"country": code, "site": "fra", "p50_ms": 5} for code in ("FR", "DE")])
    decide(request(step="serve", latency={"from": ["FR", "DE"], "max_ms": 60}), where, policy=policy)
    assert {question.to for question in policy.batches[0] if question.action == "serve"} == {"FR", "DE"}


def test_datasets_that_the_catalog_declares_are_always_added():
    """Leaving a dataset out of the request does not hide it from policy."""
    decision = decide(request(datasets=[]), labels=catalog(workloads={"nafld": {"train": ["ehr"]}}))
    assert decision.datasets == ("ehr",)
    assert rules(decision, "iad-k8s") == {"residency"}


@pytest.mark.parametrize("answers", [[], [Answer(allowed=True)]], ids=["none", "too few"])
def test_a_policy_that_does_not_answer_every_question_lets_nothing_through(answers):
    """Missing answers are refusals."""

    class Silent(TinyPolicy):
        def ask(self, questions):
            return answers

    decision = decide(policy=Silent())
    assert decision.chosen is None
    assert rules(decision, "fra-k8s") == {"policy-error"}


def test_an_allow_that_comes_with_a_reason_is_a_refusal():
    """Only a clean Allow passes."""

    class Doubtful(TinyPolicy):
        def ask(self, questions):
            return [Answer(allowed=True, reasons=self._answer(question).reasons) for question in questions]

    assert rules(decide(policy=Doubtful()), "iad-k8s") == {"residency"}


def test_without_a_role_everything_is_denied():
    """Nobody is allowed anything by default."""
    decision = decide(request(requested_by={"user": "eve"}))
    assert decision.chosen is None
    assert rules(decision, "fra-k8s") == {"default-deny"}


def test_a_certificate_must_hold_through_the_end_at_p90():
    """A BAA whose last day is today does not cover a run that ends tomorrow; the pool can still run what ends today."""
    labels = catalog(
        {"name": "ehr", "home": "fra", "size_gb": 1, "label": {"classification": "internal", "regimes": ["hipaa"], "residency": ["EU"]}}
    )
    where = estate(sites=[site("fra", certifications={"hipaa": "2026-01-05"})], pools=[pool("fra-k8s", "fra")], offers=[offer("fra")])
    late = datetime(2026, 1, 5, 22, tzinfo=UTC)
    assert decide(where=where, labels=labels).chosen is not None
    decision = decide(where=where, labels=labels, at=late)
    assert decision.chosen is None and rules(decision, "fra-k8s") == {"hipaa-baa"}
    assert relaxation_of(decision, "fra-k8s") == "policies.hipaa-baa: forbid -> exception for `fra-k8s` by compliance until 2026-01-06"


def test_a_pool_cannot_hold_a_certificate_that_its_site_has_not():
    """The pool's list narrows the site's."""
    labels = catalog(
        {"name": "ehr", "home": "fra", "size_gb": 1, "label": {"classification": "internal", "regimes": ["hipaa"], "residency": ["EU"]}}
    )
    where = estate(pools=[pool("fra-k8s", "fra", certifications=["hipaa"])])
    assert rules(decide(where=where, labels=labels), "fra-k8s") == {"hipaa-baa"}


def test_a_dataset_without_entry_may_run_nowhere():
    """Nothing is known of it, not even its home."""
    decision = decide(request(datasets=[{"name": "mystery", "size_gb": 1}]))
    assert decision.chosen is None
    assert "unknown-dataset" in rules(decision, "fra-k8s")


def test_a_dataset_without_label_counts_as_restricted_and_stays_at_home():
    """It may be worked on where it is, if that place is cleared for restricted data."""
    labels = catalog({"name": "ehr", "home": "fra", "size_gb": 1})
    decision = decide(labels=labels)
    assert decision.chosen is not None and decision.chosen.pool == "fra-k8s"
    assert rules(decision, "muc-k8s") == {"unknown-dataset"}
    assert decision.output_label is not None and decision.output_label.classification == "restricted"
    assert decide(request(outputs=[{"name": "model", "size_gb": 1, "home": "muc"}]), labels=labels).chosen is None


def test_a_label_is_joined_with_that_of_its_ancestors():
    """Features made of restricted data are restricted, whatever they say of themselves."""
    restricted = {"classification": "restricted", "residency": ["DE"]}
    labels = catalog(
        {"name": "raw", "home": "fra", "size_gb": 1, "label": restricted},
        {
            "name": "ehr",
            "home": "fra",
            "size_gb": 1,
            "derived_from": ["raw"],
            "label": {"classification": "public", "residency": "anywhere"},
        },
    )
    assert rules(decide(labels=labels), "iad-k8s") == {"residency"}


def test_a_declassification_ends_with_its_last_day():
    """While it holds the model may go to the US; a run that ends after it may not."""
    labels = catalog(
        {"name": "raw", "home": "fra", "size_gb": 1, "label": {"classification": "restricted", "residency": ["DE"]}},
        {
            "name": "ehr",
            "home": "fra",
            "size_gb": 1,
            "derived_from": ["raw"],
            "declassified": {
                "to": {"classification": "internal", "residency": "anywhere"},
                "reason": "k-anonymous",
                "approver": "dpo",
                "until": "2026-01-05",
            },
        },
    )
    assert decide(labels=labels).chosen.pool == "iad-k8s"  # type: ignore[union-attr]
    assert rules(decide(labels=labels, at=datetime(2026, 1, 5, 22, tzinfo=UTC)), "iad-k8s") == {"residency"}


def test_what_counts_once_a_declassification_is_over_must_be_fresh_too():
    """Beyond its last day the ancestor's label is back, and with it what another catalog said of that, too long ago."""
    said = {"classification": "internal", "residency": "anywhere"}
    imported = [{"source": "atlas", "label": said, "as_of": "2026-01-01T00:00:00Z", "max_age_hours": 24}]
    granted = {"to": said, "reason": "k-anonymous", "approver": "dpo", "until": "2026-01-05"}
    labels = catalog(
        {"name": "raw", "home": "fra", "size_gb": 1, "label": said, "imported": imported},
        {"name": "ehr", "home": "fra", "size_gb": 1, "derived_from": ["raw"], "declassified": granted},
    )
    assert decide(labels=labels).chosen is not None
    assert rules(decide(labels=labels, at=datetime(2026, 1, 5, 22, tzinfo=UTC)), "fra-k8s") == {"stale-catalog"}


def test_policy_is_told_the_last_day_that_must_be_covered():
    """A slot whose run ends after the last day of any dated fact is asked about apart; the questions of one era differ in nothing else."""
    policy = TinyPolicy()
    decide(where=estate(blocs={**BLOCS, "adequacy": {"GB": {"until": "2026-01-05"}}}), policy=policy)
    (asked,) = policy.batches
    assert {question.through for question in asked} == {date(2026, 1, 5), date(2026, 1, 6)}
    assert len(asked) == 2 * len({(question.action, question.pool.name) for question in asked})


@pytest.mark.parametrize(("last", "eras"), [("2026-01-04", 1), ("2026-01-05", 2), ("2026-01-06", 1), ("2031-12-27", 1)])
def test_what_ends_outside_the_window_is_not_asked_about(last, eras):
    """No run on offer ends after the sixth: a day before the fifth or after it splits nothing."""
    policy, usual = TinyPolicy(last_days=frozenset({date.fromisoformat(last)})), TinyPolicy()
    assert decide(policy=policy).to_json() == decide(policy=usual).to_json()
    assert len(policy.batches[0]) == eras * len(usual.batches[0])


def test_where_eras_ignore_the_days_of_policy_nothing_dated_counts():
    """A scene that was resolved without them cannot say through which day a fact of policy holds."""
    policy = TinyPolicy(last_days=frozenset({date(2026, 1, 5)}))
    verdicts(resolve(request(), estate(), catalog(), conditions(), AT), policy, [(estate().pools[0], 0)])
    assert {question.through for question in policy.batches[0]} == {date.max}


def test_datasets_that_may_be_together_nowhere_are_named():
    """Swiss-only and EU-only data share no country."""
    labels = catalog(
        {"name": "ehr", "home": "fra", "size_gb": 1, "label": {"classification": "internal", "residency": ["EU"]}},
        {"name": "swiss", "home": "fra", "size_gb": 1, "label": {"classification": "internal", "residency": ["CH"]}},
    )
    decision = decide(request(datasets=[{"name": "ehr"}, {"name": "swiss"}]), labels=labels)
    assert decision.chosen is None and decision.output_label is None
    (row,) = [row for row in decision.rejected if row.pool == "fra-k8s"]
    assert ("residency-clash", "`ehr`, `swiss`") in {(reason.rule, reason.observed) for reason in row.reasons}


@pytest.mark.parametrize("country", [None, "ZZ"])
def test_a_site_in_no_known_country_is_rejected(country):
    """Policy cannot be asked about a place that nobody can find on a map."""
    where = estate(sites=[site("fra"), site("muc", country), site("iad", "US")])
    assert rules(decide(where=where), "muc-k8s") == {"unknown-country"}


def test_a_stale_catalog_places_nothing():
    """Labels that are older than the catalog allows may have changed."""
    decision = decide(at=datetime(2026, 1, 6, 7, tzinfo=UTC))
    assert decision.chosen is None
    assert relaxation_of(decision, "fra-k8s") == "catalog.max_age_hours: 24 -> 25"


def test_egress_without_a_price_is_rejected_but_staying_at_home_is_not():
    """No row from the data's home to the site: not free, but unknown."""
    decision = decide(where=estate(egress=[]))
    assert decision.chosen is not None and decision.chosen.pool == "fra-k8s"
    assert rules(decision, "muc-k8s") == {"egress-unknown"}


@pytest.mark.parametrize(
    ("narrowed", "left"),
    [
        ({"sites": ["fra"]}, {"fra-k8s"}),
        ({"pools": ["fra-k8s", "iad-k8s"]}, {"fra-k8s"}),
        ({"clouds": ["other"]}, set()),
        ({"offers": ["sm*"]}, {"fra-k8s", "muc-k8s"}),
        ({"offers": ["large"]}, set()),
        ({"spot": True}, set()),
        ({"spot": False}, {"fra-k8s", "muc-k8s"}),
    ],
    ids=lambda value: str(sorted(value) if isinstance(value, set) else value),
)
def test_users_narrow_and_never_widen(narrowed, left):
    """Each restriction keeps a part of what policy permits."""
    decision = decide(request(restrict=narrowed))
    found = {candidate.pool for candidate in (decision.chosen, *decision.alternatives) if candidate is not None}
    assert found == left


@pytest.mark.parametrize(
    ("needed", "rule", "change"),
    [
        ({"cpus": 9}, "cpus", "resources.cpus: 9 -> 8"),
        ({"memory_gib": 33}, "memory_gib", "resources.memory_gib: 33 -> 32"),
        ({"arch": "arm64"}, "arch", "resources.arch: arm64 -> x86_64"),
        ({"accelerators": {"A100": 2, "H100": 1}}, "accelerators", "resources.accelerators: {A100: 2, H100: 1} -> {A100: 1}"),
        ({"accelerators": {"A100-80GB": 1}}, "accelerators", "resources.accelerators: {A100-80GB: 1} -> {A100: 1}"),
    ],
    ids=str,
)
def test_an_offer_that_is_too_small_does_not_fit(needed, rule, change):
    """Each node needs at least what is asked, and exactly the accelerator that is named."""
    where = estate(offers=[offer("fra", AcceleratorName="A100", AcceleratorCount=1)])
    decision = decide(request(resources=needed), where)
    assert rules(decision, "fra-k8s") == {rule}
    assert relaxation_of(decision, "fra-k8s") == change


@pytest.mark.parametrize("accelerators", [{"A100": 1}, {"T4": 4, "A100": 1}])
def test_any_one_of_the_named_accelerators_will_do(accelerators):
    """A map of accelerators is a choice, not a list of all."""
    where = estate(offers=[offer("fra", AcceleratorName="A100", AcceleratorCount=1)])
    assert decide(request(resources={"accelerators": accelerators}), where).chosen is not None


def test_a_full_pool_is_a_later_slot():
    """The GPU is taken until ten: the run starts at ten, not at seven."""
    taken = {"pool": "fra-k8s", "use": {"nodes": 1}, "from": "2026-01-05T06:00:00Z", "until": "2026-01-05T10:00:00Z"}
    where = estate(pools=[pool("fra-k8s", "fra", capacity={"nodes": 1})])
    decision = decide(where=where, moment=conditions(reservations=[taken]))
    assert decision.chosen is not None and decision.chosen.start == datetime(2026, 1, 5, 10, tzinfo=UTC)


def test_capacity_must_hold_until_the_end_at_p90():
    """A reservation that begins in the third hour of a run of three hours at p90 is in the way, one that begins right after is not."""
    where = estate(pools=[pool("fra-k8s", "fra", capacity={"nodes": 1})])
    asked = request(window={"deadline": "2026-01-05T10:00:00Z"})
    rows = {
        hour: {"pool": "fra-k8s", "use": {"nodes": 1}, "from": f"2026-01-05T{hour}:00:00Z", "until": "2026-01-05T23:00:00Z"}
        for hour in ("09", "10")
    }
    assert decide(asked, where, moment=conditions(reservations=[rows["10"]])).chosen is not None
    decision = decide(asked, where, moment=conditions(reservations=[rows["09"]]))
    assert rules(decision, "fra-k8s") == {"capacity"}
    assert relaxation_of(decision, "fra-k8s") == "estate.pools.fra-k8s.capacity.nodes: 1 -> 2"


def test_more_than_a_pool_can_ever_hold_has_no_slot():
    """Three nodes of eight vCPUs never fit into sixteen."""
    where = estate(pools=[pool("fra-k8s", "fra", capacity={"cpus": 16})])
    assert rules(decide(request(resources={"nodes": 3}), where), "fra-k8s") == {"capacity"}
    assert decide(request(resources={"nodes": 2}), where).chosen is not None


def test_latency_must_hold_for_every_country():
    """The slowest country decides, with the service's own time added."""
    cells = [{"country": "FR", "site": "fra", "p50_ms": 10, "p99_ms": 30}, {"country": "DE", "site": "fra", "p50_ms": 2, "p99_ms": 70}]
    where = estate(pools=[pool("fra-k8s", "fra")], latency=cells)
    near = {"from": ["FR", "DE"], "max_ms": 60, "service_ms": 15}
    assert decide(request(step="serve", latency=near), where).chosen is not None
    decision = decide(request(step="serve", latency={**near, "percentile": 99}), where)
    assert rules(decision, "fra-k8s") == {"latency"}
    assert relaxation_of(decision, "fra-k8s") == "latency.max_ms: 60 -> 85"


def test_a_latency_that_nobody_measured_rejects():
    """A missing cell is not a small one, and no limit would let it in."""
    where = estate(pools=[pool("fra-k8s", "fra")], latency=[{"country": "FR", "site": "fra", "p50_ms": 10}])
    decision = decide(request(step="serve", latency={"from": ["FR"], "max_ms": 60, "percentile": 99}), where)
    assert rules(decision, "fra-k8s") == {"latency-unknown"}
    assert relaxation_of(decision, "fra-k8s") is None


def test_the_deadline_holds_at_p90():
    """Two hours fit before ten, three hours at p90 do only just."""
    assert decide(request(window={"deadline": "2026-01-05T10:00:00Z"})).chosen is not None
    decision = decide(request(window={"deadline": "2026-01-05T09:59:59Z"}))
    assert rules(decision, "fra-k8s") == {"deadline"}
    assert relaxation_of(decision, "fra-k8s") == "window.deadline: 2026-01-05T09:59:59Z -> 2026-01-05T10:00:00Z"


def test_the_lower_of_both_budgets_holds_at_p90():
    """Three hours at two dollars are six: a budget of six is enough, the workload's last five dollars are not."""
    where = estate(pools=[pool("muc-k8s", "muc")])
    assert decide(request(budget_usd=6), where).chosen is not None
    decision = decide(request(budget_usd=6), where, moment=conditions(budget_left_usd={"nafld": 5}))
    assert rules(decision, "muc-k8s") == {"budget"}
    assert relaxation_of(decision, "muc-k8s") == "conditions.budget_left_usd.nafld: 5 -> 6"


def test_an_unknown_runtime_of_one_offer_rejects_that_offer():
    """A runtime measured on one machine says nothing of another."""
    where = estate(pools=[pool("fra-k8s", "fra")], offers=[offer("fra", "small"), offer("fra", "large")])
    moment = conditions(runtimes=[{"workload": "nafld", "step": "train", "offer": "small", "p50_hours": 1, "p90_hours": 2}])
    decision = decide(request(runtime=None), where, moment=moment)
    assert decision.chosen is not None and decision.chosen.offer == "small"
    assert rules(decision, "fra-k8s") == {"runtime-unknown"}


def test_a_runtime_that_nobody_knows_is_bad_input():
    """Neither the request nor the conditions have one."""
    with pytest.raises(UserError, match="no runtime is known for `train` of `nafld`"):
        decide(request(runtime=None))


def test_an_output_with_a_home_that_does_not_exist_is_bad_input():
    """A misspelt site is told at once."""
    with pytest.raises(UserError, match="`frra`, which is no site"):
        decide(request(outputs=[{"name": "model", "size_gb": 1, "home": "frra"}]))


def test_names_that_the_estate_does_not_have_are_warned_about():
    """A misspelt restriction does not go unnoticed."""
    decision = decide(request(restrict={"pools": ["fra-k8s", "fra-k9s"]}), moment=conditions(queue_hours={"nowhere": 1}))
    assert "restrict.pools: `fra-k9s` is not in this estate" in decision.warnings
    assert "conditions.queue_hours: pool `nowhere` is not in this estate" in decision.warnings


def test_an_instant_without_offset_is_bad_input():
    """Which seven o'clock?"""
    with pytest.raises(UserError, match="no offset"):
        decide(at=AT.replace(tzinfo=None))


def test_a_pool_without_offers_takes_no_placed_step():
    """The control plane is not a candidate, and not counted as one."""
    where = estate(pools=[pool("fra-k8s", "fra"), pool("control", "muc", offers=[])])
    decision = decide(where=where)
    assert decision.summary == "1/1 pools may run `train` of `nafld`" and not decision.rejected


def test_a_pattern_that_matches_no_offer_is_told():
    """The pool shows up among the rejected."""
    decision = decide(where=estate(pools=[pool("fra-k8s", "fra", offers=["a2-*"])]))
    assert rules(decision, "fra-k8s") == {"no-offer"}


def test_offers_that_fail_the_same_rules_share_a_row():
    """Two of three offers are too small; the row counts them and tells the nearer one."""
    offers = [offer("fra", "a", 5, vCPUs=2), offer("fra", "b", 1, vCPUs=4), offer("fra", "c", 9)]
    decision = decide(request(resources={"cpus": 8}), estate(pools=[pool("fra-k8s", "fra")], offers=offers))
    (row,) = decision.rejected
    assert (row.offer, row.offers, row.reasons[0].observed) == (None, 2, "4")


def test_an_offer_without_an_on_demand_price_is_told():
    """Spot alone is no offer: there would be nothing to fall back on."""
    where = estate(pools=[pool("fra-k8s", "fra", spot=True, spot_interruptions_per_hour=0)], offers=[offer("fra", price=None, SpotPrice=1)])
    decision = decide(request(interruptible=True), where)
    assert rules(decision, "fra-k8s") == {"no-price"}
    assert decision.summary == "0/1 pools may run `train` of `nafld`: 1 no-price"


def test_a_reservation_of_something_that_no_offer_has_is_told():
    """A misspelt resource would reserve nothing; the reader should know."""
    taken = {"pool": "fra-k8s", "use": {"A1O0": 1, "nodes": 1}, "from": "2026-01-05T07:00:00Z", "until": "2026-01-05T09:00:00Z"}
    decision = decide(moment=conditions(reservations=[taken]))
    assert "conditions.reservations: `A1O0` is not in this estate" in decision.warnings
