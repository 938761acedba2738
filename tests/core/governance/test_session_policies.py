"""A run's own policy permits exactly its own folders, at AWS and at Google; no name widens it, a long one is shortened or refused."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.core.errors import UserError
from flows.core.governance.session_policies import (
    MAX_POLICY,
    Reach,
    Root,
    access_boundary,
    session_name,
    session_policy,
    step_reach,
    workload_reach,
)
from flows.core.planning import OUTPUTS, PLACED_STEPS
from tests.core.governance.policy_oracle import aws_allows, google_allows

KEY = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
OTHER_KEY = "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"
HOSTILE = [
    "*",
    "nafld-*",
    "nafld-ra?",
    "${aws:username}",
    "nafld-raw/../../x",
    "a'b",
    "a\\b",
    "a|b",
    "a b",
    "",
    ".",
    "..",
    "rä",
    "${*}",
    "x\n",
]
KINDS = ("raw", "quarantine", "features", "model", "predictions", "reports")

workloads = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
roots = st.builds(
    Root,
    st.from_regex(r"[a-z0-9][a-z0-9.-]{2,10}", fullmatch=True),
    st.sampled_from(["", "data/", "a/b/"]),
    st.sampled_from([None, KEY]),
)


@st.composite
def asked(draw: st.DrawFn) -> tuple[str, str, tuple[str, ...], Root, Root | None]:
    """A step of a workload, with inputs of its own and of others, at a site, a transfer with its destination."""
    workload, step = draw(workloads), draw(st.sampled_from(PLACED_STEPS))
    own = st.sampled_from([f"{workload}-{kind}" for kind in KINDS])
    inputs = draw(st.lists(own | st.from_regex(r"[a-z]{1,6}-[a-z]{1,4}", fullmatch=True), max_size=3, unique=True))
    destination = draw(roots.map(lambda root: Root(f"{root.bucket}-to", root.prefix, root.key))) if step == "transfer" else None
    return workload, step, tuple(inputs), draw(roots), destination


@st.composite
def keys(draw: st.DrawFn, workload: str, inputs: tuple[str, ...]) -> str:
    """Where an object may lie below a root: the run's own folders, their neighbours, and others."""
    names = [*(f"{workload}-{kind}" for kind in KINDS), *inputs, f"{workload}x-raw", f"{workload}-", "other-raw", f"{workload}-raw2"]
    folder = draw(
        st.sampled_from([*(f"datasets/{name}" for name in names), f"artifacts/{workload}", f"features/{workload}", "failures", "x"])
    )
    return folder + draw(st.sampled_from(["/0123456789abcdef/manifest.json", "/x", "x", "", "/*", "/a?b", "/${x}"]))


def expected(what: str, workload: str, step: str, inputs: tuple[str, ...], key: str, *, at_destination: bool) -> bool:
    """What the step may do to an object, as the design says it."""
    folder, _, rest = key.partition("/")
    name, slash, _ = rest.partition("/")
    if not slash:  # not below a folder of that name
        return False
    made = folder == "datasets" and name in {f"{workload}-{kind}" for kind in OUTPUTS.get(step, ())}
    logged = step == "train" and (folder, name) == ("artifacts", workload)
    online = step == "materialize" and (folder, name) == ("features", workload)
    sent = folder == "datasets" and name in inputs
    if at_destination:
        return sent and what in ("read", "write")
    checkpoints = step == "train" and made
    return {"read": sent or made or logged or online, "write": made or logged or online, "delete": online or checkpoints}[what]


ACTIONS = {
    "read": ("s3:GetObject",),
    "write": ("s3:PutObject", "s3:AbortMultipartUpload"),
    "delete": ("s3:DeleteObject", "s3:DeleteObjectVersion", "s3:GetObjectVersion"),
}
KNOWN = {
    *(action for actions in ACTIONS.values() for action in actions),
    "s3:ListBucket", "s3:ListBucketVersions", "s3:ListBucketMultipartUploads", "s3:ListMultipartUploadParts",
    "kms:Decrypt", "kms:GenerateDataKey",
}  # fmt: skip
GOOGLE = {"read": "get", "write": "create", "delete": "delete"}


@given(st.data())
def test_exactly_the_steps_own_folders(data: st.DataObject) -> None:
    """Every action, on keys in, beside and far from the run's folders, in its bucket, the destination's and a third one."""
    workload, step, inputs, root, destination = data.draw(asked())
    reaches = step_reach(workload, step, inputs, root, destination=destination)
    document, rules = json.loads(session_policy(reaches, workload)), access_boundary(reaches)
    for place in (root, destination, Root("elsewhere.example")):
        if place is None:
            continue
        for _ in range(4):
            key = data.draw(keys(workload, inputs))
            for what, actions in ACTIONS.items():
                may = place.bucket != "elsewhere.example" and expected(
                    what, workload, step, inputs, key, at_destination=place is destination
                )
                for action in actions:
                    assert aws_allows(document, action, f"arn:aws:s3:::{place.bucket}/{place.prefix}{key}") is may, (action, key)
                assert google_allows(rules, GOOGLE[what], place.bucket, place.prefix + key) is may, (what, key)
            may_list = place.bucket != "elsewhere.example" and expected(
                "read", workload, step, inputs, key, at_destination=place is destination
            )
            bucket = f"arn:aws:s3:::{place.bucket}"
            assert aws_allows(document, "s3:ListBucket", bucket, prefix=place.prefix + key) is may_list
            assert google_allows(rules, "list", place.bucket, place.prefix + key) is may_list
        assert not aws_allows(document, "s3:ListBucket", f"arn:aws:s3:::{place.bucket}", prefix="")
        assert not aws_allows(document, "s3:ListBucket", f"arn:aws:s3:::{place.bucket}")
        assert not google_allows(rules, "list", place.bucket, "")


