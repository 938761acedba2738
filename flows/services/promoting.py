"""Move the alias `champion`: judged, under a row lock, and mended after a kill. Runs in control and sees no data.

The state database says what the champion is; MLflow's alias follows. A move is three steps, each of which may be the last before a kill::

    begin   (transaction) row locked, expected version compared, alias marked moving, ledger row with all numbers
    alias   MLflow
    settle  (transaction) alias settled, ledger row

`mend` finishes whatever was begun and not settled, and puts an alias right that somebody moved in MLflow by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationError
from sqlalchemy import select

from flows.adapters.models import CHAMPION, Models, RegisteredVersion
from flows.adapters.settings import Settings
from flows.core.errors import UserError
from flows.core.governance.approvals import Subject, verdict_hash
from flows.core.promotion import Check, EvaluationNumbers, judge
from flows.services.context import DatasetRef
from flows.services.reasons import require_reason
from flows.services.signed import require_model
from flows.store import aliases, approvals, ledger
from flows.store.models import AliasRow

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from flows.core.workload import Workload
    from flows.store.database import State

BEGUN, PROMOTED, REFUSED, ROLLED_BACK, REPAIRED = "promotion-begun", "promotion", "promotion-refusal", "rollback", "alias-repair"
_ENDS = {PROMOTED: "promoted", REFUSED: "refused", ROLLED_BACK: "rolled-back"}


@dataclass(frozen=True, slots=True)
class PromotionOutcome:
    """How an intent to move the champion ended, or that it waits for the approval of `request`.

    `version` is what was asked for, `previous` the champion before, by registry number.
    """

    outcome: Literal["promoted", "refused", "rolled-back", "waiting"]
    workload: str
    version: str
    previous: str | None
    dataset: str
    intent_id: str
    reasons: tuple[str, ...] = ()
    request: str | None = None

    @property
    def summary(self) -> str:
        """One line for people."""
        if self.outcome == "waiting":
            return f"version {self.version} waits for a person: `tradewind approve {self.request}`"
        if self.outcome == "refused":
            return f"version {self.version} refused: {'; '.join(self.reasons)}"
        return f"version {self.version} is champion of {self.workload}, before it {self.previous or 'none'}"

    def to_json(self) -> dict[str, Any]:
        """The outcome as JSON data."""
        return {**asdict(self), "reasons": list(self.reasons), "summary": self.summary}


@dataclass(frozen=True, slots=True)
class Ruling:
    """What stands between a challenger that passed its gate and the alias: reasons to refuse it, or a request that nobody has decided."""

    reasons: tuple[str, ...] = ()
    waits: str | None = None


Approval = Callable[["Session", str, Subject, datetime], Ruling]
"""Asks, within the transaction of the move, whether the subject of this intent needs a person's approval and has it."""


def promote(
    state: State,
    settings: Settings,
    workload: Workload,
    intent_id: str,
    challenger_version: str,
    verdict: Mapping[str, Any],
    at: datetime,
    principal: str,
    approval: Approval | None = None,
) -> PromotionOutcome:
    """Let the challenger become champion if the numbers of its evaluation meet the workload's gate; else record the refusal with them.

    `verdict` is `numbers["verdict"]` of `evaluate`; it is judged again here, its own `passed` is not believed. The same intent again
    gives the first outcome. `approval` is asked once the numbers passed, in the transaction that begins the move; left out: none is due.

    Raises:
        UserError: the verdict is no evaluation, or the version is unknown.
        StaleAlias: another move came between; a second try judges anew.
        Unavailable: MLflow or the database does not answer; what was begun is finished by `mend`.
    """
    numbers = _numbers(verdict)
    models = Models(settings.tracking_url, workload.name)
    if (outcome := _resume(state, models, workload.name, intent_id, at, principal)) is not None:
        return outcome
    _finish_other(state, models, at, principal)
    candidate = models.version(challenger_version)
    with state.reading() as tx:
        row = aliases.current(tx, workload.name, CHAMPION)
        champion = row.version if row else None
    judged = judge(numbers, workload.gate)
    checks = (*judged.checks, *_subject(verdict, candidate, models.version(champion) if champion else None))
    body = _body(intent_id, workload.name, candidate, champion) | {
        "reasons": [check.message for check in checks if not check.passed],
        "checks": [check.model_dump(mode="json") for check in checks],
        "numbers": numbers.model_dump(mode="json"),
        "thresholds": dict(judged.thresholds),
    }
    if body["reasons"]:
        return _refuse(state, models, body, at, principal)
    subject = Subject(workload.name, candidate.version, candidate.dataset, verdict_hash(verdict))
    return _move(state, models, body, PROMOTED, expected=champion, at=at, principal=principal, subject=subject, approval=approval)


