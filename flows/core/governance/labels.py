"""Labels of data (how confidential, under which laws, in which countries), how they combine, and the catalog that declares them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from functools import cached_property
from itertools import combinations
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from flows.core.errors import UserError
from flows.core.fields import Instant, NonNegative, Positive, Step, wrong
from flows.core.governance.blocs import ANYWHERE, Blocs, not_mistaken

EVERYWHERE = frozenset({ANYWHERE})
"""The residency that leaves every country open."""


class Classification(StrEnum):
    """How confidential: `public < internal < confidential < restricted`; `level` counts from 0."""

    PUBLIC = "public"
    INTERNAL = "internal"
    CONFIDENTIAL = "confidential"
    RESTRICTED = "restricted"

    @property
    def level(self) -> int:
        """0 for public up to 3 for restricted."""
        return list(Classification).index(self)


def _residency(value: Any) -> Any:
    """Accept the word `anywhere` in place of a list, and refuse an empty or contradicting list."""
    if value == ANYWHERE:
        return EVERYWHERE
    if not isinstance(value, (list, tuple, set, frozenset)) or not all(isinstance(code, str) for code in value):
        return value
    if not value:
        raise ValueError("residency is empty: no place would be left; write the allowed countries or blocs, or `anywhere`")
    if ANYWHERE in value and len(set(value)) > 1:
        raise ValueError("residency names `anywhere` beside other codes; keep the one that is meant")
    return frozenset(value)


AreaCode = Annotated[
    str,
    StringConstraints(pattern=r"^(anywhere|[A-Z][A-Z0-9-]*)$"),
    Field(description="an ISO country such as `DE`, a bloc such as `EU`, or `anywhere`"),
    AfterValidator(not_mistaken),
]
Residency = Annotated[frozenset[AreaCode], BeforeValidator(_residency)]
Regime = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]*$"), Field(description="a regime in lower case, such as `gdpr`")]
DatasetName = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]*$"), Field(description="a name of lower-case letters, digits, `-`, `_` and `.`")
]


class Label(BaseModel):
    """What rules ask about a dataset: classification, legal regimes, and the countries or blocs it may be in."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    classification: Classification
    regimes: frozenset[Regime] = frozenset()
    residency: Residency

    @property
    def level(self) -> int:
        """0 for public up to 3 for restricted."""
        return self.classification.level

    def to_json(self) -> dict[str, Any]:
        """The label as a decision prints it: sorted lists, or the word `anywhere`."""
        return {
            "classification": self.classification.value,
            "regimes": sorted(self.regimes),
            "residency": ANYWHERE if self.residency == EVERYWHERE else sorted(self.residency),
        }


PUBLIC = Label(classification=Classification.PUBLIC, regimes=frozenset(), residency=EVERYWHERE)
"""The label of a request that touches no dataset."""


class ResidencyClash(UserError):
    """Joined datasets leave no country where all of them may be."""

    def __init__(self, datasets: Iterable[str], labels: Mapping[str, Label]) -> None:
        self.datasets = tuple(sorted(datasets))
        told = ", ".join(f"`{name}` (residency {', '.join(sorted(labels[name].residency))})" for name in self.datasets)
        super().__init__(
            f"no country is left where these may be together: {told}",
            expected="datasets whose residencies share at least one country",
            fix="use them in separate steps, or ask compliance for a declassification",
        )


def join(labels: Mapping[str, Label], blocs: Blocs) -> Label:
    """The label of data made from all of these: the highest classification, all regimes, only countries open to every one.

    `labels` maps a dataset's name to its label; no label at all gives public/anywhere. The result does not depend on the order.

    Raises:
        ResidencyClash: no country is open to all of them; names the fewest datasets that clash.
    """
    if not labels:
        return PUBLIC
    return Label(
        classification=max((label.classification for label in labels.values()), key=lambda classification: classification.level),
        regimes=frozenset().union(*(label.regimes for label in labels.values())),
        residency=_intersect(labels, blocs),
    )


def _intersect(labels: Mapping[str, Label], blocs: Blocs) -> frozenset[str]:
    bounded = {name: countries for name, label in labels.items() if (countries := blocs.countries(label.residency)) is not None}
    if not bounded:
        return EVERYWHERE
    left = frozenset.intersection(*bounded.values())
    if not left:
        raise ResidencyClash(_clashing(bounded), labels)
    return _named(left, {code for name in bounded for code in labels[name].residency}, blocs)


