"""Erase a person from a workload's data at every site: ask, find, take out, prove, and record it without saying who.

Control carries a request out without ever knowing whom it is about: the key rests in a secret of the orchestrator, the sites fetch it,
and what comes back are names of versions and counts. Every phase at every site is an intent, so a crash loses nothing; and a request
that failed is tried again until it is proved.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from flows.core.canonical import content_hash, instant
from flows.core.errors import IntegrityError, TradewindError, Unavailable, UserError
from flows.core.planning import window_of
from flows.services import site_tasks
from flows.services.declarations import Declarations
from flows.services.erased_rows import reference
from flows.services.identity import permit
from flows.services.promoting import champion_dataset
from flows.store import erasures, ledger, outbox, principals, replicas, runs
from flows.store.database import State
from flows.workloads import registry as workloads

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from flows.adapters.settings import Settings
    from flows.services.dispatching import Dispatcher
    from flows.services.identity import Identity
    from flows.store.models import ReplicaRow

log = logging.getLogger("flows.erasing")

KIND = "erasure"
MAX_CHARACTERS = 512
STALE_AFTER = timedelta(minutes=30)
LONGEST_RUN = timedelta(hours=12)
SECRETS_LOOKED_FOR = timedelta(days=30)
"""How long after its end a request's secret is still looked for, should a kill have left it."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that is stored: its intent, the name of the secret its sites will look for, and the workload."""

    intent: str
    secret: str
    workload: str


def secret_of(request: str) -> str:
    """The name of the secret that holds a request's key for as long as it takes."""
    return f"erasure-{request}"


def ask(
    state: State, settings: Settings, identity: Identity, workload: str, subject: str, *, key: str, apply: bool,
    columns: Iterable[str] = (), at: datetime,
) -> Asked:  # fmt: skip
    """Store a request to erase a person, or to look only; the same request that is under way already goes on.

    Args:
        state: where requests are.
        settings: say where the declarations are.
        identity: who asks.
        workload: whose data.
        subject: the person's key as it is in the source; it is stored nowhere.
        key: the secret that references are made with.
        apply: False only looks.
        columns: whose values are keys of people; none: as the workload declares.
        at: now, aware.

    Raises:
        UserError: the key is empty or no plain line, nothing is declared of where keys of people are, or no table has such a column.
        PolicyDenied: the rules do not let this principal erase.
    """
    declarations = Declarations.load(settings)
    declared = declarations.workload(workload)
    permit(declarations, identity, "erase", workload=workload, environment=declared.environment, step="govern", at=at)
    if not subject.strip() or subject != subject.strip() or not subject.isprintable() or len(subject) > MAX_CHARACTERS:
        raise UserError(
            "the subject is no key", field="SUBJECT", expected=f"one line of 1 to {MAX_CHARACTERS} characters, as the data has it"
        )
    wanted = sorted(columns or declared.subject)
    if not wanted:
        raise UserError(
            f"nothing says which columns of `{workload}` hold keys of people",
            file=f"workloads/{workload}.yaml",
            field="subject",
            fix="declare `subject: [column, …]`, or give `--column`",
        )
    require_columns(state, declarations, workload, wanted)
    id = secrets.token_hex(8)
    with state.transaction() as tx:
        by = principals.id_for(tx, identity.name)
        payload = {"reference": reference(key, workload, subject), "columns": wanted, "apply": apply, "by": by}
        row = erasures.ask(tx, workload, id, payload, at=at)
        if apply and (forgotten := principals.erase(tx, subject)) is not None:
            row.payload = {**row.payload, "principal": forgotten}
        return Asked(row.id, secret_of(row.window), workload)


def require_columns(state: State, declarations: Declarations, workload: str, columns: Iterable[str]) -> None:
    """See that each column is one of a table: as the workload's code or declaration has it, or a version that was ever recorded.

    Raises:
        UserError: one is not; the person would be nowhere, whatever is there.
    """
    tables = workloads.load(workload).tables if workload in workloads.names() else ()
    known = {*declarations.workload(workload).subject, *(column for table in tables for column in table.columns)}
    with state.reading() as tx:
        rows = [row for name, found in replicas.by_dataset(tx).items() if name.rpartition("-")[0] == workload for row in found]
    known |= {column for row in rows for table in (row.facts.get("schema") or {}).values() for column in table}
    for column in columns:
        if column not in known:
            told = ", ".join(f"`{name}`" for name in sorted(known))
            raise UserError(f"no table of `{workload}` has a column `{column}`", field="--column", expected=f"one of {told}")


