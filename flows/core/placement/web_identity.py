"""How runs are known to a cloud that did not start them: by a token that their own platform signs, and no key that anybody keeps."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from flows.core.fields import Model, Name

GOOGLE_ISSUER = "https://accounts.google.com"
"""Who signs the identity tokens of Google's service accounts."""
GOOGLE_POOLS = frozenset({"cloud-run-v2", "vertex-ai"})
"""Pool types whose runs get such a token from the metadata server."""

AccessRole = Annotated[
    str,
    Field(
        max_length=200,
        pattern=r"^(arn:[a-z-]+:iam::[A-Za-z0-9]*:role/[A-Za-z0-9_+=,.@/-]+|[a-z0-9.-]+@[a-z0-9.-]+)$",
        description="the ARN of a role, or the address of a service account",
    ),
]
AccessProvider = Annotated[
    str,
    Field(
        pattern=r"^projects/[0-9]+/locations/global/workloadIdentityPools/[a-z0-9-]+/providers/[a-z0-9-]+$",
        description="`projects/NUMBER/locations/global/workloadIdentityPools/POOL/providers/PROVIDER`",
    ),
]
Issuer = Annotated[
    str, Field(max_length=200, pattern=r"^https://[A-Za-z0-9.:-]+(/[A-Za-z0-9._~/-]*)?$", description="an `https://` address")
]


class WebIdentity(Model):
    """What the token of a pool's runs says: who signed it (`issuer`), for whom it is (`audience`), whom it names (`subject`).

    Kubernetes: the cluster's issuer; the subject is the runs' service account. Google: `subject` is the account's unique id (21 digits).
    """

    issuer: Issuer = GOOGLE_ISSUER
    audience: Name = "sts.amazonaws.com"
    subject: Annotated[str, Field(pattern=r"^[0-9]{10,30}$", description="the unique id of a service account")] | None = None

    def fits(self, pool: str, pool_type: str, *, cluster: bool) -> None:
        """Whether runs of such a pool have such a token.

        Raises:
            ValueError: they do not.
        """
        google = self.issuer == GOOGLE_ISSUER
        if pool_type in GOOGLE_POOLS:
            if not google or self.subject is None:
                raise ValueError(f"`web_identity` of `{pool}` takes the `subject`, its service account's unique id, and no other `issuer`")
        elif pool_type != "kubernetes" or not cluster:
            raise ValueError(f"`web_identity` is for Google's pools and those with a `kubernetes` section; `{pool}` is a `{pool_type}`")
        elif google or self.subject is not None:
            raise ValueError(f"`web_identity` of `{pool}` takes the cluster's own `issuer`, and no `subject`")

    @property
    def provider(self) -> str:
        """The issuer as AWS names it in conditions and providers."""
        return self.issuer.removeprefix("https://").rstrip("/")