def rollback(
    state: State,
    settings: Settings,
    workload: str,
    to_version: str,
    *,
    intent_id: str,
    reason: str,
    at: datetime,
    principal: str,
) -> PromotionOutcome:
    """Make an earlier champion champion again. The same intent again gives the first outcome.

    Raises:
        UserError: the version is unknown, was never champion, or is champion now, or the reason says nothing.
        IntegrityError: control did not sign the model's files as they are on record, or none are any more.
        StaleAlias: another move came between.
        Unavailable: MLflow or the database does not answer; what was begun is finished by `mend`.
    """
    require_reason(reason, "a rollback")
    models = Models(settings.tracking_url, workload)
    if (outcome := _resume(state, models, workload, intent_id, at, principal)) is not None:
        return outcome
    _finish_other(state, models, at, principal)
    candidate = models.version(to_version)
    with state.reading() as tx:
        row = aliases.current(tx, workload, CHAMPION)
        served = [move.version for move in aliases.history(tx, workload, CHAMPION) if move.settled_at is not None]
    if row is not None and row.version == to_version:
        raise UserError(f"version `{to_version}` is champion of `{workload}` already")
    if to_version not in served:
        raise UserError(
            f"version `{to_version}` of `{workload}` was never champion",
            expected=f"one of {', '.join(f'`{version}`' for version in dict.fromkeys(served)) or 'none yet'}",
            fix="a version that never served has to pass `promote`",
        )
    with state.reading() as tx:
        require_model(tx, settings, DatasetRef.parse(candidate.dataset))
    body = _body(intent_id, workload, candidate, row.version if row else None) | {"reasons": [], "why": reason}
    return _move(state, models, body, ROLLED_BACK, expected=row.version if row else None, at=at, principal=principal)


def mend(state: State, settings: Settings, at: datetime, principal: str = "reconciler") -> list[PromotionOutcome]:
    """Finish every move that was begun and not settled, and put right what MLflow says of settled ones; the outcomes of those finished.

    Raises:
        Unavailable: MLflow or the database does not answer.
    """
    with state.reading() as tx:
        begun = [(row.workload, row.intent_id) for row in aliases.moving(tx) if row.alias == CHAMPION]
        settled = [
            row.workload for row in tx.scalars(select(AliasRow).where(AliasRow.alias == CHAMPION, AliasRow.state == aliases.SETTLED))
        ]
    finished = []
    for workload, intent in begun:
        outcome = _resume(state, Models(settings.tracking_url, workload), workload, intent, at, principal)
        finished += [outcome] if outcome is not None else []
    for workload in settled:
        _align(state, Models(settings.tracking_url, workload), at, principal)
    return finished


def champion(state: State, settings: Settings, workload: str) -> RegisteredVersion | None:
    """The version that serves; while a move is under way, the one before it. None before the first promotion."""
    with state.reading() as tx:
        row = aliases.current(tx, workload, CHAMPION)
        serving = None if row is None else row.version if row.state == aliases.SETTLED else row.previous
    return None if serving is None else Models(settings.tracking_url, workload).version(serving)


def champion_dataset(tx: Session, workload: str) -> str | None:
    """The champion as `<workload>-model@<version>`, from the state database alone; None before the first promotion."""
    row = aliases.current(tx, workload, CHAMPION)
    serving = None if row is None else row.version if row.state == aliases.SETTLED else row.previous
    if serving is None:
        return None
    moves = [*ledger.rows(tx, kind=PROMOTED), *ledger.rows(tx, kind=ROLLED_BACK)]
    found = [each.body["dataset"] for each in moves if (each.body["workload"], each.body["version"]) == (workload, serving)]
    return str(found[-1]) if found else None


def _refuse(state: State, models: Models, body: dict[str, Any], at: datetime, principal: str) -> PromotionOutcome:
    with state.transaction() as tx:
        _record_refusal(tx, body, at, principal)
    models.note(body["version"], promotion="refused", reasons="; ".join(body["reasons"])[:4000])
    return _outcome("refused", body)


def _record_refusal(tx: Session, body: dict[str, Any], at: datetime, principal: str) -> None:
    if _ended(tx, body["intent"]) is None:
        approvals.close(tx, body["intent"], at)
        ledger.append(tx, REFUSED, body, principal=principal, at=at)


def _move(
    state: State,
    models: Models,
    body: dict[str, Any],
    kind: str,
    *,
    expected: str | None,
    at: datetime,
    principal: str,
    subject: Subject | None = None,
    approval: Approval | None = None,
) -> PromotionOutcome:
    workload, intent = body["workload"], body["intent"]
    with state.transaction() as tx:
        ruling = approval(tx, intent, subject, at) if approval is not None and subject is not None else Ruling()
        if ruling.waits is not None:
            return replace(_outcome("waiting", body), request=ruling.waits)
        if ruling.reasons:
            body = body | {"reasons": list(ruling.reasons)}
            _record_refusal(tx, body, at, principal)
            return _outcome("refused", body)
        approvals.close(tx, intent, at)
        row = aliases.begin_move(tx, workload, CHAMPION, expected_version=expected, new_version=body["version"], intent_id=intent, at=at)
        if row.state == aliases.MOVING and _begun(tx, intent) is None:
            ledger.append(tx, BEGUN, body | {"ends_as": kind}, principal=principal, at=at)
    return _finish(state, models, body, kind, at, principal)


