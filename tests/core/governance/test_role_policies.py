"""What goes on a role: all of a workload's data and no other's; on AWS nothing at all to whoever does not first ask for a session."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from flows.core.governance.role_policies import aws_role, google_bindings, reaches_of
from flows.core.governance.session_policies import Root, session_policy, step_reach
from flows.core.planning import PLACED_STEPS
from tests.emulators.simulator import Simulator, simulator

ROLE = "arn:aws:iam::111122223333:role/run"
HERE, THERE = Root("tradewind-eu", "data/"), Root("tradewind-us")
TAGGED = {"aws:PrincipalTag/tradewind-workload": "nafld"}


@pytest.fixture(scope="module")
def aws() -> Iterator[Simulator]:
    with simulator() as found:
        yield found


def role_of(*types: str, workloads: tuple[str, ...] = ("nafld",), scans: bool = False) -> Mapping[str, Any]:
    made: Mapping[str, Any] = aws_role(ROLE, reaches_of(workloads, HERE, [THERE], scans=scans), types)["policy"]
    return made


def test_a_role_without_a_session_opens_nothing(aws: Simulator) -> None:
    """A container that asks for no session has no tag, and then no data; with the tag it has its workload's."""
    own, others = (f"arn:aws:s3:::tradewind-eu/data/datasets/{name}-raw/v/f" for name in ("nafld", "flight_delay"))
    for types in (("ecs",), ("ecs", "sagemaker")):
        role = role_of(*types)
        assert not aws.allows(None, "s3:GetObject", own, role=role)
        assert aws.allows(None, "s3:GetObject", own, role=role, context=TAGGED)
        assert not aws.allows(None, "s3:GetObject", others, role=role, context=TAGGED)


def test_where_runs_bring_a_web_identity_no_tag_is_asked_for(aws: Simulator) -> None:
    """Such a session carries no tags: the session policy alone narrows it."""
    assert aws.allows(None, "s3:GetObject", "arn:aws:s3:::tradewind-eu/data/datasets/nafld-raw/v/f", role=role_of("ecs", "kubernetes"))


@pytest.mark.parametrize("step", [*PLACED_STEPS, "purge"])
def test_a_role_has_all_that_its_steps_ask_for(aws: Simulator, step: str) -> None:
    """Whatever a run's session allows, the role allows too: nothing is asked for in vain."""
    to = THERE if step == "transfer" else None
    session = json.loads(session_policy(step_reach("nafld", step, ["nafld-raw"], HERE, destination=to), "nafld"))
    role = role_of("ecs", workloads=("nafld", "flight_delay"), scans=step == "purge")
    for statement in session["Statement"]:
        prefixes = statement.get("Condition", {}).get("StringLike", {}).get("s3:prefix", [None])
        for action in _many(statement["Action"]):
            for resource in _many(statement["Resource"]):
                for prefix in _many(prefixes):
                    asked = {} if prefix is None else {"prefix": prefix.replace("*", "x")}
                    assert aws.allows(session, action, resource.replace("*", "x"), role=role, context=TAGGED, **asked), (action, resource)


def _many(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def test_the_trust_names_who_starts_runs_and_the_role_itself() -> None:
    """Nobody else: no account, no star."""
    trust = aws_role(ROLE, reaches_of(["nafld"], HERE), ["ecs", "ecs", "sagemaker"])["trust"]
    assert [statement["Principal"] for statement in trust["Statement"]] == [
        {"Service": "ecs-tasks.amazonaws.com"},
        {"Service": "sagemaker.amazonaws.com"},
        {"AWS": ROLE},
    ]


def test_googles_bindings_are_of_the_workloads_objects() -> None:
    """Each with a condition on the names of objects; the destination's only to create."""
    here, there = google_bindings("run@p.iam.gserviceaccount.com", reaches_of(["nafld"], HERE, [THERE]))
    assert "objects/data/datasets/nafld-'" in here["bindings"][0]["condition"]["expression"]
    assert (here["bindings"][0]["role"], there["bindings"][0]["role"]) == ("roles/storage.objectUser", "roles/storage.objectCreator")
