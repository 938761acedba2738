"""What laws and standards ask, and the evidence for it: the declaration of controls, and the report over one period. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime
from html import escape
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from flows.core.governance.ledger_kinds import KINDS
from flows.core.governance.sheets import sheet_of
from flows.core.placement.page import page, table

Proved = Literal["real", "emulator", "mixed", "outside"]
PROVED: Mapping[str, str] = {
    "real": "against the real thing",
    "emulator": "against an emulator only",
    "mixed": "in part",
    "outside": "by people, outside this system",
}
COLUMNS = ("framework", "control", "asks", "state", "gaps", "proved", "rules", "tests", "ledger", "docs", "limits", "source")
Text = Annotated[str, StringConstraints(min_length=3, strip_whitespace=True)]
TestId = Annotated[str, StringConstraints(pattern=r"^tests/[\w/]+\.py(::\w+)+$")]


class Control(BaseModel):
    """One thing that is asked, where it is published, and what answers it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
    framework: Text
    reference: Text
    source: Annotated[str, StringConstraints(pattern=r"^https://\S+$")]
    asks: Text
    proved: Proved
    limits: str = ""
    rules: tuple[str, ...] = ()
    tests: tuple[TestId, ...] = ()
    ledger: tuple[str, ...] = ()
    docs: Annotated[str, StringConstraints(pattern=r"^docs/[\w-]+\.md$")]

    @property
    def answered_outside(self) -> bool:
        """Nothing in this system answers it."""
        return not (self.rules or self.tests or self.ledger)

    @model_validator(mode="after")
    def _says_its_limits(self) -> Control:
        if self.proved != "real" and not self.limits:
            raise ValueError("what is not proved against the real thing says so in `limits`")
        if (self.proved == "outside") != self.answered_outside:
            raise ValueError("`outside` is what has no rule, test or row here, and the other way round")
        return self


