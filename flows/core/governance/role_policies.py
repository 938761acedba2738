"""What goes on the role or service account that a site's runs stand on: the most that any run's own credentials may be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flows.core.governance.session_policies import Reach, Root, policy_document, workload_reach

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


def google_bindings(account: str, reaches: Sequence[Reach]) -> list[dict[str, Any]]:
    """Bindings of each bucket: objects below the prefixes by a condition; listing, which conditions cannot tell apart, of the bucket."""
    found = []
    for reach in reaches:
        objects = f"projects/_/buckets/{reach.root.bucket}/objects/"
        expression = " || ".join(f"resource.name.startsWith('{objects}{prefix}')" for prefix in reach.may("write"))
        role = "objectUser" if reach.delete else "objectCreator"
        found.append({
            "bucket": reach.root.bucket,
            "bindings": [
                {
                    "role": f"roles/storage.{role}",
                    "members": [f"serviceAccount:{account}"],
                    "condition": {"title": "tradewind-own-data", "expression": expression},
                },
                {"role": "roles/storage.legacyBucketReader", "members": [f"serviceAccount:{account}"]},
            ],
        })  # fmt: skip
    return found
