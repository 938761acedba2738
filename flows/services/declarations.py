"""What is declared, as one step sees it: estate, policy, catalog and workloads, read once until a file changes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from flows.adapters.catalog import load_catalog
from flows.adapters.catalogs.declared import load_bridges
from flows.adapters.estate import load_estate
from flows.adapters.policy import CedarPolicy
from flows.adapters.roles import Roles, load_roles
from flows.adapters.security.declared import load_security
from flows.adapters.settings import CONTROL
from flows.adapters.workload_declarations import WorkloadDeclaration, load_declarations
from flows.core.errors import PolicyDenied, Problem, UserError
from flows.core.governance.labels import Catalog, Label, join
from flows.core.placement import against_pool
from flows.core.placement.asking import against, facts_on
from flows.core.placement.model import Estate, Principal, Question, Reason, Request
from flows.core.placement.policy import Action
from flows.core.placement.scene import UNKNOWN
from flows.services.importing_labels import catalog_with_imports

if TYPE_CHECKING:
    from flows.adapters.settings import Settings
    from flows.core.governance.bridge import BridgeDeclaration
    from flows.core.governance.proofs import Security


@dataclass(frozen=True)
class Declarations:
    """The declared world. The catalog's facts are current: compliance keeps them in the files just read."""

    folder: Path
    estate: Estate
    policy: CedarPolicy
    catalog: Catalog
    workloads: dict[str, WorkloadDeclaration]
    roles: Roles
    bridges: tuple[BridgeDeclaration, ...] = ()
    security: Security | None = None

    @classmethod
    def load(cls, settings: Settings) -> Declarations:
        """The declarations of these settings, with what the bridges to other catalogs last said beside the catalog's entries.

        Raises:
            UserError: a file is missing or wrong; carries every problem found.
            Unavailable: a bridge is declared, and the state database does not answer.
        """
        found = cls.declared(settings)
        return replace(found, catalog=catalog_with_imports(found.catalog, found.bridges, settings)) if found.bridges else found

    @classmethod
    def declared(cls, settings: Settings) -> Declarations:
        """As `load`, of the files alone.

        Raises:
            UserError: as `load`.
        """
        folder = settings.deployments
        stamp = tuple(sorted((str(path), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.suffix in _READ))
        return _load(folder, stamp)

    def workload(self, name: str) -> WorkloadDeclaration:
        """The declaration of one workload.

        Raises:
            UserError: there is no such workload.
        """
        if name not in self.workloads:
            known = ", ".join(f"`{one}`" for one in sorted(self.workloads))
            raise UserError(
                f"no workload `{name}`",
                file=str(self.folder / "workloads"),
                expected=f"one of {known}",
                fix=f"`tradewind new {name}` writes one",
            )
        return self.workloads[name]

    def default_as_of(self, workload: str) -> datetime:
        """Now, or the end of the workload's data if that came first."""
        end = self.workload(workload).data_until
        now = datetime.now(UTC)
        return now if end is None else min(now, end)

    def home_of(self, dataset: str) -> str:
        """The site where a dataset rests.

        Raises:
            UserError: the catalog has no such dataset.
        """
        entry = self.catalog.entry(dataset)
        if entry is None:
            raise UserError(
                f"the catalog has no `{dataset}`", file=str(self.folder / "catalog"), fix="add an entry with its home and label"
            )
        return entry.home

    def label(self, datasets: Iterable[str], *, at: datetime) -> Label:
        """The join of the datasets' labels; one that is not known counts as restricted.

        Raises:
            ResidencyClash: no country is left where all of them may be.
        """
        blocs = self.estate.blocs
        return join({name: self.catalog.label_of(name, at, blocs) or UNKNOWN for name in datasets}, blocs)

    def require(self, request: Request, pool: str, *, at: datetime) -> None:
        """Ask policy again, now, for the request on this very pool: what a worker does before it opens any data.

        Raises:
            PolicyDenied: with every rule that forbids it.
        """
        reasons = against_pool(request, self.estate, self.policy, self.catalog, pool, at)
        _refuse(f"`{request.step}` of `{request.workload}` may not run on `{pool}`", reasons)

    def require_control(
        self, action: Literal["promote", "rollback"], workload: str, principal: Principal, *, at: datetime, approved: bool = False
    ) -> None:
        """Ask policy whether this principal may do it to the workload's model, in control; `approved`: a person's approval holds.

        Raises:
            PolicyDenied: with every rule that forbids it, or that none permits it.
        """
        self.ask_control(
            action,
            principal,
            workload=workload,
            label=self.label([f"{workload}-model"], at=at),
            environment=self.workload(workload).environment,
            step="promote",
            at=at,
            approved=approved,
        )

    def ask_control(
        self,
        action: Action,
        principal: Principal,
        *,
        workload: str,
        label: Label,
        environment: str,
        step: str,
        at: datetime,
        approved: bool = False,
    ) -> None:
        """Ask policy whether this principal may do it in control, where records are and no data is.

        Raises:
            PolicyDenied: with every rule that forbids it, or that none permits it.
        """
        pool = self.estate.pool_by_name[CONTROL]
        site = self.estate.site_by_id[pool.site]
        question = Question(
            action=action,
            principal=principal,
            pool=facts_on(self.estate, site, pool, at.astimezone(UTC).date()),
            label=label,
            step=step,
            workload=workload,
            environment=environment,
            image="",
            at=at,
            to=site.country or "",
            approved=approved,
        )
        (answer,) = self.policy.ask([question])
        _refuse(f"`{principal.user}` may not {action} `{workload}`", against(question, answer))


def _refuse(what: str, reasons: Sequence[Reason]) -> None:
    if reasons:
        raise PolicyDenied(
            problems=[
                Problem(f"{what}: {reason.rule}, {reason.observed}", file=reason.source, expected=reason.required) for reason in reasons
            ]
        )


_READ = (".yaml", ".csv", ".cedar", ".cedarschema")


@lru_cache(maxsize=4)
def _load(folder: Path, stamp: tuple[tuple[str, int], ...]) -> Declarations:
    estate = load_estate(folder / "estate")
    catalog = load_catalog(folder / "catalog")
    return Declarations(
        folder=folder,
        estate=estate,
        policy=CedarPolicy.load(folder / "policies", estate.blocs),
        catalog=catalog,
        workloads=load_declarations(folder / "workloads"),
        roles=load_roles(folder),
        bridges=load_bridges(folder, catalog),
        security=load_security(folder, estate),
    )
