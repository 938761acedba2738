"""What a dispatched run asks its cloud for: the decided offer, or for what nobody decided the pool's cheapest one."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from flows.core.errors import UserError
from flows.core.placement.job_variables import job_variables, run_tags
from flows.core.placement.kubernetes_manifest import deadline_seconds
from flows.store import decisions

if TYPE_CHECKING:
    from flows.adapters.settings import Settings
    from flows.core.placement.estate import Offer, Pool
    from flows.core.placement.model import Estate
    from flows.store.database import State

PROCESS = "process"
KUBERNETES = "kubernetes"
DAY_SECONDS = 86_400


def of_run(state: State, settings: Settings, deployment: str, parameters: Mapping[str, Any], *, key: str) -> dict[str, Any]:
    """The job variables of one run of `<step>/<pool>`; none in the embedded profile and on `process` pools, which take none.

    Args:
        state: where the decision is.
        settings: name the declarations and the released image.
        deployment: `<step>/<pool>`.
        parameters: those of the run: its `workload` and, where one was made, its `decision_id`.
        key: the idempotency key of the run, `<intent>#<attempt>`.

    Raises:
        UserError: the estate no longer has the offer, or no image is known.
    """
    from flows.adapters.estate import load_estate

    step, _, name = deployment.rpartition("/")
    if settings.profile == "embedded":
        return {}
    estate = load_estate(settings.deployments / "estate")
    pool = estate.pool_by_name.get(name)
    if pool is None or pool.type == PROCESS:
        return {}
    chosen, request = _decided(state, parameters.get("decision_id"))
    decided = chosen.get("pool") == name
    image = request.get("image") or settings.image
    if image is None:
        raise UserError(
            f"no image is known for `{deployment}`",
            field="TRADEWIND_IMAGE",
            expected="`sha256:…`, the digest of the released image",
            fix="set it where control's worker runs",
        )
    asked = job_variables(
        pool.type,
        _offer(estate, pool, chosen["offer"]) if decided else _cheapest(estate, pool),
        spot=bool(decided and chosen.get("spot")),
        nodes=int(request.get("resources", {}).get("nodes", 1)) if decided else 1,
        tags=run_tags(str(parameters["workload"]), step, key.rpartition("#")[0]),
        image=image,
    )
    if pool.type == KUBERNETES:
        asked["deadline_seconds"] = deadline_seconds(pool, _planned(chosen if decided else {}, pool))
    return asked


def start_seconds(settings: Settings, name: str) -> float | None:
    """How long a run of the pool may take from its submission to its first line: start-up, queue, capacity, and a margin; None: unbounded.

    Only jobs in a cloud are bounded: a `process` pool's own host starts its runs or is known to be gone.
    """
    from flows.adapters.estate import load_estate

    if settings.profile == "embedded":
        return None
    pool = load_estate(settings.deployments / "estate").pool_by_name.get(name)
    if pool is None or pool.type == PROCESS:
        return None
    queue = pool.kubernetes.watch_seconds if pool.kubernetes is not None else float(pool.spot_wait_minutes * 60)
    return float(pool.startup_minutes * 60) + queue + settings.start_margin_seconds


def _planned(chosen: Mapping[str, Any], pool: Pool) -> timedelta:
    """How long the run may take at p90, staging included; for what nobody decided, the longest that a run of the pool may take."""
    if not chosen:
        return timedelta(seconds=int(str(pool.infrastructure.get("timeout_seconds", DAY_SECONDS))))
    return datetime.fromisoformat(chosen["finish_p90"]) - datetime.fromisoformat(chosen["start"])


def _decided(state: State, decision_id: str | None) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """What was chosen, and the request it was chosen for; empty where nothing was."""
    if decision_id is None:
        return {}, {}
    with state.transaction() as tx:
        body = decisions.get(tx, decision_id)
        if body is None or body.get("chosen") is None:
            return {}, {}
        return body["chosen"], decisions.inputs(tx, decision_id).get("request") or {}


def _offer(estate: Estate, pool: Pool, name: str) -> Offer:
    for offer in estate.offers_of(pool):
        if offer.name == name:
            return offer
    raise UserError(
        f"pool `{pool.name}` no longer rents `{name}`, which was decided for this run",
        file="estate/offers.csv",
        fix="start the workload's `lifecycle`; it decides again",
    )


def _cheapest(estate: Estate, pool: Pool) -> Offer:
    priced = [(offer.usd_per_hour, offer.name, offer) for offer in estate.offers_of(pool) if offer.usd_per_hour is not None]
    if not priced:
        raise UserError(f"pool `{pool.name}` has no offer with a price", file="estate/offers.csv", fix="add one")
    return min(priced, key=lambda row: row[:2])[2]
