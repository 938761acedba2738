"""What placement asks of policy, and what it gets back. Policy is asked once for all questions of a decision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Literal, Protocol

from flows.core.placement.decision import Reason

if TYPE_CHECKING:
    from flows.core.governance.blocs import GdprBasis
    from flows.core.governance.labels import Label
    from flows.core.placement.request import Principal

Action = Literal[
    "process", "store", "transfer", "serve",  # on data, at a place
    "run", "promote", "approve", "rollback", "declassify", "apply", "site", "erase", "review",  # on records, in control
    "import", "publish",  # labels from other catalogs, names and lineage to them
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class PoolFacts:
    """A pool as policy sees it, with only the certifications and the GDPR ground that hold from `at` through the end.

    `max_level` counts from 0 (public) to 3 (restricted). A country is an ISO code. `name` is the site's id where data comes to rest at a
    site and no pool is meant.
    """

    name: str
    site: str
    cloud: str
    country: str
    operator_country: str
    max_level: int
    certifications: frozenset[str]
    gdpr_basis: GdprBasis
    customer_managed_keys: bool


@dataclass(frozen=True, slots=True)
class Question:
    """May this principal do this action with data of this label at this pool? `to` is the country the data is headed for.

    `through` is the last UTC day that dated facts must cover; left out, that of `at`, and no dated exception applies. `dataset` is what
    exceptions go by besides. `approved`: a person's approval of exactly this is on record and holds.
    """

    action: Action
    principal: Principal
    pool: PoolFacts
    label: Label
    step: str
    workload: str
    environment: str
    image: str
    at: datetime
    to: str
    dataset: str = ""
    through: date | None = None
    approved: bool = False

    @property
    def day(self) -> date:
        """The UTC day whose facts decide."""
        return self.through or self.at.astimezone(UTC).date()


@dataclass(frozen=True, slots=True)
class Answer:
    """Allowed only if `allowed` and there is no reason against it; reasons are all rules that forbid, or say what went wrong.

    `excepted` tells the dated exceptions without which the answer would be no.
    """

    allowed: bool
    reasons: tuple[Reason, ...] = ()
    excepted: tuple[str, ...] = ()


class Policy(Protocol):
    """A set of rules; `hash` names its exact text, `engine` the name and version of what evaluates it, such as `cedar 4.12.2`.

    `last_days` are the last valid days of its dated exceptions and approved images.
    """

    @property
    def hash(self) -> str: ...

    @property
    def engine(self) -> str: ...

    @property
    def last_days(self) -> frozenset[date]: ...

    def ask(self, questions: Sequence[Question]) -> list[Answer]:
        """One answer for each question, in order; a rule that cannot be evaluated is a reason, no permit is `default-deny`."""
        ...
