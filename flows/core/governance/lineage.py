"""OpenLineage run events as JSON values: which run read and made which datasets, where, by which decision. Never a value of a row.

The shapes are those of OpenLineage 2-0-2 and its facets (openlineage.io/spec), held by a test against the published schemas. They are
built here and not with the client's classes, whose import costs a step half a second; the client sends them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from uuid import NAMESPACE_URL, UUID, uuid5

from flows.core.canonical import instant

PRODUCER = "urn:tradewind:0.1.0"
SPEC = "https://openlineage.io/spec"
NAMESPACE = "tradewind"
"""The namespace of all jobs; that of a dataset is the site where it rests."""
DECISION_FACET = "urn:tradewind:facet:placement-decision:1-0-0#/$defs/PlacementDecisionRunFacet"
"""See `docs/schemas/PlacementDecisionRunFacet.json`."""

EventType = Literal["START", "COMPLETE", "FAIL"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column, or a table with its columns."""

    name: str
    type: str
    columns: tuple[Column, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The field as the schema facet has it."""
        inner = {"fields": [column.to_json() for column in self.columns]} if self.columns else {}
        return {"name": self.name, "type": self.type, **inner}


@dataclass(frozen=True, slots=True)
class Data:
    """One version of a dataset at a site."""

    site: str
    dataset: str
    version: str
    columns: tuple[Column, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The dataset as an event has it."""
        facets = {"version": {**_facet("DatasetVersionDatasetFacet", "1-0-1"), "datasetVersion": self.version}}
        if self.columns:
            facets["schema"] = {**_facet("SchemaDatasetFacet", "1-2-0"), "fields": [column.to_json() for column in self.columns]}
        return {"namespace": self.site, "name": self.dataset, "facets": facets}


@dataclass(frozen=True, slots=True)
class Run:
    """A run of a step; `parent` is the run of its workload's lifecycle."""

    run_id: str
    workload: str
    step: str
    parent: str | None = None


def run_uuid(run_id: str) -> str:
    """The run's own id if it is a UUID, as that of a Prefect flow run; else one derived from it, always the same."""
    try:
        return str(UUID(run_id))
    except ValueError:
        return str(uuid5(NAMESPACE_URL, f"tradewind:run:{run_id}"))


def event(
    type: EventType,
    run: Run,
    *,
    at: datetime,
    inputs: Sequence[Data] = (),
    outputs: Sequence[Data] = (),
    decision: Mapping[str, Any] | None = None,
    label: Mapping[str, Any] | None = None,
    intent_id: str = "",
    error: str | None = None,
) -> dict[str, Any]:
    """One run event. `error` is the kind of error and no more: a message could hold what a row says."""
    facets: dict[str, Any] = {}
    if run.parent is not None:
        job = {"namespace": NAMESPACE, "name": f"{run.workload}.lifecycle"}
        facets["parent"] = {**_facet("ParentRunFacet", "1-2-0"), "run": {"runId": run_uuid(run.parent)}, "job": job}
    if decision is not None and decision.get("chosen"):
        facets["tradewind_placement"] = _placement(decision, label, intent_id)
    if error is not None:
        facets["errorMessage"] = {**_facet("ErrorMessageRunFacet", "1-0-1"), "message": error, "programmingLanguage": "PYTHON"}
    kind = {**_facet("JobTypeJobFacet", "2-0-4"), "processingType": "BATCH", "integration": "TRADEWIND", "jobType": "STEP"}
    return {
        "eventTime": instant(at),
        "eventType": type,
        "producer": PRODUCER,
        "schemaURL": f"{SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent",
        "run": {"runId": run_uuid(run.run_id), "facets": facets},
        "job": {"namespace": NAMESPACE, "name": f"{run.workload}.{run.step}", "facets": {"jobType": kind}},
        "inputs": [data.to_json() for data in inputs],
        "outputs": [data.to_json() for data in outputs],
    }


def _facet(name: str, version: str) -> dict[str, Any]:
    return {"_producer": PRODUCER, "_schemaURL": f"{SPEC}/facets/{version}/{name}.json#/$defs/{name}"}


def _placement(decision: Mapping[str, Any], label: Mapping[str, Any] | None, intent_id: str) -> dict[str, Any]:
    chosen = decision["chosen"]
    rules: dict[str, set[str]] = {}
    for row in decision.get("rejected") or ():
        rules.setdefault(row["pool"], set()).update(reason["rule"] for reason in row["reasons"])
    return {
        "_producer": PRODUCER,
        "_schemaURL": DECISION_FACET,
        "decisionId": decision["decision_id"],
        "intentId": intent_id,
        "at": decision["at"],
        "pool": chosen["pool"],
        "site": chosen["site"],
        "offer": chosen["offer"],
        "spot": chosen["spot"],
        "usdTotal": chosen["usd"]["total"],
        "summary": decision["summary"],
        **({"label": dict(label)} if label else {}),
        "inputs": dict(decision["inputs"]),
        "rejected": [{"pool": pool, "rules": sorted(found)} for pool, found in sorted(rules.items())],
    }