def _clashing(bounded: Mapping[str, frozenset[str]]) -> tuple[str, ...]:
    names = sorted(bounded)
    for size in range(1, len(names)):
        for group in combinations(names, size):
            if not frozenset.intersection(*(bounded[name] for name in group)):
                return group
    return tuple(names)


def _named(countries: frozenset[str], codes: Iterable[str], blocs: Blocs) -> frozenset[str]:
    """The countries in as few of the users' own words as possible: largest blocs first, single countries for the rest."""
    inside = {code: members for code in codes if (members := blocs.countries([code])) is not None and members and members <= countries}
    named: set[str] = set()
    covered: set[str] = set()
    for code in sorted(inside, key=lambda code: (-len(inside[code]), code)):
        if not inside[code] <= covered:
            named.add(code)
            covered |= inside[code]
    return frozenset(named | (countries - covered))


Age = Annotated[Positive, Field(le=1_000_000)]
"""Hours after which facts are stale."""


class Declassification(BaseModel):
    """A lower label that an approver granted: holds through the UTC day `until`, then the ancestors' label is back."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    to: Label
    reason: str = Field(min_length=1)
    approver: str = Field(min_length=1)
    requested_by: str | None = Field(default=None, min_length=1)
    until: date

    def holds_at(self, at: datetime) -> bool:
        """Whether it is still valid at that instant."""
        return at.astimezone(UTC).date() <= self.until


ColumnName = Annotated[str, StringConstraints(pattern=r"^[^\s.]+\.\S+$"), Field(description="a column as `table.column`")]


def _whole(value: Any) -> Any:
    """Numbers are stored as plain decimal text, which a replay reads again."""
    return int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value


RetentionDays = Annotated[int, BeforeValidator(_whole), Field(ge=1, le=36_500, strict=True)]
"""Whole days, at most a hundred years."""


class Imported(BaseModel):
    """What another catalog said of an entry: `label` None if nothing, `as_of` None if it was never read. Older than its age it is stale."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    label: Label | None = None
    as_of: Instant | None = None
    max_age_hours: Age

    def stale_at(self, at: datetime) -> bool:
        """Whether it was read further from that instant than `max_age_hours`, before or after it."""
        return self.as_of is None or abs(at - self.as_of) > timedelta(hours=float(self.max_age_hours))


class Entry(BaseModel):
    """One dataset or model: where it rests, how large it is in GB of 10^9 bytes, what it was made from, and its own label if it has one.

    `columns` says how confidential single columns are, by `table.column`; a column that is not named counts as the label says.
    `retention_days` is how long a version may be kept, counted from when it was recorded; None: without end.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: DatasetName
    kind: Literal["dataset", "quarantine", "features", "model", "predictions", "report"] = "dataset"
    home: str
    size_gb: NonNegative
    owner: str | None = None
    title: str | None = None
    label: Label | None = None
    derived_from: frozenset[str] = frozenset()
    declassified: Declassification | None = None
    columns: Mapping[ColumnName, Classification] = Field(default_factory=dict)
    retention_days: RetentionDays | None = None
    imported: tuple[Imported, ...] = ()

    @model_validator(mode="after")
    def _four_eyes(self) -> Self:
        lowered = self.declassified
        if lowered is not None and lowered.approver in (self.owner, lowered.requested_by):
            told = f"`{lowered.approver}` asks for the declassification of `{self.name}` and approves it; expected another person or group"
            raise wrong(told, "declassified", "approver")
        return self

    @model_validator(mode="after")
    def _columns_fit(self) -> Self:
        if self.columns and self.label is None:
            raise wrong(f"`{self.name}` names columns but has no label of its own", "columns")
        for column, classification in sorted(self.columns.items()):
            if self.label is not None and classification.level > self.label.level:
                told = f"column `{column}` is {classification} in `{self.name}`, which is {self.label.classification}; raise the label"
                raise wrong(told, "columns", column)
        return self


class CatalogPart(BaseModel):
    """What one file of a catalog declares; its entries may be derived from those of another file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    as_of: Instant
    max_age_hours: Age = Decimal(24)
    workloads: Mapping[str, Mapping[Step, frozenset[str]]] = Field(default_factory=dict)
    entries: tuple[Entry, ...] = ()


