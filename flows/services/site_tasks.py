"""Tasks that control sends to a site: erase, look for, or remove data there. Control opens no storage, so a run at the site does it.

A task is an intent of the step `purge`, one for each site; its payload says what to do, control signs it, and the run at the site, whose
own worker gave it its identity, does that and nothing else. What the task must know and nobody else may, a person's key, comes from a
secret of the orchestrator that is there for as long as the request is; it is no parameter and in no record.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from flows.adapters import signing
from flows.adapters.features import FEATURE_REPO
from flows.adapters.settings import CONTROL, Settings, identity
from flows.adapters.storage import site_storage
from flows.adapters.subject_search import Subject
from flows.adapters.ticket_checks import verified
from flows.core.canonical import content_hash
from flows.core.errors import GuardRefused, TradewindError, Unavailable, UserError
from flows.core.governance import columns
from flows.core.governance.tickets import PARAMETER, Ticket, check, parameters_hash
from flows.services import erasing_at_site
from flows.services.discretion import quiet
from flows.services.erasing_at_site import Place, Serving
from flows.services.own_credentials import of_task
from flows.services.ticketing import LIFE
from flows.store import dispatches, ledger, outbox, runs
from flows.store.database import State

if TYPE_CHECKING:
    from pathlib import Path

    from flows.core.placement.model import Estate
    from flows.services.dispatching import Dispatcher

log = logging.getLogger("flows.purge")

STEP = "purge"
STALE_AFTER = timedelta(hours=12)

Fetch = Callable[[str], str | None]
"""Gives the value of a secret by its name; None if there is none."""


@dataclass(frozen=True)
class SiteOrder:
    """What a dispatch asks of a site: one task, and the ticket that control signed for it."""

    workload: str
    task_id: str
    run_id: str
    ticket: object = None

    @property
    def parameters(self) -> dict[str, Any]:
        """What was sent along, as control wrote it before it signed."""
        return {"workload": self.workload, "task_id": self.task_id}


def pools_of(estate: Estate) -> dict[str, str]:
    """The pool through which each site that holds data is reached: its first one."""
    found: dict[str, str] = {}
    for pool in estate.pools:
        if pool.site != CONTROL:
            found.setdefault(pool.site, pool.name)
    return found


async def at_sites(
    state: State, settings: Settings, dispatcher: Dispatcher, estate: Estate, workload: str, window: str, tasks: Mapping[str, Any], *,
    owner: str,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Do a task at each of the sites, all at once, each exactly once: what is done already is not done again. Results by site.

    Raises:
        TradewindError: a site failed; the others have done theirs, and the next call asks only the one that failed.
    """
    pools = pools_of(estate)
    started = [_at_site(state, settings, dispatcher, workload, window, site, pools[site], task, owner) for site, task in tasks.items()]
    ended = await asyncio.gather(*started, return_exceptions=True)
    for one in ended:
        if isinstance(one, BaseException):
            raise one
    return {site: one for site, one in zip(tasks, ended, strict=True) if not isinstance(one, BaseException)}


async def _at_site(
    state: State, settings: Settings, dispatcher: Dispatcher, workload: str, window: str, site: str, pool: str, task: Mapping[str, Any],
    owner: str,
) -> dict[str, Any]:  # fmt: skip
    intent = outbox.Intent.of(workload, STEP, window, site, due_at=_now(), payload=task)
    while True:
        with state.transaction() as tx:
            row = outbox.ensure(tx, intent)
            if row.state == outbox.DONE:
                return dict(row.result or {})
            if row.state == outbox.FAILED:
                outbox.reopen(tx, intent.id)
            if not outbox.claim(tx, intent.id, owner=owner, at=_now(), stale_after=STALE_AFTER):
                raise Unavailable(f"`{intent.id}` is done by another run just now", fix="wait for it to end, then try again")
            key, payload = f"{intent.id}#{row.attempt}", dict(row.payload)
        order = SiteOrder(workload, intent.id, key)
        ticket = issue(state, settings, f"{STEP}/{pool}", order, payload, key=key, at=_now())
        outcome = await dispatcher.run(f"{STEP}/{pool}", {**order.parameters, PARAMETER: ticket}, key=key)
        with state.transaction() as tx:
            ended = outbox.get(tx, intent.id)
            assert ended is not None
            if ended.state == outbox.DONE:
                return dict(ended.result or {})
            if ended.state == outbox.RUNNING:
                outbox.fail(tx, intent.id, f"{outcome.state}: {outcome.message}", _now())
            standing, error = ended.state, ended.error
        if standing != outbox.OPEN:
            raise TradewindError(f"the task at `{site}` ended {standing}: {error}", fix=f"see {outcome.url or outcome.run_id}; then again")


