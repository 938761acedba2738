"""A decision as one HTML page: no script, nothing loaded from anywhere, every text escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from flows.core.placement.decision import Decision
from flows.core.placement.explain import CANDIDATE_COLUMNS, REASON_COLUMNS, as_json, candidate_rows, data_line, reason_rows

STYLE = """
:root { color-scheme: light dark; font: 15px/1.5 system-ui, sans-serif; }
body { margin: 2rem auto; max-width: 110rem; padding: 0 1rem; }
h1 { font-size: 1.25rem; } h2 { font-size: 1.05rem; margin-top: 2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .87rem; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid #8884; padding: .3rem .7rem; text-align: left; vertical-align: top; }
td.number, th.number { text-align: right; white-space: nowrap; }
tr.chosen { font-weight: 600; background: #2a82; }
code { overflow-wrap: anywhere; }
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'"
NUMBERS = frozenset(CANDIDATE_COLUMNS[5:])


def decision_page(decision: Decision | Mapping[str, Any]) -> str:
    """The whole decision as a page: summary, chosen and runners-up, every rejection with all its reasons, warnings, hashes."""
    told = as_json(decision)
    parts = [
        f"<h1>{escape(told['summary'])}</h1>",
        f"<p>Decision <code>{escape(told['decision_id'])}</code>, made at {escape(told['at'])}. {escape(data_line(told))}</p>",
    ]
    candidates = candidate_rows(told)
    parts.append(table(CANDIDATE_COLUMNS, candidates) if candidates else "<p>No pool may run it.</p>")
    if candidates and (fallback := told["chosen"].get("fallback")) is not None:
        ends, usd = escape(fallback["finish_p90"]), f"{fallback['usd']['total']:.4f}"
        parts.append(f"<p>If spot capacity goes: the same offer on demand, done by {ends}, {usd} USD.</p>")
    if reasons := reason_rows(told):
        parts += ["<h2>Not possible</h2>", table(REASON_COLUMNS, reasons)]
    if told["warnings"]:
        items = "".join(f"<li>{escape(warning)}</li>" for warning in told["warnings"])
        parts.append(f"<h2>Warnings</h2>\n<ul>{items}</ul>")
    parts += ["<h2>Decided from</h2>", table(("input", "hash"), [(kind, told["inputs"][kind]) for kind in sorted(told["inputs"])])]
    return page(told["summary"], parts)


def page(title: str, parts: Sequence[str]) -> str:
    """A page of these parts, which are HTML already; the title is text."""
    body = "\n".join(parts)
    head = (
        '<meta charset="utf-8">\n<meta name="viewport" content="width=device-width">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>"
    )
    return f'<!doctype html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{body}\n</body>\n</html>\n'


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of texts."""
    head = "".join(f"<th{_class(column)}>{escape(column)}</th>" for column in columns)
    lines = [
        f"<tr{' class=chosen' if row[0] == 'chosen' and columns is CANDIDATE_COLUMNS else ''}>"
        + "".join(f"<td{_class(column)}>{escape(cell)}</td>" for column, cell in zip(columns, row, strict=True))
        + "</tr>"
        for row in rows
    ]
    return f'<div class="wide"><table>\n<tr>{head}</tr>\n' + "\n".join(lines) + "\n</table></div>"


def _class(column: str) -> str:
    return ' class="number"' if column in NUMBERS else ""
