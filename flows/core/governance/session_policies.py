"""What the short-lived credentials of one run may reach: the folders of its own datasets in its own site's bucket, and nothing else.

From that follow, without asking anybody, AWS's session policy (S3 and what speaks its language) and Google's Credential Access Boundary.
Both only ever narrow what the role or service account has. A name that a policy would read as a pattern, a variable or a quotation is
refused, never escaped: not every store that speaks S3 knows AWS's escapes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flows.core.canonical import sha256_hex
from flows.core.errors import UserError
from flows.core.planning import OUTPUTS, SITE_STEPS

MAX_POLICY = 2048
"""Characters of an inline session policy (AWS STS, `AssumeRole`, parameter `Policy`)."""
MAX_RULES = 10
"""Rules of one Credential Access Boundary (Google Cloud IAM, "Downscoping")."""
MAX_CONDITION = 2048
"""Characters kept to of one rule's condition; more prefixes are given rules of their own."""
SECONDS = (900, 3600)
"""Least and most that a session lasts: STS's least, and the most that a role gets by another role's credentials."""

READ, WRITE, DELETE = "read", "write", "delete"

_LITERAL = re.compile(r"[A-Za-z0-9_.=+@-]+\Z", re.ASCII)
_KEY_ARN = re.compile(r"arn:[a-z-]+:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]+\Z", re.ASCII)
_OBJECT: Mapping[str, tuple[str, ...]] = {
    READ: ("s3:GetObject",),
    WRITE: ("s3:AbortMultipartUpload", "s3:ListMultipartUploadParts", "s3:PutObject"),
    DELETE: ("s3:DeleteObject", "s3:DeleteObjectVersion", "s3:GetObjectVersion"),
}
_GOOGLE: Mapping[str, str] = {READ: "objectViewer", WRITE: "objectCreator", DELETE: "objectUser"}


@dataclass(frozen=True, slots=True)
class Root:
    """Where a site's data rests: a bucket, the keys' prefix in it (empty, or ending in `/`), the key that encrypts it (AWS: its ARN)."""

    bucket: str
    prefix: str = ""
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Reach:
    """Prefixes below the root of one site: folders, or beginnings of names. What may be written may be read, what may be deleted both."""

    root: Root
    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    delete: tuple[str, ...] = ()

    def may(self, what: str) -> tuple[str, ...]:
        """The prefixes of keys for which something is allowed, sorted."""
        granted = {READ: (*self.read, *self.write, *self.delete), WRITE: (*self.write, *self.delete), DELETE: self.delete}[what]
        return tuple(sorted({self.root.prefix + one for one in granted}))


def step_reach(workload: str, step: str, inputs: Iterable[str], root: Root, *, destination: Root | None = None) -> tuple[Reach, ...]:
    """What a step touches, at its own site and, for `transfer`, at the destination.

    The site's own tasks (erasure, retention) look at every byte of the site and remove the workload's.

    Args:
        workload: whose step.
        step: one of the placed steps, or of the sites' own.
        inputs: names of the datasets that it was sent with.
        root: its own site's.
        destination: where a transfer brings its inputs.

    Raises:
        UserError: a name that a policy could not take literally.
    """
    read = tuple(dataset_folder(name) for name in sorted(set(inputs)))
    own = literal(workload, "workload")
    if step in SITE_STEPS:
        return (Reach(root, read=("",), delete=workload_reach(own, root).delete),)
    if destination is not None:
        return Reach(root, read=read), Reach(destination, write=read)
    made = tuple(dataset_folder(f"{own}-{kind}") for kind in OUTPUTS.get(step, ()))
    if step == "train":  # its checkpoints are versions of its model: one is kept at a time, none once it is published
        return (Reach(root, read=read, write=(f"artifacts/{own}/",), delete=made),)
    return (Reach(root, read=read, write=made, delete=(f"features/{own}/",) if step == "materialize" else ()),)


def workload_reach(workload: str, root: Root) -> Reach:
    """All that a workload's steps touch at a site, whichever run: what a role of its own is given.

    Raises:
        UserError: a name that a policy could not take literally, or one that is the beginning of another workload's datasets.
    """
    own = literal(workload, "workload")
    if "-" in own:
        raise UserError(f"workload `{own}` has a `-`: its prefix could be another workload's", expected="a Python name")
    return Reach(root, delete=(f"datasets/{own}-", f"artifacts/{own}/", f"features/{own}/"))


def dataset_folder(name: str) -> str:
    """The folder of a dataset below its site's root."""
    return f"datasets/{literal(name, 'dataset')}/"


def literal(name: str, what: str) -> str:
    """A name that every policy language takes for itself alone.

    Raises:
        UserError: it holds a wildcard, a variable, a quotation mark, a slash, or is a folder's own name.
    """
    if _LITERAL.match(name) is None or name in (".", ".."):
        raise UserError(
            f"{what} `{name}` cannot stand in an access policy",
            expected="letters, digits and `_ . = + @ -`",
            fix="rename it: a policy would read the other characters as patterns",
        )
    return name


