"""A bucket's encryption and public access: the real client asks moto's server on the loopback, over the real protocol of S3 and KMS."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flows.adapters.security import aws
from flows.core.governance.proofs import Bucket, Finding

boto3 = pytest.importorskip("boto3", reason="the AWS client is not installed")
pytest.importorskip("moto.server", reason="moto's server is not installed")

REGION, NAME = "eu-central-1", "data"
BLOCKED = dict.fromkeys(aws.BLOCKS, True)


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A fresh server, and credentials that mean nothing."""
    from moto.server import ThreadedMotoServer

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    urllib.request.urlopen(urllib.request.Request(f"{url}/moto-api/reset", method="POST"), timeout=10).read()
    try:
        yield url
    finally:
        server.stop()


class Account:
    """A bucket as it should be: encrypted by the declared key, which rotates, and closed to the public."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.s3, self.kms = (boto3.client(name, endpoint_url=endpoint, region_name=REGION) for name in ("s3", "kms"))
        self.key = self.new_key("alias/data")
        self.id = self.key.rpartition("/")[2]
        self.s3.create_bucket(Bucket=NAME, CreateBucketConfiguration={"LocationConstraint": REGION}, ObjectOwnership="ObjectWriter")
        self.s3.put_public_access_block(Bucket=NAME, PublicAccessBlockConfiguration=BLOCKED)
        self.encrypt(self.key)

    def new_key(self, alias: str) -> str:
        key = self.kms.create_key()["KeyMetadata"]["Arn"]
        self.kms.create_alias(AliasName=alias, TargetKeyId=key)
        self.kms.enable_key_rotation(KeyId=key)
        return str(key)

    def encrypt(self, key: str | None, algorithm: str = "aws:kms") -> None:
        by = {"SSEAlgorithm": algorithm, **({"KMSMasterKeyID": key} if key else {})}
        rules = {"Rules": [{"ApplyServerSideEncryptionByDefault": by}]}
        self.s3.put_bucket_encryption(Bucket=NAME, ServerSideEncryptionConfiguration=rules)

    def policy(self, principal: Any, **more: Any) -> None:
        statement = {
            "Sid": "Open",
            "Effect": "Allow",
            "Principal": principal,
            "Action": "s3:GetObject",
            "Resource": f"arn:aws:s3:::{NAME}/*",
        }
        self.s3.put_bucket_policy(Bucket=NAME, Policy=json.dumps({"Version": "2012-10-17", "Statement": [{**statement, **more}]}))

    def look(self, **declared: Any) -> tuple[Finding, Finding]:
        wanted = {"provider": "aws", "name": NAME, "region": REGION, "key": "alias/data", "endpoint": self.endpoint, **declared}
        return aws.bucket("fra", Bucket.model_validate(wanted))


@pytest.fixture
def account(endpoint: str) -> Account:
    """The account of one test."""
    return Account(endpoint)


def test_a_bucket_as_it_should_be_is_proved(account: Account) -> None:
    """By the declared key however it is named: an alias, an id or the ARN."""
    for key in ("alias/data", account.id, account.key):
        rest, public = account.look(key=key)
        assert (rest.outcome, public.outcome) == ("proved", "proved")
    account.encrypt(account.id)
    assert account.look()[0].observed == "bucket `data` is encrypted by default with `alias/data`, which is enabled and rotates"
    assert account.look()[0].facts["arn"] == account.key


WRONG: list[tuple[Callable[[Account], Any], str]] = [
    (lambda a: a.s3.delete_bucket_encryption(Bucket=NAME), "bucket `data` has no default encryption"),
    (lambda a: a.encrypt(None, "AES256"), "bucket `data` is encrypted with a key of AWS (AES256)"),
    (lambda a: a.kms.disable_key(KeyId=a.id), "key `alias/data` is Disabled"),
    (lambda a: a.kms.schedule_key_deletion(KeyId=a.id), "key `alias/data` is PendingDeletion"),
    (lambda a: a.kms.disable_key_rotation(KeyId=a.key), "key `alias/data` does not rotate"),
    (lambda a: a.kms.delete_alias(AliasName="alias/data"), "key `alias/data` does not exist"),
]


@pytest.mark.parametrize(("spoil", "seen"), WRONG)
def test_what_ends_the_proof_of_encryption(account: Account, spoil: Callable[[Account], Any], seen: str) -> None:
    """Each says what was seen, what is needed and how to put it right; public access is a finding of its own."""
    spoil(account)
    rest, public = account.look()
    assert (rest.outcome, rest.observed, public.outcome) == ("failed", seen, "proved")
    assert rest.expected and rest.fix


def test_another_key_is_not_the_right_one(account: Account) -> None:
    """It works and it rotates; it is not the declared one."""
    other = account.new_key("alias/other")
    account.encrypt(other)
    rest, _ = account.look()
    assert (rest.outcome, rest.observed) == ("failed", f"bucket `data` is encrypted with `{other}`")


def test_without_a_declared_key_any_of_the_provider_will_do(account: Account) -> None:
    """A site without keys of its own still owes that its data is encrypted."""
    account.encrypt(None, "AES256")
    assert account.look(key=None)[0].outcome == "proved"
    account.s3.delete_bucket_encryption(Bucket=NAME)
    assert account.look(key=None)[0].outcome == "failed"


@pytest.mark.parametrize("off", aws.BLOCKS)
def test_each_part_of_the_public_access_block_counts(account: Account, off: str) -> None:
    """Three of four are not enough."""
    account.s3.put_public_access_block(Bucket=NAME, PublicAccessBlockConfiguration={**BLOCKED, off: False})
    _, public = account.look()
    assert (public.outcome, public.observed) == ("failed", f"bucket `data` does not block public access: {off} off")


def test_no_public_access_block_at_all(account: Account) -> None:
    """As all four off."""
    account.s3.delete_public_access_block(Bucket=NAME)
    assert account.look()[1].observed.endswith(f"{', '.join(aws.BLOCKS)} off")


@pytest.mark.parametrize("principal", ["*", {"AWS": "*"}, {"AWS": ["arn:aws:iam::1:root", "*"]}])
def test_a_policy_for_everyone(account: Account, principal: Any) -> None:
    """However it is written; the statement is named."""
    account.s3.put_public_access_block(Bucket=NAME, PublicAccessBlockConfiguration={**BLOCKED, "BlockPublicPolicy": False})
    account.policy(principal)
    account.s3.put_public_access_block(Bucket=NAME, PublicAccessBlockConfiguration=BLOCKED)
    _, public = account.look()
    assert (public.outcome, public.observed) == ("failed", "its policy lets everyone in: statement Open")


def test_a_policy_that_denies_everyone_or_names_somebody_is_no_hole(account: Account) -> None:
    """Deny takes away, and a named principal is not everyone."""
    account.policy("*", Effect="Deny")
    assert account.look()[1].outcome == "proved"
    account.policy({"AWS": "arn:aws:iam::123456789012:role/worker"})
    assert account.look()[1].outcome == "proved"


@pytest.mark.parametrize("acl", ["public-read", "authenticated-read"])
def test_an_access_list_for_everyone(account: Account, acl: str) -> None:
    """Everyone, and everyone who has any account."""
    account.s3.delete_public_access_block(Bucket=NAME)
    account.s3.put_bucket_acl(Bucket=NAME, ACL=acl)
    account.s3.put_public_access_block(Bucket=NAME, PublicAccessBlockConfiguration=BLOCKED)
    _, public = account.look()
    assert (public.outcome, public.observed) == ("failed", "its access list lets everyone in: READ")


def test_what_could_not_be_asked_is_neither_proved_nor_failed(account: Account) -> None:
    """No such bucket, and nobody who answers."""
    for declared in ({"name": "other"}, {"endpoint": "http://127.0.0.1:9"}):
        found = account.look(**declared)
        assert [one.outcome for one in found] == ["unchecked", "unchecked"]
        assert all(one.observed.startswith("AWS could not be asked: ") and one.fix for one in found)


def test_the_evidence_changes_with_what_was_seen(account: Account) -> None:
    """The same configuration has the same hash, another one another."""
    before = account.look()[0].evidence
    assert account.look()[0].evidence == before
    account.kms.disable_key_rotation(KeyId=account.key)
    assert account.look()[0].evidence != before
