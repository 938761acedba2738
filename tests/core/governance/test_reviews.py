"""What is wrong with a grant, and when a person must look at it again."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from flows.core.governance.access import Access, covers, touches
from flows.core.governance.reviews import Attestation, Grant, World, judge, standing

AT = datetime(2026, 6, 1, tzinfo=UTC)
DAY = timedelta(days=1)
SOURCES = [{"name": "roles", "kind": "roles"}, {"name": "aws", "kind": "aws"}, {"name": "kube", "kind": "kubernetes"}]
BASE = {"every_days": 90, "due_days": 14, "unused_days": 90, "keep_days": 180, "sources": SOURCES}


def access(**changes: object) -> Access:
    return Access.model_validate(BASE | changes)


def world(declared: Access | None = None, **roles: set[str]) -> World:
    known = {name: frozenset(held) for name, held in roles.items()}
    return World(declared or access(), known, {"fra": frozenset({"data-scientist"})}, AT)


def grant(**changes: object) -> Grant:
    given = {"source": "aws", "principal": "ada", "kind": "person", "permissions": ("s3:GetObject",), "scopes": ("arn:b/*",), "slot": "p#1"}
    return Grant.model_validate(given | changes)


def kinds(found: Grant, held_against: World) -> list[str]:
    (judged,) = judge([found], held_against)
    return [one.kind for one in judged.findings]


ALL_ALLOWED = [{"source": "*", "who": ["*"], "permissions": ["*"], "because": "a test"}]
OPEN = access(allowed=ALL_ALLOWED)


@pytest.mark.parametrize(
    ("used", "granted", "known", "expected"),
    [
        (AT - 91 * DAY, None, True, ["unused"]),
        (AT - 89 * DAY, None, True, []),
        (None, AT - 91 * DAY, True, ["unused"]),
        (None, AT - 89 * DAY, True, []),
        (None, None, True, ["unused"]),
        (None, AT - 91 * DAY, False, []),
    ],
)
def test_a_grant_is_unused_after_its_days(used: datetime | None, granted: datetime | None, known: bool, expected: list[str]) -> None:
    """Used long ago, or never since long ago; a source that keeps no use says nothing."""
    assert kinds(grant(last_used=used, granted_at=granted, use_known=known), world(OPEN, ada=set())) == expected


def test_more_than_the_declaration_is_excessive() -> None:
    """Every permission on every scope must be covered, by name or by role; a wildcard is covered only by a wider one."""
    declared = access(
        allowed=[{"source": "aws", "who": ["role:data-scientist"], "permissions": ["s3:Get*"], "scopes": ["arn:b/*"], "because": "x"}]
    )
    holds = world(declared, ada={"data-scientist"})
    assert kinds(grant(), holds) == []
    assert kinds(grant(permissions=("s3:getobject",)), holds) == []
    assert kinds(grant(), world(declared, ada=set())) == ["excessive"]
    assert kinds(grant(permissions=("s3:GetObject", "s3:PutObject")), holds) == ["excessive"]
    assert kinds(grant(permissions=("s3:*",)), holds) == ["excessive"]
    assert kinds(grant(scopes=("arn:b/*", "arn:c/*")), holds) == ["excessive"]


@pytest.mark.parametrize("trait", ["admin", "any-action", "any-resource"])
def test_wildcards_and_all_rights_are_excessive_unless_meant(trait: str) -> None:
    """Being allowed is not enough: the declaration says `wide`."""
    assert kinds(grant(traits={trait}), world(OPEN, ada=set())) == ["excessive"]
    assert kinds(grant(traits={trait}), world(access(allowed=[ALL_ALLOWED[0] | {"wide": True}]), ada=set())) == []


def test_an_account_of_nobody_is_orphaned() -> None:
    """Unless a person or a declared service has it; one that the source deleted is always orphaned."""
    declared = access(
        allowed=ALL_ALLOWED, people={"ada@x": {"accounts": {"aws": ["al"]}}}, known=[{"source": "aws", "who": ["role/*"], "because": "x"}]
    )
    holds = world(declared, **{"ada@x": set()})
    assert kinds(grant(principal="eve"), holds) == ["orphaned"]
    assert kinds(grant(principal="al"), holds) == []
    assert kinds(grant(principal="role/w", kind="service"), holds) == []
    assert kinds(grant(principal="other", kind="service"), holds) == ["orphaned"]
    assert kinds(grant(principal="ada@x", kind="gone"), holds) == ["orphaned"]


def test_whoever_reads_guarded_data_needs_a_role_for_it() -> None:
    """A wildcard that reaches the bucket counts; a grant that reads nothing does not."""
    declared = access(allowed=ALL_ALLOWED, guarded=[{"source": "aws", "scope": "arn:aws:s3:::fra*", "site": "fra"}])
    reader = grant(scopes=("arn:aws:s3:::fra-raw/*",), traits={"reads-data"})
    assert kinds(reader, world(declared, ada={"approver"})) == ["policy-breaking"]
    assert kinds(reader, world(declared, ada={"data-scientist"})) == []
    assert kinds(grant(scopes=("*",), traits={"reads-data"}), world(declared, ada=set())) == ["policy-breaking"]
    assert kinds(grant(scopes=("arn:aws:s3:::ny*",), traits={"reads-data"}), world(declared, ada=set())) == []
    assert kinds(grant(scopes=("arn:aws:s3:::fra-raw/*",)), world(declared, ada=set())) == []


def test_what_is_open_to_everyone_breaks_policy() -> None:
    """Whatever the declaration allows."""
    assert kinds(grant(principal="everyone", kind="public"), world(OPEN)) == ["policy-breaking"]


def test_one_person_may_not_hold_both_sides_of_four_eyes() -> None:
    """Both grants say so, found by the person behind different accounts too; either one alone is in order."""
    declared = access(allowed=ALL_ALLOWED, four_eyes=[["data-scientist", "approver"]])
    both = [
        grant(source="roles", permissions=("data-scientist",), slot="a"),
        grant(source="roles", permissions=("approver",), slot="b"),
        grant(source="roles", permissions=("approver",), slot="b", principal="bob"),
    ]
    found = [[one.kind for one in judged.findings] for judged in judge(both, world(declared, ada=set(), bob=set()))]
    assert found == [["policy-breaking"], ["policy-breaking"], []]
    assert [judged.findings for judged in judge(both[1:], world(declared, ada=set(), bob=set()))] == [(), ()]


def test_an_exception_holds_through_its_last_day() -> None:
    """Then the finding is back and says so; an exception of another kind of finding does not help."""
    for until, left, accepted in ((date(2026, 6, 1), [], 1), (date(2026, 5, 31), ["excessive"], 0)):
        given = {"finding": "excessive", "source": "aws", "principal": "ada", "reason": "a move", "until": until}
        (judged,) = judge([grant()], world(access(exceptions=[given]), ada=set()))
        assert ([one.kind for one in judged.findings], len(judged.excepted)) == (left, accepted)
        if left:
            assert "its exception ended on 2026-05-31" in judged.findings[0].why
    other = {"finding": "unused", "source": "aws", "principal": "ada", "reason": "a move", "until": date(2026, 6, 1)}
    assert kinds(grant(), world(access(exceptions=[other]), ada=set())) == ["excessive"]


NAMES = st.sampled_from(["ada", "bob", "eve", "role/x"])
GRANTS = st.lists(
    st.builds(
        lambda source, who, what, where, kind, traits, used, slot: grant(
            source=source,
            principal=who,
            permissions=what,
            scopes=where,
            kind=kind,
            traits=traits,
            last_used=used,
            use_known=True,
            slot=slot,
        ),
        st.sampled_from(["roles", "aws", "kube"]),
        NAMES,
        st.lists(st.sampled_from(["data-scientist", "approver", "s3:*", "s3:GetObject", "*"]), min_size=1, max_size=2).map(tuple),
        st.lists(st.sampled_from(["*", "arn:fra/*", "arn:ny/*"]), min_size=1, max_size=2).map(tuple),
        st.sampled_from(["person", "service", "group", "public", "gone"]),
        st.frozensets(st.sampled_from(["admin", "any-action", "any-resource", "reads-data"])),
        st.none() | st.integers(0, 200).map(lambda days: AT - days * DAY),
        st.sampled_from("abc"),
    ),
    max_size=6,
)
BUSY = access(
    allowed=[
        {"source": "*", "who": ["ada", "role:approver"], "permissions": ["s3:Get*", "approver"], "scopes": ["arn:fra/*"], "because": "x"}
    ],
    guarded=[{"source": "*", "scope": "arn:fra/*", "site": "fra"}],
    four_eyes=[["data-scientist", "approver"]],
    known=[{"source": "*", "who": ["role/*"], "because": "x"}],
    people={"ada": {"accounts": {"aws": ["eve"]}}},
    exceptions=[{"finding": "excessive", "source": "kube", "principal": "*", "reason": "x", "until": date(2026, 6, 30)}],
)
BUSY_WORLD = world(BUSY, ada={"approver"}, bob={"data-scientist"})


@given(GRANTS, st.randoms(use_true_random=False))
def test_the_order_of_grants_plays_no_part(grants: list[Grant], random: object) -> None:
    """The same grant has the same findings wherever it stands."""
    order = list(range(len(grants)))
    random.shuffle(order)  # type: ignore[attr-defined]
    straight, mixed = judge(grants, BUSY_WORLD), judge([grants[index] for index in order], BUSY_WORLD)
    assert [straight[index] for index in order] == mixed


@given(GRANTS.filter(bool), st.data())
def test_taking_a_grant_away_adds_no_finding_to_another(grants: list[Grant], data: st.DataObject) -> None:
    """A finding needs grants that are there, never ones that are missing."""
    gone = data.draw(st.integers(0, len(grants) - 1))
    before = judge(grants, BUSY_WORLD)
    after = judge(grants[:gone] + grants[gone + 1 :], BUSY_WORLD)
    for old, new in zip(before[:gone] + before[gone + 1 :], after, strict=True):
        assert set(new.findings) <= set(old.findings)


GLOBS = st.text("ab*", max_size=5)


@given(GLOBS, st.text("ab", max_size=6))
def test_a_pattern_covers_what_its_stars_stand_for(pattern: str, text: str) -> None:
    """As a regular expression with `.*` for each star."""
    assert covers(pattern, text) == bool(re.fullmatch(pattern.replace("*", ".*"), text))


@given(GLOBS, GLOBS, st.text("ab", max_size=8))
def test_patterns_touch_if_a_text_fits_both(one: str, other: str, text: str) -> None:
    """A common text means that they touch, whichever is asked first; one that covers another touches it."""
    if covers(one, text) and covers(other, text):
        assert touches(one, other)
    if covers(one, other):
        assert touches(one, other)
    assert touches(one, other) == touches(other, one)


def test_patterns_without_a_common_text_do_not_touch() -> None:
    """Neither prefixes nor suffixes that differ can be bridged by a star."""
    assert not touches("a*", "b*")
    assert not touches("*a", "*b")
    assert not touches("", "a")
    assert touches("a*", "*b")


def said(verdict: str, at: datetime, until: date | None = None, fingerprint: str = "f") -> Attestation:
    return Attestation(fingerprint, verdict, "why", "p-1", at, until)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("history", "state", "because"),
    [
        ([], "open", "never reviewed"),
        ([said("keep", AT - DAY, date(2026, 6, 1))], "keep", "why"),
        ([said("keep", AT - DAY, date(2026, 5, 31))], "open", "kept only until 2026-05-31"),
        ([said("keep", AT - DAY, date(2027, 1, 1), "other")], "open", "changed since it was reviewed on 2026-05-31"),
        ([said("revoke", AT - DAY)], "open", "still there, though it was to be revoked on 2026-05-31"),
        ([said("keep", AT - 2 * DAY, date(2027, 1, 1)), said("revoke", AT - DAY)], "open", "still there"),
        ([said("revoke", AT + DAY)], "revoke", "why"),
        ([said("revoke", AT + DAY), said("keep", AT + 2 * DAY, date(2027, 1, 1))], "keep", "why"),
        ([said("keep", AT + DAY, date(2027, 1, 1), "other")], "open", "never reviewed"),
    ],
)
def test_what_was_attested_holds_for_the_grant_as_it_was(history: list[Attestation], state: str, because: str) -> None:
    """A keep holds through its last day, a change or an unheeded revoke opens the grant again, and the last word counts."""
    found = standing("f", history, AT)
    assert found.state == state
    assert found.because.startswith(because)


def test_use_is_no_change_and_anything_else_is() -> None:
    """A grant that was used again keeps its fingerprint; one with another permission, condition or day does not, under the same id."""
    old = grant(granted_at=AT)
    assert grant(granted_at=AT, last_used=AT, use_known=True).fingerprint == old.fingerprint
    for change in ({"permissions": ("s3:*",)}, {"scopes": ("*",)}, {"detail": "if x"}, {"traits": {"admin"}}, {"granted_at": AT + DAY}):
        new = grant(**({"granted_at": AT} | change))
        assert (new.id, new.fingerprint != old.fingerprint) == (old.id, True)


def test_a_command_quotes_the_name_for_where_it_stands() -> None:
    """A name cannot break out of the shell's word, the SQL identifier or the JSON text."""
    told = grant(revoke=("x", "{principal}", 'a "{principal_sql}"', '"{principal_json}"')).command("o'\"; {principal_sql}")
    import shlex

    assert shlex.split(told) == ["x", "o'\"; {principal_sql}", 'a "o\'""; {principal_sql}"', '"o\'\\"; {principal_sql}"']


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": [{"name": "pg", "kind": "postgres", "connection": "host=x password=y"}]}, "a password in a file"),
        ({"sources": [{"name": "pg", "kind": "postgres", "connection": "postgresql://u:p@h/d"}]}, "a password in a file"),
        ({"sources": [*SOURCES, SOURCES[0]]}, "declared twice"),
        ({"people": {"ada": {"accounts": {"azure": ["x"]}}}}, "which is no source"),
        ({"people": {"ada": {"accounts": {"aws": ["x"]}}, "bob": {"accounts": {"aws": ["x"]}}}}, "belongs to two people"),
        ({"sources": [{"name": "g", "kind": "gcp"}]}, "names no resources"),
    ],
)
def test_a_declaration_that_cannot_be_meant_is_refused(changes: dict[str, object], message: str) -> None:
    """Secrets, doubled names, accounts of nowhere or of two people."""
    with pytest.raises(ValidationError, match=message):
        access(**changes)
