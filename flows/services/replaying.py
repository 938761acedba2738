"""Decide stored decisions again, from their stored inputs alone: to prove them, or to see what other rules or an estate would change."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from flows.adapters.cedar_rules import load_rules
from flows.adapters.estate import load_estate
from flows.adapters.policy import CedarPolicy
from flows.core.canonical import canonical_json
from flows.core.errors import UserError
from flows.core.governance.labels import Catalog
from flows.core.placement import Conditions, Decision, Request, place
from flows.core.placement.estate import Estate
from flows.core.placement.hashing import decision_id
from flows.services import placing
from flows.store import decisions

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from flows.store.database import State

KINDS = ("request", "estate", "catalog", "conditions", "policies")
KEPT = 8
"""Estates, catalogs and rules that are kept at hand; most decisions share theirs."""

Change = Literal["same", "moved", "shifted", "repriced", "lost", "gained", "failed"]
CHANGES: Mapping[Change, str] = {
    "same": "same place, time and price",
    "moved": "another pool or offer, or spot instead of on demand, or the other way round",
    "shifted": "same place, another time",
    "repriced": "same place and time, another price",
    "lost": "no place any more",
    "gained": "a place where there was none",
    "failed": "cannot be decided again",
}

K = TypeVar("K")
T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Replayed:
    """One decision before and after: its JSON as stored and as made again (None: `problem` says why not), and what changed.

    `reproduced`: the same bytes, but for the name of the engine if another one made it.
    """

    before: Mapping[str, Any]
    after: Mapping[str, Any] | None
    change: Change
    reproduced: bool
    request: Mapping[str, Any]
    problem: str = ""

    @property
    def run(self) -> str:
        """What was placed: its intent, or the decision itself if nothing was to run."""
        return str(self.request.get("intent_id") or self.before["decision_id"])

    def to_json(self) -> dict[str, Any]:
        """The row of a report."""
        return {
            "decision_id": self.before["decision_id"],
            "at": self.before["at"],
            "workload": self.request.get("workload"),
            "step": self.request.get("step"),
            "intent_id": self.request.get("intent_id"),
            "change": self.change,
            "reproduced": self.reproduced,
            "before": _shown(self.before),
            "after": None if self.after is None else _shown(self.after),
            "problem": self.problem,
        }


@dataclass(frozen=True, slots=True)
class Totals:
    """What would change over all. Runs count once, by their last decision; USD are totals as ranked, `cash` what is paid of them.

    `usd_before` and `usd_after` are of runs that have a place both before and after, `usd_lost` and `usd_gained` of the others.
    """

    decisions: int
    reproduced: int
    runs: int
    changes: Mapping[str, int]
    usd_before: Decimal
    usd_after: Decimal
    cash_before: Decimal
    cash_after: Decimal
    usd_lost: Decimal
    usd_gained: Decimal

    def to_json(self) -> dict[str, Any]:
        """As a report prints it."""
        money = ("usd_before", "usd_after", "cash_before", "cash_after", "usd_lost", "usd_gained")
        counts = {"decisions": self.decisions, "reproduced": self.reproduced, "runs": self.runs, "changes": dict(self.changes)}
        return {**counts, **{name: float(getattr(self, name)) for name in money}}


class Replay:
    """Decides stored decisions again; `policies` and `estate` are folders that stand in for what is stored.

    Raises:
        UserError: such a folder is wrong.
    """

    def __init__(self, state: State, *, policies: Path | None = None, estate: Path | None = None) -> None:
        self._state = state
        self._estate = None if estate is None else load_estate(estate)
        self._book = None if policies is None else load_rules(policies)
        self._estates: dict[str, Estate] = {}
        self._catalogs: dict[str, Catalog] = {}
        self._rules: dict[tuple[str, str], CedarPolicy] = {}

    def run(self, since: datetime | None = None, until: datetime | None = None) -> Iterator[Replayed]:
        """Every decision stored in [since, until), the oldest first.

        Raises:
            IntegrityError: a stored input is no longer what was stored.
        """
        with self._state.reading() as tx:
            for id_ in decisions.between(tx, since, until):
                stored = decisions.get(tx, id_)
                if stored is not None:
                    yield self._again(tx, stored)

    def _again(self, tx: Session, stored: Mapping[str, Any]) -> Replayed:
        named, request = stored["inputs"], dict[str, Any]()
        try:
            if missing := [kind for kind in KINDS if kind not in named]:
                raise UserError(f"it does not name its {', '.join(missing)}")
            request = decisions.document(tx, named["request"])
            estate = self._estate or _kept(self._estates, named["estate"], lambda: _stored(tx, Estate, named["estate"]))
            catalog = _kept(self._catalogs, named["catalog"], lambda: _stored(tx, Catalog, named["catalog"]))
            conditions = _stored(tx, Conditions, named["conditions"])
            rules = self._rules_over(tx, named["policies"], estate)
            at = datetime.fromisoformat(stored["at"])
            made = place(restored(Request, request), estate, rules, catalog, conditions, at)
            if made.chosen is None and (self._estate or self._book):
                # a plan's site, or a place that had not failed the run, was a preference: the loop would go on without it
                asked, moment = (decisions.input_of(tx, stored["decision_id"], kind) for kind in (placing.ASKED, placing.MOMENT))
                if asked is not None:
                    made = place(restored(Request, asked), estate, rules, catalog, restored(Conditions, moment), at)
        except UserError as error:
            return Replayed(stored, None, "failed", reproduced=False, request=request, problem=" ".join(str(error).split()))
        after = made.to_json()
        reproduced = canonical_json(_by_the_engine_of(stored, made)) == canonical_json(stored)
        return Replayed(stored, after, change_between(stored, after), reproduced=reproduced, request=request)

    def _rules_over(self, tx: Session, key: str, estate: Estate) -> CedarPolicy:
        book = self._book
        if book is not None:
            return _kept(self._rules, (book.hash, estate.hash), lambda: CedarPolicy(book, estate.blocs))
        return _kept(self._rules, (key, estate.hash), lambda: CedarPolicy.of(decisions.document(tx, key), estate.blocs))


def restored(model: type[M], document: Any) -> M:
    """The model that was stored as this document.

    Raises:
        UserError: this version of the project cannot read it.
    """
    try:
        return model.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(f"its {model.__name__.lower()} cannot be read: {first['msg']}", field=where or None) from None


def _stored(tx: Session, model: type[M], key: str) -> M:
    return restored(model, decisions.document(tx, key))


def _kept(shelf: dict[K, T], key: K, make: Callable[[], T]) -> T:
    """The thing under the key, made once; the oldest makes room."""
    if key not in shelf:
        while len(shelf) >= KEPT:
            del shelf[next(iter(shelf))]
        shelf[key] = make()
    return shelf[key]


def _by_the_engine_of(stored: Mapping[str, Any], made: Decision) -> dict[str, Any]:
    """The new decision under the name of the engine that made the stored one; its promise of equal bytes is per engine."""
    inputs = {**made.inputs, "engine": stored["inputs"].get("engine", "")}
    return {**made.to_json(), "inputs": inputs, "decision_id": decision_id(made.at, inputs)}


def change_between(before: Mapping[str, Any], after: Mapping[str, Any]) -> Change:
    """What became of the chosen place."""
    old, new = before["chosen"], after["chosen"]
    if old is None or new is None:
        return "same" if old is new else "gained" if old is None else "lost"
    if any(old[key] != new[key] for key in ("pool", "offer", "spot")):
        return "moved"
    if old["start"] != new["start"]:
        return "shifted"
    return "same" if old["usd"] == new["usd"] else "repriced"


def totals(rows: Iterable[Replayed]) -> Totals:
    """The sums of a report."""
    last: dict[str, Replayed] = {}
    count = reproduced = 0
    for row in rows:
        count, reproduced = count + 1, reproduced + row.reproduced
        last[row.run] = row
    pairs = [(row.before["chosen"], row.after["chosen"]) for row in last.values() if row.after is not None]
    stayed = [(old, new) for old, new in pairs if old is not None and new is not None]
    changes = Counter(row.change for row in last.values())
    return Totals(
        decisions=count,
        reproduced=reproduced,
        runs=len(last),
        changes={change: changes[change] for change in CHANGES if changes[change]},
        usd_before=_usd((old for old, _ in stayed), "total"),
        usd_after=_usd((new for _, new in stayed), "total"),
        cash_before=_usd((old for old, _ in stayed), "compute", "egress", "storage"),
        cash_after=_usd((new for _, new in stayed), "compute", "egress", "storage"),
        usd_lost=_usd((old for old, new in pairs if old is not None and new is None), "total"),
        usd_gained=_usd((new for old, new in pairs if old is None and new is not None), "total"),
    )


def _usd(chosen: Iterable[Mapping[str, Any]], *items: str) -> Decimal:
    """Exact: each number from its shortest text."""
    return sum((Decimal(str(one["usd"][item])) for one in chosen for item in items), Decimal(0))


def _shown(decision: Mapping[str, Any]) -> dict[str, Any] | None:
    chosen = decision["chosen"]
    if chosen is None:
        return None
    told = {key: chosen[key] for key in ("pool", "site", "offer", "spot", "start", "finish_p90")}
    return {**told, "usd_total": chosen["usd"]["total"]}
