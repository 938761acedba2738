"""Who a run is to a cloud that did not start it: what its own platform says of it, without a key that anybody keeps."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.core.governance.role_policies import STANDING
from flows.core.placement.web_identity import GOOGLE_POOLS

if TYPE_CHECKING:
    from collections.abc import Callable

    from flows.core.placement.model import Pool

TOKEN_FILE = "AWS_WEB_IDENTITY_TOKEN_FILE"
"""What AWS's own clients call the path of a projected token; a pool's template and EKS set it."""
AWS_POOLS = frozenset(STANDING)
"""Pool types whose runs stand on a role of AWS."""
GOOGLE_STS = "https://sts.googleapis.com/v1/token"
IMPERSONATION = "https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts"
SCOPE = "https://www.googleapis.com/auth/cloud-platform"
"""What Google asks of a token that is to be exchanged for a narrower one."""


def identity_token(pool: Pool | None) -> Callable[[], str] | None:
    """Gives the token that the run's own platform signs, a new one each time; None: there is none, and the run is known otherwise."""
    if path := os.environ.get(TOKEN_FILE):
        return _TokenFile(path)
    if pool is not None and pool.type in GOOGLE_POOLS and pool.web_identity is not None:
        return _MetadataToken(pool.web_identity.audience)
    return None


@dataclass(frozen=True, slots=True)
class _TokenFile:
    """Kubernetes' projected token; the kubelet renews it."""

    path: str

    def __call__(self) -> str:
        return Path(self.path).read_text(encoding="utf-8").strip()


@dataclass(frozen=True, slots=True)
class _MetadataToken:
    """An identity token of the service account, by Google's library from the metadata server."""

    audience: str

    def __call__(self) -> str:
        import google.auth.transport.requests
        from google.oauth2 import id_token

        return str(id_token.fetch_id_token(google.auth.transport.requests.Request(), self.audience))  # type: ignore[no-untyped-call]


def vouched_by_aws(provider: str, account: str) -> Any:
    """The service account's, by a request that the run's role at AWS has signed: it holds no secret and is shown to Google alone.

    AWS's library finds the role's keys (`aws_security_credentials_supplier`): Google's own looks at EC2 only, not where ECS has them.
    """
    from google.auth import aws, exceptions

    from flows.adapters.bucket_credentials import s3_region

    class OfTheRole(aws.AwsSecurityCredentialsSupplier):
        def get_aws_security_credentials(self, context: Any, request: Any) -> Any:
            import botocore.session

            found = botocore.session.get_session().get_credentials()
            if found is None:
                raise exceptions.RefreshError("AWS gives this container no credentials")  # type: ignore[no-untyped-call]
            now = found.get_frozen_credentials()
            return aws.AwsSecurityCredentials(now.access_key, now.secret_key, now.token)

        def get_aws_region(self, context: Any, request: Any) -> str:
            return s3_region()

    return aws.Credentials(  # type: ignore[no-untyped-call]
        audience=f"//iam.googleapis.com/{provider}",
        subject_token_type="urn:ietf:params:aws:token-type:aws4_request",
        token_url=GOOGLE_STS,
        aws_security_credentials_supplier=OfTheRole(),
        service_account_impersonation_url=f"{IMPERSONATION}/{account}:generateAccessToken",
        scopes=[SCOPE],
    )
