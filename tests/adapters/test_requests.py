"""Requests and conditions from YAML: what is read, and what is refused with file, line and field."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from flows.adapters.requests import load_conditions, load_requests, read_conditions
from flows.core.errors import UserError
from tests.core.placement.world import estate, offer, pool

MINIMAL = "workload: nafld\nstep: train\n"

FULL = """\
version: 1
workload: nafld
step: train
environment: prod
intent_id: nafld/train/2026-01/schedule
image: null
requested_by: {user: ada, roles: [data-scientist]}
datasets: [{name: ehr, size_gb: 40}]
outputs: [{name: nafld-model, size_gb: 0.5, home: onprem-fra, keep_days: 30}]
resources: {nodes: 1, cpus: 8, memory_gib: 32, arch: x86_64, accelerators: {A100: 1}}
runtime: {p50_hours: 2, p90_hours: 3}
interruptible: true
checkpoint_minutes: 10
checkpoint_write_minutes: 0
window: {earliest: 2026-01-05T08:00:00Z, deadline: 2026-01-05T20:00:00+01:00}
latency: {from: [FR, DE], max_ms: 60, percentile: 99, service_ms: 15}
budget_usd: 40
objective: {usd_per_hour_of_delay: 0.5, usd_per_kg_co2: 0.1}
restrict: {clouds: [], sites: [], pools: [], offers: [], spot: null}
"""


def read(tmp_path, text):
    """The requests of a file with this text."""
    path = tmp_path / "request.yaml"
    path.write_text(text)
    return load_requests(path)


def test_the_request_of_the_contract_is_read(tmp_path):
    """Numbers are exact decimals, instants UTC."""
    (request,) = read(tmp_path, FULL)
    assert request.outputs[0].size_gb == Decimal("0.5")
    assert request.window.deadline == datetime(2026, 1, 5, 19, tzinfo=UTC)


def test_several_documents_are_several_requests(tmp_path):
    """Each YAML document is one request."""
    assert [request.step for request in read(tmp_path, f"{MINIMAL}---\nworkload: nafld\nstep: score\n")] == ["train", "score"]


def test_norway_is_a_country(tmp_path):
    """Unquoted NO is text, as YAML 1.2 has it."""
    (request,) = read(tmp_path, MINIMAL + "latency: {from: [NO, SE], max_ms: 60}\n")
    assert request.latency is not None and request.latency.from_ == ("NO", "SE")


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        (MINIMAL + "step: score\n", 3, "duplicate key `step`"),
        (MINIMAL + "budgt_usd: 4\n", 3, "unknown key `budgt_usd`"),
        (MINIMAL + "window:\n  earliest: 2026-01-05T08:00:00\n", 4, "has no offset"),
        (MINIMAL + "window: {earliest: 2026-01-05}\n", 3, "`2026-01-05` is not an instant"),
        (MINIMAL + "window: {earliest: 2026-01-05T08:00:00Z, deadline: 2026-01-05T08:00:00Z}\n", 3, "`earliest` is not before `deadline`"),
        (MINIMAL + "window: {earliest: 2026-02-30T08:00:00Z}\n", 3, "is not an instant"),
        (MINIMAL + "budget_usd: -1\n", 3, "greater than or equal to 0"),
        (MINIMAL + "budget_usd: true\n", 3, "`true` is not a number"),
        (MINIMAL + "budget_usd: 40 USD\n", 3, "`40 USD` is not a number"),
        (MINIMAL + "budget_usd: .nan\n", 3, "not a number that can be compared"),
        (MINIMAL + "resources: {nodes: 1.5}\n", 3, "`1.5` is not a whole number"),
        (MINIMAL + "resources: {nodes: 0}\n", 3, "greater than or equal to 1"),
        (MINIMAL + "runtime: {p50_hours: 3, p90_hours: 2}\n", 3, "`p50_hours` 3 is more than `p90_hours` 2"),
        (MINIMAL + "interruptible: yes\n", 3, "`yes` does not fit"),
        (MINIMAL + "checkpoint_write_minutes: 1\n", 3, "`checkpoint_write_minutes` without `checkpoint_minutes`"),
        (MINIMAL + "latency: {from: [], max_ms: 5}\n", 3, "at least 1 item"),
        (MINIMAL + "latency: {from: [Norway], max_ms: 5}\n", 3, "`Norway` does not fit"),
        (MINIMAL + "latency: {from: [NO], max_ms: 5, percentile: 95}\n", 3, "`95` is not allowed"),
        (MINIMAL + "requested_by: {user: ada, roles: [admin]}\n", 3, "`admin` is not allowed"),
        (MINIMAL + "datasets:\n- {name: ehr}\n- {name: ehr}\n", 5, "dataset `ehr` is named twice"),
        (MINIMAL + "latency: {from_: [NO], max_ms: 5}\n", 3, "unknown key `from_`"),
        (MINIMAL + "version: true\n", 3, "`true` is not a version"),
        (MINIMAL + "version: 1.0\n", 3, "`1.0` is not a version"),
        (MINIMAL + "window: {earliest: 2026-01-05T08:00:00+99:00}\n", 3, "+99:00` is not an instant"),
        (MINIMAL + "datasets: ehr\n", 3, "`ehr` does not fit"),
        ("workload: nafld\nstep: trian\n", 2, "`trian` is not allowed"),
        ("workload: nafld\nstep: promote\n", 2, "`promote` is not allowed"),
        ("version: 2\n" + MINIMAL, 1, "`2` is not allowed"),
        ("workload: nafld\n", 1, "`step` is missing"),
        ("", 1, "the file is empty"),
        ("- 1\n", 1, ""),
    ],
    ids=lambda value: value[-40:].strip() if isinstance(value, str) else None,
)
def test_bad_input_is_told_with_its_line(tmp_path, text, line, what):
    """One message says what is wrong, and in which line."""
    with pytest.raises(UserError) as caught:
        read(tmp_path, text)
    assert any(what in problem.what or what in (problem.expected or "") for problem in caught.value.problems), str(caught.value)
    assert caught.value.problems[0].line == line


def test_all_problems_of_all_documents_come_at_once(tmp_path):
    """Nobody wants to fix one mistake a run."""
    with pytest.raises(UserError) as caught:
        read(tmp_path, f"{MINIMAL}budget_usd: x\n---\n{MINIMAL}a: 1\nb: 2\n")
    assert [problem.line for problem in caught.value.problems] == [3, 7, 8]


CONDITIONS = """\
replicas: {ehr: [onprem-fra]}
reservations: [{pool: onprem-fra-k8s, use: {A100: 4}, from: 2026-01-05T08:00:00Z, until: 2026-01-05T10:00:00Z}]
queue_hours: {onprem-fra-k8s: 1.5}
budget_left_usd: {nafld: 120}
runtimes: [{workload: nafld, step: train, offer: a2-highgpu-1g, p50_hours: 2, p90_hours: 3, runs: 14}]
"""


def test_the_conditions_of_the_contract_are_read(tmp_path):
    """Replicas, reservations, queues, budgets and runtimes."""
    path = tmp_path / "conditions.yaml"
    path.write_text(CONDITIONS)
    found = load_conditions(path)
    assert found.reservations[0].use == {"A100": Decimal(4)} and found.queue_hours == {"onprem-fra-k8s": Decimal("1.5")}


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("until: 2026-01-05T10", "until: 2026-01-05T07", "`from` is not before `until`"),
        ("p90_hours: 3, runs", "p90_hours: 1, runs", "is more than"),
        ("nafld: 120", "nafld: lots", "`lots` is not a number"),
        ("queue_hours", "queue_hour", "unknown key `queue_hour`"),
    ],
)
def test_bad_conditions_are_refused(tmp_path, old, new, what):
    """A wrong condition is not an idle pool."""
    path = tmp_path / "conditions.yaml"
    path.write_text(CONDITIONS.replace(old, new))
    with pytest.raises(UserError, match=what):
        load_conditions(path)


@pytest.mark.parametrize(
    ("text", "expected", "fix"),
    [
        ("version: 2\n", "`1`", None),
        ("version: '1'\n", "`1`", "take the quotes away"),
        ("latency: {from: [NO], max_ms: 5, percentile: 95}\n", "one of `50`, `99`", None),
        ("latency: {from: [], max_ms: 5}\n", "at least 1 item", None),
        ("runtime: {p50_hours: 1, p90_hours: 1000000}\n", "less than or equal to 87600", None),
        ("outputs: [{name: a, keep_days: 36501}]\n", "less than or equal to 36500", None),
        ("interruptible: 'yes'\n", "true or false", None),
    ],
)
def test_what_is_expected_is_told_in_plain_words(tmp_path, text, expected, fix):
    """Numbers as people write them, every choice, and the way out of quotes."""
    with pytest.raises(UserError) as caught:
        read(tmp_path, MINIMAL + text)
    assert [(problem.expected, problem.fix) for problem in caught.value.problems] == [(expected, fix)]


STRANGE = """\
cordoned:
- muc
- fra
- nowhere
queue_hours: {nopool: 1, fra-k8s: 1}
reservations:
- {pool: fra-k9s, use: {nodes: 1}, from: 2026-01-05T08:00:00Z, until: 2026-01-05T10:00:00Z}
- {pool: fra-k8s, use: {cpu: 400}, from: 2026-01-05T08:00:00Z, until: 2026-01-05T10:00:00Z}
- {pool: fra-k8s, use: {a100: 4}, from: 2026-01-05T08:00:00Z, until: 2026-01-05T10:00:00Z}
cooling: {nopool: null}
replicas: {x: [fra, nowhere]}
runtimes: [{workload: w, step: train, offer: Small, p50_hours: 1, p90_hours: 2}]
unproven:
  fra: {}
  muc: {tls: expired}
  nowhere: {secrets: lost}
