"""A joint decision for people: where each step goes, what is handed over, and what step by step would have cost; as rows and as a page."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from flows.core.placement.page import page, table

STEP_COLUMNS = ("step", "pool", "offer", "start", "done by (p90)", "own USD", "step by step", "own USD then")
EDGE_COLUMNS = ("dataset", "from", "to", "GB", "between", "USD")
STUCK_COLUMNS = ("step", "beside", "pool", "why not")


def step_rows(decision: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """One row of `STEP_COLUMNS` for each step: its place, and the pool step by step would have sent it to."""
    each = (decision["step_by_step"] or {"chosen": {}})["chosen"]
    return [
        (
            name,
            chosen["pool"],
            f"{chosen['offer']} (spot)" if chosen["spot"] else chosen["offer"],
            chosen["start"],
            chosen["finish_p90"],
            f"{chosen['usd']['total']:.4f}",
            ("the same" if each[name] == chosen else each[name]["pool"]) if name in each else "no place",
            f"{each[name]['usd']['total']:.4f}" if name in each else "",
        )
        for name, chosen in decision["chosen"].items()
    ]


def edge_rows(decision: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """One row of `EDGE_COLUMNS` for each dataset that a step hands to another."""
    return [
        (
            edge["dataset"],
            edge["from"],
            edge["to"],
            f"{edge['size_gb']:g}",
            f"stays at {edge['dst']}" if edge["src"] == edge["dst"] else f"{edge['src']} -> {edge['dst']}",
            f"{edge['usd']:.4f}",
        )
        for edge in decision["edges"]
    ]


def totals(decision: Mapping[str, Any]) -> list[str]:
    """What all of it costs, and what step by step would have cost."""
    total, each = decision["usd_total"], decision["step_by_step"]
    if total is None:
        return []
    if each is None:
        return [f"together {total:.4f} USD; step by step, a step would have found no place beside those before it"]
    handed = sum(edge["usd"] for edge in each["edges"])
    line = f"together {total:.4f} USD; step by step {each['usd_total']:.4f} USD, of which {handed:.4f} for what is handed over"
    saved = each["usd_total"] - total
    return [line, f"placing together saves {saved:.4f} USD" if saved > 0 else "nothing is cheaper than step by step: that is the choice"]


def stuck_rows(decision: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """One row of `STUCK_COLUMNS` for each pool or offer that a stuck step cannot have."""
    return [
        (
            stuck["step"],
            ", ".join(stuck["beside"]),
            row["pool"],
            "\n".join(f"{reason['rule']}: {reason['observed']}; needs {reason['required']}" for reason in row["reasons"]),
        )
        for stuck in decision["stuck"]
        for row in stuck["rejected"]
    ]


def joint_page(decision: Mapping[str, Any]) -> str:
    """The whole decision as a page that needs nothing else."""
    parts = [
        f"<h1>{escape(decision['summary'])}</h1>",
        f"<p>Joint decision <code>{escape(decision['decision_id'])}</code>, made at {escape(decision['at'])}.</p>",
        *(f"<p>{escape(line)}</p>" for line in totals(decision)),
    ]
    for title, columns, rows in (
        ("Steps", STEP_COLUMNS, step_rows(decision)),
        ("Handed over", EDGE_COLUMNS, edge_rows(decision)),
        ("Not possible", STUCK_COLUMNS, stuck_rows(decision)),
        ("Warnings", ("warning",), [(line,) for line in decision["warnings"]]),
        ("Decided from", ("input", "hash"), [(kind, decision["inputs"][kind]) for kind in sorted(decision["inputs"])]),
    ):
        if rows:
            parts += [f"<h2>{title}</h2>", table(columns, rows)]
    return page(decision["summary"], parts)