def result_of(state: State, asked: Asked) -> dict[str, Any] | None:
    """What a request found and did; None while it is not done."""
    with state.reading() as tx:
        row = outbox.get(tx, asked.intent)
        return dict(row.result or {}) if row is not None and row.state == outbox.DONE else None


def spent(state: State, *, at: datetime) -> list[str]:
    """The names of the secrets of requests that were done in the last days: they are needed no more."""
    with state.reading() as tx:
        return [secret_of(row.window) for row in erasures.done_since(tx, at - SECRETS_LOOKED_FOR)]


async def carry_out(state: State, settings: Settings, dispatcher: Dispatcher, *, owner: str) -> dict[str, str]:
    """Bring every request that is not done as far as it goes, then remove models that no longer serve; what became of each.

    One that fails keeps no other waiting, and is tried again the next time.
    """
    told: dict[str, str] = {}
    with state.reading() as tx:
        todo = [row.id for row in erasures.unfinished(tx)]
        models = [(row.id, row.workload, row.payload["model"], row.payload["request"]) for row in erasures.waiting_models(tx)]
    for intent in todo:
        told[intent] = await _tried(state, settings, dispatcher, intent, owner)
    for intent, workload, model, request in models:
        try:
            told[intent] = await _replaced(state, settings, dispatcher, workload, model, request, intent, owner)
        except TradewindError as error:
            log.warning("`%s` failed: %s", intent, error)
            told[intent] = f"failed: {error}"
    return told


async def _tried(state: State, settings: Settings, dispatcher: Dispatcher, intent: str, owner: str) -> str:
    with state.transaction() as tx:
        row = outbox.get(tx, intent)
        assert row is not None
        if row.state == outbox.FAILED:
            outbox.reopen(tx, intent)
        if not outbox.claim(tx, intent, owner=owner, at=_now(), stale_after=STALE_AFTER):
            return "another run has it"
        request = _Request(row.workload, row.window, intent, dict(row.payload), row.attempt)
    try:
        result = await _Carried(state, settings, dispatcher, request, owner).through()
    except TradewindError as error:
        log.warning("`%s` is not done: %s", intent, error)
        with state.transaction() as tx:
            outbox.fail(tx, intent, str(error), _now())
        return f"failed: {error}"
    with state.transaction() as tx:
        outbox.finish(tx, intent, result, _now())
        ledger.append(tx, KIND, _recorded(request, result), principal=request.payload["by"], at=_now())
    return "done"


@dataclass(frozen=True)
class _Request:
    workload: str
    id: str
    intent: str
    payload: Mapping[str, Any]
    attempt: int


@dataclass(frozen=True)
class _Plan:
    """What control knows of versions made from the subject's rows: models that serve, and what can go at once.

    With folders of the registry's artifacts: by site those of models that go, and all of those that serve.
    """

    waiting: Sequence[str]
    remove: Sequence[str]
    serving: Sequence[str]
    artifacts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    artifacts_serving: Sequence[str] = ()