def issue(
    state: State, settings: Settings, deployment: str, order: SiteOrder, payload: Mapping[str, Any], *, key: str, at: datetime
) -> dict[str, Any]:
    """The ticket of one task, as its flow parameter; the dispatch is in the ledger from then on.

    Raises:
        UserError: these settings hold no key to sign with.
    """
    if settings.signing_key is None:
        raise UserError("control has no key to sign its dispatches with", field=signing.VARIABLE, fix="see `tradewind up`")
    intent, _, attempt = key.rpartition("#")
    ticket = Ticket(
        deployment=deployment,
        parameters=parameters_hash(order.parameters),
        intent=intent,
        attempt=int(attempt),
        decision=intent,
        decision_sha256=content_hash(payload),
        manifests={},
        issued_at=at,
        expires_at=at + LIFE,
        nonce=secrets.token_hex(16),
    )
    with state.transaction() as tx:
        body = {"deployment": deployment, "intent": intent, "attempt": ticket.attempt, "decision": None, "nonce": ticket.nonce}
        ledger.append(tx, "dispatch", body, principal="control", at=at)
    signature = signing.signer(settings.signing_key.get_secret_value()).sign(ticket.payload)
    return {"body": ticket.model_dump(mode="json"), "signature": signature.to_json()}


def run(
    order: SiteOrder, *, settings: Settings | None = None, fetch: Fetch = lambda _: None, repository: Path = FEATURE_REPO
) -> dict[str, Any]:
    """Do one task at this process's own site, and record its result.

    Raises:
        GuardRefused: control did not send this run, or not here, or what it asks was changed since.
        Unavailable: the secret with the subject's key is gone, or features are in use.
        IntegrityError: the work failed with an error whose words might quote a row, and are not repeated.
    """
    settings = settings or Settings()
    site, pool = identity()
    state = State(settings.state_url)
    with state.transaction() as tx:
        runs.start(
            tx, id=order.run_id, workload=order.workload, step=STEP, pool=pool, site=site, pid=os.getpid(), at=_now(),
            intent_id=order.task_id, decision_id=None,
        )  # fmt: skip
    with _recorded(state, order, pool):
        task = _admit(state, settings, order, site, pool)
        with of_task(state, settings, site=site, workload=order.workload, step=STEP, task=order.task_id, at=_now()):
            place = Place(site_storage(site, settings), order.workload, settings, state, order.task_id, repository)
            result = _work(place, task, fetch)
        with state.transaction() as tx:
            outbox.finish(tx, order.task_id, result, _now())
            runs.finish(tx, order.run_id, "completed", _now())
    return result


def _admit(state: State, settings: Settings, order: SiteOrder, site: str, pool: str) -> dict[str, Any]:
    """What the task asks, after its ticket was compared with this run, this site and the record."""
    ticket = verified(order.ticket, signing.keyring(settings))
    check(ticket, deployment=f"{STEP}/{pool}", parameters=order.parameters, at=_now())
    with state.transaction() as tx:
        row = outbox.get(tx, order.task_id)
        if row is None or (row.step, row.workload, row.cause) != (STEP, order.workload, site) or ticket.intent != row.id:
            raise GuardRefused(f"`{order.task_id}` is no task of `{order.workload}` at `{site}`", fix="start `govern`; it sends each task")
        if content_hash(row.payload) != ticket.decision_sha256:
            raise GuardRefused(f"what `{order.task_id}` asks was changed after control signed it")
        user = dispatches.use(tx, ticket.nonce, intent_id=ticket.intent, run_id=order.run_id, at=_now())
        if user != order.run_id:
            raise GuardRefused(f"the ticket was used by run `{user}` already", fix="start `govern`; it sends each task")
        return dict(row.payload)


def _work(place: Place, task: Mapping[str, Any], fetch: Fetch) -> dict[str, Any]:
    serving = Serving(frozenset(task.get("serving", ())), frozenset(task.get("artifacts_serving", ())))
    if task["do"] == "remove":
        return {"removed": erasing_at_site.remove(place, task["versions"], task.get("artifacts", ()))}
    subject = _subject(place.workload, task, fetch)
    with quiet(
        f"the {task['do']} at `{place.storage.site}`", fix="look whether the site's files are whole and may be written, then try again"
    ):
        if task["do"] == "erase":
            return erasing_at_site.erase(place, subject, remove=task["remove"], artifacts=task["artifacts"], serving=serving)
        return erasing_at_site.find(place, subject, serving).to_json()


def _subject(workload: str, task: Mapping[str, Any], fetch: Fetch) -> Subject:
    key = fetch(task["secret"])
    if key is None:
        raise Unavailable(
            "the secret with the subject's key is not there", fix="give the same `tradewind erase` command again; it goes on from here"
        )
    pseudonyms = frozenset[str]()
    if task["pseudonymised"]:
        dataset = f"{workload}-raw"
        found = os.environ.get(columns.key_variable(dataset)) or fetch(columns.key_block(dataset))
        pseudonyms = frozenset({columns.pseudonym(columns.checked_key(dataset, found), key)})
    return Subject(key, frozenset(task["columns"]), pseudonyms)


@contextmanager
def _recorded(state: State, order: SiteOrder, pool: str) -> Iterator[None]:
    """Write down how a task failed; a forged run must not end the intent it names."""
    try:
        yield
    except BaseException as error:
        message = str(error) or type(error).__name__
        with state.transaction() as tx:
            runs.finish(tx, order.run_id, "failed", _now(), error=message)
            if isinstance(error, GuardRefused):
                body = {"step": STEP, "workload": order.workload, "pool": pool, "intent": order.task_id, "why": message}
                ledger.append(tx, "guard-refusal", body, principal="worker", at=_now())
            else:
                outbox.fail(tx, order.task_id, message, _now(), final=isinstance(error, UserError))
        raise


def _now() -> datetime:
    return datetime.now(UTC)
