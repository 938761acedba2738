"""What runs cost, in USD and kg CO2: as decided before them and, once there is a bill, as settled."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from flows.store.database import insert_new, locked
from flows.store.models import CostRow

Kind = Literal["decided", "settled"]
Number = Decimal | float | int | str


@dataclass(frozen=True, slots=True)
class CostLine:
    """The costs of several runs under one key: settled where there is a bill; ``usd_decided`` is what was expected of all."""

    key: str
    runs: int
    settled_runs: int
    seconds: float
    usd_compute: Decimal
    usd_egress: Decimal
    usd_storage: Decimal
    usd_total: Decimal
    usd_decided: Decimal
    kg_co2: Decimal

    def to_json(self) -> dict[str, Any]:
        """The line as a JSON value, money as floats."""
        return {name: float(value) if isinstance(value := getattr(self, name), Decimal) else value for name in self.__dataclass_fields__}


def add(
    tx: Session,
    *,
    run_id: str,
    decision_id: str | None,
    workload: str,
    step: str,
    pool: str,
    site: str,
    usd_compute: Number,
    usd_egress: Number,
    usd_storage: Number,
    seconds: float,
    kg_co2: Number,
    kind: Kind,
    at: datetime,
) -> CostRow:
    """Store what a run costs, all of it: one row for each (run, kind), the last one holds.

    Args:
        tx: an open write transaction.
        run_id: the run.
        decision_id: the decision that placed it.
        workload: of the run.
        step: of the run.
        pool: where it ran.
        site: the pool's site.
        usd_compute: USD of the machine, kept to a millionth.
        usd_egress: USD of data moved.
        usd_storage: USD of data kept.
        seconds: how long it ran, or is expected to.
        kg_co2: kg of CO2, kept to a millionth.
        kind: ``decided`` or ``settled``.
        at: when it is stored, aware.
    """
    values: dict[str, Any] = {
        "decision_id": decision_id,
        "workload": workload,
        "step": step,
        "pool": pool,
        "site": site,
        "usd_compute": _decimal(usd_compute),
        "usd_egress": _decimal(usd_egress),
        "usd_storage": _decimal(usd_storage),
        "seconds": seconds,
        "kg_co2": _decimal(kg_co2),
        "at": at,
    }
    new = insert_new(tx, CostRow, {"run_id": run_id, "kind": kind, **values})
    number = tx.scalars(select(CostRow.number).where(CostRow.run_id == run_id, CostRow.kind == kind)).one()
    row = locked(tx, CostRow, number)
    assert row is not None
    if not new:
        for name, value in values.items():
            setattr(row, name, value)
        tx.flush()
    return row


def rows(tx: Session, *, since: datetime | None = None) -> list[CostRow]:
    """All rows in the order they came."""
    query = select(CostRow).order_by(CostRow.number)
    return list(tx.scalars(query if since is None else query.where(CostRow.at >= since)))


def by_pool(tx: Session, since: datetime | None = None) -> list[CostLine]:
    """Costs by pool, in order of name."""
    return _lines(rows(tx, since=since), "pool")


def by_workload(tx: Session, since: datetime | None = None) -> list[CostLine]:
    """Costs by workload, in order of name."""
    return _lines(rows(tx, since=since), "workload")


def _lines(rows: Iterable[CostRow], column: str) -> list[CostLine]:
    decided, holds = {}, {}
    for row in rows:
        if row.kind == "decided":
            decided[row.run_id] = row
        if row.kind == "settled" or row.run_id not in holds:
            holds[row.run_id] = row
    groups: dict[str, list[CostRow]] = {}
    for row in holds.values():
        groups.setdefault(getattr(row, column), []).append(row)
    return [_line(key, group, [decided[row.run_id] for row in group if row.run_id in decided]) for key, group in sorted(groups.items())]


def _line(key: str, rows: list[CostRow], decided: list[CostRow]) -> CostLine:
    zero = Decimal("0.000000")
    return CostLine(
        key=key,
        runs=len(rows),
        settled_runs=sum(row.kind == "settled" for row in rows),
        seconds=sum(row.seconds for row in rows),
        usd_compute=sum((row.usd_compute for row in rows), zero),
        usd_egress=sum((row.usd_egress for row in rows), zero),
        usd_storage=sum((row.usd_storage for row in rows), zero),
        usd_total=sum((row.usd_total for row in rows), zero),
        usd_decided=sum((row.usd_total for row in decided), zero),
        kg_co2=sum((row.kg_co2 for row in rows), zero),
    )


def _decimal(number: Number) -> Decimal:
    return number if isinstance(number, Decimal) else Decimal(str(number))
