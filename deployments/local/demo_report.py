"""What a demo (or any use of the embedded stack) did, read from the state database alone: for a manager, and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from flows.core.canonical import instant
from flows.core.governance.labels import Classification
from flows.store import costs, decisions, ledger, runs, transfers
from flows.store.database import State
from flows.store.models import AliasRow, IntentRow, VerdictRow

if TYPE_CHECKING:
    from rich.console import Console
    from sqlalchemy.orm import Session

    from flows.services.declarations import Declarations

EVERYTHING = 100_000


def collect(state: State, declarations: Declarations, *, links: Mapping[str, str], seconds: float) -> dict[str, Any]:
    """The report as JSON: workloads, runs, decisions, retrains, transfers, costs, links, seconds."""
    with state.reading() as tx:
        return {
            "workloads": [_workload(tx, declarations, name) for name in sorted(declarations.workloads)],
            "runs": _runs(tx),
            "decisions": _decisions(tx),
            "retrains": _retrains(tx),
            "transfers": _transfers(tx),
            "costs": _costs(tx),
            "links": {**links, **_reports(tx)},
            "seconds": round(seconds, 1),
        }


def _workload(tx: Session, declarations: Declarations, name: str) -> dict[str, Any]:
    from datetime import UTC, datetime

    label = declarations.label([f"{name}-raw"], at=datetime.now(UTC))
    champion = tx.get(AliasRow, (name, "champion"))
    finished = [run for run in runs.recent(tx, workload=name, state="completed", limit=EVERYTHING) if run.site != "control"]
    return {
        "name": name,
        "title": declarations.workloads[name].title,
        "label": label.to_json(),
        "home": declarations.workloads[name].home,
        "sites": sorted({run.site for run in finished}),
        "permitted_sites": _permitted(tx, declarations, name),
        "champion": champion.version if champion else None,
    }


def _permitted(tx: Session, declarations: Declarations, name: str) -> list[str]:
    """The sites that policy left open in the workload's newest train decision: chosen and runners-up."""
    for row in decisions.recent(tx, workload=name, limit=EVERYTHING):
        if row.step == "train":
            denied = {
                each["site"] for each in row.body["rejected"] if any(reason["kind"] in ("policy", "data") for reason in each["reasons"])
            }
            return sorted({pool.site for pool in declarations.estate.pools if pool.offers} - denied)
    return []


def _runs(tx: Session) -> list[dict[str, Any]]:
    rows = sorted(runs.recent(tx, limit=EVERYTHING), key=lambda row: row.started_at)
    return [
        {
            "id": row.id,
            "workload": row.workload,
            "step": row.step,
            "pool": row.pool,
            "site": row.site,
            "pid": row.pid,
            "state": row.state,
            "seconds": round((row.finished_at - row.started_at).total_seconds(), 2) if row.finished_at else None,
        }
        for row in rows
    ]


def _decisions(tx: Session) -> list[dict[str, Any]]:
    rows = sorted(decisions.recent(tx, limit=EVERYTHING), key=lambda row: row.at)
    return [
        {
            "id": row.id,
            "workload": row.workload,
            "step": row.step,
            "intent_id": row.intent_id,
            "chosen": row.body["chosen"],
            "alternatives": [each["pool"] for each in row.body["alternatives"]],
            "rejected": [{"pool": each["pool"], "rules": [reason["rule"] for reason in each["reasons"]]} for each in row.body["rejected"]],
            "summary": row.summary,
        }
        for row in rows
    ]


def _retrains(tx: Session) -> list[dict[str, Any]]:
    """Every retrain that drift asked for, with the champion's AUC at home, on the drifted data, and both models' on the fresh holdout."""
    found = []
    for row in ledger.rows(tx, limit=EVERYTHING):
        if row.kind not in ("promotion", "promotion-refusal"):
            continue
        promote = tx.get(IntentRow, row.body["intent"])
        if promote is None or promote.cause != "drift":
            continue
        numbers = row.body["numbers"]
        found.append(
            {
                "workload": promote.workload,
                "cause": promote.cause,
                "as_of": promote.window,
                "outcome": "promoted" if row.kind == "promotion" else "refused",
                "reasons": list(row.body["reasons"]),
                "metrics": {
                    "drift": _drift(tx, promote.workload, promote.window),
                    "champion_auc": (numbers.get("champion") or {}).get("auc"),
                    "challenger_auc": numbers["challenger"]["auc"],
                    "holdout_rows": numbers["rows"],
                },
            }
        )
    return found


