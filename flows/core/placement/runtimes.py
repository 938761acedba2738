"""How long a step really took on an offer: nearest-rank quantiles over recorded runs, once there are enough of them.

The quantile is the smallest recorded time that at least that share of the runs kept to: definition 1 of Hyndman and Fan 1996, doi
10.1080/00031305.1996.10473566. It is a time that was seen, needs no assumption on the distribution, and never lies below the tail.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from decimal import ROUND_CEILING, Decimal
from typing import TYPE_CHECKING

from flows.core.canonical import plain
from flows.core.placement.request import RuntimeEstimate, Step
from flows.core.placement.speeds import HOUR_PLACES, scaled_by

if TYPE_CHECKING:
    from flows.core.placement.estate import Offer
    from flows.core.placement.request import Runtime
    from flows.core.placement.scene import Scene

ENOUGH_RUNS = 20
"""Fewer say too little of the 90th percentile: of 20 runs, two are beyond it."""
MEDIAN, TAIL = Decimal("0.5"), Decimal("0.9")


def nearest_rank(values: Sequence[Decimal], share: Decimal) -> Decimal:
    """The smallest of the values that at least `share` of them do not exceed: the ceil(n * share)-th.

    Raises:
        ValueError: there are no values, or the share does not lie in (0, 1].
    """
    if not values or not 0 < share <= 1:
        raise ValueError("a quantile needs values, and a share in (0, 1]")
    rank = int((len(values) * share).to_integral_value(rounding=ROUND_CEILING))
    return sorted(values)[rank - 1]


def estimates(workload: str, step: Step, seconds: Mapping[str, Sequence[float]], declared: Runtime | None) -> tuple[RuntimeEstimate, ...]:
    """The estimates of a step from the seconds that its runs took on each offer; none where no offer has `ENOUGH_RUNS`.

    `declared` holds for all other offers, as the estimate of no runs.
    """
    measured = [_estimate(workload, step, offer, took) for offer, took in sorted(seconds.items()) if len(took) >= ENOUGH_RUNS]
    if measured and declared is not None:
        hours = {"p50_hours": declared.p50_hours, "p90_hours": declared.p90_hours}
        measured.append(RuntimeEstimate(workload=workload, step=step, **hours))
    return tuple(measured)


def _estimate(workload: str, step: Step, offer: str, took: Sequence[float]) -> RuntimeEstimate:
    hours = [_hours(seconds) for seconds in took]
    p50, p90 = nearest_rank(hours, MEDIAN), nearest_rank(hours, TAIL)
    return RuntimeEstimate(workload=workload, step=step, offer=offer, p50_hours=p50, p90_hours=p90, runs=len(hours))


def _hours(seconds: float) -> Decimal:
    """At least the smallest step above zero: a run takes time, whatever a coarse clock says."""
    return max((Decimal(repr(float(seconds))) / 3600).quantize(HOUR_PLACES, rounding=ROUND_CEILING), HOUR_PLACES)


def told(scene: Scene, offer: Offer | None) -> Iterator[str]:
    """Where the runtime on the chosen offer comes from, as a decision says it; nothing if it is plainly what was declared.

    That is: no run of the step is recorded, and the estate declares no speeds.
    """
    if offer is None:
        return
    rows = {row.offer: row for row in scene.conditions.runtimes if (row.workload, row.step) == (scene.request.workload, scene.request.step)}
    recorded = scene.request.runtime is None and any(row.runs for row in rows.values())
    used = scene.runtime_on(offer)
    if used is None or not (recorded or scene.estate.speeds):
        return
    row = None if scene.request.runtime is not None else rows.get(offer.name) or rows.get(None)
    if row is not None and row.runs:
        source = f"from {row.runs} runs"
    else:
        how = scaled_by(None if row is not None and row.offer is not None else scene.speed_of(offer))
        source = f"as declared{how}: too few runs are recorded there" if recorded else f"as declared{how}"
    yield f"runtime on `{offer.name}`: {plain(used.p50_hours)} h at p50, {plain(used.p90_hours)} h at p90, {source}"
