"""The declared infrastructure: sites, pools, offers, and the tables of egress, latency and carbon."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from decimal import Decimal
from fnmatch import fnmatchcase
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, StrictBool, model_validator

from flows.core.canonical import content_hash
from flows.core.fields import (
    Clock,
    Count,
    Country,
    Day,
    Integer,
    Line,
    Minutes,
    Model,
    Name,
    Names,
    NonNegative,
    Positive,
)
from flows.core.governance.blocs import Blocs
from flows.core.placement.hashing import content_form
from flows.core.placement.kubernetes_pool import Kubernetes
from flows.core.placement.web_identity import AccessProvider, AccessRole, WebIdentity
from flows.core.placement.zones import known_zone

if TYPE_CHECKING:
    from flows.core.placement.shelf import Shelf

Classification = Literal["public", "internal", "confidential", "restricted"]
LEVELS: Mapping[str, int] = {"public": 0, "internal": 1, "confidential": 2, "restricted": 3}
Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
WEEKDAYS: tuple[Weekday, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
PoolType = Literal["ecs", "sagemaker", "cloud-run-v2", "vertex-ai", "azure-container-instance", "kubernetes", "process"]
MULTI_NODE: frozenset[PoolType] = frozenset({"process", "sagemaker"})
"""Types of pools that take a run of several nodes: SageMaker starts all of them, and a `process` pool stands in for any other."""
ANY = "*"


def _zone(name: str) -> str:
    if not known_zone(name):
        raise ValueError(f"`{name}` is not a time zone of the IANA database, such as `Europe/Berlin`")
    return name


def _one_folder(name: str) -> str:
    if "/" in name or name.startswith("."):
        raise ValueError(f"`{name}` is a path; expected a name without `/` that does not begin with `.`: folders are called by it")
    return name


Id = Annotated[Name, AfterValidator(_one_folder)]
"""A name that folders and deployments are called by."""


def _blank(value: object) -> object:
    """An empty cell of a table is a missing value."""
    return None if isinstance(value, str) and not value.strip() else value


Blank = BeforeValidator(_blank)


class OffPeak(Model):
    """A weekly window of the site's local time in which on-demand prices are multiplied; `days` are those of `from`."""

    days: Annotated[tuple[Weekday, ...], Field(min_length=1)] = WEEKDAYS
    from_: Clock = Field(alias="from")
    to: Clock
    multiplier: Positive

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        if self.from_ == "24:00":
            raise ValueError('`from` is "24:00"; write "00:00" of the next day')
        return self


class Site(Model):
    """One place where compute runs and data rests.

    `certifications` maps a name to its last valid UTC day (None: open). `storage_usd_per_gb_month` is for 730 hours.
    `country` or `operator_country` None means unknown: nothing may run there. `certifications_assumed`: nobody has checked the
    certifications, the ceiling and the keys; every decision over an estate with such a site says so. `account` is an AWS account, a Google
    project or an Azure subscription, `images` the repository, without tag or digest, that the site's runs take their image from.
    `access_role` is what runs that no role of the site's cloud starts take on to reach its data (AWS, or a store that speaks S3: a role's
    ARN; Google: a service account), `access_provider` Google's provider that knows runs at AWS by their role.
    """

    id: Id
    cloud: Name
    region: Line | None = None
    account: Name | None = None
    images: Name | None = None
    access_role: AccessRole | None = None
    access_provider: AccessProvider | None = None
    country: Country | None
    operator_country: Country | None
    max_classification: Classification
    certifications: Mapping[Name, Day | None] = Field(default_factory=dict)
    certifications_assumed: StrictBool = False
    customer_managed_keys: StrictBool = False
    grid_zone: Name | None = None
    pue: Annotated[Positive, Field(ge=1, le=10)] = Decimal(1)
    timezone: Annotated[str, AfterValidator(_zone)] = "UTC"
    storage_usd_per_gb_month: NonNegative = Decimal(0)
    off_peak: tuple[OffPeak, ...] = ()

    @model_validator(mode="after")
    def _known_to_its_own_cloud(self) -> Self:
        role = self.access_role or ""
        if (self.cloud == "aws" and "@" in role) or (self.cloud == "gcp" and role.startswith("arn:")):
            expected = "the ARN of a role" if self.cloud == "aws" else "the address of a service account"
            raise ValueError(f"`access_role` of `{self.id}` is `{role}`; at `{self.cloud}` it is {expected}")
        if self.access_provider is not None and "@" not in role:
            raise ValueError(f"`access_provider` of `{self.id}` needs an `access_role` that is a service account")
        return self