def _drift(tx: Session, workload: str, window: str) -> dict[str, Any] | None:
    query = select(VerdictRow).where(VerdictRow.workload == workload, VerdictRow.kind == "drift").order_by(VerdictRow.at)
    for row in tx.scalars(query):
        if instant(row.as_of).startswith(window[:10]):
            numbers = row.body["numbers"]
            return {key: numbers.get(key) for key in ("auc_reference", "auc_current", "auc_drop", "prediction_psi", "input_share")}
    return None


def _transfers(tx: Session) -> list[dict[str, Any]]:
    return [
        {
            "dataset": row.dataset,
            "version": row.version,
            "source": row.source,
            "destination": row.destination,
            "bytes": row.bytes,
            "seconds": row.seconds,
            "usd": float(row.usd),
            "run_id": row.run_id,
        }
        for row in reversed(transfers.recent(tx, limit=EVERYTHING))
    ]


def _costs(tx: Session) -> list[dict[str, Any]]:
    return [{"pool": line.pop("key"), **line} for line in (each.to_json() for each in costs.by_pool(tx))]


def _reports(tx: Session) -> dict[str, str]:
    """The newest report of each kind and workload, as files at the data's own site."""
    query = select(IntentRow).where(IntentRow.state == "done").order_by(IntentRow.finished_at)
    return {
        f"{row.workload} {row.step}: {name}": address
        for row in tx.scalars(query)
        for name, address in ((row.result or {}).get("links") or {}).items()
    }


def show(report: Mapping[str, Any], console: Console) -> None:
    """The report for a person: what ran where and why, what was refused where and why, metrics, cost, links."""
    from rich.table import Table

    def table(title: str, *columns: str, rows: list[tuple[Any, ...]]) -> None:
        grid = Table(title=title, title_justify="left", title_style="bold", header_style="dim")
        for column in columns:
            grid.add_column(column)
        for row in rows:
            grid.add_row(*(str(cell) for cell in row))
        console.print(grid)

    table(
        "Workloads",
        "workload", "label", "home", "ran at", "policy permits", "champion",
        rows=[
            (each["name"], _label(each["label"]), each["home"], ", ".join(each["sites"]), ", ".join(each["permitted_sites"]), each["champion"] or "none")
            for each in report["workloads"]
        ],
    )  # fmt: skip
    heavy = [each for each in report["decisions"] if each["step"] in ("train", "transfer") or each["chosen"] is None]
    table(
        "What ran where, and why nowhere else",
        "workload", "step", "pool", "USD", "why",
        rows=[
            (each["workload"], each["step"], (each["chosen"] or {}).get("pool", "nowhere"), _usd(each["chosen"]), each["summary"])
            for each in heavy
        ],
    )  # fmt: skip
    table(
        "What policy refused where",
        "workload", "pool", "rules",
        rows=sorted({(each["workload"], row["pool"], ", ".join(row["rules"])) for each in heavy for row in each["rejected"] if each["step"] == "train"}),
    )  # fmt: skip
    table(
        "Retrains that drift started",
        "workload", "as of", "AUC at promotion", "when drift was seen", "champion", "challenger", "outcome",
        rows=[_retrain_row(each) for each in report["retrains"]],
    )  # fmt: skip
    table(
        "Data that moved",
        "dataset", "from", "to", "bytes", "USD",
        rows=[(each["dataset"], each["source"], each["destination"], f"{each['bytes']:,}", f"{each['usd']:.6f}") for each in report["transfers"]],
    )  # fmt: skip
    if report["costs"]:
        columns = list(report["costs"][0])
        table("Cost by pool", *columns, rows=[tuple(_short(each[column]) for column in columns) for each in report["costs"]])
    for name, address in report["links"].items():
        console.print(f"{name}: {address}", soft_wrap=True)
    done = sum(1 for each in report["runs"] if each["state"] == "completed")
    console.print(f"{done} runs on workers, {len(report['decisions'])} decisions, {report['seconds']} s", style="bold")


def _label(label: Mapping[str, Any]) -> str:
    residency = label["residency"] if isinstance(label["residency"], str) else ", ".join(label["residency"])
    return f"{Classification(label['classification']).value}; {', '.join(label['regimes']) or 'no regime'}; {residency}"


def _usd(chosen: Mapping[str, Any] | None) -> str:
    return f"{chosen['usd']['total']:.4f}" if chosen else ""


def _short(value: Any) -> str:
    return f"{value:.6f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def _retrain_row(each: Mapping[str, Any]) -> tuple[str, ...]:
    metrics, drift = each["metrics"], each["metrics"]["drift"] or {}
    numbers = (drift.get("auc_reference"), drift.get("auc_current"), metrics["champion_auc"], metrics["challenger_auc"])
    told = [f"{value:.3f}" if value is not None else "-" for value in numbers]
    outcome = each["outcome"] + (f": {'; '.join(each['reasons'])}" if each["reasons"] else "")
    return (each["workload"], each["as_of"], *told, outcome)
