"""A small estate, a catalog and a tiny policy in plain Python, so that tests of the engine need no Cedar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

from flows.core.governance.labels import Catalog
from flows.core.placement import Conditions, Decision, Estate, Request, place
from flows.core.placement.decision import Reason
from flows.core.placement.policy import Answer, Question

AT = datetime(2026, 1, 5, 7, tzinfo=UTC)
BLOCS = {"blocs": {"EU": ["DE", "NL", "FR", "SE"], "EEA": ["EU", "NO"]}, "adequacy": {"CH": {}, "US": {"needs": "dpf"}}}


@dataclass
class TinyPolicy:
    """A policy for tests: roles, residency, ceiling and a HIPAA agreement; remembers what it was asked, batch by batch."""

    hash: str = "tiny"
    engine: str = "tiny policy 1"
    last_days: frozenset[date] = frozenset()
    batches: list[list[Question]] = field(default_factory=list)

    def ask(self, questions: Sequence[Question]) -> list[Answer]:
        """All reasons for each question."""
        self.batches.append(list(questions))
        return [self._answer(question) for question in questions]

    def _answer(self, question: Question) -> Answer:
        pool, label = question.pool, question.label
        inside = {code: set(members) for code, members in BLOCS["blocs"].items()}
        inside["EEA"] |= inside["EU"]
        found = []
        if "anywhere" not in label.residency and not any(pool.country in inside.get(code, {code}) for code in label.residency):
            found.append(_reason("residency", pool.country, f"one of {', '.join(sorted(label.residency))}"))
        if label.level > pool.max_level:
            found.append(_reason("classification", str(pool.max_level), f"at least {label.level}"))
        if "hipaa" in label.regimes and "hipaa" not in pool.certifications:
            found.append(_reason("hipaa-baa", ", ".join(sorted(pool.certifications)) or "none", "hipaa"))
        if found:
            return Answer(allowed=False, reasons=tuple(found))
        return Answer(allowed="data-scientist" in question.principal.roles)


def _reason(rule: str, observed: str, required: str) -> Reason:
    return Reason(rule, "policy", observed, required, f"policies/{rule}.cedar", "compliance" if rule == "hipaa-baa" else None)


def site(id: str, country: str | None = "DE", **more: Any) -> dict[str, Any]:
    """A site cleared for everything."""
    return {"id": id, "cloud": "cloud", "country": country, "operator_country": country, "max_classification": "restricted", **more}


def pool(name: str, at: str, **more: Any) -> dict[str, Any]:
    """A pool of a site, without startup time unless it says so."""
    return {"name": name, "site": at, "type": "process", **more}


def offer(at: str, name: str = "small", price: Any = 1, **more: Any) -> dict[str, Any]:
    """An offer with 8 vCPUs and 32 GiB."""
    return {"site": at, "InstanceType": name, "vCPUs": 8, "MemoryGiB": 32, "Price": price, "Arch": "x86_64", **more}


FREE_EGRESS = {"src": "*", "dst": "*", "usd_per_gb": 0, "gbit_per_s": 10}


def estate(**parts: Any) -> Estate:
    """An estate of two German sites and one in the US, one pool each; the parts given replace the usual ones."""
    usual = {
        "sites": [site("fra"), site("muc"), site("iad", "US")],
        "pools": [pool("fra-k8s", "fra"), pool("muc-k8s", "muc"), pool("iad-k8s", "iad")],
        "offers": [offer("fra", price=3), offer("muc", price=2), offer("iad", price=1)],
        "egress": [FREE_EGRESS],
        "blocs": BLOCS,
    }
    return Estate.model_validate({**usual, **parts})


def catalog(*entries: dict[str, Any], **more: Any) -> Catalog:
    """A fresh catalog; without entries it has `ehr`: 10 GB at `fra`, confidential, EU only."""
    usual = {"name": "ehr", "home": "fra", "size_gb": 10, "label": {"classification": "confidential", "residency": ["EU"]}}
    return Catalog.model_validate({"as_of": "2026-01-05T06:00:00Z", "entries": entries or (usual,), **more})


def request(**more: Any) -> Request:
    """A training of two hours, three at p90, by a data scientist, on `ehr`."""
    usual = {
        "workload": "nafld",
        "step": "train",
        "requested_by": {"user": "ada", "roles": ["data-scientist"]},
        "datasets": [{"name": "ehr"}],
        "runtime": {"p50_hours": 2, "p90_hours": 3},
    }
    return Request.model_validate({**usual, **more})


def conditions(**more: Any) -> Conditions:
    """An idle moment, unless told otherwise."""
    return Conditions.model_validate(more)


def decide(
    asked: Request | None = None,
    where: Estate | None = None,
    labels: Catalog | None = None,
    moment: Conditions | None = None,
    *,
    policy: TinyPolicy | None = None,
    at: datetime = AT,
) -> Decision:
    """Place with the usual parts for whatever is left out."""
    return place(asked or request(), where or estate(), policy or TinyPolicy(), labels or catalog(), moment or Conditions(), at)


def rules(decision: Decision, pool: str) -> set[str]:
    """All rules in all rejections of the pool."""
    return {reason.rule for row in decision.rejected if row.pool == pool for reason in row.reasons}


def relaxation_of(decision: Decision, pool: str) -> str | None:
    """The change in the pool's only rejection."""
    (row,) = [row for row in decision.rejected if row.pool == pool]
    return None if row.relaxation is None else row.relaxation.change