def session_policy(reaches: Sequence[Reach], workload: str) -> str:
    """The session policy, as compact JSON of at most `MAX_POLICY` characters.

    Where it would be longer, the workload's own inputs are granted by their common prefix, reading only.

    Raises:
        UserError: it is too long even so, a key is not given as its ARN, or a bucket's name or prefix could not be taken literally.
    """
    for kept in (tuple(reaches), tuple(_shorter(reach, workload) for reach in reaches)):
        text = compact(policy_document(kept))
        if len(text) <= MAX_POLICY:
            return text
    raise UserError(
        f"the session policy of a run of `{workload}` has {len(text)} characters",
        expected=f"at most {MAX_POLICY}, which is all that AWS takes",
        fix="let the step read fewer datasets of other workloads, or give those shorter names",
    )


def _shorter(reach: Reach, workload: str) -> Reach:
    own = workload_reach(workload, reach.root).delete[0]
    read = {own if one.startswith(own) else one for one in reach.read}
    return Reach(reach.root, read=tuple(sorted(read)), write=reach.write, delete=reach.delete)


def policy_document(reaches: Sequence[Reach]) -> dict[str, Any]:
    """AWS's policy of what these reaches allow; listing tells the names below the same prefixes only.

    The names of uploads under way are the exception: S3 tells all of a bucket's or none.
    """
    statements: list[dict[str, Any]] = []
    for actions, what in ((_OBJECT[READ], READ), (_OBJECT[WRITE], WRITE), (_OBJECT[DELETE], DELETE)):
        keys = [f"{_bucket(reach)}/{prefix}*" for reach in reaches for prefix in reach.may(what)]
        statements += [_allow(actions, keys)] if keys else []
    for reach in reaches:
        for action, what in (("s3:ListBucket", READ), ("s3:ListBucketVersions", DELETE)):
            if listed := [f"{prefix}*" for prefix in reach.may(what)]:
                statements.append({**_allow((action,), [_bucket(reach)]), "Condition": {"StringLike": {"s3:prefix": _one(listed)}}})
    if buckets := [_bucket(reach) for reach in reaches if reach.may(WRITE)]:
        statements.append(_allow(("s3:ListBucketMultipartUploads",), buckets))
    for actions, what in ((("kms:Decrypt",), READ), (("kms:GenerateDataKey",), WRITE)):
        if keys := [_key(reach.root.key) for reach in reaches if reach.root.key is not None and reach.may(what)]:
            statements.append(_allow(actions, keys))
    return {"Version": "2012-10-17", "Statement": statements}


def access_boundary(reaches: Sequence[Reach]) -> list[dict[str, Any]]:
    """The rules of Google's Credential Access Boundary, as its token exchange takes them.

    Raises:
        UserError: more rules than Google takes, or a bucket's name or prefix could not be taken literally.
    """
    rules = [
        {
            "availableResource": f"//storage.googleapis.com/projects/_/buckets/{_plain_bucket(reach)}",
            "availablePermissions": [f"inRole:roles/storage.{_GOOGLE[what]}"],
            "availabilityCondition": {"expression": expression},
        }
        for reach in reaches
        for what in (READ, WRITE, DELETE)
        for expression in _expressions(reach, what)
    ]
    if len(rules) > MAX_RULES:
        raise UserError(f"a run's access boundary has {len(rules)} rules", expected=f"at most {MAX_RULES}, which is all that Google takes")
    return rules


def _expressions(reach: Reach, what: str) -> list[str]:
    """Conditions that hold for the prefixes: of objects by their names, of listings by what they ask for."""
    found = [""]
    for prefix in reach.may(what):
        one = f"resource.name.startsWith('projects/_/buckets/{_plain_bucket(reach)}/objects/{prefix}')"
        if what == READ:
            one += f" || api.getAttribute('storage.googleapis.com/objectListPrefix', '').startsWith('{prefix}')"
        joined = f"{found[-1]} || {one}" if found[-1] else one
        if len(joined) <= MAX_CONDITION:
            found[-1] = joined
        else:
            found.append(one)
    return [one for one in found if one]


def session_name(workload: str, step: str, intent: str) -> str:
    """What CloudTrail calls the run's session: at most 64 characters that STS takes."""
    clean = re.sub(r"[^A-Za-z0-9_=,.@-]", "-", f"{step}-{workload}")
    return f"{clean[:47]}-{sha256_hex(intent.encode())[:16]}"


def compact(document: Mapping[str, Any]) -> str:
    """JSON without blanks: STS counts characters."""
    return json.dumps(document, separators=(",", ":"))


def _allow(actions: Sequence[str], resources: Sequence[str]) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": _one(actions), "Resource": _one(sorted(set(resources)))}


def _one(values: Sequence[str]) -> str | list[str]:
    return values[0] if len(values) == 1 else list(values)


def _bucket(reach: Reach) -> str:
    return f"arn:aws:s3:::{_plain_bucket(reach)}"


def _plain_bucket(reach: Reach) -> str:
    for part in reach.root.prefix.split("/")[:-1]:
        literal(part, "prefix of a bucket")
    return literal(reach.root.bucket, "bucket")


def _key(key: str | None) -> str:
    if key is None or _KEY_ARN.match(key) is None:
        raise UserError(
            f"`{key}` is no key that a policy can name",
            field="TRADEWIND_SITES",
            expected="the key's ARN, `arn:aws:kms:REGION:ACCOUNT:key/ID`",
            fix="an alias or a bare id is not enough",
        )
    return key
