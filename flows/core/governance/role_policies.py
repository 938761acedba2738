"""What goes on the role or service account that a site's runs stand on: the most that any run's own credentials may be."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from flows.core.governance.session_policies import Reach, Root, policy_document, workload_reach

if TYPE_CHECKING:
    from flows.core.placement.estate import Pool

TAG = "tradewind-workload"
"""The tag of a run's session: a role that asks for it gives its own container nothing, only a session that names its workload."""
STANDING = {"ecs": "ecs-tasks.amazonaws.com", "sagemaker": "sagemaker.amazonaws.com"}
"""Pool type to the service that starts its runs under the role."""


def reaches_of(workloads: Sequence[str], root: Root, destinations: Sequence[Root] = (), *, scans: bool = False) -> list[Reach]:
    """All of the workloads' data at a site, and, for transfers, writing their datasets at the destinations.

    `scans`: an erasure proves that a person is gone by reading every byte of the site.
    """
    own = [workload_reach(name, root) for name in workloads]
    found = [Reach(root, read=("",) if scans else (), delete=tuple(prefix for reach in own for prefix in reach.delete))]
    return found + [Reach(to, write=tuple(reach.delete[0] for reach in own)) for to in destinations]


def aws_role(role: str, reaches: Sequence[Reach], pool_types: Sequence[str]) -> dict[str, Any]:
    """The role's policy and its trust: who may stand on it, and that it may ask for narrower sessions of itself.

    Where no pool's runs come with a web identity, which carries no tags, the policy holds in tagged sessions alone.
    """
    policy = policy_document(reaches)
    services = sorted({STANDING[one] for one in pool_types if one in STANDING})
    own = {"Effect": "Allow", "Principal": {"AWS": role}, "Action": ["sts:AssumeRole", "sts:TagSession"]}
    trusted = [{"Effect": "Allow", "Principal": {"Service": name}, "Action": "sts:AssumeRole"} for name in services]
    if len(services) == len(set(pool_types)):
        for statement in policy["Statement"]:
            condition = statement.setdefault("Condition", {})
            condition["StringLike"] = {**condition.get("StringLike", {}), f"aws:PrincipalTag/{TAG}": "?*"}
    return {"role": role, "policy": policy, "trust": {"Version": policy["Version"], "Statement": [*trusted, own]}}


def arriving(workloads: Sequence[str], root: Root) -> list[Reach]:
    """What runs of other clouds bring to a site: the workloads' datasets, by transfers."""
    return [Reach(root, write=tuple(workload_reach(name, root).delete[0] for name in workloads))]


def access_role(role: str, reaches: Sequence[Reach], pools: Iterable[Pool]) -> dict[str, Any]:
    """The policy of the role that runs from elsewhere take on, and its trust: each pool's token, its issuer, audience and subject.

    Google signs in AWS's own name for it, and its `azp` is there called `aud` (AWS, "Available keys for AWS OIDC federation").
    """
    account = role.split(":")[4]
    statements: list[dict[str, Any]] = []
    for pool in pools:
        known = pool.web_identity
        if known is None:
            continue
        name, google = known.provider, known.subject is not None
        said = {f"{name}:sub": pool.subject, f"{name}:{'oaud' if google else 'aud'}": known.audience}
        statement = {
            "Effect": "Allow",
            "Principal": {"Federated": name if google else f"arn:aws:iam::{account}:oidc-provider/{name}"},
            "Action": "sts:AssumeRoleWithWebIdentity",
            "Condition": {"StringEquals": {**said, **({f"{name}:aud": pool.subject} if google else {})}},
        }
        if statement not in statements:
            statements.append(statement)
    policy = policy_document(reaches)
    return {"role": role, "policy": policy, "trust": {"Version": policy["Version"], "Statement": statements}}


def google_access(account: str, provider: str | None, reaches: Sequence[Reach], roles: Iterable[str]) -> dict[str, Any]:
    """The bindings of the service account that runs at AWS take on, and who may: the roles of AWS, by the provider's default mapping."""
    found: dict[str, Any] = {"service_account": account, "buckets": google_bindings(account, reaches)}
    if provider is None:
        return found
    pool = f"principalSet://iam.googleapis.com/{provider.partition('/providers/')[0]}"
    assumed = sorted({f"arn:aws:sts::{role.split(':')[4]}:assumed-role/{role.rpartition('/')[2]}" for role in roles})
    members = [f"{pool}/attribute.aws_role/{one}" for one in assumed]
    return {**found, "trust": [{"role": "roles/iam.workloadIdentityUser", "members": members}]}


def google_bindings(account: str, reaches: Sequence[Reach]) -> list[dict[str, Any]]:
    """Bindings of each bucket: objects below the prefixes by a condition; listing, which conditions cannot tell apart, of the bucket."""
    found = []
    for reach in reaches:
        objects = f"projects/_/buckets/{reach.root.bucket}/objects/"
        expression = " || ".join(f"resource.name.startsWith('{objects}{prefix}')" for prefix in reach.may("write"))
        roles = ["objectUser"] if reach.delete else ["objectCreator", "objectViewer"]  # what may be written may be read
        found.append({
            "bucket": reach.root.bucket,
            "bindings": [
                *(
                    {
                        "role": f"roles/storage.{role}",
                        "members": [f"serviceAccount:{account}"],
                        "condition": {"title": "tradewind-own-data", "expression": expression},
                    }
                    for role in roles
                ),
                {"role": "roles/storage.legacyBucketReader", "members": [f"serviceAccount:{account}"]},
            ],
        })  # fmt: skip
    return found
