"""What S3 and KMS say of a site's bucket: the key that encrypts it by default, whether that key works and rotates, and who is let in.

Only configuration is read, by the client's usual chain of credentials: `s3:GetEncryptionConfiguration`, `s3:GetBucketPublicAccessBlock`,
`s3:GetBucketPolicy`, `s3:GetBucketPolicyStatus`, `s3:GetBucketAcl`, `kms:DescribeKey`, `kms:GetKeyRotationStatus`; no object.
Default encryption holds for objects written since it was set.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from flows.core.errors import UserError
from flows.core.governance.proofs import Bucket, Finding, Wrong, judged

if TYPE_CHECKING:
    from flows.core.governance.proofs import Check

BLOCKS = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
EVERYONE = ("http://acs.amazonaws.com/groups/global/AllUsers", "http://acs.amazonaws.com/groups/global/AuthenticatedUsers")


def bucket(site: str, declared: Bucket) -> tuple[Finding, Finding]:
    """Encryption at rest and public access of the bucket; what could not be read is `unchecked`.

    Raises:
        UserError: the client is not installed.
    """
    try:
        import boto3
        from botocore.config import Config
    except ModuleNotFoundError:
        raise UserError(f"the bucket of `{site}` needs `boto3`, which is not installed", fix="install it") from None
    config = Config(connect_timeout=10, read_timeout=30, retries={"total_max_attempts": 3, "mode": "standard"})

    def client(service: str, endpoint: str | None) -> Any:
        return boto3.client(service, endpoint_url=endpoint, region_name=declared.region, config=config)

    return (
        _asked(site, "encryption-at-rest", lambda: _encryption(site, declared, client)),
        _asked(site, "no-public-access", lambda: _public(site, declared.name, client("s3", declared.endpoint))),
    )


def _asked(site: str, check: Check, ask: Callable[[], Finding]) -> Finding:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        return ask()
    except (BotoCoreError, ClientError) as error:
        fix = "see that the endpoint is reached and that this identity may read the bucket's configuration"
        return Finding(site, check, "unchecked", f"AWS could not be asked: {error}", "its configuration", fix)


def _encryption(site: str, declared: Bucket, client: Callable[[str, str | None], Any]) -> Finding:
    s3, name = client("s3", declared.endpoint), declared.name
    answer = _or_none(lambda: s3.get_bucket_encryption(Bucket=name), "ServerSideEncryptionConfigurationNotFoundError")
    rules = answer["ServerSideEncryptionConfiguration"]["Rules"] if answer else []
    default = next((rule["ApplyServerSideEncryptionByDefault"] for rule in rules if "ApplyServerSideEncryptionByDefault" in rule), {})
    algorithm, used = default.get("SSEAlgorithm"), default.get("KMSMasterKeyID")
    facts: dict[str, Any] = {"bucket": name, "algorithm": algorithm, "key": used}
    if algorithm is None:
        fix = f"`aws s3api put-bucket-encryption --bucket {name} …`"
        wrong = Wrong(f"bucket `{name}` has no default encryption", f"encryption with `{declared.key or 'a key of AWS'}`", fix)
        return judged(site, "encryption-at-rest", [wrong], "", facts)
    if declared.key is None:
        return judged(site, "encryption-at-rest", [], f"bucket `{name}` is encrypted by default: {algorithm}, a key of AWS", facts)
    kms = client("kms", declared.key_endpoint or declared.endpoint)
    wanted = _key(kms, declared.key)
    found = wanted if used == declared.key else _key(kms, used) if used and algorithm.startswith("aws:kms") else None
    state = None if wanted is None else wanted["KeyState"]
    rotates = state == "Enabled" and wanted is not None and kms.get_key_rotation_status(KeyId=wanted["KeyId"])["KeyRotationEnabled"]
    facts |= {"arn": None if found is None else found["Arn"], "state": state, "rotates": bool(rotates)}
    return judged(
        site, "encryption-at-rest", _key_wrongs(declared, algorithm, used, wanted, found, bool(rotates)),
        f"bucket `{name}` is encrypted by default with `{declared.key}`, which is enabled and rotates", facts,
    )  # fmt: skip


def _key_wrongs(
    declared: Bucket, algorithm: str, used: str | None, wanted: Mapping[str, Any] | None, found: Mapping[str, Any] | None, rotates: bool
) -> Iterator[Wrong]:
    key, name = declared.key, declared.name
    if wanted is None:
        yield Wrong(f"key `{key}` does not exist", "the declared key", "make the key, or correct `bucket.key`")
        return
    if found is None or found["Arn"] != wanted["Arn"]:
        seen = f"`{used}`" if used else f"a key of AWS ({algorithm})"
        yield Wrong(
            f"bucket `{name}` is encrypted with {seen}", f"`{key}`", f"`aws s3api put-bucket-encryption --bucket {name} …` with that key"
        )
    if wanted["KeyState"] != "Enabled":
        yield Wrong(f"key `{key}` is {wanted['KeyState']}", "an enabled key", f"`aws kms enable-key --key-id {wanted['KeyId']}`")
    elif not rotates:
        yield Wrong(f"key `{key}` does not rotate", "rotation each year", f"`aws kms enable-key-rotation --key-id {wanted['KeyId']}`")


def _key(kms: Any, id: str) -> Any:
    """A key's description; None if there is none."""
    answer = _or_none(lambda: kms.describe_key(KeyId=id), "NotFoundException")
    return None if answer is None else answer["KeyMetadata"]