class Pool(Model):
    """A Prefect work pool at exactly one site.

    `offers` are names or patterns of the site's offers (empty: it takes no placed step). `certifications` narrows the site's.
    `capacity` is the most that may be in use at once, by `nodes`, `cpus`, `memory_gib` or an accelerator's name; left out: unlimited.
    `infrastructure` holds what the cloud's objects are called that its runs stand on (role, cluster, subnets, …): its template says which.
    `kubernetes` says how the jobs of a pool of that type enter their cluster. `web_identity`: the token by which stores of other clouds
    know the pool's runs.
    """

    name: Id
    site: Name
    type: PoolType
    template: Name | None = None
    offers: Names = (ANY,)
    spot: StrictBool = False
    certifications: Names | None = None
    capacity: Mapping[Line, NonNegative] = Field(default_factory=dict)
    spot_interruptions_per_hour: NonNegative | None = None
    spot_wait_minutes: Minutes = Decimal(0)
    startup_minutes: Minutes = Decimal(0)
    infrastructure: Mapping[Name, Line | tuple[Line, ...] | Count] = Field(default_factory=dict)
    kubernetes: Kubernetes | None = None
    web_identity: WebIdentity | None = None

    @model_validator(mode="after")
    def _cluster_of_a_cluster(self) -> Self:
        if self.kubernetes is not None and self.type != "kubernetes":
            raise ValueError(f"`kubernetes` is for pools of type `kubernetes`; `{self.name}` is of type `{self.type}`")
        return self

    @model_validator(mode="after")
    def _known_by_what_its_platform_signs(self) -> Self:
        if self.web_identity is not None:
            self.web_identity.fits(self.name, self.type, cluster=self.kubernetes is not None)
        return self

    @property
    def subject(self) -> str | None:
        """Whom the tokens of the pool's runs name; None: there are none."""
        if self.web_identity is None:
            return None
        if self.kubernetes is None:
            return self.web_identity.subject
        return f"system:serviceaccount:{self.kubernetes.namespace}:{self.kubernetes.service_account}"


class Offer(Model):
    """One thing that can be rented at a site; the aliases are the columns of `offers.csv`.

    Prices are USD per hour and node, `accelerator_count`, `cpus` and `memory_gib` per node, `watts` per node under load.
    """

    site: Name
    name: Name = Field(alias="InstanceType")
    accelerator: Annotated[Line | None, Blank] = Field(default=None, alias="AcceleratorName")
    accelerator_count: Annotated[NonNegative | None, Blank] = Field(default=None, alias="AcceleratorCount")
    cpus: Annotated[NonNegative | None, Blank] = Field(default=None, alias="vCPUs")
    memory_gib: Annotated[NonNegative | None, Blank] = Field(default=None, alias="MemoryGiB")
    gpu_info: Annotated[str | None, Blank] = Field(default=None, alias="GpuInfo")
    usd_per_hour: Annotated[Positive | None, Blank] = Field(default=None, alias="Price")
    spot_usd_per_hour: Annotated[Positive | None, Blank] = Field(default=None, alias="SpotPrice")
    region: Annotated[Line | None, Blank] = Field(default=None, alias="Region")
    zone: Annotated[Line | None, Blank] = Field(default=None, alias="AvailabilityZone")
    arch: Annotated[Name | None, Blank] = Field(default=None, alias="Arch")
    spot_interruptions_per_hour: Annotated[NonNegative | None, Blank] = Field(default=None, alias="SpotInterruptionsPerHour")
    watts: Annotated[NonNegative | None, Blank] = Field(default=None, alias="Watts")
    source: Annotated[str | None, Blank] = None
    as_of: Annotated[str | None, Blank] = None

    @model_validator(mode="after")
    def _accelerator_and_count(self) -> Self:
        if (self.accelerator is None) != (self.accelerator_count is None):
            raise ValueError(f"offer `{self.name}` needs both `AcceleratorName` and `AcceleratorCount`, or neither")
        return self


