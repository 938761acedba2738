"""Steps placed together: against brute force over every combination of what each may be, and case by case."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from itertools import product
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from flows.core.errors import UserError
from flows.core.placement import place
from flows.core.placement.joint import Edge, JointDecision, place_jointly
from flows.core.placement.policy import Answer, Question
from tests.core.placement.oracle import Found, feasible
from tests.core.placement.strategies import World, catalogs, conditions, estates, requests, worlds
from tests.core.placement.world import AT, BLOCS, TinyPolicy, catalog, estate, offer, pool, request, site
from tests.core.placement.world import conditions as moment

EVENING = datetime(2026, 1, 5, 18, 40, tzinfo=UTC)
ORDER = ("first", "second", "third")
FEATURES = {
    "name": "features",
    "home": "fra",
    "size_gb": 10,
    "label": {"classification": "confidential", "residency": ["EU", "US"]},
}


class Guarded(TinyPolicy):
    """The tiny policy, and nothing above public may be transferred to a pool or site of one cloud."""

    def ask(self, questions: Sequence[Question]) -> list[Answer]:
        """As the tiny policy answers, unless it is such a transfer."""
        answers = super().ask(questions)
        return [
            Answer(allowed=False) if question.action == "transfer" and question.pool.cloud == "aws" and question.label.level else answer
            for question, answer in zip(questions, answers, strict=True)
        ]


def edge(source: str, target: str, dataset: str = "features", **more: Any) -> Edge:
    """An edge of two steps."""
    return Edge.model_validate({"from": source, "to": target, "dataset": dataset, **more})


def together(steps: dict[str, Any], edges: Sequence[Edge] = (), **parts: Any) -> JointDecision:
    """Place the steps jointly with the usual parts for whatever is left out."""
    return place_jointly(
        steps,
        edges,
        parts.get("where") or estate(),
        parts.get("policy") or TinyPolicy(),
        parts.get("labels") or catalog(FEATURES),
        parts.get("now") or moment(),
        AT,
    )


def sites(decision: JointDecision) -> dict[str, str]:
    """Where each step goes."""
    return {name: chosen.site for name, chosen in decision.chosen.items()}


@st.composite
def joint_worlds(draw: st.DrawFn) -> tuple[dict[str, Any], list[Edge], World]:
    """Two or three steps in a small estate with few slots and edges between any of them."""
    where = draw(estates())
    held = st.sampled_from([{"hipaa": None}, {}])
    where["sites"] = [{**one, "certifications": draw(held)} for one in where["sites"]]
    names = ORDER[: draw(st.integers(2, 3))]
    window = {"deadline": "2026-01-05T20:30:00Z"}
    steps = {
        name: {
            **draw(requests()),
            "outputs": [],
            "window": window,
            "runtime": {"p50_hours": 0.25, "p90_hours": 0.3},
            "resources": {},
        }
        for name in names
    }
    home = draw(st.sampled_from([None, *(one["id"] for one in where["sites"])]))
    if home is not None:
        steps["first"]["outputs"] = [{"name": "first-made", "size_gb": draw(st.sampled_from([0, 5])), "home": home}]
    ends = [(a, b) for a, b in product(names, repeat=2) if a < b]
    chosen = draw(st.lists(st.tuples(st.sampled_from(ends), st.integers(0, 60)), min_size=1, max_size=3, unique_by=lambda one: one[0]))
    edges = [edge(*pair, dataset=f"{pair[0]}-made", size_gb=size) for pair, size in chosen]
    labels = draw(catalogs())
    label = st.sampled_from(
        [
            {"classification": "public", "residency": "anywhere"},
            {"classification": "internal", "residency": "anywhere"},
            {"classification": "restricted", "regimes": ["hipaa"], "residency": ["EU"]},
        ]
    )
    labels["entries"] = [
        *labels["entries"],
        *({"name": f"{name}-made", "home": "iad", "size_gb": 1, "label": draw(label)} for name in names),
    ]
    return steps, edges, World(steps[names[0]], where, labels, draw(conditions()))


Combination = tuple[Decimal, tuple[Found, ...]]


def brute(
    steps: dict[str, Any], edges: Sequence[Edge], world: World, policy: TinyPolicy
) -> tuple[list[Combination], tuple[Found, ...] | None]:
    """Every combination that is allowed, best first, from the naive implementation of a single step; and what step by step finds."""
    parts = {name: World(asked, *world[1:]).parts() for name, asked in steps.items()}
    names = [name for name in ORDER if name in steps]
    _, where, labels, now = parts[names[0]]
    site_of = {one.name: where.site_by_id[one.site] for one in where.pools}

    def may(action: str, label: Any, there: Any) -> bool:
        inside = {"EU": set(BLOCS["blocs"]["EU"])}
        near = "anywhere" in label.residency or any(there.country in inside.get(code, {code}) for code in label.residency)
        level = ["public", "internal", "confidential", "restricted"].index(there.max_classification)
        safe = "hipaa" not in label.regimes or "hipaa" in there.certifications
        guarded = isinstance(policy, Guarded) and action == "transfer" and there.cloud == "aws" and label.level > 0
        return near and level >= label.level and safe and not guarded

    def egress(one: Edge, src: Any, dst: Any) -> Decimal | None:
        sources = {src.id, *(use["home"] for use in steps[one.from_]["outputs"])}
        if dst.id in sources:
            return Decimal(0)
        rows = [row for source in sources if (row := where.egress_between(source, dst.id)) is not None]
        if not rows or not may("transfer", label_of[one.dataset], dst):
            return None
        return min((row.usd_per_gb * (one.size_gb or 0)).quantize(Decimal("0.000001")) for row in rows)

    label_of = {one.dataset: labels.label_of(one.dataset, EVENING, where.blocs) for one in edges}
    choices = []
    for name in names:
        coming = [label_of[one.dataset] for one in edges if one.to == name]
        found = feasible(parts[name][0], where, policy, labels, now, EVENING)
        choices.append([one for one in found if all(may("process", label, site_of[one.pool]) for label in coming)])
    assume(len(choices[0]) * len(choices[1]) * (len(choices[2]) if len(choices) == 3 else 1) <= 60_000)
    cost = {(one, a, b): egress(one, site_of[a], site_of[b]) for one in edges for a in site_of for b in site_of}
    all_found = []
    for picked in product(*choices):
        at = dict(zip(names, picked, strict=True))
        hops = [cost[one, at[one.from_].pool, at[one.to].pool] for one in edges]
        if None not in hops:
            all_found.append((sum((one.total for one in picked), sum(hops, Decimal(0))), picked))  # type: ignore[arg-type]
    each: dict[str, Found] = {}
    for name in _flow(names, edges):
        ranked = []
        for one in choices[names.index(name)]:
            fetched = [cost[hop, each[hop.from_].pool, one.pool] for hop in edges if hop.to == name]
            if None not in fetched:
                ranked.append((one.total + sum(fetched, Decimal(0)), one[1:], one))  # type: ignore[arg-type]
        if not ranked:
            return sorted(all_found), None
        each[name] = min(ranked)[-1]
    return sorted(all_found), tuple(each[name] for name in names)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(joint_worlds(), st.sampled_from([TinyPolicy, Guarded]))
def test_the_joint_choice_is_the_best_combination_that_brute_force_finds(drawn, rulebook):
    """Same candidates, same total; what step by step finds beside it, also as the choice if nothing is better; none where there is none."""
    steps, edges, world = drawn
    best, each = brute(steps, edges, world, rulebook())
    asked = {name: World(one, *world[1:]).parts()[0] for name, one in steps.items()}
    _, where, labels, now = world.parts()
    decision = place_jointly(asked, edges, where, rulebook(), labels, now, EVENING)
    names = [name for name in ORDER if name in steps]
    if not best:
        assert decision.chosen == {} and decision.usd_total is None and decision.stuck and not decision.pays
        return
    least = best[0][0]
    step_by_step = decision.step_by_step
    assert (None if step_by_step is None else told(step_by_step.chosen, names)) == each
    assert decision.usd_total == least
    assert decision.pays == (step_by_step is None or step_by_step.usd_total > least)
    if decision.pays:
        in_flow = [tuple(picked[names.index(name)] for name in _flow(names, edges)) for total, picked in best if total == least]
        assert told(decision.chosen, _flow(names, edges)) == min(in_flow)
    else:
        assert decision.chosen == step_by_step.chosen and decision.edges == step_by_step.edges


def told(chosen: Any, names: Sequence[str]) -> tuple[Found, ...]:
    """Chosen candidates as brute force tells them."""
    return tuple(Found(one.usd.total, one.start, one.pool, one.offer, one.spot) for one in (chosen[name] for name in names))


def _flow(names: Sequence[str], edges: Sequence[Edge]) -> list[str]:
    """Steps behind those that hand them something, else by name."""
    left, found = list(names), []
    while left:
        free = [name for name in sorted(left) if not any(one.to == name and one.from_ in left for one in edges)]
        found.append(free[0])
        left.remove(free[0])
    return found


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(worlds())
def test_one_step_alone_is_placed_as_place_does(world):
    """Same chosen candidate with its fallback, and the same rejections where there is none."""
    asked, where, labels, now = world.parts()
    alone = place(asked, where, TinyPolicy(), labels, now, EVENING)
    joint = place_jointly({"only": asked}, [], where, TinyPolicy(), labels, now, EVENING)
    assert joint.chosen.get("only") == alone.chosen
    assert [one.rejected for one in joint.stuck] == ([] if alone.chosen else [alone.rejected])


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(joint_worlds(), st.randoms(use_true_random=False))
def test_the_order_of_steps_and_edges_changes_no_byte(drawn, chance):
    """The same steps and edges in another order are the same decision."""
    steps, edges, world = drawn
    asked = {name: World(one, *world[1:]).parts()[0] for name, one in steps.items()}
    _, where, labels, now = world.parts()
    names = chance.sample(sorted(asked), len(asked))
    one = place_jointly(asked, edges, where, TinyPolicy(), labels, now, EVENING)
    other = place_jointly(
        {name: asked[name] for name in names}, chance.sample(edges, len(edges)), where, TinyPolicy(), labels, now, EVENING
    )
    assert one.to_bytes() == other.to_bytes()


PAID = [{"src": "*", "dst": "*", "usd_per_gb": 1, "gbit_per_s": 10}]


def plain_request(**more: Any) -> Any:
    """A request that reads nothing but what edges bring."""
    return request(datasets=[], **more)


def test_egress_on_an_edge_keeps_steps_together_that_would_part_alone():
    """Training is cheaper at `muc`, but not by what its features cost to get there."""
    prices = [offer("fra", price=1), offer("muc", price=2), offer("fra", "gpu", 4), offer("muc", "gpu", 3)]
    where = estate(sites=[site("fra"), site("muc")], pools=[pool("f", "fra"), pool("m", "muc")], offers=prices, egress=PAID)
    steps = {
        "materialize": plain_request(step="materialize", restrict={"offers": ["small"]}),
        "train": plain_request(restrict={"offers": ["gpu"]}),
    }
    assert sites(together(steps, where=where)) == {"materialize": "fra", "train": "muc"}
    assert sites(together(steps, [edge("materialize", "train")], where=where)) == {"materialize": "fra", "train": "fra"}


def test_step_by_step_stands_beside_the_joint_choice():
    """Making features where that is cheapest, and then paying for their way to the only GPUs, is what placing together avoids."""
    prices = [offer("fra", price=1), offer("muc", price=2), offer("muc", "gpu", 3)]
    where = estate(sites=[site("fra"), site("muc")], pools=[pool("f", "fra"), pool("m", "muc")], offers=prices, egress=PAID)
    steps = {
        "materialize": plain_request(step="materialize", restrict={"offers": ["small"]}),
        "train": plain_request(restrict={"offers": ["gpu"]}),
    }
    decision = together(steps, [edge("materialize", "train")], where=where)
    each = decision.step_by_step
    assert each is not None and decision.pays
    assert {name: chosen.site for name, chosen in each.chosen.items()} == {"materialize": "fra", "train": "muc"}
    assert [(one.src, one.dst, one.usd) for one in each.edges] == [("fra", "muc", 10)]
    assert (decision.usd_total, each.usd_total) == (4 + 6, 2 + 6 + 10)
    assert decision.to_json()["step_by_step"]["usd_total"] == 18


def test_what_rests_at_its_home_is_fetched_from_there():
    """A model whose maker pays for its way home is judged at home for nothing."""
    where = estate(
        sites=[site("fra"), site("muc")],
        pools=[pool("f", "fra"), pool("m", "muc")],
        offers=[offer("fra", price=9), offer("muc", "gpu", 1)],
        egress=PAID,
    )
    steps = {
        "train": plain_request(restrict={"offers": ["gpu"]}, outputs=[{"name": "features", "size_gb": 10, "home": "fra"}]),
        "evaluate": plain_request(step="evaluate", restrict={"sites": ["fra"]}),
    }
    (handed,) = together(steps, [edge("train", "evaluate")], where=where).edges
    assert (handed.src, handed.dst, handed.usd) == ("fra", "fra", 0)


def test_an_edge_that_is_worth_it_is_paid():
    """A dataset of a tenth of a GB goes where training is cheaper; the total has its egress."""
    prices = [offer("fra", price=1), offer("muc", "gpu", 3)]
    where = estate(sites=[site("fra"), site("muc")], pools=[pool("f", "fra"), pool("m", "muc")], offers=prices, egress=PAID)
    steps = {
        "materialize": plain_request(step="materialize", restrict={"offers": ["small"]}),
        "train": plain_request(restrict={"offers": ["gpu"]}),
    }
    decision = together(steps, [edge("materialize", "train", size_gb="0.1")], where=where)
    (handed,) = decision.edges
    assert (handed.src, handed.dst, handed.usd) == ("fra", "muc", Decimal("0.1"))
    assert decision.usd_total == 2 + 6 + Decimal("0.1")
    assert decision.summary == "2 steps placed together; 1 of 1 edges leave their site"


def test_a_dataset_on_an_edge_is_not_fetched_from_its_home_as_well():
    """What the step before hands over is read where it was made."""
    where = estate(egress=PAID)
    steps = {"materialize": plain_request(step="materialize"), "train": request(datasets=[{"name": "features"}])}
    decision = together(steps, [edge("materialize", "train")], where=where)
    assert sites(decision) == {"materialize": "iad", "train": "iad"}
    assert decision.usd_total == 4


def test_the_label_of_what_comes_over_an_edge_counts_for_the_step_and_its_outputs():
    """Features of patients in the EU are not processed in the US, nor is what is made of them stored there."""
    labels = catalog({**FEATURES, "label": {"classification": "confidential", "residency": ["EU"]}})
    steps = {
        "materialize": plain_request(step="materialize"),
        "train": plain_request(outputs=[{"name": "model", "size_gb": 1}]),
    }
    assert sites(together(steps, labels=labels)) == {"materialize": "iad", "train": "iad"}
    assert sites(together(steps, [edge("materialize", "train")], labels=labels)) == {"materialize": "iad", "train": "muc"}
    home = plain_request(outputs=[{"name": "model", "size_gb": 1, "home": "iad"}])
    (stuck,) = together({**steps, "train": home}, [edge("materialize", "train")], labels=labels).stuck
    assert stuck.step == "train"
    assert {reason.rule for row in stuck.rejected for reason in row.reasons} == {"residency"}


def test_data_without_a_label_stays_where_it_is_made():
    """Nothing is known of it, so that it may be used, as restricted, at that site only."""
    where = estate(offers=[offer("fra", price=3), offer("muc", "gpu", 1), offer("iad", "gpu", 1), offer("fra", "gpu", 50)])
    steps = {
        "materialize": plain_request(step="materialize", restrict={"offers": ["small"]}),
        "train": plain_request(restrict={"offers": ["gpu"]}),
    }
    decision = together(steps, [edge("materialize", "train", "nameless", size_gb=1)], where=where)
    assert sites(decision) == {"materialize": "fra", "train": "fra"}


def test_an_edge_without_a_price_is_not_used():
    """No row in the table of egress is no free movement."""
    steps = {"materialize": plain_request(step="materialize", restrict={"sites": ["fra"]}), "train": plain_request()}
    assert sites(together(steps, [edge("materialize", "train")], where=estate(egress=[])))["train"] == "fra"


def test_a_step_that_has_no_place_alone_says_why_as_place_does():
    """The other steps are not blamed; nothing is chosen."""
    small = plain_request(resources={"cpus": 512})
    decision = together({"materialize": plain_request(step="materialize"), "train": small}, [edge("materialize", "train")])
    (stuck,) = decision.stuck
    assert (stuck.step, stuck.beside, decision.chosen, decision.edges) == ("train", (), {}, ())
    assert stuck.rejected == place(small, estate(), TinyPolicy(), catalog(FEATURES), moment(), AT).rejected
    assert decision.summary == "2 steps cannot be placed together: `train` has no place"


def test_a_step_that_nothing_may_reach_names_the_step_it_waits_for():
    """Both have places, but what one makes may not go to where the other may run."""
    pair = [site("fra"), site("muc", cloud="aws")]
    where = estate(sites=pair, pools=[pool("f", "fra"), pool("m", "muc")], offers=[offer("fra"), offer("muc")])
    steps = {"a": plain_request(restrict={"sites": ["fra"]}), "b": plain_request(restrict={"sites": ["muc"]})}
    decision = together(steps, [edge("a", "b")], where=where, policy=Guarded())
    (stuck,) = decision.stuck
    assert (stuck.step, stuck.beside) == ("b", ("a",))
    assert {row.pool: {reason.rule for reason in row.reasons} for row in stuck.rejected} == {"m": {"default-deny"}, "f": {"restrict-sites"}}
    assert "`b` has no place beside `a`" in decision.summary


def test_a_start_is_found_that_ends_while_data_may_still_come():
    """The cheapest hours lie behind the end of a certificate: the dataset comes in before, or the step stays where the data is."""
    labels = catalog({**FEATURES, "label": {"classification": "confidential", "regimes": ["hipaa"], "residency": ["EU"]}})
    night = [{"from": "00:00", "to": "06:00", "multiplier": 0.1}]
    where = estate(
        sites=[site("fra", certifications={"hipaa": None}), site("muc", certifications={"hipaa": "2026-01-05"}, off_peak=night)],
        pools=[pool("f", "fra"), pool("m", "muc")],
        offers=[offer("fra", price=9), offer("muc", price=8)],
    )
    steps = {"a": plain_request(restrict={"sites": ["fra"]}), "b": plain_request()}
    chosen = together(steps, [edge("a", "b")], where=where, labels=labels).chosen["b"]
    assert (chosen.site, chosen.finish_p90.day, chosen.usd.total) == ("muc", 5, 16)


def test_policy_is_asked_once_for_all_steps():
    """One batch, each question once."""
    policy = TinyPolicy()
    together({"a": request(), "b": request(), "c": request()}, [edge("a", "b"), edge("b", "c", "more")], policy=policy)
    (batch,) = policy.batches
    assert len(batch) == len(set(batch))


def test_equal_totals_go_to_what_ranks_first_step_by_step():
    """Three equal sites: the first pool by name, for both steps."""
    where = estate(offers=[offer("fra"), offer("muc"), offer("iad")])
    decision = together({"a": plain_request(), "b": plain_request()}, [edge("a", "b")], where=where)
    assert {name: chosen.pool for name, chosen in decision.chosen.items()} == {"a": "fra-k8s", "b": "fra-k8s"}


BAD_EDGES = [
    ([edge("a", "z")], "no step `z`"),
    ([edge("a", "b"), edge("a", "b")], "declared twice"),
    ([edge("a", "b"), edge("b", "a")], "circle"),
    ([edge("a", "a")], "circle"),
    ([edge("a", "c"), edge("b", "c")], "from `a` and from `b`"),
]


@pytest.mark.parametrize(("edges", "told"), BAD_EDGES, ids=[told for _, told in BAD_EDGES])
def test_edges_that_make_no_sense_are_refused(edges, told):
    """With what is wrong, before anything is priced."""
    with pytest.raises(UserError, match=told):
        together({"a": request(), "b": request(), "c": request()}, edges)


def test_a_request_that_makes_no_sense_is_told_under_its_step():
    """The reader sees which of the steps it is."""
    with pytest.raises(UserError, match=r"steps\.b\.outputs"):
        together({"a": request(), "b": request(outputs=[{"name": "model", "size_gb": 1, "home": "nowhere"}])})


def test_a_size_that_nobody_knows_is_warned_of():
    """It counts as nothing, and says so."""
    decision = together({"a": plain_request(), "b": plain_request()}, [edge("a", "b", "nameless")])
    assert "the size of `nameless` is not known: counted as 0 GB" in decision.warnings
