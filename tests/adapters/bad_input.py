"""Valid files, and all kinds of damage to them: what the tests of bad input share."""

from __future__ import annotations

import copy
import csv
import io
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from flows.adapters.catalog import load_catalog
from flows.adapters.declared import load_yaml
from flows.adapters.estate import load_estate
from flows.adapters.policy import CedarPolicy
from flows.adapters.policy_cases import read_cases, run_cases
from flows.adapters.requests import load_conditions, load_requests
from flows.core.errors import UserError
from flows.core.placement import Conditions, Decision, place

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "placement"
POLICIES = ROOT / "deployments" / "policies"
AT = datetime(2026, 1, 5, 7, tzinfo=UTC)
DataPath = tuple[str | int, ...]

REQUEST: dict[str, Any] = {
    "version": 1,
    "workload": "nafld",
    "step": "score",
    "environment": "prod",
    "intent_id": "nafld/score/2026-01",
    "requested_by": {"user": "ada", "roles": ["data-scientist"]},
    "datasets": [{"name": "patients", "size_gb": 40}],
    "outputs": [{"name": "scores", "size_gb": 0.5, "home": "clinic-fra", "keep_days": 30}],
    "resources": {"nodes": 1, "cpus": 8, "memory_gib": 32, "arch": "x86_64", "accelerators": {"A100": 1}},
    "runtime": {"p50_hours": 2, "p90_hours": 3},
    "interruptible": True,
    "checkpoint_minutes": 10,
    "checkpoint_write_minutes": 0,
    "window": {"earliest": "2026-01-05T08:00:00Z", "deadline": "2026-01-05T20:00:00Z"},
    "latency": {"from": ["DE"], "max_ms": 60, "percentile": 99, "service_ms": 15},
    "budget_usd": 40,
    "objective": {"usd_per_hour_of_delay": 0.5, "usd_per_kg_co2": 0.1},
    "restrict": {"clouds": ["onprem", "aws"], "sites": [], "pools": [], "offers": [], "spot": None},
}
CONDITIONS: dict[str, Any] = {
    "replicas": {"patients": ["clinic-fra"]},
    "reservations": [{"pool": "clinic-fra-k8s", "use": {"A100": 1}, "from": "2026-01-05T08:00:00Z", "until": "2026-01-05T09:00:00Z"}],
    "queue_hours": {"clinic-fra-k8s": 1.5},
    "budget_left_usd": {"nafld": 120},
    "runtimes": [{"workload": "nafld", "step": "score", "offer": "server", "p50_hours": 2, "p90_hours": 3, "runs": 14}],
}
EXCEPTIONS: dict[str, Any] = {
    "exceptions": [
        {"rule": "customer-keys", "workload": "nafld", "datasets": ["patients"], "pools": [], "owner": "security",
         "reason": "rotation", "until": "2026-12-31"}
    ]
}  # fmt: skip
IMAGES: dict[str, Any] = {"images": [{"digest": "sha256:" + "ab" * 32, "what": "trainer", "approver": "security", "until": "2026-12-31"}]}


class Literal(str):
    """A text that is written into the file as it is, such as `.nan`."""


JUNK: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 10**12, 0.1, -0.5, 1e300, "", " ", "UK", "NO", "x" * 300, "a b", "*", "2026-13-45", "24:61",
    "1970-01-01T00:00:00", "9999-12-31T23:59:59Z", [], {}, [None], ["UK"], {"x": 1}, [[["deep"]]], "\u00fc\u4e2d", "a\tb",
    Literal(".nan"), Literal("-.inf"), Literal(".inf"), Literal("1e999"), Literal("0x1F"), Literal("0o17"), Literal("12e5"),
    Literal("!!set {a}"), Literal("&a [*a]"), Literal("2026-01-05"), Literal("~"), Literal("{"), Literal("'"),
)  # fmt: skip
"""What people, scripts and accidents write in place of a value."""


def written(value: Any) -> str:
    """The value as YAML in flow style, each member of the outer collections on a line of its own."""
    if isinstance(value, Literal):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",\n ".join(f"{json.dumps(str(key))}: {written(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",\n ".join(written(inner) for inner in value) + "]"
    return json.dumps(value)


def places(value: Any, above: DataPath = ()) -> Iterator[DataPath]:
    """Every path of the document, the root first."""
    yield above
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*above, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from places(inner, (*above, index))


def at_place(value: Any, path: DataPath) -> Any:
    """The value under the path."""
    for part in path:
        value = value[part]
    return value


def changed(document: Any, path: DataPath, damage: str, junk: Any) -> Any:
    """A copy with one thing wrong at the path: a value replaced, a key lost or added, an item doubled."""
    found = copy.deepcopy(document)
    if damage == "added":
        inner = at_place(found, path)
        if isinstance(inner, dict):
            inner["suprise"] = junk
        return found
    if not path:
        return junk
    holder = at_place(found, path[:-1])
    if damage == "lost":
        del holder[path[-1]]
    elif damage == "doubled" and isinstance(holder, list):
        holder.append(copy.deepcopy(holder[path[-1]]))
    else:
        holder[path[-1]] = junk
    return found


@st.composite
def damaged(draw: st.DrawFn, document: Any) -> Any:
    """The document with one or two things wrong."""
    for _ in range(draw(st.integers(1, 2))):
        known = list(places(document))
        path = known[draw(st.integers(0, len(known) - 1))]
        document = changed(
            document, path, draw(st.sampled_from(["replaced", "replaced", "lost", "added", "doubled"])), draw(st.sampled_from(JUNK))
        )
    return document


@st.composite
def scribbled(draw: st.DrawFn, text: str) -> str:
    """The text with a few characters cut, doubled or typed over."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, max(len(text) - 1, 0)))
        end = min(len(text), start + draw(st.integers(0, 12)))
        typed = draw(
            st.one_of(st.text(max_size=4), st.sampled_from(["\n", ",", ":", "{", "]", '"', "- ", "\t", "\x00", "#", "&a ", "*a", "%"]))
        )
        text = text[:start] + typed + text[end:]
    return text


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a table with the columns of the first."""
    out = io.StringIO()
    if not rows or not isinstance(rows[0], dict):
        return written(rows)
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(rows[0])
    writer.writerows([["" if cell is None else cell for cell in row.values()] if isinstance(row, dict) else [row] for row in rows])
    return out.getvalue()


def rows_of(path: Path) -> list[dict[str, Any]]:
    """The table's rows as texts."""
    with path.open(encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def plain_document(path: Path) -> Any:
    """The file's plain values."""
    return load_yaml(path).data


def refusal(read: Callable[[], object]) -> UserError | None:
    """What the reader refused, if it did; nothing but a `UserError` may come out of it."""
    try:
        read()
    except UserError as error:
        return error
    return None


def decide(
    request: Path, estate: Path = GOLDEN / "estate", catalog: Path = GOLDEN / "catalog.yaml", conditions: Path | None = None
) -> list[Decision]:
    """What `tradewind place` does with these files."""
    requests = load_requests(request)
    where = load_estate(estate)
    frozen = load_conditions(conditions) if conditions else Conditions()
    labels = load_catalog(catalog)
    policy = CedarPolicy.load(POLICIES, where.blocs)
    return [place(one, where, policy, labels, frozen, AT) for one in requests]


def test_policies(folder: Path) -> bool:
    """What `tradewind policy test` does with the folder."""
    policy = CedarPolicy.load(folder, load_estate(GOLDEN / "estate").blocs)
    cases, document = read_cases(folder)
    return run_cases(policy, cases, document, AT).passed


test_policies.__test__ = False  # type: ignore[attr-defined]
