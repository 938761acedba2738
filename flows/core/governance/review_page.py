"""A review as one HTML page for a compliance officer and as a CSV sheet that can be filled in and read back. Pure."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from html import escape
from typing import Any

from flows.core.errors import Problem, UserError
from flows.core.governance.reviews import KINDS, Grant, Judged, Standing, Verdict
from flows.core.governance.sheets import plain, sheet_of
from flows.core.placement.page import POLICY, STYLE

COLUMNS = (
    "review", "grant", "source", "principal", "kind", "permission", "scope", "via", "granted (earliest)", "last used", "findings",
    "accepted", "state", "because", "command to revoke", "decision", "reason", "until",
)  # fmt: skip
"""The last three are for a person to fill in: `keep` or `revoke`, why, and the last UTC day of a keep."""
MOST_SHOWN = 6


@dataclass(frozen=True, slots=True)
class ReviewLine:
    """One grant of a review with its principal's name as it may be shown now, or its opaque id."""

    id: str
    name: str
    grant: Grant
    judged: Judged
    standing: Standing
    by: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The line for programs."""
        grant = self.grant.model_dump(mode="json", exclude={"principal", "revoke", "traits", "slot"})
        return {
            "id": self.id,
            "principal": self.name,
            **grant,
            "traits": sorted(self.grant.traits),
            "findings": [{"kind": one.kind, "why": one.why} for one in self.judged.findings],
            "accepted": [{"kind": one.kind, "why": one.why} for one in self.judged.excepted],
            "state": self.standing.state,
            "because": self.standing.because,
            "by": self.by,
            "revoke": self.grant.command(self.name),
        }


@dataclass(frozen=True, slots=True)
class ReviewTold:
    """A review with everything that is shown of it; `sources` maps each to how many grants it gave, or to why it could not be read."""

    id: str
    at: datetime
    due_at: datetime
    state: str
    sources: Mapping[str, int | str]
    lines: tuple[ReviewLine, ...]

    @property
    def unread(self) -> dict[str, str]:
        """The sources that could not be read, and why: what they grant is not known."""
        return {name: told for name, told in self.sources.items() if isinstance(told, str)}


@dataclass(frozen=True, slots=True)
class Filled:
    """One filled-in row of a sheet."""

    line: int
    review: str
    grant: str
    verdict: Verdict
    reason: str
    until: date | None


def page(told: ReviewTold) -> str:
    """The review as a page: no script, nothing loaded from anywhere, every text escaped."""
    ranked = sorted(told.lines, key=worst_first)
    waiting = sum(line.standing.state == "open" for line in ranked)
    parts = [
        f"<h1>Access review {escape(told.id)}: {escape(told.state)}</h1>",
        f"<p>Made at {_moment(told.at)}, to be attested by {_moment(told.due_at)}. {len(ranked)} grants, {waiting} of them "
        f"wait for a person. "
        f"{escape(findings_line(told))}</p>",
    ]
    if told.unread:
        items = "".join(f"<li><code>{escape(name)}</code>: {escape(why)}</li>" for name, why in sorted(told.unread.items()))
        parts.append(
            "<h2>Incomplete</h2>\n<p>These sources could not be read. What they grant is not known: nothing here says it is in order."
            f"</p>\n<ul>{items}</ul>"
        )
    read = [(name, str(count)) for name, count in sorted(told.sources.items()) if not isinstance(count, str)]
    parts += ["<h2>Sources that were read</h2>", _table(("source", "grants"), read)]
    for title, state in (("To be decided", "open"), ("To be revoked", "revoke"), ("Kept", "keep")):
        rows = [_cells(told, line) for line in ranked if line.standing.state == state]
        if rows:
            parts += [f"<h2>{title}</h2>", _table(COLUMNS[1:15], [row[1:15] for row in rows])]
    head = (
        '<meta charset="utf-8">\n<meta name="viewport" content="width=device-width">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f"<title>Access review {escape(told.id)}</title>\n<style>{STYLE}</style>"
    )
    body = "\n".join(parts)
    return f'<!doctype html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{body}\n</body>\n</html>\n'


def sheet(told: ReviewTold) -> str:
    """The review as CSV; a cell that a spreadsheet would take for a formula begins with an apostrophe."""
    return sheet_of(COLUMNS, ((*_cells(told, line), "", "", "") for line in sorted(told.lines, key=worst_first)))


def read_sheet(text: str, *, file: str, review: str, grants: Mapping[str, Any] | frozenset[str]) -> list[Filled]:
    """The rows of a sheet that a person filled in; a row without a decision is left for later. `;` between cells is understood too.

    Raises:
        UserError: every row that cannot be taken, with its line; then none is.
    """
    text = text.removeprefix("\ufeff")
    first = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=";" if first.count(";") > first.count(",") else ",")
    needed = ("review", "grant", "decision", "reason", "until")
    filled: list[Filled] = []
    problems: list[Problem] = []
    seen: dict[str, int] = {}
    try:
        header = next(reader, [])
        if missing := [name for name in needed if name not in header]:
            raise UserError(
                f"no column `{'`, `'.join(missing)}`", file=file, line=1, expected="the sheet that `tradewind review show` wrote"
            )
        for row in reader:
            cells = {name: cell.strip() for name, cell in zip(header, row, strict=False)}
            if not any(cells.get(name) for name in ("decision", "reason", "until")):
                continue
            one = _filled(cells, reader.line_num, review, grants)
            if isinstance(one, Filled) and one.grant in seen:
                one = [("grant", f"`{one.grant}` was decided in line {seen[one.grant]} already", "one row for each grant")]
            if isinstance(one, Filled):
                seen[one.grant] = one.line
                filled.append(one)
            else:
                problems += [Problem(what, file, reader.line_num, name, expected) for name, what, expected in one]
    except csv.Error as error:
        problems.append(Problem(f"not a row of a table: {error}", file, reader.line_num))
    if problems:
        raise UserError(problems=problems)
    return filled


def _filled(
    cells: Mapping[str, str], number: int, review: str, grants: Mapping[str, Any] | frozenset[str]
) -> Filled | list[tuple[str, str, str]]:
    wrong: list[tuple[str, str, str]] = []
    decision, reason, until = (plain(cells.get(name, "")) for name in ("decision", "reason", "until"))
    if cells.get("review") != review:
        wrong.append(("review", f"`{cells.get('review', '')}` is another review", f"`{review}`"))
    elif cells.get("grant", "") not in grants:
        wrong.append(("grant", f"no grant `{cells.get('grant', '')}` in this review", "an id of the sheet, unchanged"))
    verdict: Verdict | None = {"keep": "keep", "revoke": "revoke"}.get(decision.lower())  # type: ignore[assignment]
    if verdict is None:
        wrong.append(("decision", f"`{decision}` is no decision" if decision else "no decision", "`keep` or `revoke`"))
    if not reason:
        wrong.append(("reason", "no reason", "why, in a sentence"))
    day = None
    if until:
        try:
            day = date.fromisoformat(until)
        except ValueError:
            wrong.append(("until", f"`{until}` is no day", "a day such as `2027-01-31`"))
        if verdict == "revoke":
            wrong.append(("until", "a grant that is to be revoked has no last day", "an empty cell"))
    if wrong or verdict is None:
        return wrong
    return Filled(number, review, cells["grant"], verdict, reason, day)


def findings_line(told: ReviewTold) -> str:
    """How many grants have each kind of finding, the worst kind first."""
    counts = [(kind, sum(any(one.kind == kind for one in line.judged.findings) for line in told.lines)) for kind in KINDS]
    return "Found: " + (", ".join(f"{count} {kind}" for kind, count in counts if count) or "nothing that breaks a rule") + "."


def worst_first(line: ReviewLine) -> tuple[Any, ...]:
    """The order in which people look at them: what waits, then by the worst finding."""
    worst = min((KINDS.index(one.kind) for one in line.judged.findings), default=len(KINDS))
    return (line.standing.state != "open", worst, line.grant.source, line.name, line.grant.slot)


def _cells(told: ReviewTold, line: ReviewLine) -> tuple[str, ...]:
    grant = line.grant
    used = "not told by the source" if not grant.use_known else _day(grant.last_used) or "never"
    via = "; ".join(part for part in (grant.via, grant.detail) if part)
    because = f"{line.standing.because} (by {line.by})" if line.by else line.standing.because
    return (
        told.id, line.id, grant.source, line.name, grant.kind, _some(grant.permissions), _some(grant.scopes), via, _day(grant.granted_at),
        used, "; ".join(f"{one.kind}: {one.why}" for one in line.judged.findings), "; ".join(one.why for one in line.judged.excepted),
        line.standing.state, because, grant.command(line.name),
    )  # fmt: skip


def _some(texts: Sequence[str]) -> str:
    more = f" and {len(texts) - MOST_SHOWN} more" if len(texts) > MOST_SHOWN else ""
    return ", ".join(texts[:MOST_SHOWN]) + more


def _day(moment: datetime | None) -> str:
    return "" if moment is None else f"{moment.astimezone(UTC):%Y-%m-%d}"


def _moment(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    lines = ["<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    return f'<div class="wide"><table>\n<tr>{head}</tr>\n' + "\n".join(lines) + "\n</table></div>"