class Catalog(CatalogPart):
    """All entries as they were at `as_of`; further than `max_age_hours` from a decision, they are stale and nothing is placed."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if found := list(self._contradictions()):
            raise ValidationError.from_exception_data("Catalog", [{"type": one, "loc": (), "input": None} for one in found])
        return self

    def _contradictions(self) -> Iterator[PydanticCustomError]:
        seen: set[str] = set()
        for index, entry in enumerate(self.entries):
            if entry.name in seen:
                yield wrong(f"dataset `{entry.name}` is declared twice", "entries", index, "name")
            seen.add(entry.name)
        for index, entry in enumerate(self.entries):
            if unknown := sorted(entry.derived_from - seen):
                what = f"`{entry.name}` is derived from datasets that the catalog does not have: `{'`, `'.join(unknown)}`"
                yield wrong(what, "entries", index, "derived_from")
            if entry.name in (ancestor.name for ancestor in self._ancestors(entry)):
                yield wrong(f"`{entry.name}` is derived from itself", "entries", index, "derived_from")

    @cached_property
    def _by_name(self) -> dict[str, Entry]:
        return {entry.name: entry for entry in self.entries}

    def _ancestors(self, entry: Entry) -> Iterator[Entry]:
        waiting, seen = sorted(entry.derived_from), set[str]()
        while waiting:
            name = waiting.pop()
            if name not in seen and name in self._by_name:
                seen.add(name)
                yield self._by_name[name]
                waiting.extend(sorted(self._by_name[name].derived_from))

    def entry(self, name: str) -> Entry | None:
        """The entry of that name, or None."""
        return self._by_name.get(name)

    def datasets_of(self, workload: str, step: str) -> frozenset[str]:
        """The datasets declared for this workload's step: always part of a request, named there or not."""
        return next((names for own, names in self.workloads.get(workload, {}).items() if own == step), frozenset())

    def stale_at(self, at: datetime) -> bool:
        """Whether the facts lie further from that instant than `max_age_hours`, before or after it."""
        return abs(at - self.as_of) > timedelta(hours=float(self.max_age_hours))

    def label_of(self, name: str, at: datetime, blocs: Blocs) -> Label | None:
        """The label that holds at that instant: its own joined with every ancestor's, or the declassified one while it is valid.

        None if the dataset or one of the ancestors that count has no entry or no label: then nothing is known, and nothing may be assumed.

        Raises:
            ResidencyClash: own and ancestors' residencies share no country.
        """
        found = self.sources_of(name, at)
        return None if found is None else join(found, blocs)

    def sources_of(self, name: str, at: datetime) -> dict[str, Label] | None:
        """Whose labels make the label of `name` at that instant: itself, ancestors, valid declassifications; None if any is missing."""
        found: dict[str, Label] = {}
        waiting, seen = [name], {name}
        while waiting:
            entry = self._by_name.get(waiting.pop())
            if entry is None:
                return None
            told = {f"{entry.name} ({one.source})": one.label for one in entry.imported if one.label is not None}
            found |= told
            if entry.declassified is not None and entry.declassified.holds_at(at):
                found[entry.name] = entry.declassified.to
                continue
            if entry.label is not None:
                found[entry.name] = entry.label
            elif not entry.derived_from and not told:
                return None
            new = entry.derived_from - seen
            seen |= new
            waiting += sorted(new)
        return found

    def imports_of(self, name: str, at: datetime) -> tuple[tuple[str, Imported], ...]:
        """What other catalogs said of `name` and of every ancestor whose label counts at that instant, each with its dataset."""
        found: list[tuple[str, Imported]] = []
        waiting, seen = [name], {name}
        while waiting:
            entry = self._by_name.get(waiting.pop())
            if entry is None:
                continue
            found += [(entry.name, one) for one in entry.imported]
            if entry.declassified is None or not entry.declassified.holds_at(at):
                new = entry.derived_from - seen
                seen |= new
                waiting += sorted(new)
        return tuple(sorted(found, key=lambda pair: (pair[0], pair[1].source)))
