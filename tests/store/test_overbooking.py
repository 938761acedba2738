"""Many that want the same accelerators at the same time: each gets its own, on another pool or in a later slot."""

from __future__ import annotations

import shutil
import threading
from collections import defaultdict
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from flows.adapters.settings import Settings
from flows.services import placing
from flows.services.declarations import Declarations
from flows.store import reservations
from flows.store.database import State
from flows.store.models import ReservationRow

WANTED = 50


def test_fifty_at_once_never_overbook_eight_accelerators(state: State, url: str, tmp_path: Path) -> None:
    """At every instant the reservations stay within each pool's capacity, and everyone is placed all the same."""
    settings = Settings(home=tmp_path / "home", deployments=_with_a_hungry_training(tmp_path), database_url=url)
    estate = Declarations.load(settings).estate
    assert max(pool.capacity.get("A100", Decimal(0)) for pool in estate.pools) == 8
    at, together = datetime.now(UTC), threading.Barrier(WANTED)
    decided: dict[int, dict[str, Any]] = {}

    def ask(number: int) -> None:
        own = State(url)
        order = placing.PlaceOrder("flight_delay", "train", f"flight_delay/train/2013-07-01/manual-{number}", {}, "scheduler")
        together.wait()
        decided[number] = placing.place_step(own, settings, order, at=at)
        own.close()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(WANTED)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(decided) == WANTED and all(decision["chosen"] for decision in decided.values())
    with state.reading() as tx:
        rows = reservations.active(tx, at)
        tx.expunge_all()
    assert len(rows) == WANTED
    limits = {pool.name: pool.capacity for pool in estate.pools}
    assert {key: peak for key, peak in _peaks(rows).items() if peak > limits[key[0]].get(key[1], peak)} == {}
    first = min(decision["chosen"]["start"] for decision in decided.values())
    assert len({decision["chosen"]["pool"] for decision in decided.values()}) > 1, "some went to another pool"
    assert any(decision["chosen"]["start"] > first for decision in decided.values()), "some wait for a later slot"


def _with_a_hungry_training(tmp_path: Path) -> Path:
    shipped = Settings().deployments
    declared = shutil.copytree(shipped, tmp_path / "deployments", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    workload = declared / "workloads" / "flight_delay.yaml"
    before = workload.read_text()
    workload.write_text(before.replace("  train:\n", "  train:\n    resources: {cpus: 8, memory_gib: 16, accelerators: {A100: 1}}\n"))
    assert workload.read_text() != before
    return declared


def _peaks(rows: list[ReservationRow]) -> dict[tuple[str, str], Decimal]:
    """The most that is reserved of each pool's resource at any instant: it is reached where some reservation begins."""
    found: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
    for moment in {row.from_at for row in rows}:
        together: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
        for row in rows:
            if row.from_at <= moment < row.until_at:
                for resource, amount in row.use.items():
                    together[row.pool, resource] += Decimal(amount)
        for key, amount in together.items():
            found[key] = max(found[key], amount)
    return found
