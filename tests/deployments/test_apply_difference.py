"""The difference between declared and observed objects."""

from __future__ import annotations

from typing import Any

import pytest

from deployments.apply.model import Observed, Resource, difference, refuse_impossible
from flows.core.errors import UserError

DEPLOYMENT = Resource("deployment", "train/a", {"entrypoint": "flows.train.train"}, {"active": {"daily": False}}).versioned()


def seen(resource: Resource, *, ours: bool = True, id: str = "1", initial: dict[str, Any] | None = None, **fields: Any) -> Observed:
    return Observed(resource.kind, resource.name, id, ours, {**resource.fields, **fields}, resource.initial if initial is None else initial)


def test_an_empty_server_gets_everything() -> None:
    """What is not there is created."""
    diff = difference([DEPLOYMENT], [])
    assert [(change.action, change.name) for change in diff.changes] == [("create", "train/a")]
    assert not diff.in_sync


def test_what_is_as_declared_is_left_alone() -> None:
    """A second apply does nothing."""
    diff = difference([DEPLOYMENT], [seen(DEPLOYMENT)])
    assert diff.in_sync
    assert diff.unchanged == 1


def test_a_changed_field_is_named() -> None:
    """An update says which field, from what, to what."""
    diff = difference([DEPLOYMENT], [seen(DEPLOYMENT, entrypoint="evil.flow")])
    assert str(diff) == (
        '~ deployment train/a\n    entrypoint: "evil.flow" -> "flows.train.train"\n0 to create, 1 to update, 0 to remove, 0 unchanged'
    )


def test_only_ours_are_removed() -> None:
    """Objects of other people stay, whatever their names."""
    theirs = Observed("deployment", "etl/prod", "1", False, {})
    ours = Observed("deployment", "train/gone", "2", True, {})
    diff = difference([], [theirs, ours])
    assert [(change.action, change.name) for change in diff.changes] == [("remove", "train/gone")]


def test_names_left_to_others_are_kept() -> None:
    """A block that a platform team made by other means is not removed."""
    block = Observed("block", "storage/tradewind-site-a", "1", True, {})
    assert difference([], [block], keep=frozenset({("block", block.name)})).in_sync


def test_doubles_are_removed() -> None:
    """Two automations of one name, left by a lost race, become one: the first."""
    automation = Resource("automation", "drift", {"tags": ["tradewind"]})
    diff = difference([automation], [seen(automation, id="1"), seen(automation, id="2")])
    assert [(change.action, change.observed and change.observed.id) for change in diff.changes] == [("remove", "2")]


def test_a_schedule_that_an_operator_switched_on_stays_on() -> None:
    """What is set once is an operator's to change."""
    assert difference([DEPLOYMENT], [seen(DEPLOYMENT, initial={"active": {"daily": True}})]).in_sync


def test_a_redeclared_schedule_is_switched() -> None:
    """When the declaration of the switch itself changes, it wins."""
    declared = Resource("deployment", "train/a", {"entrypoint": "flows.train.train"}, {"active": {"daily": True}}).versioned()
    diff = difference([declared], [seen(DEPLOYMENT)])
    assert [change.field for change in diff.changes[0].fields] == ["version", "active"]


def test_another_change_does_not_switch_a_schedule() -> None:
    """A new entrypoint leaves an operator's switch alone."""
    declared = Resource("deployment", "train/a", {"entrypoint": "flows.other.train"}, {"active": {"daily": False}}).versioned()
    diff = difference([declared], [seen(DEPLOYMENT, initial={"active": {"daily": True}})])
    assert [change.field for change in diff.changes[0].fields] == ["entrypoint", "version"]


def test_secrets_are_never_shown() -> None:
    """A changed secret is named, its values are not, for people and for programs."""
    block = Resource("block", "state", {"url": "postgresql://u:new-password@db"}, secret=frozenset({"url"}))
    diff = difference([block], [seen(block, url="postgresql://u:old-password@db")])
    text = f"{diff} {diff.to_json()}"
    assert "url" in text
    assert "password" not in text


def test_things_are_made_before_what_stands_on_them() -> None:
    """Pools come before deployments, deployments before automations; removal goes the other way round."""
    ones = [Resource(kind, "new", {}) for kind in ("automation", "deployment", "pool", "block")]  # type: ignore[arg-type]
    gone = [Observed(kind, "old", "1", True, {}) for kind in ("block", "pool", "deployment", "automation")]  # type: ignore[arg-type]
    order = [(change.action, change.kind) for change in difference(ones, gone).changes]
    assert [kind for action, kind in order if action == "create"] == ["block", "pool", "deployment", "automation"]
    assert [kind for action, kind in order if action == "remove"] == ["automation", "deployment", "pool", "block"]


def test_a_pool_of_another_type_is_refused() -> None:
    """The server cannot change a pool's type: the message says so before anything is written."""
    pool = Resource("pool", "control", {"type": "process"})
    with pytest.raises(UserError, match="exists with type `ecs`"):
        refuse_impossible(difference([pool], [seen(pool, type="ecs")]))