class Unmapped(BaseModel):
    """What stands for no control, each with the reason."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rules: Mapping[str, Text] = Field(default_factory=dict)
    ledger: Mapping[str, Text] = Field(default_factory=dict)


class Controls(BaseModel):
    """The declaration `controls.yaml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1]
    controls: tuple[Control, ...] = Field(min_length=1)
    unmapped: Unmapped = Unmapped()


@dataclass(frozen=True, slots=True)
class Evidence:
    """The rows of one kind in the period: how many, and the newest ones as (seq, instant, opaque principal, hash)."""

    rows: int
    newest: tuple[tuple[int, str, str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """One control with what was found; `gaps` is empty if nothing is missing. `rules` has what each rule says."""

    control: Control
    ledger: Mapping[str, Evidence]
    gaps: tuple[str, ...]
    rules: Mapping[str, str] = field(default_factory=dict)

    @property
    def state(self) -> Literal["evidence", "gap", "outside"]:
        """Whether something is shown, something is missing that should be there, or people answer it and nothing here does."""
        if self.control.answered_outside:
            return "outside"
        return "gap" if self.gaps else "evidence"


@dataclass(frozen=True, slots=True)
class Report:
    """All controls over a period, and whether the ledger that they rest on holds."""

    at: datetime
    since: datetime | None
    until: datetime
    chain: str
    chain_ok: bool
    answers: tuple[Answer, ...]
    unmapped: Unmapped

    def to_json(self) -> dict[str, Any]:
        """The report for programs."""
        return {
            "at": _moment(self.at),
            "since": _moment(self.since),
            "until": _moment(self.until),
            "ledger": {"ok": self.chain_ok, "told": self.chain},
            "controls": [
                {
                    **one.control.model_dump(mode="json"),
                    "rules": dict(one.rules),
                    "state": one.state,
                    "gaps": list(one.gaps),
                    "ledger": {kind: asdict(found) for kind, found in one.ledger.items()},
                }
                for one in self.answers
            ],
            "unmapped": self.unmapped.model_dump(mode="json"),
        }

    @property
    def gaps(self) -> int:
        """How many controls lack something that should be there."""
        return sum(one.state == "gap" for one in self.answers)

    @property
    def told(self) -> str:
        """How many controls there are, with a gap, outside."""
        outside = sum(one.state == "outside" for one in self.answers)
        return f"{len(self.answers)} controls, {self.gaps} with a gap, {outside} outside this system"


def answer(
    control: Control, found: Mapping[str, Evidence], overdue: Mapping[str, date], messages: Mapping[str, str] = MappingProxyType({})
) -> Answer:
    """The control with its evidence: a kind without a row, a rule past its review, or nothing to show at all is a gap."""
    ledger = {kind: found.get(kind, Evidence(0)) for kind in control.ledger}
    gaps = [f"rule `{name}` was due for review by {overdue[name]}" for name in control.rules if name in overdue]
    if control.answered_outside:
        gaps.append("nothing in this system answers it")
    elif ledger and not any(one.rows for one in ledger.values()):
        gaps.append(f"no row of `{'`, `'.join(ledger)}` in the period")
    return Answer(control, ledger, tuple(gaps), {name: messages.get(name, "") for name in control.rules})


def report_text(report: Report, *, full: bool = False) -> str:
    """The report for a terminal: a line for each control, or with all that stands behind it."""
    names = {one.control.id: f"{one.control.framework} {one.control.reference}" for one in report.answers}
    width = max(map(len, names.values()))
    lines = []
    for one in report.answers:
        control = one.control
        rows = sum(found.rows for found in one.ledger.values())
        told = f"{len(control.rules)} rules, {len(control.tests)} tests, {rows} rows"
        lines.append(f"{names[control.id]:<{width}}  {one.state}: {'; '.join(one.gaps) or told}")
        if full:
            lines += [f"    {line}" for line in _behind(one)] + [""]
    lines.append(f"{report.told}; ledger: {report.chain}")
    return "\n".join(lines)


def _behind(one: Answer) -> Iterator[str]:
    control = one.control
    yield f"asks    {control.asks}"
    yield f"proved  {PROVED[control.proved]}{f': {control.limits}' if control.limits else ''}"
    yield from (f"rule    {name}: {message}" for name, message in one.rules.items())
    yield from (f"test    {name}" for name in control.tests)
    for kind, found in one.ledger.items():
        yield f"ledger  {kind}, {found.rows} rows: {KINDS.get(kind, '')}"
        yield from (f"        row {seq} at {at} by {who}, {hash_}" for seq, at, who, hash_ in found.newest)
    yield f"docs    {control.docs}"
    yield f"source  {control.source}"


def report_page(report: Report) -> str:
    """The report as one page: no script, nothing loaded from anywhere, every text escaped."""
    period = f"from {_moment(report.since) or 'the first row'} to {_moment(report.until)}"
    parts = [
        f"<h1>Compliance evidence, {escape(period)}</h1>",
        f"<p>Made at {escape(_moment(report.at) or '')}. {report.told}. Evidence supports an "
        "auditor's judgement; it is no certificate.</p>",
        f"<p>Ledger: {'' if report.chain_ok else '<strong>does not hold</strong>: '}{escape(report.chain)}</p>",
    ]
    for framework in dict.fromkeys(one.control.framework for one in report.answers):
        lines = [row[1:] for row in _rows(report) if row[0] == framework]
        parts += [f"<h2>{escape(framework)}</h2>", table(COLUMNS[1:], lines)]
    newest = [
        (kind, str(seq), at, who, hash_[:16])
        for kind, found in sorted({kind: found for one in report.answers for kind, found in one.ledger.items()}.items())
        for seq, at, who, hash_ in found.newest
    ]
    if newest:
        parts += ["<h2>Newest rows of the ledger</h2>", table(("kind", "row", "at", "principal", "hash"), newest)]
    for title, said in (
        ("What the rules say", {name: text for one in report.answers for name, text in one.rules.items()}),
        ("What the ledger records", {kind: KINDS.get(kind, "") for one in report.answers for kind in one.ledger}),
    ):
        if said:
            parts += [f"<h2>{title}</h2>", table(("name", "says"), sorted(said.items()))]
    left = [
        (what, name, why)
        for what, named in (("rule", report.unmapped.rules), ("ledger kind", report.unmapped.ledger))
        for name, why in named.items()
    ]
    if left:
        parts += ["<h2>Stands for no control</h2>", table(("what", "name", "why"), left)]
    return page(f"Compliance evidence, {period}", parts)


def report_sheet(report: Report) -> str:
    """A line for each control as CSV; a cell that a spreadsheet would take for a formula begins with an apostrophe."""
    return sheet_of(COLUMNS, _rows(report))


def _rows(report: Report) -> Iterator[Sequence[str]]:
    for one in report.answers:
        control = one.control
        counts = ", ".join(f"{kind}: {found.rows}" for kind, found in one.ledger.items())
        yield (
            control.framework, control.reference, control.asks, one.state, "; ".join(one.gaps), PROVED[control.proved],
            ", ".join(control.rules), ", ".join(control.tests), counts, control.docs, control.limits, control.source,
        )  # fmt: skip


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"