@dataclass(frozen=True)
class _Carried:
    state: State
    settings: Settings
    dispatcher: Dispatcher
    request: _Request
    owner: str

    async def through(self) -> dict[str, Any]:
        """Find; and if it is asked for: take out, mark models, prove."""
        request, declarations = self.request, Declarations.load(self.settings)
        declared = declarations.workload(request.workload)
        hidden = {path.partition(".")[2] for path in declared.step("ingest").columns.pseudonymise}
        about = {
            "secret": secret_of(request.id),
            "columns": request.payload["columns"],
            "pseudonymised": bool(hidden & set(request.payload["columns"])),
        }
        every = sorted(site_tasks.pools_of(declarations.estate))
        found = await self._at(declarations, "find", {site: {"do": "find", **about} for site in every})
        result: dict[str, Any] = {"request": request.id, "applied": request.payload["apply"], "found": _counted(found)}
        result["elsewhere"] = {site: each["elsewhere"] for site, each in found.items() if each["elsewhere"]}
        plan = self._plan(found)
        if not request.payload["apply"]:
            return result | {"models": {"waiting": list(plan.waiting), "retrain": None}, "proof": _proof(found)}
        if not any(each["versions"] or each["files"] for each in found.values()):
            return result | {"models": {"waiting": [], "retrain": None}, "proof": _proof(found)}
        self._nothing_runs()
        plan = self._settled(plan)
        folders, kept = plan.artifacts, plan.artifacts_serving
        work = {"do": "erase", **about, "remove": plan.remove, "serving": plan.serving, "artifacts_serving": kept}
        tasks = {site: {**work, "artifacts": folders.get(site, [])} for site in every}
        done = await self._at(declarations, f"erase-{request.attempt}", tasks)
        retrain = self._mark(plan)
        again = {"do": "prove", **about, "serving": plan.serving, "artifacts_serving": kept}
        proof = await self._at(declarations, f"prove-{request.attempt}", dict.fromkeys(every, again))
        left = {site: [*each["versions"], *each["files"]] for site, each in proof.items() if each["versions"] or each["files"]}
        if left:
            what = "; ".join(f"`{site}`: {len(names)} versions or files, first `{names[0]}`" for site, names in sorted(left.items()))
            raise IntegrityError(f"the key was found again after the erasure: {what}", fix="end what still writes there; it is tried again")
        return result | {
            "rewritten": {old: new for each in done.values() for old, new in each["rewritten"].items()},
            "removed": sorted({name for each in done.values() for name in each["removed"]}),
            "features": {site: each["features"] for site, each in done.items() if each["features"]},
            "files_removed": sum(each["files_removed"] for each in done.values()),
            "models": {"waiting": list(plan.waiting), "retrain": retrain},
            "principal": request.payload.get("principal"),
            "proof": _proof(proof),
        }

    async def _at(self, declarations: Declarations, phase: str, tasks: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        window = f"{self.request.id}.{phase}"
        return await site_tasks.at_sites(
            self.state, self.settings, self.dispatcher, declarations.estate, self.request.workload, window, tasks, owner=self.owner
        )

    def _nothing_runs(self) -> None:
        """What is being made from the old versions would bring the subject's rows back."""
        with self.state.reading() as tx:
            found = runs.recent(tx, workload=self.request.workload, state=runs.RUNNING, since=_now() - LONGEST_RUN)
            busy = sorted({row.step for row in found if row.step != site_tasks.STEP})
        if busy:
            raise Unavailable(f"`{self.request.workload}` is running: {', '.join(busy)}", fix="it is tried again once that has ended")

    def _plan(self, found: Mapping[str, Mapping[str, Any]]) -> _Plan:
        workload = self.request.workload
        held = {name for each in found.values() for name in each["versions"]}
        with self.state.reading() as tx:
            resting = replicas.by_dataset(tx)
            serving = serving_models(tx, self.settings, workload)
        if not held:
            return _Plan((), (), tuple(sorted(serving)))
        there = {_name(row) for row in resting.get(f"{workload}-features", ())}
        learnt = {
            _name(row)
            for row in resting.get(f"{workload}-model", ())
            if _name(row) in held or row.facts.get("features") in held or row.facts.get("features") not in there
        }
        docs = {row.facts.get("reports") for row in resting.get(f"{workload}-raw", ()) if _name(row) in held}
        reports = {
            _name(row)
            for row in resting.get(f"{workload}-reports", ())
            if row.version in docs or {row.facts.get("features"), row.facts.get("champion")} & (held | learnt)
        }
        return _Plan(tuple(sorted(learnt & serving)), tuple(sorted(learnt - serving | reports)), tuple(sorted(serving)))

    def _settled(self, plan: _Plan) -> _Plan:
        """The plan as it was first made, stored before anything is removed: what is gone can no longer be asked for."""
        if (stored := self.request.payload.get("plan")) is not None:
            return _Plan(**stored)
        gone, kept = dict[str, list[str]](), list[str]()
        if models := [name for name in (*plan.remove, *plan.serving) if self._is_model(name)]:
            registry = _registry(self.settings, self.request.workload)
            for name in models:
                site, folders = registry.artifacts(name)
                if name in plan.serving:
                    kept += folders
                elif site:
                    gone.setdefault(site, []).extend(folders)
        made = replace(plan, artifacts=gone, artifacts_serving=tuple(kept))
        with self.state.transaction() as tx:
            row = outbox.get(tx, self.request.intent)
            assert row is not None
            row.payload = {**row.payload, "plan": asdict(made)}
        return made

    def _is_model(self, name: str) -> bool:
        return name.startswith(f"{self.request.workload}-model@")

    def _mark(self, plan: _Plan) -> str | None:
        """Forget what is gone, note which models must be replaced, and open the retrain that does it; its intent."""
        workload, request = self.request.workload, self.request.id
        if gone := [name for name in plan.remove if self._is_model(name)]:
            registry = _registry(self.settings, workload)
            for name in gone:
                registry.forget(name)
        if not plan.waiting:
            return None
        with self.state.transaction() as tx:
            for name in plan.waiting:
                erasures.wait_for_model(tx, workload, name, request, at=_now())
            newest = replicas.latest(tx, f"{workload}-features")
            if newest is None or newest.as_of is None:
                return None
            payload = {"as_of": instant(newest.as_of), "retrain": True, "urgent": False, "steps": []}
            wanted = outbox.Intent.of(workload, "lifecycle", window_of(newest.as_of), f"{KIND}-{request}", due_at=_now(), payload=payload)
            if outbox.get(tx, wanted.id) is None:
                outbox.ensure(tx, wanted)
                reason = f"erasure {request}: {', '.join(f'`{name}`' for name in plan.waiting)} learnt from rows that are erased"
                ledger.append(
                    tx, "retrain-trigger", {"intent": wanted.id, "reason": reason}, principal=self.request.payload["by"], at=_now()
                )
            return wanted.id


def serving_models(tx: Session, settings: Settings, workload: str) -> frozenset[str]:
    """The champion and the challenger, as `dataset@version`."""
    found = {champion_dataset(tx, workload)}
    if replicas.latest(tx, f"{workload}-model") is not None:
        registry = _registry(settings, workload)
        if (version := registry.alias("challenger")) is not None:
            found.add(registry.version(version).dataset)
    return frozenset(name for name in found if name)


async def _replaced(
    state: State, settings: Settings, dispatcher: Dispatcher, workload: str, model: str, request: str, intent: str, owner: str
) -> str:
    """Remove a model that learnt from erased rows, once another serves in its place."""
    with state.reading() as tx:
        if model in serving_models(tx, settings, workload):
            return f"`{model}` still serves"
    declarations, registry = Declarations.load(settings), _registry(settings, workload)
    _, folders = registry.artifacts(model)
    task = {"do": "remove", "versions": [model], "artifacts": folders}
    every = dict.fromkeys(site_tasks.pools_of(declarations.estate), task)
    done = await site_tasks.at_sites(state, settings, dispatcher, declarations.estate, workload, f"{request}.{model}", every, owner=owner)
    registry.forget(model)
    with state.transaction() as tx:
        outbox.claim(tx, intent, owner=owner, at=_now(), stale_after=STALE_AFTER)
        outbox.finish(tx, intent, {"sites": sorted(site for site, each in done.items() if each["removed"])}, _now())
        ledger.append(tx, KIND, {"request": request, "workload": workload, "model_removed": model}, principal="control", at=_now())
    return f"`{model}` is removed"


def _name(row: ReplicaRow) -> str:
    return f"{row.dataset}@{row.version}"


def _registry(settings: Settings, workload: str) -> Any:
    from flows.adapters.models import Models

    return Models(settings.tracking_url, workload)


def _counted(found: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, dict[str, int]]]:
    """By site and dataset: in how many versions, how many rows in all of them; and single files."""
    counted: dict[str, dict[str, dict[str, int]]] = {}
    for site, each in found.items():
        here: dict[str, dict[str, int]] = {}
        for name, rows in each["versions"].items():
            one = here.setdefault(name.partition("@")[0], {"versions": 0, "rows": 0})
            one["versions"], one["rows"] = one["versions"] + 1, one["rows"] + rows
        if each["files"]:
            here["files"] = {"files": len(each["files"])}
        if here:
            counted[site] = here
    return counted


def _proof(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    scans = {site: each["scanned"] for site, each in found.items()}
    total = {name: sum(each[name] for each in scans.values()) for name in ("files", "bytes")}
    return {"sha256": content_hash(scans), "sites": len(scans), **total}


def _recorded(request: _Request, result: Mapping[str, Any]) -> dict[str, Any]:
    """The ledger's row: counts and names of versions, never who."""
    told = {name: result[name] for name in ("request", "applied", "found", "elsewhere", "models", "proof")}
    counts = {name: len(result[name]) for name in ("rewritten", "removed") if name in result}
    return {"workload": request.workload, **told, **counts, "principal": result.get("principal")}


def _now() -> datetime:
    return datetime.now(UTC)
