"""Bridges to the catalogs that companies already have: what is asked of one, what its words mean here, and the labels that then hold.

A bridge is read by `tradewind catalog import` or the reconciler, into the state database. A decision never calls one: it reads the catalog
of the files with each import beside its entry (`effective`), and that whole catalog is stored with the decision. So a replay needs
neither the bridge nor the database.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, Protocol
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from flows.core.governance.blocs import Blocs
from flows.core.governance.labels import EVERYWHERE, Catalog, Classification, DatasetName, Imported, Label, Residency, ResidencyClash, join

OPERATIONS_PER_CAPACITY_UNIT = Decimal(25)
"""Operations per second of one Purview data map capacity unit (learn.microsoft.com/purview/concept-elastic-data-map)."""
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def encrypted(url: str) -> str:
    """The address without its last slash, if nobody on the way can read or change what goes there.

    Raises:
        ValueError: it is neither HTTPS nor on this machine, or it carries a password.
    """
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
        raise ValueError(f"`{url}` is not an https:// address")
    if not parts.hostname or "@" in parts.netloc:
        raise ValueError("an address holds a host and no password; credentials come from the environment")
    return url.rstrip("/")


Url = Annotated[str, AfterValidator(encrypted), Field(description="an https:// address")]
Word = Annotated[str, StringConstraints(min_length=1, max_length=512), Field(description="a name as the other catalog has it")]


class Meaning(Label):
    """What one classification of the other catalog says of data here; what it leaves out narrows nothing."""

    classification: Classification = Classification.PUBLIC
    residency: Residency = EVERYWHERE


class Address(BaseModel):
    """Where an entry is found in the other catalog: its type and its qualified name there."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Word
    qualified_name: Word


class BridgeDeclaration(BaseModel):
    """One bridge: which catalog, how often and how fast it is read, which entries it speaks of, and what its classifications mean.

    A classification that is neither in `classifications` nor in `ignored` fails the import: an unknown word may be the one that matters.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: DatasetName
    kind: Literal["atlas", "purview"]
    url: Url
    token_url: Url | None = None
    scope: str = "https://purview.azure.net/.default"
    ttl_hours: Annotated[Decimal, Field(gt=0, le=8784)] = Decimal(24)
    capacity_units: Annotated[int, Field(ge=1, le=1000)] = 1
    page_size: Annotated[int, Field(ge=1, le=1000)] = 100
    bulk_size: Annotated[int, Field(ge=1, le=1000)] = 50
    timeout_seconds: Annotated[float, Field(gt=0, le=120)] = 10.0
    entries: Mapping[DatasetName, Address] = Field(default_factory=dict)
    classifications: Mapping[Word, Meaning] = Field(default_factory=dict)
    ignored: frozenset[Word] = frozenset()
    publish: bool = True

    @model_validator(mode="after")
    def _consistent(self) -> BridgeDeclaration:
        if self.kind == "purview" and self.token_url is None:
            raise ValueError("a Purview bridge needs `token_url`, where its tokens come from")
        if both := sorted(self.ignored & set(self.classifications)):
            raise ValueError(f"both ignored and given a meaning: `{'`, `'.join(both)}`")
        return self

    @property
    def operations_per_second(self) -> Decimal:
        """How many entities may be read or written each second."""
        return OPERATIONS_PER_CAPACITY_UNIT * self.capacity_units

    def credential(self, what: str) -> str:
        """The environment variable that holds one of its credentials."""
        return f"TRADEWIND_CATALOG_{self.name.upper().replace('-', '_').replace('.', '_')}_{what}"


class Bridges(BaseModel):
    """The declared bridges; none is active as shipped."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bridges: tuple[BridgeDeclaration, ...] = ()

    @model_validator(mode="after")
    def _distinct(self) -> Bridges:
        names = [bridge.name for bridge in self.bridges]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"bridge `{twice[0]}` is declared twice")
        return self


