"""What comes out: the chosen candidate, the runners-up, and every rejected one with all its reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal

from flows.core.canonical import canonical_json, instant

if TYPE_CHECKING:
    from flows.core.governance.labels import Label

Kind = Literal["policy", "data", "restrict", "fit", "capacity", "latency", "time", "budget"]
FILTER_ORDER: tuple[Kind, ...] = ("policy", "data", "restrict", "fit", "capacity", "latency", "time", "budget")
RELAXATION_ORDER: tuple[Kind, ...] = ("budget", "time", "latency", "capacity", "fit", "restrict", "data", "policy")


def number(value: Decimal) -> int | float:
    """The decimal as a JSON number."""
    return int(value) if value == value.to_integral_value() else float(value)


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a candidate lost to a rule: what was seen and what the rule requires.

    `source` says where the rule or the limit is written. `exception_by` names the owner who may grant a dated exception, where the rule
    allows one.
    """

    rule: str
    kind: Kind
    observed: str
    required: str
    source: str
    exception_by: str | None = None

    def to_json(self) -> dict[str, str]:
        """As the decision prints it."""
        return {"rule": self.rule, "kind": self.kind, "observed": self.observed, "required": self.required, "source": self.source}


@dataclass(frozen=True, slots=True)
class Usd:
    """USD to six places each; the total is their sum."""

    compute: Decimal
    egress: Decimal
    storage: Decimal
    carbon: Decimal
    delay: Decimal

    @property
    def cash(self) -> Decimal:
        """What is really paid: compute, egress and storage."""
        return self.compute + self.egress + self.storage

    @property
    def total(self) -> Decimal:
        """What ranks: cash, carbon and delay."""
        return self.compute + self.egress + self.storage + self.carbon + self.delay

    def to_json(self) -> dict[str, int | float]:
        """As the decision prints it."""
        items = ("compute", "egress", "storage", "carbon", "delay", "total")
        return {item: number(getattr(self, item)) for item in items}


@dataclass(frozen=True, slots=True)
class Chosen:
    """A candidate that met every filter: pool x offer x start x (on demand or spot), and what it costs.

    `usd_per_hour` is the list price of all nodes, `usd_p90` the cash at the 90th percentile of the runtime; `fallback` is a spot
    candidate's on-demand twin.
    """

    pool: str
    site: str
    offer: str
    spot: bool
    start: datetime
    finish_p50: datetime
    finish_p90: datetime
    usd_per_hour: Decimal
    usd: Usd
    usd_p90: Decimal
    kg_co2: Decimal
    fallback: Chosen | None = None

    def to_json(self) -> dict[str, Any]:
        """As the decision prints it."""
        return {
            "pool": self.pool,
            "site": self.site,
            "offer": self.offer,
            "spot": self.spot,
            "start": instant(self.start),
            "finish_p50": instant(self.finish_p50),
            "finish_p90": instant(self.finish_p90),
            "usd_per_hour": number(self.usd_per_hour),
            "usd": self.usd.to_json(),
            "usd_p90": number(self.usd_p90),
            "kg_co2": number(self.kg_co2),
            "fallback": None if self.fallback is None else {k: v for k, v in self.fallback.to_json().items() if k != "fallback"},
        }


@dataclass(frozen=True, slots=True)
class Relaxation:
    """The smallest change that would have let it win a place, as `path: old -> new`, and the total it would then cost at most."""

    change: str
    would_cost_usd: Decimal

    def to_json(self) -> dict[str, Any]:
        """As the decision prints it."""
        return {"change": self.change, "would_cost_usd": number(self.would_cost_usd)}


@dataclass(frozen=True, slots=True)
class Rejection:
    """The `offers` of a pool whose nearest miss fails the same rules; `offer` names it if there is only one."""

    pool: str
    site: str
    offer: str | None
    offers: int
    reasons: tuple[Reason, ...]
    relaxation: Relaxation | None = None

    def to_json(self) -> dict[str, Any]:
        """As the decision prints it."""
        return {
            "pool": self.pool,
            "site": self.site,
            "offer": self.offer,
            "offers": self.offers,
            "relaxation": None if self.relaxation is None else self.relaxation.to_json(),
            "reasons": [reason.to_json() for reason in self.reasons],
        }


@dataclass(frozen=True, slots=True)
class Decision:
    """Where one request may run, where it should, and why nowhere else. `output_label` is None if nothing can be said of the outputs."""

    decision_id: str
    at: datetime
    inputs: Mapping[str, str]
    datasets: tuple[str, ...]
    output_label: Label | None
    chosen: Chosen | None
    alternatives: tuple[Chosen, ...]
    rejected: tuple[Rejection, ...]
    summary: str
    warnings: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """The decision as plain JSON values."""
        return {
            "decision_id": self.decision_id,
            "at": instant(self.at),
            "inputs": dict(self.inputs),
            "datasets": list(self.datasets),
            "output_label": None if self.output_label is None else self.output_label.to_json(),
            "chosen": None if self.chosen is None else self.chosen.to_json(),
            "alternatives": [candidate.to_json() for candidate in self.alternatives],
            "warnings": list(self.warnings),
            "summary": self.summary,
            "rejected": [rejection.to_json() for rejection in self.rejected],
        }

    def to_bytes(self) -> bytes:
        """The decision as RFC 8785 JSON."""
        return canonical_json(self.to_json())
