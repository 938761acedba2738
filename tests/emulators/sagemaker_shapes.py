"""What SageMaker would refuse in a training job by its published service model, which comes with AWS's client.

The client itself checks names, types and lower bounds; lengths, patterns and closed lists it leaves to the service, and so does moto.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

OPEN_ENUMS = frozenset({"TrainingInstanceType"})
"""Closed lists that grow faster than clients are updated."""


def problems(request: dict[str, Any]) -> list[str]:
    """Everything that is wrong with a `CreateTrainingJob` request."""
    from botocore.loaders import Loader
    from botocore.model import ServiceModel
    from botocore.validate import ParamValidator

    model = ServiceModel(Loader().load_service_model("sagemaker", "service-2")).operation_model("CreateTrainingJob").input_shape
    report = ParamValidator().validate(request, model)
    if report.has_errors():
        return [report.generate_report()]
    return [*_shaped(model, request, ""), *_together(request)]


def _shaped(shape: Any, value: Any, where: str) -> Iterator[str]:
    if shape.type_name == "string":
        yield from _bounded(shape, len(value), where)
        if shape.enum and shape.name not in OPEN_ENUMS and value not in shape.enum:
            yield f"{where}: `{value}` is none of {shape.enum}"
        pattern = shape.metadata.get("pattern")
        if pattern and not _pattern(pattern).fullmatch(value):
            yield f"{where}: `{value}` does not fit `{pattern}`"
    elif shape.type_name in ("integer", "long"):
        yield from _bounded(shape, value, where)
    elif shape.type_name == "structure":
        for name, inner in value.items():
            yield from _shaped(shape.members[name], inner, f"{where}.{name}")
    elif shape.type_name == "map":
        yield from _bounded(shape, len(value), where)
        for key, inner in value.items():
            yield from _shaped(shape.key, key, f"{where}.{key}")
            yield from _shaped(shape.value, inner, f"{where}.{key}")
    elif shape.type_name == "list":
        yield from _bounded(shape, len(value), where)
        for number, inner in enumerate(value):
            yield from _shaped(shape.member, inner, f"{where}[{number}]")


def _bounded(shape: Any, size: int, where: str) -> Iterator[str]:
    least, most = shape.metadata.get("min"), shape.metadata.get("max")
    if least is not None and size < least:
        yield f"{where}: {size}, at least {least}"
    if most is not None and size > most:
        yield f"{where}: {size}, at most {most}"


@cache
def _pattern(pattern: str) -> re.Pattern[str]:
    """The pattern in Python's dialect, which has no classes of Unicode properties."""
    return re.compile(pattern.replace(r"\p{L}", r"\w").replace(r"\p{Z}", r"\s").replace(r"\p{N}", r"\d"))


def _together(request: dict[str, Any]) -> Iterator[str]:
    """Parts that are fine each for itself and not together (AWS, `StoppingCondition` and `Tag`)."""
    stop = request["StoppingCondition"]
    runtime, wait = stop.get("MaxRuntimeInSeconds", 86400), stop.get("MaxWaitTimeInSeconds")
    if request.get("EnableManagedSpotTraining"):
        if wait is None or wait < runtime:
            yield f"MaxWaitTimeInSeconds {wait} must be at least MaxRuntimeInSeconds {runtime}"
    elif wait is not None:
        yield "MaxWaitTimeInSeconds is for managed spot training"
    keys = [tag["Key"] for tag in request.get("Tags", [])]
    if len(keys) != len(set(keys)):
        yield "duplicate tag keys"
