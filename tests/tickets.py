"""Control's part in tests: a key made at test time, tickets for steps that are started by hand, signed models."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from pydantic import SecretStr

from flows.adapters import signing
from flows.adapters.settings import Settings
from flows.core.canonical import content_hash
from flows.services import signed, ticketing
from flows.services.context import DatasetRef, StepContext, StepResult
from flows.services.running import StepOrder
from flows.store import signatures
from flows.store.database import State


def keyed(settings: Settings) -> Settings:
    """The settings as control has them: with a new key, whose public half is enrolled in their home."""
    key = signing.new_key()
    signing.enroll(settings.anchors, signing.signer(key).public_key, at=datetime.now(UTC))
    return settings.model_copy(update={"signing_key": SecretStr(key)})


def sent(settings: Settings, order: StepOrder, pool: str, *, attempt: int = 0, at: datetime | None = None) -> StepOrder:
    """The order with the ticket that control would send it with."""
    ticket = ticketing.issue(
        State(settings.state_url),
        settings,
        f"{order.step}/{pool}",
        order.parameters,
        key=f"{order.intent_id}#{attempt}",
        at=at or datetime.now(UTC),
    )
    return replace(order, ticket=ticket)


def sign_model(settings: Settings, ref: DatasetRef, files: dict[str, str]) -> None:
    """Sign a model version as control does once its training is recorded."""
    sign = signed.signs(settings)
    assert sign is not None
    with State(settings.state_url).transaction() as tx:
        signatures.add(tx, f"model/{ref}", content_hash(files), sign=sign, at=datetime.now(UTC))


def trained(context: StepContext) -> StepResult:
    """What a training at a site gives, its model signed by control."""
    from flows.services.training import train

    result = train(context)
    for made in result.outputs:
        sign_model(context.settings, DatasetRef(made.dataset, made.version), dict(made.files))
    return result