@given(asked())
def test_nothing_but_objects_and_the_sites_key(wanted: tuple[str, str, tuple[str, ...], Root, Root | None]) -> None:
    """No action of another service, none on a bucket's own settings, no key but those of the two sites."""
    workload, step, inputs, root, destination = wanted
    document = json.loads(session_policy(step_reach(workload, step, inputs, root, destination=destination), workload))
    for statement in document["Statement"]:
        actions = [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]
        assert set(actions) <= KNOWN
    assert not aws_allows(document, "kms:Decrypt", OTHER_KEY)
    assert not aws_allows(document, "s3:DeleteBucket", f"arn:aws:s3:::{root.bucket}")
    if root.key is not None and (inputs or OUTPUTS.get(step)):
        assert aws_allows(document, "kms:Decrypt", KEY)


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("where", ["dataset", "workload", "bucket", "prefix"])
def test_a_name_that_policies_read_otherwise_is_refused(name: str, where: str) -> None:
    """A wildcard, a variable, a quotation mark or a path never comes into a policy, wherever it stands."""
    root = Root(name if where == "bucket" else "b", f"{name}/" if where == "prefix" else "")
    if where == "prefix" and name == "nafld-raw/../../x":
        root = Root("b", "nafld-raw/../../x/")
    with pytest.raises(UserError, match="cannot stand in an access policy"):
        reaches = step_reach(name if where == "workload" else "nafld", "train", [name if where == "dataset" else "nafld-features"], root)
        session_policy(reaches, "nafld")
    if where in ("bucket", "prefix"):
        with pytest.raises(UserError, match="cannot stand in an access policy"):
            access_boundary(reaches)


@given(st.text(max_size=12))
def test_no_text_as_a_datasets_name_reaches_another_dataset(name: str) -> None:
    """Any text at all: it is refused, or what it allows lies in its own folder."""
    try:
        document = json.loads(session_policy(step_reach("nafld", "score", [name], Root("b")), "nafld"))
    except UserError:
        return
    for other in ("secret-raw", f"{name}x", f"x{name}", "nafld-model"):
        if other != name:
            assert not aws_allows(document, "s3:GetObject", f"arn:aws:s3:::b/datasets/{other}/v/f")


def test_too_long_a_policy_falls_back_to_the_workloads_prefix_for_reading() -> None:
    """Many own inputs are read by their common prefix; what may be written stays as narrow, and other workloads' data stays out."""
    inputs = [f"flight_delay-{'x' * 40}{number}" for number in range(30)]
    text = session_policy(step_reach("flight_delay", "train", [*inputs, "weather-raw"], Root("tradewind-eu", "data/", KEY)), "flight_delay")
    assert len(text) <= MAX_POLICY
    document, at = json.loads(text), "arn:aws:s3:::tradewind-eu/data/datasets"
    assert aws_allows(document, "s3:GetObject", f"{at}/{inputs[3]}/v/f") and aws_allows(document, "s3:GetObject", f"{at}/weather-raw/v/f")
    assert not aws_allows(document, "s3:PutObject", f"{at}/{inputs[3]}/v/f")
    assert not aws_allows(document, "s3:GetObject", f"{at}/flight_delays-raw/v/f")
    assert not aws_allows(document, "s3:GetObject", f"{at}/nafld-raw/v/f")


def test_a_policy_that_stays_too_long_is_refused_with_its_length() -> None:
    """What cannot be shortened without reaching further is not sent."""
    inputs = [f"team{number}-{'x' * 60}" for number in range(30)]
    with pytest.raises(UserError, match=r"has \d{4} characters; expected at most 2048"):
        session_policy(step_reach("nafld", "train", inputs, Root("b")), "nafld")
    with pytest.raises(UserError, match="rules; expected at most 10"):
        access_boundary(step_reach("nafld", "train", [f"{one}{number}" for number in range(10) for one in inputs], Root("b")))


def test_a_key_that_is_no_arn_is_refused() -> None:
    """KMS takes no alias as the resource of a policy: it would allow nothing, or, written as `*`, every key."""
    with pytest.raises(UserError, match="no key that a policy can name"):
        session_policy([Reach(Root("b", key="alias/tradewind"), read=("datasets/nafld-raw/",))], "nafld")


def test_a_workload_whose_prefix_could_be_anothers_is_refused() -> None:
    """`a` and `a-b` would both own `a-b-raw`."""
    with pytest.raises(UserError, match="another workload's"):
        workload_reach("a-b", Root("b"))


@given(st.text(max_size=80), st.sampled_from(PLACED_STEPS), st.text(max_size=40))
def test_a_session_has_a_name_that_sts_takes(workload: str, step: str, intent: str) -> None:
    """STS: `[\\w+=,.@-]*`, 2 to 64 characters."""
    assert re.fullmatch(r"[A-Za-z0-9_=,.@-]{2,64}", session_name(workload, step, intent))
