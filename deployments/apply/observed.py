"""Observed objects from the server's JSON: a few bulk reads, then pure projections into the shape of what is declared."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from deployments.apply.desired import MARKER
from deployments.apply.model import TAG, Observed

if TYPE_CHECKING:
    from deployments.apply.server import Api

PAGE = 200
"""The most rows the server hands out at once."""

BLOCK_PREFIX = "tradewind-"
"""Blocks have no tags: the prefix of their name says whose they are."""


async def observe(api: Api) -> tuple[Observed, ...]:
    """All pools, deployments, automations and blocks that apply may own or collide with."""
    ours = {"tags": {"all_": [TAG]}}
    blocks = {
        "block_documents": {"name": {"like_": BLOCK_PREFIX}},
        "block_types": {"slug": {"any_": _block_slugs()}},
        "include_secrets": True,
    }
    pools, flows, deployments, automations, documents = await asyncio.gather(
        _all(api, "/work_pools/filter", {}),
        _all(api, "/flows/filter", {"deployments": ours}),
        _all(api, "/deployments/filter", {"deployments": ours}),
        _all(api, "/automations/filter", {"automations": ours}),
        _all(api, "/block_documents/filter", blocks),
    )
    flow_names = {flow["id"]: flow["name"] for flow in flows}
    named = [deployment(row, flow_names) for row in deployments]
    deployment_names = {one.id: one.name for one in named}
    return (
        *(pool(row) for row in pools),
        *named,
        *(automation(row, deployment_names) for row in sorted(automations, key=lambda row: str(row["created"]))),
        *(block(row) for row in documents if str(row["name"]).startswith(BLOCK_PREFIX)),
    )


def pool(row: Mapping[str, Any]) -> Observed:
    """A work pool; ours if its description ends with our marker."""
    description = row["description"] or ""
    fields = {
        "type": row["type"],
        "description": description,
        "template": row["base_job_template"],
        "concurrency_limit": row["concurrency_limit"],
    }
    return Observed("pool", row["name"], row["id"], description.endswith(MARKER), fields)


def deployment(row: Mapping[str, Any], flow_names: Mapping[str, str]) -> Observed:
    """A deployment, named `flow/deployment`; its schedules by their slugs."""
    schedules = {schedule["slug"] or schedule["id"]: schedule for schedule in row["schedules"]}
    fields = {
        "entrypoint": row["entrypoint"],
        "pool": row["work_pool_name"],
        "description": row["description"],
        "tags": sorted(row["tags"]),
        "parameters": row["parameters"],
        "parameter_schema": row["parameter_openapi_schema"],
        "enforce_parameter_schema": row["enforce_parameter_schema"],
        "job_variables": row["job_variables"] or {},
        "pull_steps": row["pull_steps"] or [],
        "schedules": {slug: _schedule(schedule) for slug, schedule in schedules.items()},
        "version": row["version"],
    }
    initial = {"active": {slug: schedule["active"] for slug, schedule in schedules.items()}}
    name = f"{flow_names.get(row['flow_id'], row['flow_id'])}/{row['name']}"
    return Observed("deployment", name, row["id"], TAG in row["tags"], fields, initial)


def _schedule(row: Mapping[str, Any]) -> dict[str, Any]:
    when = row["schedule"]
    if "interval" in when:
        return {"interval_seconds": int(when["interval"]), "timezone": when["timezone"], "parameters": row["parameters"]}
    return {"cron": when.get("cron"), "timezone": when.get("timezone"), "parameters": row["parameters"]}


def automation(row: Mapping[str, Any], deployment_names: Mapping[str, str]) -> Observed:
    """An automation; one that does more or other than run one deployment on one event shows up as different."""
    trigger, actions = row["trigger"], row["actions"]
    action: Mapping[str, Any] = actions[0] if len(actions) == 1 and actions[0]["type"] == "run-deployment" else {}
    fields = {
        "description": row["description"],
        "tags": sorted(row["tags"]),
        "expect": trigger.get("expect"),
        "match": trigger.get("match"),
        "trigger": {name: trigger.get(name) for name in ("posture", "threshold", "within")},
        "deployment": deployment_names.get(action.get("deployment_id", "")),
        "parameters": action.get("parameters"),
    }
    return Observed("automation", row["name"], row["id"], TAG in row["tags"], fields, {"enabled": row["enabled"]})


def block(row: Mapping[str, Any]) -> Observed:
    """A block document, named `type/name`, with its values, secrets included: they are compared, never shown."""
    slug = row["block_type"]["slug"]
    fields = {**row["data"], "block_type": slug, "block_schema": row["block_schema"]["checksum"]}
    return Observed("block", f"{slug}/{row['name']}", row["id"], True, fields)


def _block_slugs() -> list[str]:
    from blocks import BLOCKS

    return [block_type.get_block_type_slug() for block_type in BLOCKS]


async def _all(api: Api, route: str, body: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    while True:
        page = await api.call("POST", route, {**body, "limit": PAGE, "offset": len(rows)})
        rows += page
        if len(page) < PAGE:
            return rows
