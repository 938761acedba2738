"""What AWS says of a site: credentials, account, roles, clusters, subnets, bucket, instance types. Reads only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from deployments.apply.cloud_checks import Found, Looked
from flows.core.placement.job_variables import FARGATE

if TYPE_CHECKING:
    from flows.core.errors import Problem

EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "InvalidClientTokenId", "UnrecognizedClientException", "RequestExpired"})
DENIED = frozenset({"AccessDenied", "AccessDeniedException", "UnauthorizedOperation"})
ROLE = ":role/"
RENEW = "sign in again (`aws sso login`, or a new session), then repeat"


def look(at: Looked) -> Iterator[Found]:
    """Each check of one site; without credentials that hold, no other check is made."""
    session = _Session(at)
    named = session.credentials()
    yield named
    if named.result != "ok":
        return
    yield from session.guarded("roles", session.roles)
    yield from session.guarded("clusters", session.clusters)
    yield from session.guarded("subnets", session.subnets)
    yield from session.guarded("bucket", session.bucket)
    yield from session.guarded("machine types", session.machine_types)


class _Session:
    def __init__(self, at: Looked) -> None:
        import boto3  # type: ignore[import-untyped]

        self.at = at
        # of its own, so that the credentials are those of now
        self.session = boto3.Session(region_name=at.site.region)

    def client(self, service: str) -> Any:
        from botocore.config import Config  # type: ignore[import-untyped]

        bounded = Config(connect_timeout=5, read_timeout=15, retries={"max_attempts": 2, "mode": "standard"})
        return self.session.client(service, config=bounded)

    def credentials(self) -> Found:
        """Whether the credentials hold, and are those of the site's account."""
        from botocore.exceptions import BotoCoreError, ClientError, CredentialRetrievalError, NoCredentialsError, TokenRetrievalError  # type: ignore[import-untyped]

        at, check = self.at, "credentials"
        try:
            account = self.client("sts").get_caller_identity()["Account"]
        except (NoCredentialsError, CredentialRetrievalError, TokenRetrievalError) as error:
            return at.wrong(check, at.at_site(f"no credentials for AWS: {error}", "account", fix=RENEW))
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code in EXPIRED:
                return at.wrong(
                    check, at.at_site(f"the credentials for AWS have expired or are not valid (`{code}`)", "account", fix=RENEW)
                )
            return at.unknown(check, f"AWS answered `{code}`", "ask for `sts:GetCallerIdentity`")
        except BotoCoreError as error:
            return at.unknown(check, f"AWS does not answer: {error}", "look at the network, then repeat")
        if at.site.account not in (None, account):
            fix = "use the credentials of that account, or correct `account`"
            return at.wrong(
                check, at.at_site(f"the credentials are those of account `{account}`", "account", expected=f"`{at.site.account}`", fix=fix)
            )
        return at.ok(check, f"account `{account}`")

    def guarded(self, check: str, make: Callable[[str], Iterator[Found]]) -> Iterator[Found]:
        """The findings of one check, or that it could not be made."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield from make(check)
        except ClientError as error:
            code = error.response["Error"]["Code"]
            fix = f"allow `{error.operation_name}` to who looks" if code in DENIED else "repeat; if it stays so, ask AWS's health page"
            yield self.at.unknown(check, f"AWS answered `{code}` to {error.operation_name}", fix)
        except BotoCoreError as error:
            yield self.at.unknown(check, str(error), "look at the network, then repeat")

    def roles(self, check: str) -> Iterator[Found]:
        """Each role that a pool's runs take is there, and the one by which runs elsewhere reach the site's data."""
        client, known, fix = self.client("iam"), dict[str, bool](), "make it, or correct the name"

        def there(arn: str) -> bool:
            if arn not in known:
                known[arn] = _there(partial(client.get_role, RoleName=arn.rpartition("/")[2]), "NoSuchEntity", arn)
            return known[arn]

        for row, pool in self.at.pools:
            for field, arn in pool.infrastructure.items():
                if isinstance(arn, str) and ROLE in arn and not there(arn):
                    yield self.at.wrong(check, self.at.at_pool(row, f"`{field}` of `{pool.name}` is no role: `{arn}`", fix=fix))
        access = self.at.site.access_role
        if access is not None and not there(access):
            what = f"`access_role` of `{self.at.site.id}` is no role: `{access}`"
            yield self.at.wrong(check, self.at.at_site(what, "access_role", fix=fix))
        if all(known.values()):
            yield self.at.ok(check, f"{len(known)} roles are there")

    def clusters(self, check: str) -> Iterator[Found]:
        """Each cluster is active, with the capacity providers that the pool's template names."""
        for row, pool in self.at.pools:
            name = pool.infrastructure.get("cluster")
            if pool.type == "ecs" and isinstance(name, str):
                problem = self._cluster(row, pool.name, name, self._providers(pool))
                yield self.at.ok(check, f"`{name}` is active") if problem is None else self.at.wrong(check, problem)

    def _providers(self, pool: Any) -> set[str]:
        offers = self.at.files.estate.offers_of(pool)
        if all(offer.name.startswith(FARGATE) for offer in offers):
            return {"FARGATE", "FARGATE_SPOT"} if pool.spot else {"FARGATE"}
        cluster = pool.infrastructure["cluster"]
        return {f"{cluster}-on-demand", *([f"{cluster}-spot"] if pool.spot else [])}

    def _cluster(self, row: int, pool: str, name: str, providers: set[str]) -> Problem | None:
        found = self.client("ecs").describe_clusters(clusters=[name])["clusters"]
        if not found or found[0]["status"] != "ACTIVE":
            what = f"`{pool}` runs on cluster `{name}`, which is not active in `{self.at.site.region}`"
            return self.at.at_pool(row, what, fix="make it, or correct `cluster`")
        missing = sorted(providers - set(found[0].get("capacityProviders", [])))
        if missing:
            what = f"cluster `{name}` of `{pool}` has no capacity provider {', '.join(f'`{one}`' for one in missing)}"
            return self.at.at_pool(row, what, fix="add it to the cluster")
        return None

    def subnets(self, check: str) -> Iterator[Found]:
        """Each subnet is there."""
        client, known = self.client("ec2"), dict[str, bool]()
        for row, pool in self.at.pools:
            subnets = pool.infrastructure.get("subnets", ())
            for name in subnets if isinstance(subnets, tuple) else ():
                if name not in known:
                    known[name] = _there(partial(client.describe_subnets, SubnetIds=[name]), "InvalidSubnetID.NotFound", name)
                if not known[name]:
                    what = f"`{pool.name}` runs in subnet `{name}`, which is not in `{self.at.site.region}`"
                    yield self.at.wrong(check, self.at.at_pool(row, what, fix="make it, or correct `subnets`"))
        if all(known.values()):
            yield self.at.ok(check, f"{len(known)} subnets are there")

    def bucket(self, check: str) -> Iterator[Found]:
        """The site's bucket is in the site's region."""
        from botocore.exceptions import ClientError

        bucket, region = self.at.bucket, self.at.site.region
        if bucket is None:
            return
        try:
            where = self.client("s3").get_bucket_location(Bucket=bucket)["LocationConstraint"] or "us-east-1"
        except ClientError as error:
            if error.response["Error"]["Code"] != "NoSuchBucket":
                raise
            yield self.at.wrong(
                check, self.at.at_site(f"there is no bucket `{bucket}`", "region", fix="make it, or correct `TRADEWIND_SITES`")
            )
            return
        if where != region:
            what = f"bucket `{bucket}` is in `{where}`"
            fix = "name the bucket that is there in `TRADEWIND_SITES`, or correct the site"
            yield self.at.wrong(check, self.at.at_site(what, "region", expected=f"`{region}`", fix=fix))
            return
        yield self.at.ok(check, f"`{bucket}` is in `{where}`")

    def machine_types(self, check: str) -> Iterator[Found]:
        """The EC2 types of the offers exist in the region; AWS has no such list for SageMaker's and Fargate's."""
        ecs = [pool for _, pool in self.at.pools if pool.type == "ecs"]
        wanted = {offer.name for pool in ecs for offer in self.at.files.estate.offers_of(pool) if not offer.name.startswith(FARGATE)}
        if not wanted:
            return
        pages = self.client("ec2").get_paginator("describe_instance_type_offerings")
        filters = [{"Name": "instance-type", "Values": sorted(wanted)}]
        rows = [row for page in pages.paginate(LocationType="region", Filters=filters) for row in page["InstanceTypeOfferings"]]
        yield from self.at.unoffered(check, wanted, {row["InstanceType"] for row in rows})


def _there(ask: Callable[[], Any], missing: str, name: str) -> bool:
    """Whether AWS knows it: its answer names it, and is not the error that says `missing`."""
    from botocore.exceptions import ClientError

    try:
        return name in str(ask())
    except ClientError as error:
        if error.response["Error"]["Code"] == missing:
            return False
        raise
