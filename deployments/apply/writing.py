"""A difference made true on the server: kinds one after the other, objects of a kind a few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from deployments.apply.desired import ANCHOR
from deployments.apply.model import KINDS, Change, Diff, Observed, Resource, redeclared

if TYPE_CHECKING:
    from prefect.blocks.core import Block

    from deployments.apply.server import Api

Item = TypeVar("Item")


async def write(api: Api, diff: Diff, observed: Iterable[Observed], *, at_once: int = 1) -> None:
    """Make every change of `diff`, `at_once` requests in flight; `observed` names the deployments that are there already.

    More than one does not help a server on SQLite, which writes one thing at a time: they only get in each other's way.
    """
    writer = _Writer(api, at_once, {one.name: one.id for one in observed if one.kind == "deployment"})
    makes = [change for change in diff.changes if change.action != "remove"]
    removes = [change for change in diff.changes if change.action == "remove"]
    await writer.prepare(makes)
    for kind in KINDS:
        await writer.each(writer.make, (change for change in makes if change.kind == kind))
    for kind in reversed(KINDS):
        await writer.each(writer.remove, (change for change in removes if change.kind == kind))


class _Writer:
    def __init__(self, api: Api, at_once: int, deployment_ids: dict[str, str]) -> None:
        self.api = api
        self.at_once = at_once
        self.deployment_ids = deployment_ids
        self.flow_ids: dict[str, str] = {}
        self.block_types: dict[str, type[Block]] = {}

    async def prepare(self, makes: Iterable[Change]) -> None:
        """Register the block types and flows that the changes stand on."""
        resources = [change.resource for change in makes if change.resource is not None]
        slugs = {one.fields["block_type"] for one in resources if one.kind == "block"}
        flows = {one.name.partition("/")[0] for one in resources if one.kind == "deployment"}
        if slugs:
            from blocks import BLOCKS

            self.block_types = {block.get_block_type_slug(): block for block in BLOCKS if block.get_block_type_slug() in slugs}
            for block_type in self.block_types.values():
                await self.api.patiently(partial(block_type.aregister_type_and_schema, client=self.api.client))
        await self.each(self._flow, flows)

    async def each(self, act: Callable[[Item], Awaitable[None]], items: Iterable[Item]) -> None:
        """Act on every item, `at_once` at a time; the first error stops the rest and is raised as it is."""
        gate = asyncio.Semaphore(self.at_once)

        async def one(item: Item) -> None:
            async with gate:
                await act(item)

        try:
            async with asyncio.TaskGroup() as group:
                for item in items:
                    group.create_task(one(item))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None

    async def _flow(self, name: str) -> None:
        made = await self.api.call("POST", "/flows/", {"name": name})
        self.flow_ids[name] = made["id"]

    async def make(self, change: Change) -> None:
        """Create or update one object."""
        resource = change.resource
        assert resource is not None
        make: Callable[[Resource, Observed | None], Coroutine[Any, Any, None]] = getattr(self, f"_{resource.kind}")
        await make(resource, change.observed)

    async def remove(self, change: Change) -> None:
        """Delete one object."""
        observed = change.observed
        assert observed is not None
        if change.kind == "block":
            await self.api.call("DELETE", "/block_documents/{id}", id=observed.id)
        elif change.kind == "pool":
            await self.api.call("DELETE", "/work_pools/{name}", name=observed.name)
        elif change.kind == "deployment":
            await self.api.call("DELETE", "/deployments/{id}", id=observed.id)
        else:
            await self.api.call("DELETE", "/automations/{id}", id=observed.id)

    async def _block(self, resource: Resource, observed: Observed | None) -> None:
        block_type = self.block_types[resource.fields["block_type"]]
        data = {name: value for name, value in resource.fields.items() if name in block_type.model_fields}
        body: dict[str, Any] = {"data": data, "block_schema_id": str(block_type._block_schema_id)}
        if observed is None:
            body |= {"name": resource.name.partition("/")[2], "block_type_id": str(block_type._block_type_id)}
            await self.api.call("POST", "/block_documents/", body)
        else:
            body |= {"merge_existing_data": False}
            await self.api.call("PATCH", "/block_documents/{id}", body, id=observed.id)

    async def _pool(self, resource: Resource, observed: Observed | None) -> None:
        fields = resource.fields
        body = {
            "description": fields["description"],
            "base_job_template": fields["template"],
            "concurrency_limit": fields["concurrency_limit"],
        }
        if observed is None:
            await self.api.call("POST", "/work_pools/", {**body, "name": resource.name, "type": fields["type"]})
        else:
            await self.api.call("PATCH", "/work_pools/{name}", body, name=resource.name)

    async def _deployment(self, resource: Resource, observed: Observed | None) -> None:
        """Upsert: the server replaces a deployment of the same flow and name, its schedules included, and keeps it paused if it was."""
        flow, _, name = resource.name.partition("/")
        fields = resource.fields
        body = {
            "name": name,
            "flow_id": self.flow_ids[flow],
            "work_pool_name": fields["pool"],
            "parameter_openapi_schema": fields["parameter_schema"],
            "schedules": schedule_bodies(resource, observed),
            "path": None,
        }
        same = ("entrypoint", "description", "tags", "parameters", "enforce_parameter_schema", "job_variables", "pull_steps", "version")
        made = await self.api.call("POST", "/deployments/", body | {field: fields[field] for field in same})
        self.deployment_ids[resource.name] = made["id"]

    async def _automation(self, resource: Resource, observed: Observed | None) -> None:
        fields = resource.fields
        action = {
            "type": "run-deployment",
            "source": "selected",
            "deployment_id": self.deployment_ids[fields["deployment"]],
            "parameters": fields["parameters"],
        }
        body = {
            "name": resource.name,
            "description": fields["description"],
            "tags": fields["tags"],
            "enabled": (observed or resource).initial["enabled"],
            "trigger": {"type": "event", "match": fields["match"], "expect": fields["expect"], **fields["trigger"]},
            "actions": [action],
        }
        if observed is None:
            await self.api.call("POST", "/automations/", body)
        else:
            await self.api.call("PUT", "/automations/{id}", body, id=observed.id)


def schedule_bodies(resource: Resource, observed: Observed | None) -> list[dict[str, Any]]:
    """The schedules of a deployment as the server takes them; one that an operator switched stays so until it is redeclared."""
    active: Mapping[str, bool] = resource.initial["active"]
    if observed is not None and not redeclared(resource, observed):
        active = {**active, **observed.initial["active"]}
    return [
        {"slug": slug, "schedule": _when(fields), "parameters": fields["parameters"], "active": active[slug]}
        for slug, fields in resource.fields["schedules"].items()
    ]


def _when(fields: Mapping[str, Any]) -> dict[str, Any]:
    if "cron" in fields:
        return {"cron": fields["cron"], "timezone": fields["timezone"]}
    return {"interval": fields["interval_seconds"], "timezone": fields["timezone"], "anchor_date": ANCHOR}
