"""What a demo (or any use of the embedded stack) did, read from the state database alone: for a manager, and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from flows.core.canonical import instant
from flows.core.governance.labels import Classification
from flows.store import approvals, costs, decisions, ledger, principals, runs, transfers
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
            "approvals": _approvals(tx),
            "costs": _costs(tx),
            "links": {**links, **_reports(tx)},
            "seconds": round(seconds, 1),
        }


def _workload(tx: Session, declarations: Declarations, name: str) -> dict[str, Any]:
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
            "rejected": [_rejection(each) for each in row.body["rejected"]],
            "summary": row.summary,
        }
        for row in rows
    ]


def _rejection(row: Mapping[str, Any]) -> dict[str, Any]:
    """The pool with all rules it fails, and those of them that are law or company policy."""
    reasons = row["reasons"]
    return {
        "pool": row["pool"],
        "site": row["site"],
        "rules": list(dict.fromkeys(reason["rule"] for reason in reasons)),
        "policy": list(dict.fromkeys(reason["rule"] for reason in reasons if reason["kind"] in ("policy", "data"))),
    }


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


def _approvals(tx: Session) -> list[dict[str, Any]]:
    """Every promotion that waited for a person, with how long, and who decided it."""
    return [
        {
            "request": row.id,
            "workload": row.workload,
            "version": row.version,
            "standing": standing,
            "waited_seconds": round((said.at - row.at).total_seconds(), 1) if said else None,
            "approver": principals.name_of(tx, said.approver) if said else None,
            "reason": said.reason if said else None,
        }
        for row in approvals.listed(tx, everything=True)
        for standing, said in [approvals.stands(tx, row, datetime.now(UTC))]
    ]


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
    for title, columns, rows in (
        ("Workloads", ("workload", "label", "home", "ran at", "policy permits", "champion"), _workload_rows(report)),
        ("Where training went, and why", ("workload", "pool", "offer", "USD", "next best", "why"), _training_rows(report)),
        ("Where policy refuses training", ("workload", "site", "rules"), _refusal_rows(report)),
        (
            "Retrains that drift started (AUC)",
            ("workload", "as of", "promoted with", "fell to", "champion", "challenger", "outcome"),
            [_retrain_row(each) for each in report["retrains"]],
        ),
        (
            "Promotions that a person had to approve (the demo played that person)",
            ("workload", "version", "outcome", "approver", "reason", "waited, seconds"),
            [_approval_row(each) for each in report["approvals"]],
        ),
        ("Data that moved", ("dataset", "from", "to", "bytes", "USD"), _transfer_rows(report)),
        ("Where the time went (runs overlap)", ("step", "runs", "seconds"), _time_rows(report)),
        ("Cost by pool", ("pool", "runs", "seconds", "USD settled", "USD decided", "kg CO2"), _cost_rows(report)),
    ):
        _print(console, title, columns, rows)
    for name, address in report["links"].items():
        console.print(f"{name}: {address}", soft_wrap=True)
    done = sum(1 for each in report["runs"] if each["state"] == "completed")
    console.print(f"{done} runs on workers, {len(report['decisions'])} decisions, {report['seconds']} s", style="bold")


def _print(console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.table import Table

    grid = Table(title=title, title_justify="left", title_style="bold", header_style="dim", box=box.SIMPLE_HEAD)
    for column in columns:
        grid.add_column(column, overflow="fold")
    for row in rows:
        grid.add_row(*row)
    console.print(grid)


def _workload_rows(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            each["name"],
            _label(each["label"]),
            each["home"],
            ", ".join(each["sites"]),
            ", ".join(each["permitted_sites"]),
            each["champion"] or "none",
        )
        for each in report["workloads"]
    ]


def _training_rows(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for each in report["decisions"]:
        if each["step"] == "train":
            chosen = each["chosen"] or {}
            told = each["summary"].partition("`: ")[2] or "the cheapest of all pools"
            next_best = each["alternatives"][0] if each["alternatives"] else "none"
            rows.append((each["workload"], chosen.get("pool", "nowhere"), chosen.get("offer", ""), _usd(chosen), next_best, told))
    return rows


def _refusal_rows(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    refused: dict[tuple[str, str], set[str]] = {}
    for each in report["decisions"]:
        for row in each["rejected"] if each["step"] == "train" else ():
            if row["policy"]:
                refused.setdefault((each["workload"], row["site"]), set()).update(row["policy"])
    return [(workload, site, ", ".join(sorted(rules))) for (workload, site), rules in sorted(refused.items())]


def _approval_row(each: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(each[name] or "-") for name in ("workload", "version", "standing", "approver", "reason", "waited_seconds"))


def _transfer_rows(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [
        (each["dataset"], each["source"], each["destination"], f"{each['bytes']:,}", f"{each['usd']:.6f}") for each in report["transfers"]
    ]


def _time_rows(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    spent: dict[str, list[float]] = {}
    for run in report["runs"]:
        spent.setdefault(run["step"], []).append(run["seconds"] or 0.0)
    return [(step, str(len(each)), f"{sum(each):.1f}") for step, each in sorted(spent.items(), key=lambda item: -sum(item[1]))]


def _cost_rows(report: Mapping[str, Any]) -> list[tuple[str, ...]]:
    numbers = ("usd_total", "usd_decided", "kg_co2")
    return [
        (each["pool"], str(each["runs"]), f"{each['seconds']:.1f}", *(f"{each[name]:.6f}" for name in numbers)) for each in report["costs"]
    ]


def _label(label: Mapping[str, Any]) -> str:
    residency = label["residency"] if isinstance(label["residency"], str) else ", ".join(label["residency"])
    return f"{Classification(label['classification']).value}; {', '.join(label['regimes']) or 'no regime'}; {residency}"


def _usd(chosen: Mapping[str, Any]) -> str:
    return f"{chosen['usd']['total']:.4f}" if chosen else ""


def _retrain_row(each: Mapping[str, Any]) -> tuple[str, ...]:
    metrics, drift = each["metrics"], each["metrics"]["drift"] or {}
    numbers = (drift.get("auc_reference"), drift.get("auc_current"), metrics["champion_auc"], metrics["challenger_auc"])
    told = [f"{value:.3f}" if value is not None else "-" for value in numbers]
    outcome = each["outcome"] + (f": {'; '.join(each['reasons'])}" if each["reasons"] else "")
    return (each["workload"], each["as_of"], *told, outcome)
