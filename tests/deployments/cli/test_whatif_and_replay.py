"""`place --what-if`, `explain --html` and `replay` as a user runs them."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from flows.adapters.catalog import load_catalog
from flows.adapters.estate import load_estate
from flows.adapters.policy import CedarPolicy
from flows.core.placement import Conditions, Request, documents, place
from flows.store import decisions
from flows.store.database import State
from tests.deployments.cli.conftest import Command

ROOT = Path(__file__).resolve().parents[3]
GOLDEN = ROOT / "tests" / "golden" / "placement"
POLICIES = ROOT / "deployments" / "policies"
AT = datetime(2026, 1, 5, 7, tzinfo=UTC)
REQUEST = """\
workload: nafld
step: train
requested_by: {user: ada, roles: [data-scientist]}
runtime: {p50_hours: 2, p90_hours: 3}
"""


@pytest.fixture
def ask(tradewind: Command, tmp_path: Path) -> Command:
    """Runs `tradewind place --json` over the golden estate on the text of a request; gives exit code, decision and stderr."""

    def run(text: str, *more: str | Path) -> tuple[int, str, str]:
        path = tmp_path / "request.yaml"
        path.write_text(text)
        where = ["--estate", GOLDEN / "estate", "--catalog", GOLDEN / "catalog.yaml", "--at", "2026-01-05T07:00:00Z"]
        return tradewind("place", path, *where, *more)

    return run


@pytest.fixture
def stored(tmp_path: Path) -> dict[str, object]:
    """A decision in the state database, with all its inputs."""
    state = State(f"sqlite:///{tmp_path / 'state.db'}")
    state.migrate()
    estate, catalog = load_estate(GOLDEN / "estate"), load_catalog(GOLDEN / "catalog.yaml")
    policy, moment = CedarPolicy.load(POLICIES, estate.blocs), Conditions()
    request = Request.model_validate(
        {
            "workload": "nafld",
            "step": "train",
            "requested_by": {"user": "ada", "roles": ["data-scientist"]},
            "runtime": {"p50_hours": 2, "p90_hours": 3},
        }
    )
    body = place(request, estate, policy, catalog, moment, AT).to_json()
    with state.transaction() as tx:
        decisions.save(tx, body, {**documents(request, estate, catalog, moment), "policies": policy.document}, at=AT)
    state.close()
    return body


def pools(out: str) -> set[str]:
    """Where a printed decision may run."""
    decision = json.loads(out)
    return {candidate["pool"] for candidate in (decision["chosen"], *decision["alternatives"]) if candidate}


def changes(out: str) -> dict[str, str]:
    """The relaxations of a printed decision by pool."""
    return {row["pool"]: row["relaxation"]["change"] for row in json.loads(out)["rejected"] if row["relaxation"]}


@pytest.mark.parametrize("more", ["budget_usd: 1\n", "window: {deadline: 2026-01-05T08:00:00Z}\n", "restrict: {pools: [clinic-fra-k8s]}\n"])
def test_a_printed_change_pasted_as_it_is_places(ask: Command, more: str) -> None:
    """Every pool whose rejection prints one."""
    _, out, _ = ask(REQUEST + more, "--json")
    printed = changes(out)
    assert printed
    for pool, change in printed.items():
        code, again, err = ask(REQUEST + more, "--json", "--what-if", change)
        assert (code, err) == (0, "") and pool in pools(again)


def test_a_printed_exception_to_a_rule_places(ask: Command, tmp_path: Path) -> None:
    """Granted by the rule's owner, for that pool, through that day; the decision warns that it was needed."""
    estate = shutil.copytree(GOLDEN / "estate", tmp_path / "keyless")
    sites = (estate / "sites.yaml").read_text()
    (estate / "sites.yaml").write_text(sites.replace("customer_managed_keys: true", "customer_managed_keys: false"))
    _, out, _ = ask(REQUEST, "--json", "--estate", estate)
    printed = {pool: change for pool, change in changes(out).items() if change.startswith("policies.customer-keys: forbid -> ")}
    assert printed
    for pool, change in printed.items():
        code, again, err = ask(REQUEST, "--json", "--estate", estate, "--what-if", change)
        assert (code, err) == (0, "") and pool in pools(again)
        assert any("exception to rule `customer-keys`" in warning for warning in json.loads(again)["warnings"])


def test_an_exception_by_another_than_the_owner_is_refused(ask: Command) -> None:
    """The owner is in the rule."""
    change = "policies.customer-keys=exception for `clinic-fra-k8s` by marketing until 2026-01-06"
    code, out, err = ask(REQUEST, "--json", "--what-if", change)
    assert (code, out) == (2, "")
    assert "`marketing` cannot grant an exception to `customer-keys`" in err


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("policies.nope=exception for `clinic-fra-k8s` by security until 2026-01-06", "no rule `nope`; expected one of `customer-keys`"),
        ("policies.a b=exception for `clinic-fra-k8s` by security until 2026-01-06", "`a b` cannot be excepted"),
        (f"policies.customer-keys=exception for `clinic-fra-k8s` by {'x' * 201} until 2026-01-06", "`customer-keys` cannot be excepted"),
        ("estate=1", "`estate`: what of it is not named; expected one of `sites`"),
        ("resources.accelerators={A100}", "`{A100}` is no mapping; expected `{name: value}`"),
    ],
)
def test_a_mistake_in_a_change_names_the_option(ask: Command, change: str, told: str) -> None:
    """Never a file that the user did not touch."""
    code, out, err = ask(REQUEST, "--json", "--what-if", change)
    assert (code, out) == (2, "")
    assert err.startswith("tradewind: `--what-if`: ") and told in err
    assert "exceptions.yaml" not in err and "exceptions[" not in err and "Traceback" not in err