class EgressPrice(Model):
    """What bytes from `src` to `dst` cost and how fast they go; `*` stands for any site. Gigabit per second None: no time is counted."""

    src: Name
    dst: Name
    usd_per_gb: NonNegative
    gbit_per_s: Annotated[Positive | None, Blank] = None
    source: Annotated[str | None, Blank] = None
    as_of: Annotated[str | None, Blank] = None


class Latency(Model):
    """Round-trip time in milliseconds between users in a country and a site."""

    country: Country
    site: Name
    p50_ms: Annotated[NonNegative | None, Blank] = None
    p99_ms: Annotated[NonNegative | None, Blank] = None
    source: Annotated[str | None, Blank] = None
    as_of: Annotated[str | None, Blank] = None


class Carbon(Model):
    """Grams of CO2 equivalent per kWh of a grid in one UTC hour of the days of a month."""

    grid_zone: Name
    month: Annotated[Integer, Field(ge=1, le=12)]
    hour_utc: Annotated[Integer, Field(ge=0, le=23)]
    g_per_kwh: NonNegative
    source: Annotated[str | None, Blank] = None
    as_of: Annotated[str | None, Blank] = None


class Speed(Model):
    """How fast an offer, or else an accelerator, does a step's work; 1 is the hardware that declared runtimes are meant for.

    `hardware` is the name of an offer or of an accelerator. A figure without a source is a guess, so that each names its own.
    """

    hardware: Line
    relative: Annotated[Positive, Field(ge=Decimal("0.001"), le=1000)]
    source: Line
    as_of: Annotated[str | None, Blank] = None


def _doubled(what: str, keys: Iterable[Hashable]) -> None:
    seen: set[Hashable] = set()
    for key in keys:
        if key in seen:
            told = "`, `".join(str(part) for part in key) if isinstance(key, tuple) else str(key)
            raise ValueError(f"{what} `{told}` is declared twice")
        seen.add(key)


