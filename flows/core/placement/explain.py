"""A decision for people: who won, who came next, and why every other pool did not; as rows and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flows.core.placement.decision import Decision

CANDIDATE_COLUMNS = (
    "",
    "pool",
    "offer",
    "start",
    "done by (p90)",
    "total USD",
    "compute",
    "egress",
    "storage",
    "carbon",
    "delay",
    "kg CO2",
)
TERMINAL_COLUMNS = ("", "pool", "offer", "start", "done by (p90)", "total USD", "of which")
REASON_COLUMNS = ("pool", "offer", "kind", "rule", "seen", "needed", "written in", "would be let in by")
REJECTION_COLUMNS = ("pool", "offer", "why not", "would be let in by")


def as_json(decision: Decision | Mapping[str, Any]) -> Mapping[str, Any]:
    """The decision as plain JSON values, whether just made or read from where it was stored."""
    return decision.to_json() if isinstance(decision, Decision) else decision


def candidate_rows(decision: Decision | Mapping[str, Any]) -> list[tuple[str, ...]]:
    """One row of `CANDIDATE_COLUMNS` for the chosen candidate and each runner-up, best first."""
    told = as_json(decision)
    found = [told["chosen"]] if told["chosen"] is not None else []
    return [_candidate_row(place, candidate) for place, candidate in enumerate([*found, *told["alternatives"]])]


def _candidate_row(place: int, candidate: Mapping[str, Any]) -> tuple[str, ...]:
    usd = candidate["usd"]
    return (
        "chosen" if place == 0 else str(place + 1),
        candidate["pool"],
        f"{candidate['offer']} (spot)" if candidate["spot"] else candidate["offer"],
        candidate["start"],
        candidate["finish_p90"],
        *(f"{usd[item]:.4f}" for item in ("total", "compute", "egress", "storage", "carbon", "delay")),
        f"{candidate['kg_co2']:.4f}",
    )


def terminal_rows(decision: Decision | Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The same, narrow enough for a terminal: `TERMINAL_COLUMNS`, minutes for seconds, and only the parts of the sum that are not zero."""
    rows = []
    for *head, start, done, total, compute, egress, storage, carbon, delay, _kg in candidate_rows(decision):
        parts = zip(("compute", "egress", "storage", "carbon", "delay"), (compute, egress, storage, carbon, delay), strict=True)
        named = "\n".join(f"{name} {usd}" for name, usd in parts if float(usd))
        rows.append((*head, _minute(start), _minute(done), total, named))
    return rows


def _minute(moment: str) -> str:
    return f"{moment[:10]} {moment[11:16]}Z"


def rejection_rows(decision: Decision | Mapping[str, Any]) -> list[tuple[str, ...]]:
    """One row of `REJECTION_COLUMNS` for each rejected row, its reasons one a line."""
    return [
        (rejection["pool"], _offers(rejection), "\n".join(_why(reason) for reason in rejection["reasons"]), _change(rejection))
        for rejection in as_json(decision)["rejected"]
    ]


def reason_rows(decision: Decision | Mapping[str, Any]) -> list[tuple[str, ...]]:
    """One row of `REASON_COLUMNS` for each reason of each rejected row; pool, offer and change stand in the first of a row only."""
    rows = []
    for rejection in as_json(decision)["rejected"]:
        pool, offer, change = rejection["pool"], _offers(rejection), _change(rejection)
        for reason in rejection["reasons"]:
            rows.append((pool, offer, *(reason[key] for key in ("kind", "rule", "observed", "required", "source")), change))
            pool = offer = change = ""
    return rows


def _why(reason: Mapping[str, str]) -> str:
    return f"{reason['rule']}: {reason['observed']}; needs {reason['required']}"


def _offers(rejection: Mapping[str, Any]) -> str:
    return rejection["offer"] or (f"{rejection['offers']} offers" if rejection["offers"] else "none")


def _change(rejection: Mapping[str, Any]) -> str:
    relaxed = rejection["relaxation"]
    return "" if relaxed is None else f"{relaxed['change']} (then {relaxed['would_cost_usd']:.4f} USD)"


def decision_markdown(decision: Decision | Mapping[str, Any]) -> str:
    """The whole decision as Markdown: summary, chosen and runners-up, every rejection with all its reasons, warnings, hashes."""
    told = as_json(decision)
    parts = [f"**{_cell(told['summary'])}**", f"Decision `{told['decision_id']}`, made at {told['at']}.", data_line(told)]
    if candidates := candidate_rows(told):
        parts.append(_table(CANDIDATE_COLUMNS, candidates))
        if (fallback := told["chosen"].get("fallback")) is not None:
            parts.append(
                f"If spot capacity goes: the same offer on demand, done by {fallback['finish_p90']}, {fallback['usd']['total']:.4f} USD."
            )
    else:
        parts.append("No pool may run it.")
    if rejections := reason_rows(told):
        parts += ["### Not possible", _table(REASON_COLUMNS, rejections)]
    if told["warnings"]:
        parts += ["### Warnings", "\n".join(f"- {_cell(warning)}" for warning in told["warnings"])]
    parts += ["### Decided from", _table(("input", "hash"), [(kind, told["inputs"][kind]) for kind in sorted(told["inputs"])])]
    return "\n\n".join(parts) + "\n"


def data_line(told: Mapping[str, Any]) -> str:
    """Which datasets are read, and what label the outputs get."""
    datasets = ", ".join(f"`{name}`" for name in told["datasets"]) or "none"
    label = told["output_label"]
    if label is None:
        return f"Datasets: {datasets}. No label can be given to outputs."
    residency = label["residency"] if isinstance(label["residency"], str) else ", ".join(label["residency"])
    regimes = ", ".join(label["regimes"]) or "no regime"
    return f"Datasets: {datasets}. Outputs are labelled {label['classification']}, {regimes}, {residency}."


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