def test_several_changes_by_hand(ask: Command) -> None:
    """Each option is one, in order; the table says what was supposed."""
    code, out, _ = ask(REQUEST, "--what-if", "budget_usd=1", "--what-if", "budget_usd: 1 -> 9")
    assert code == 0
    assert out.startswith("what if budget_usd=1\nwhat if budget_usd: 1 -> 9\n")


def test_a_change_that_makes_no_sense_exits_2(ask: Command) -> None:
    """With the option's name, and nothing on stdout."""
    code, out, err = ask(REQUEST, "--json", "--what-if", "budgt_usd=1")
    assert (code, out) == (2, "")
    assert "`--what-if`" in err and "`budgt_usd`" in err and "Traceback" not in err


def test_explain_writes_a_page(tradewind: Command, stored: dict[str, str], tmp_path: Path) -> None:
    """One file that needs nothing else; a path that cannot be written is bad input."""
    page = tmp_path / "decision.html"
    code, out, _ = tradewind("explain", stored["decision_id"][:12], "--html", page)
    assert (code, out) == (0, f"written: {page}\n")
    assert page.read_text().startswith("<!doctype html>") and stored["decision_id"] in page.read_text()
    code, _, err = tradewind("explain", stored["decision_id"], "--html", tmp_path / "no" / "such.html")
    assert code == 2 and "`--html`" in err


def test_replay_proves_what_is_stored(tradewind: Command, stored: dict[str, str]) -> None:
    """Byte for byte: exit 0; a decision that says something else: exit 1, and which one."""
    assert stored["decision_id"]
    assert tradewind("replay", "--since", "2026-01-05") == (0, "1 of 1 decisions came out byte for byte\n", "")


def test_replay_finds_a_forged_decision(tradewind: Command, stored: dict[str, str], tmp_path: Path) -> None:
    """Exit 1, and which one."""
    import sqlite3

    with sqlite3.connect(tmp_path / "state.db") as database:
        database.execute("UPDATE decisions SET body = replace(body, '\"usd_p90\":', '\"usd_p90\":1')")
    code, out, _ = tradewind("replay", "--since", "2026-01-05")
    assert code == 1
    assert stored["decision_id"][:12] in out and "other bytes" in out and "0 of 1 decisions" in out


def test_replay_under_other_rules_tells_runs_and_usd(tradewind: Command, stored: dict[str, str], tmp_path: Path) -> None:
    """What would be lost, why, and what it had cost; the same in JSON."""
    folder = shutil.copytree(POLICIES, tmp_path / "policies")
    (folder / "new.cedar").write_text('@id("no-training")\nforbid (principal, action, resource) when { context.step == "train" };\n')
    code, out, _ = tradewind("replay", "--since", "2026-01-05", "--policies", folder)
    assert code == 0
    assert "lost" in out and "no-training" in out and "1 decisions of 1 runs: 1 lost" in out
    code, out, _ = tradewind("replay", "--since", "2026-01-05", "--policies", folder, "--json")
    report = json.loads(out)
    assert code == 0
    assert report["totals"]["changes"] == {"lost": 1} and report["totals"]["usd_lost"] > 0
    assert [row["decision_id"] for row in report["decisions"]] == [stored["decision_id"]]


def test_replay_of_a_time_without_decisions_says_so(tradewind: Command, stored: dict[str, str]) -> None:
    """Nothing to prove is no failure."""
    assert stored
    assert tradewind("replay", "--since", "2026-01-06") == (0, "no decisions are stored in this time\n", "")
    assert tradewind("replay", "--since", "2020-01-01", "--until", "2026-01-05")[1] == "no decisions are stored in this time\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--since", "yesterday"), "`--since`: `yesterday` is no instant"),
        (("--since", "2026-01-05", "--until", "soon"), "`--until`: `soon` is no instant"),
        (("--since", "2026-01-05", "--policies", "nowhere"), "nowhere: no such folder"),
        (("--since", "2026-01-05", "--estate", "nowhere"), "nowhere: no such folder"),
    ],
)
def test_bad_input_exits_2(tradewind: Command, stored: dict[str, str], arguments: tuple[str, ...], told: str) -> None:
    """One message, no traceback."""
    assert stored
    code, out, err = tradewind("replay", *arguments)
    assert (code, out) == (2, "")
    assert told in err and "Traceback" not in err