def _public(site: str, name: str, s3: Any) -> Finding:
    answer = _or_none(lambda: s3.get_public_access_block(Bucket=name), "NoSuchPublicAccessBlockConfiguration")
    block = answer["PublicAccessBlockConfiguration"] if answer else {}
    off = [part for part in BLOCKS if not block.get(part)]
    status = _or_none(lambda: s3.get_bucket_policy_status(Bucket=name), "NoSuchBucketPolicy")
    policy = _or_none(lambda: s3.get_bucket_policy(Bucket=name), "NoSuchBucketPolicy")
    open_to = sorted(_open(json.loads(policy["Policy"]))) if policy else []
    if status and status["PolicyStatus"]["IsPublic"] and not open_to:
        open_to = ["everyone"]
    grants = sorted({grant["Permission"] for grant in s3.get_bucket_acl(Bucket=name)["Grants"] if grant["Grantee"].get("URI") in EVERYONE})
    wrong = []
    if off:
        fix = f"`aws s3api put-public-access-block --bucket {name} …`"
        wrong.append(Wrong(f"bucket `{name}` does not block public access: {', '.join(off)} off", "all four settings on", fix))
    if open_to:
        wrong.append(
            Wrong(
                f"its policy lets everyone in: {', '.join(open_to)}",
                "named principals only",
                f"take the statement out of the policy of `{name}`",
            )
        )
    if grants:
        wrong.append(
            Wrong(
                f"its access list lets everyone in: {', '.join(grants)}",
                "the owner alone",
                f"`aws s3api put-bucket-acl --bucket {name} --acl private`",
            )
        )
    facts = {"bucket": name, "blocks": sorted(set(BLOCKS) - set(off)), "policy": open_to, "acl": grants}
    return judged(
        site, "no-public-access", wrong, f"bucket `{name}` blocks public access; neither policy nor access list lets everyone in", facts
    )


def _open(policy: Mapping[str, Any]) -> Iterator[str]:
    """The statements of a policy that allow something to everyone, whatever their conditions."""
    statements = policy.get("Statement", [])
    for number, statement in enumerate(statements if isinstance(statements, list) else [statements]):
        who = statement.get("Principal")
        named = who.get("AWS") if isinstance(who, Mapping) else who
        if statement.get("Effect") == "Allow" and ("NotPrincipal" in statement or "*" in (named if isinstance(named, list) else [named])):
            yield f"statement {statement.get('Sid') or number + 1}"


def _or_none(ask: Callable[[], Any], missing: str) -> Any:
    """The answer, or None where the service says that there is no such thing."""
    from botocore.exceptions import ClientError

    try:
        return ask()
    except ClientError as error:
        if error.response.get("Error", {}).get("Code") == missing:
            return None
        raise
