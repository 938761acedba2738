"""What the flows look like from outside: entrypoint, description and the schema of their parameters, from the code itself."""

from __future__ import annotations

import importlib
from collections.abc import Iterable

from deployments.apply.desired import FlowSpec
from flows.core.errors import UserError


def flow_specs(steps: Iterable[str], package: str = "flows") -> dict[str, FlowSpec]:
    """The flow of each step: `<package>.<step>.<step>`, whose Prefect name is the step's.

    Raises:
        UserError: a step has no such flow, or its flow has another name.
    """
    return {step: _flow_spec(step, package) for step in steps}


def _flow_spec(step: str, package: str) -> FlowSpec:
    from prefect import Flow
    from prefect.utilities.callables import parameter_schema

    entrypoint = f"{package}.{step}.{step}"
    try:
        flow = getattr(importlib.import_module(f"{package}.{step}"), step, None)
    except ModuleNotFoundError as error:
        if error.name != f"{package}.{step}":
            raise
        flow = None
    if not isinstance(flow, Flow) or flow.name != step:
        raise UserError(
            f"`{entrypoint}` is no flow named `{step}`",
            file=f"{package.replace('.', '/')}/{step}.py",
            expected=f"a function `{step}` under `@flow(name={step!r})`",
        )
    schema = parameter_schema(flow.fn).model_dump(mode="json", exclude_unset=True)
    description = (flow.fn.__doc__ or step).strip().splitlines()[0]
    return FlowSpec(step, entrypoint, description, schema)