def _finish(state: State, models: Models, body: Mapping[str, Any], kind: str, at: datetime, principal: str) -> PromotionOutcome:
    """The second half of a move; harmless if another process does the same at once."""
    workload, intent = body["workload"], body["intent"]
    models.set_alias(CHAMPION, body["version"])
    try:
        with state.transaction() as tx:
            aliases.settle(tx, workload, CHAMPION, intent, at)
            if _ended(tx, intent) is None:
                ledger.append(tx, kind, body, principal=principal, at=at)
    except aliases.StaleAlias:
        # it was finished by another process, and later moves followed: this alias came too late
        _align(state, models, at, principal)
        with state.reading() as tx:
            if _ended(tx, intent) is None:
                raise
    models.note(body["version"], promotion=_ENDS[kind])
    return _outcome(_ENDS[kind], body)


def _resume(state: State, models: Models, workload: str, intent: str, at: datetime, principal: str) -> PromotionOutcome | None:
    """The outcome of an intent that ended or was begun before; None if it is new."""
    with state.reading() as tx:
        ended, begun = _ended(tx, intent), _begun(tx, intent)
        row = aliases.current(tx, workload, CHAMPION)
        moving = row is not None and row.state == aliases.MOVING and row.intent_id == intent
    if ended is not None:
        return _outcome(_ENDS[ended[0]], ended[1])
    if begun is None or not moving:
        return None
    body = {name: value for name, value in begun.items() if name != "ends_as"}
    return _finish(state, models, body, begun["ends_as"], at, principal)


def _finish_other(state: State, models: Models, at: datetime, principal: str) -> None:
    """Finish a move that another intent began, so that the champion is known; its process, if it lives, finds nothing left to do."""
    with state.reading() as tx:
        row = aliases.current(tx, models.name, CHAMPION)
    if row is not None and row.state == aliases.MOVING:
        _resume(state, models, models.name, row.intent_id, at, principal)


def _align(state: State, models: Models, at: datetime, principal: str) -> None:
    """Let MLflow's alias say what the settled row says. The row is held meanwhile, so that no move begins in between."""
    with state.reading() as tx:
        row = aliases.current(tx, models.name, CHAMPION)
    if row is None or models.alias(CHAMPION) == row.version:
        return
    with state.transaction() as tx:
        held = tx.scalars(select(AliasRow).where(AliasRow.workload == models.name, AliasRow.alias == CHAMPION).with_for_update()).one()
        found = models.alias(CHAMPION)
        if held.state == aliases.SETTLED and found != held.version:
            models.set_alias(CHAMPION, held.version)
            body = {"workload": models.name, "alias": CHAMPION, "found": found, "version": held.version}
            ledger.append(tx, REPAIRED, body, principal=principal, at=at)


def _numbers(verdict: Mapping[str, Any]) -> EvaluationNumbers:
    try:
        return EvaluationNumbers.model_validate(verdict["numbers"])
    except (KeyError, TypeError, ValidationError) as error:
        raise UserError(
            "this is no verdict of an evaluation", expected='`numbers["verdict"]` of `evaluate`', fix="run `evaluate` again"
        ) from error


def _subject(verdict: Mapping[str, Any], candidate: RegisteredVersion, champion: RegisteredVersion | None) -> tuple[Check, ...]:
    """Whether the verdict is about this challenger and about the champion of now."""
    serving = champion.dataset if champion else None
    return (
        _same("challenger-of-verdict", verdict.get("challenger"), candidate.dataset, "the verdict is about another challenger"),
        _same("champion-of-verdict", verdict.get("champion"), serving, "the champion changed since the verdict"),
        Check(
            rule="not-champion-already",
            passed=serving != candidate.dataset,
            observed=candidate.dataset,
            required="another model than the champion",
            message="it is not the champion yet" if serving != candidate.dataset else "it is the champion already",
        ),
    )


def _same(rule: str, observed: Any, required: str | None, told: str) -> Check:
    same = observed == required
    seen = None if observed is None else str(observed)
    message = f"the verdict names `{seen or 'none'}`" if same else f"{told}: `{seen or 'none'}`, not `{required or 'none'}`"
    return Check(rule=rule, passed=same, observed=seen, required=required or "none", message=message)


def _body(intent: str, workload: str, candidate: RegisteredVersion, previous: str | None) -> dict[str, Any]:
    return {
        "intent": intent,
        "workload": workload,
        "alias": CHAMPION,
        "version": candidate.version,
        "previous": previous,
        "dataset": candidate.dataset,
    }


def _ended(tx: Session, intent: str) -> tuple[str, Mapping[str, Any]] | None:
    for kind in _ENDS:
        for row in ledger.rows(tx, kind=kind):
            if row.body.get("intent") == intent:
                return kind, row.body
    return None


def _begun(tx: Session, intent: str) -> Mapping[str, Any] | None:
    return next((row.body for row in reversed(ledger.rows(tx, kind=BEGUN)) if row.body.get("intent") == intent), None)


def _outcome(outcome: Any, body: Mapping[str, Any]) -> PromotionOutcome:
    return PromotionOutcome(
        outcome, body["workload"], body["version"], body["previous"], body["dataset"], body["intent"], tuple(body.get("reasons", ()))
    )