"""


def test_names_that_the_estate_does_not_have_are_refused_with_their_lines(tmp_path):
    """All at once, with what was meant; a misspelt site would be open, a misspelt pool idle. What was stored is read as it is."""
    path = tmp_path / "conditions.yaml"
    path.write_text(STRANGE)
    where = estate(offers=[offer(site, AcceleratorName="A100", AcceleratorCount=1) for site in ("fra", "muc", "iad")])
    conditions, problems = read_conditions(path, where)
    assert conditions == load_conditions(path)
    assert [(problem.line, problem.field, problem.what) for problem in problems] == [
        (4, "cordoned[2]", "no site `nowhere` in this estate"),
        (5, "queue_hours.nopool", "no pool `nopool` in this estate"),
        (7, "reservations[0].pool", "no pool `fra-k9s` in this estate"),
        (8, "reservations[1].use.cpu", "pool `fra-k8s` has no `cpu`"),
        (9, "reservations[2].use.a100", "pool `fra-k8s` has no `a100`"),
        (10, "cooling.nopool", "no pool `nopool` in this estate"),
        (11, "replicas.x[1]", "no site `nowhere` in this estate"),
        (12, "runtimes[0].offer", "no offer `Small` in this estate"),
        (16, "unproven.nowhere", "no site `nowhere` in this estate"),
        (14, "unproven.fra", "no check of `fra` is named, so nothing is kept away"),
        (15, "unproven.muc.tls", "no check `tls`"),
    ]
    assert [problem.fix for problem in problems if problem.fix != "correct it, or take it out"] == [
        "did you mean `fra-k8s`?",
        "did you mean `cpus`?",
        "did you mean `A100`?",
        "did you mean `small`?",
    ]
    assert problems[0].expected == "one of `fra`, `iad`, `muc`"


def test_names_that_the_estate_has_are_taken(tmp_path):
    """Capacity that a pool declares, and accelerators of its offers, too."""
    path = tmp_path / "conditions.yaml"
    path.write_text("reservations: [{pool: fra-k8s, use: {T4: 1, cpus: 1}, from: 2026-01-05T08:00:00Z, until: 2026-01-05T10:00:00Z}]\n")
    where = estate(pools=[pool("fra-k8s", "fra", capacity={"T4": 2})])
    assert read_conditions(path, where)[1] == []


def test_the_second_of_two_estimates_is_where_the_mistake_is(tmp_path):
    """Its line and its index; a reservation's start has one spelling."""
    row = "- {workload: a, step: train, p50_hours: 1, p90_hours: 2}\n"
    path = tmp_path / "conditions.yaml"
    path.write_text(f"runtimes:\n{row}{row}")
    with pytest.raises(UserError, match="two runtime estimates") as caught:
        load_conditions(path)
    assert (caught.value.problems[0].line, caught.value.problems[0].field) == (3, "runtimes[1]")
    path.write_text("reservations: [{pool: p, use: {}, from_: 2026-01-05T08:00:00Z, until: 2026-01-06T08:00:00Z}]\n")
    with pytest.raises(UserError, match="unknown key `from_`"):
        load_conditions(path)