@dataclass(frozen=True, slots=True)
class Read:
    """What a bridge said: the classifications of each entry, and why an entry could not be read."""

    found: Mapping[str, tuple[str, ...]]
    failed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Entity:
    """A dataset or model as it is published: no owner, no person, no row."""

    name: str
    qualified_name: str
    description: str
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Process:
    """A step of a workload as it is published: what it reads and makes, by qualified name."""

    name: str
    qualified_name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Published:
    """What became of a publication, by qualified name; sending it again changes nothing."""

    created: tuple[str, ...] = ()
    updated: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
    failed: Mapping[str, str] = field(default_factory=dict)


class Bridge(Protocol):
    """A catalog of another house."""

    def labels(self, names: Mapping[str, Address]) -> Read:
        """The classifications of these entries as they are now."""
        ...

    def publish(self, entities: Sequence[Entity], lineage: Sequence[Process]) -> Published:
        """Create or update these there."""
        ...


def label_from(bridge: BridgeDeclaration, words: Iterable[str], blocs: Blocs) -> Label | None:
    """The label that the classifications give together; None if none of them says anything.

    Raises:
        ValueError: a classification has no declared meaning.
        ResidencyClash: they leave no country.
    """
    told = sorted(set(words) - bridge.ignored)
    if unknown := [word for word in told if word not in bridge.classifications]:
        raise ValueError(f"no meaning is declared for `{'`, `'.join(unknown)}`")
    if not told:
        return None
    joined = join({word: bridge.classifications[word] for word in told}, blocs)
    return Label(classification=joined.classification, regimes=joined.regimes, residency=joined.residency)


def effective(
    catalog: Catalog, bridges: Iterable[BridgeDeclaration], known: Mapping[tuple[str, str], tuple[Label | None, datetime]]
) -> Catalog:
    """The catalog with what each bridge last said beside its entries; `known` by (bridge, dataset).

    An entry that a bridge is declared for and that was never read is stale.
    """
    beside: dict[str, list[Imported]] = {}
    for bridge in bridges:
        for name in bridge.entries:
            label, at = known.get((bridge.name, name), (None, None))
            beside.setdefault(name, []).append(Imported(source=bridge.name, label=label, as_of=at, max_age_hours=bridge.ttl_hours))
    if not beside:
        return catalog
    entries = (
        entry.model_copy(update={"imported": tuple(beside[entry.name])}) if entry.name in beside else entry for entry in catalog.entries
    )
    # not a copy: that would keep the old entries by name
    return Catalog(**{**{name: getattr(catalog, name) for name in Catalog.model_fields}, "entries": tuple(entries)})


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two labels of one dataset that differ, and the one that holds: their join, None if they leave no country."""

    dataset: str
    here: Label | None
    there: Label
    holds: Label | None

    def to_json(self) -> dict[str, Any]:
        """The conflict as a JSON value."""
        labels = {"here": self.here, "there": self.there, "holds": self.holds}
        return {"dataset": self.dataset, **{name: label.to_json() if label else None for name, label in labels.items()}}


def conflict(catalog: Catalog, dataset: str, there: Label | None, at: datetime, blocs: Blocs) -> Conflict | None:
    """How a bridge's label differs from the one that the files give the dataset at that instant; None if it says nothing or the same."""
    if there is None:
        return None
    here: Label | None = None
    try:
        here = catalog.label_of(dataset, at, blocs)
        holds = there if here is None else join({dataset: here, f"{dataset} (imported)": there}, blocs)
    except ResidencyClash:
        return Conflict(dataset, here, there, None)
    return None if here is not None and same_label(here, there, blocs) else Conflict(dataset, here, there, holds)


def same_label(one: Label, other: Label, blocs: Blocs) -> bool:
    """Whether two labels bind alike: the same class, regimes and countries, however the countries are named."""
    alike = (one.classification, one.regimes) == (other.classification, other.regimes)
    return alike and blocs.countries(one.residency) == blocs.countries(other.residency)