class Estate(Model):
    """All sites, pools, offers, egress prices, latencies and carbon; the order of rows means nothing."""

    sites: tuple[Site, ...]
    pools: tuple[Pool, ...]
    offers: tuple[Offer, ...] = ()
    egress: tuple[EgressPrice, ...] = ()
    latency: tuple[Latency, ...] = ()
    carbon: tuple[Carbon, ...] = ()
    speeds: tuple[Speed, ...] = ()
    blocs: Blocs = Field(default_factory=Blocs)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        _doubled("site", (site.id for site in self.sites))
        _doubled("pool", (pool.name for pool in self.pools))
        _doubled("offer", ((offer.site, offer.name) for offer in self.offers))
        _doubled("egress price", ((row.src, row.dst) for row in self.egress))
        _doubled("latency", ((row.country, row.site) for row in self.latency))
        _doubled("speed", (row.hardware for row in self.speeds))
        _doubled("carbon", ((row.grid_zone, row.month, row.hour_utc) for row in self.carbon))
        for pool in self.pools:
            if pool.site not in self.site_by_id:
                raise ValueError(f"pool `{pool.name}` is at `{pool.site}`, which is not a site of this estate")
        for offer in self.offers:
            if offer.site not in self.site_by_id:
                raise ValueError(f"offer `{offer.name}` is at `{offer.site}`, which is not a site of this estate")
        return self

    @cached_property
    def document(self) -> Any:
        """The estate as hashed and stored; computed once, since it is large."""
        return content_form(self)

    @cached_property
    def hash(self) -> str:
        """The content hash of the estate; computed once."""
        return content_hash(self.document)

    @cached_property
    def assumptions(self) -> tuple[str, ...]:
        """What every decision over this estate must say, because nobody has checked it."""
        assumed = sorted(site.id for site in self.sites if site.certifications_assumed)
        if not assumed:
            return ()
        shown = ", ".join(f"`{name}`" for name in assumed[:3]) + (f" and {len(assumed) - 3} more" if len(assumed) > 3 else "")
        return (f"certifications, ceilings and keys of {shown} are assumed, not checked: no real data may depend on this decision",)

    @cached_property
    def site_by_id(self) -> dict[str, Site]:
        """Sites by id."""
        return {site.id: site for site in self.sites}

    @cached_property
    def pool_by_name(self) -> dict[str, Pool]:
        """Pools by name."""
        return {pool.name: pool for pool in self.pools}

    @cached_property
    def offers_by_site(self) -> dict[str, tuple[Offer, ...]]:
        """Offers of each site, sorted by name."""
        found: dict[str, list[Offer]] = {}
        for offer in sorted(self.offers, key=lambda offer: offer.name):
            found.setdefault(offer.site, []).append(offer)
        return {site: tuple(offers) for site, offers in found.items()}

    def offers_of(self, pool: Pool) -> tuple[Offer, ...]:
        """The offers that the pool can rent, sorted by name; patterns match upper and lower case exactly."""
        key = (pool.site, pool.offers)
        if key not in self._rentable:
            offers = self.offers_by_site.get(pool.site, ())
            self._rentable[key] = tuple(offer for offer in offers if any(fnmatchcase(offer.name, pattern) for pattern in pool.offers))
        return self._rentable[key]

    def unpriced_of(self, pool: Pool) -> tuple[str, ...]:
        """The names of the offers that the pool could rent if they had a price."""
        key = (pool.site, pool.offers)
        if key not in self._unpriced:
            self._unpriced[key] = tuple(offer.name for offer in self.offers_of(pool) if offer.usd_per_hour is None)
        return self._unpriced[key]

    @cached_property
    def _unpriced(self) -> dict[tuple[str, tuple[str, ...]], tuple[str, ...]]:
        return {}

    @cached_property
    def _rentable(self) -> dict[tuple[str, tuple[str, ...]], tuple[Offer, ...]]:
        return {}

    def shelf_of(self, pool: Pool) -> Shelf:
        """The offers that the pool can rent and that have a price, in columns; made once."""
        from flows.core.placement.shelf import Shelf

        key = (pool.site, pool.offers)
        if key not in self._shelves:
            self._shelves[key] = Shelf(self, pool)
        return self._shelves[key]

    @cached_property
    def _shelves(self) -> dict[tuple[str, tuple[str, ...]], Shelf]:
        return {}

    def without_watts(self, pools: tuple[str, ...]) -> tuple[str, ...]:
        """The offers of these pools, as `site/offer`, that have a price and whose power nobody knows; found once for the same pools."""
        if pools not in self._without_watts:
            rented = ((pool.site, offer) for pool in map(self.pool_by_name.__getitem__, pools) for offer in self.offers_of(pool))
            found = {f"{site}/{offer.name}" for site, offer in rented if offer.watts is None and offer.usd_per_hour is not None}
            self._without_watts[pools] = tuple(sorted(found))
        return self._without_watts[pools]

    @cached_property
    def _without_watts(self) -> dict[tuple[str, ...], tuple[str, ...]]:
        return {}

    @cached_property
    def egress_by_pair(self) -> dict[tuple[str, str], EgressPrice]:
        """Egress rows by (src, dst) as written."""
        return {(row.src, row.dst): row for row in self.egress}

    def egress_between(self, src: str, dst: str) -> EgressPrice | None:
        """The price row between two different sites: exact, else any destination, else any source, else `*,*`; None if there is none."""
        for pair in ((src, dst), (src, ANY), (ANY, dst), (ANY, ANY)):
            if (row := self.egress_by_pair.get(pair)) is not None:
                return row
        return None

    @cached_property
    def latency_by_pair(self) -> dict[tuple[str, str], Latency]:
        """Latency rows by (country, site)."""
        return {(row.country, row.site): row for row in self.latency}

    @cached_property
    def carbon_by_cell(self) -> dict[tuple[str, int, int], Decimal]:
        """Grams per kWh by (grid zone, month, UTC hour)."""
        return {(row.grid_zone, row.month, row.hour_utc): row.g_per_kwh for row in self.carbon}

    @cached_property
    def _speed_by_hardware(self) -> dict[str, Speed]:
        return {row.hardware: row for row in self.speeds}

    def speed_of(self, offer: Offer) -> Speed | None:
        """The speed of the offer by its own name, else of its accelerator, however many it has; None: as fast as what was declared for."""
        return self._speed_by_hardware.get(offer.name) or self._speed_by_hardware.get(offer.accelerator or "")

    @cached_property
    def worst_g_per_kwh(self) -> Decimal | None:
        """The dirtiest cell of all; None without a table."""
        return max((row.g_per_kwh for row in self.carbon), default=None)

    @cached_property
    def worst_watts(self) -> Decimal | None:
        """The hungriest offer of all; None if no offer says."""
        return max((offer.watts for offer in self.offers if offer.watts is not None), default=None)
