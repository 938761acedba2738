"""Prefect's unmodified Kubernetes worker on the shipped on-prem pool, with the rights of `infra/kubernetes/rbac.yaml` and no other.

Real: the API server with its admission, the controllers of jobs, quotas, service accounts and garbage, Prefect's server, the worker, the
service account's token. Pretended (`tests/emulators/kubelet.py`): scheduler, node, registry, container runtime. All runs start at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import jwt
import pytest

from flows.adapters.settings import Settings
from flows.core import failures
from flows.services import sweeping
from tests.clouds.kube_world import ABSENT, BROKEN, NAMESPACE, POOL, USER, WORKER, World, role, wait, world

pytest.importorskip("prefect_kubernetes", reason="prefect-kubernetes is not installed: `make setup-clouds`")

pytestmark = [pytest.mark.clouds, pytest.mark.timeout(420)]

SHORT = 20
"""Seconds after which a job that gets nowhere is ended, here."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A world in which a run of each kind has been started, and what the administrator does to some of them is done."""
    with world(tmp_path_factory.mktemp("kube")) as there, ExitStack() as worker:
        worker.enter_context(there.worker(there.cluster.account(NAMESPACE, WORKER)))
        there.leave = worker.close
        there.start("no image", image=ABSENT, deadline_seconds=SHORT)
        there.start("no node", arch="arm64", deadline_seconds=SHORT)
        there.start("no quota", accelerator="A100", gpus=2)
        there.start("waiting", arch="arm64")
        there.start("slowly", how="slowly")
        there.start("deleted", how="slowly")
        for name in ("slowly", "deleted"):
            run = there.started[name]
            wait(lambda run=run: there.state(run)["type"] == "RUNNING", 120, lambda run=run: f"{there.state(run)}")
        for name in ("slowly", "waiting"):
            there.post(f"/flow_runs/{there.started[name]}/set_state", {"state": {"type": "CANCELLING"}})
        there.delete_job(there.started["deleted"])
        there.start("broken", image=BROKEN)
        for how in ("well", "badly", "greedily", "hungrily"):
            there.start(how, how=how)
        for name, run in there.started.items():
            if name not in ("slowly", "deleted", "waiting"):
                there.job(run, 120)
        _refuse_jobs(there, "0")
        there.start("no more jobs")
        there.ended(there.started["no more jobs"])
        _refuse_jobs(there, "50")
        yield there


def _refuse_jobs(there: World, most: str) -> None:
    """Set the quota of jobs."""
    patch = json.dumps({"spec": {"hard": {"count/jobs.batch": most}}})
    answer = there.cluster.kubectl("patch", "resourcequota", "tradewind", "-n", NAMESPACE, "-p", patch)
    assert answer.returncode == 0, answer.stderr
    path = "jsonpath={.status.hard.count/jobs\\.batch}"
    told = ("get", "resourcequota", "tradewind", "-n", NAMESPACE, "-o", path)
    wait(lambda: there.cluster.kubectl(*told).stdout == most, 30, lambda: there.cluster.kubectl(*told).stdout)


def ended(made: World, name: str) -> tuple[str, str]:
    """The run's final state: its type and its message."""
    state = made.ended(made.started[name])
    return state["type"], state["message"] or ""


def kind(made: World, name: str) -> str:
    """What the project makes of that ending."""
    state = made.ended(made.started[name])
    return failures.classify(state["name"], state["message"] or "", made.said(made.started[name]).splitlines()).kind


def test_a_run_completes(made: World) -> None:
    """Its job, made by the worker, ran and succeeded."""
    assert ended(made, "well")[0] == "COMPLETED"
    (job,) = made.jobs(made.started["well"])
    wait(lambda: made.jobs(made.started["well"])[0]["status"].get("succeeded") == 1, 30, lambda: f"{job}")
    assert "Downloading flow code" in made.said(made.started["well"])


def test_an_error_of_the_flow_is_a_failure(made: World) -> None:
    """With its message, and its traceback in the log."""
    kind_, message = ended(made, "badly")
    assert kind_ == "FAILED"
    assert "no such column `bmi`" in message
    assert "ValueError" in made.said(made.started["badly"])


def test_a_container_killed_for_its_memory_is_a_crash(made: World) -> None:
    """The run cannot say it any more: the worker's observer does, and why."""
    assert ended(made, "greedily")[0] == "CRASHED"
    wait(lambda: "OOMKilled" in made.said(made.started["greedily"]), 30, lambda: made.said(made.started["greedily"]))
    assert kind(made, "greedily") == "memory"


def test_a_process_killed_for_its_memory_is_a_crash(made: World) -> None:
    """Where only the largest process of the container is ended, its parent says so."""
    kind_, message = ended(made, "hungrily")
    assert kind_ == "CRASHED"
    assert "exceeding memory limits" in message


def test_the_last_words_of_a_container_that_does_not_start_come_to_the_run(made: World) -> None:
    """It never reached Prefect; the observer reads its log."""
    assert ended(made, "broken")[0] == "CRASHED"
    wait(lambda: "libcuda.so.1" in made.said(made.started["broken"]), 30, lambda: made.said(made.started["broken"]))


def test_an_image_that_is_missing_is_a_crash(made: World) -> None:
    """Once the job's time is over; the log says what to do at once."""
    assert ended(made, "no image")[0] == "CRASHED"
    assert "Image pull failed" in made.said(made.started["no image"])
    assert kind(made, "no image") == "image"


def test_a_pod_that_fits_no_node_is_a_crash(made: World) -> None:
    """Once the job's time is over; until then the run waits, as in a queue."""
    assert ended(made, "no node")[0] == "CRASHED"
    assert kind(made, "no node") == "capacity"


def test_a_cancelled_run_ends_itself(made: World) -> None:
    """The run's own process in the pod hears of it; the pod is over."""
    assert ended(made, "slowly")[0] == "CANCELLED"
    run = made.started["slowly"]
    wait(lambda: all(pod["status"]["phase"] in ("Succeeded", "Failed") for pod in made.pods(run)), 60, lambda: f"{made.pods(run)}")


def test_a_run_cancelled_while_it_waits_loses_its_job_by_control(made: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no process yet, and the worker has forgotten the run: the sweeper ends its job, with the same rights."""
    run = made.started["waiting"]
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(_account(made)))
    (job,) = made.jobs(run)
    assert sweeping.end_jobs_of(Settings(profile="cloud"), POOL, run) == [f"{NAMESPACE}:{job['metadata']['name']}"]
    wait(lambda: not made.jobs(run) and not made.pods(run), 60, lambda: f"{made.jobs(run)}")


def test_a_job_deleted_under_a_run_is_a_crash(made: World) -> None:
    """Somebody else ended it."""
    assert ended(made, "deleted")[0] == "CRASHED"


def test_a_job_beyond_the_quota_is_refused_at_once(made: World) -> None:
    """The API server's 403 is the run's message."""
    kind_, message = ended(made, "no more jobs")
    assert kind_ == "CRASHED"
    assert "exceeded quota: tradewind, requested: count/jobs.batch=1" in message
    assert kind(made, "no more jobs") == "quota"


def test_a_pod_beyond_the_quota_waits_as_in_a_queue(made: World) -> None:
    """Kubernetes makes the job and refuses its pod until there is room. Prefect is not told: the run stays pending until its job is gone,
    as control does where a run has not begun in time (docs/kubernetes.md)."""
    run = made.started["no quota"]
    selector = f"reason=FailedCreate,involvedObject.name={made.job(run)['metadata']['name']}"
    events = made.cluster.kubectl("get", "events", "-n", NAMESPACE, "--field-selector", selector, "-o", "jsonpath={..message}")
    assert "exceeded quota: tradewind, requested: requests.nvidia.com/gpu=2" in events.stdout
    assert made.pods(run) == []
    assert made.state(run)["type"] == "PENDING"
    made.delete_job(run)
    assert ended(made, "no quota") == ("CRASHED", "Kubernetes job was deleted")


def granted() -> set[tuple[str, str]]:
    """The role's rights, one by one."""
    return {(resource, verb) for rule in role()["rules"] for resource in rule["resources"] for verb in rule["verbs"]}


def test_the_account_has_no_other_right(made: World) -> None:
    """By the API server's own word: the role's rules, and what everybody who is known may ask about themselves."""
    told = made.cluster.kubectl("auth", "can-i", "--list", "-n", NAMESPACE, "--no-headers", kubeconfig=_account(made)).stdout
    found = set()
    for line in told.splitlines():
        resource, _, rest = line.partition(" ")
        if resource and not line.startswith(" "):
            found |= {(resource.partition(".")[0], verb) for verb in rest[rest.rindex("[") + 1 : rest.rindex("]")].split()}
    own = {(name, "create") for name in ("selfsubjectaccessreviews", "selfsubjectrulesreviews")}
    assert found == granted() | own


@pytest.mark.parametrize(
    "what",
    [
        "list secrets", "get secrets", "create secrets", "create pods", "create pods --subresource=exec",
        "create pods --subresource=attach", "delete pods", "patch jobs", "update jobs", "deletecollection jobs", "list configmaps",
        "create serviceaccounts --subresource=token",
        "create rolebindings", "update roles", "escalate roles", "impersonate serviceaccounts", "patch resourcequotas",
        "delete networkpolicies", "list jobs -n default", "list pods -n kube-system", "list nodes", "list namespaces", "list jobs -A",
    ],
)  # fmt: skip
def test_what_would_reach_further_is_refused(made: World, what: str) -> None:
    """Other people's secrets, a shell in a run, other namespaces, rights for itself."""
    words = what.split()
    where = () if {"-n", "-A"} & set(words) else ("-n", NAMESPACE)
    assert made.cluster.kubectl("auth", "can-i", *words, *where, kubeconfig=_account(made)).stdout.strip() == "no"


def test_a_run_has_no_right_at_all(made: World) -> None:
    """Its account is bound to nothing, and the one token in its pod, by which other clouds know it, the API server does not take."""
    account = made.cluster.account(NAMESPACE, "tradewind-run")
    for what in ("list pods", "get secrets", "create jobs"):
        assert made.cluster.kubectl("auth", "can-i", *what.split(), "-n", NAMESPACE, kubeconfig=account).stdout.strip() == "no"
    (pod,) = made.pods(made.started["well"])
    (source,) = [source for one in pod["spec"]["volumes"] if "emptyDir" not in one for source in one["projected"]["sources"]]
    assert (set(source), source["serviceAccountToken"]["audience"]) == ({"serviceAccountToken"}, "sts.amazonaws.com")
    token = (made.folder / "pods" / pod["metadata"]["name"] / "identity" / "token").read_text()
    told = jwt.decode(token, options={"verify_signature": False})
    assert (told["sub"], told["aud"]) == (f"system:serviceaccount:{NAMESPACE}:tradewind-run", ["sts.amazonaws.com"])
    asked: dict[str, Any] = {"headers": {"Authorization": f"Bearer {token}"}, "verify": False, "timeout": 20}
    assert httpx.get(f"{made.cluster.url}/api/v1/namespaces/{NAMESPACE}/pods", **asked).status_code == httpx.codes.UNAUTHORIZED


def test_what_runs_is_restricted(made: World) -> None:
    """In the pod as the job's controller made it: no root, no way to it, nothing to write on but its own scratch."""
    (pod,) = made.pods(made.started["well"])
    (container,) = pod["spec"]["containers"]
    assert pod["spec"]["securityContext"] == {
        "runAsNonRoot": True, "runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 1000, "seccompProfile": {"type": "RuntimeDefault"},
    }  # fmt: skip
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "privileged": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert [one["mountPath"] for one in container["volumeMounts"] if not one.get("readOnly")] == ["/tmp"]
    assert {one["name"]: one["value"] for one in container["env"]}["HOME"] == "/tmp"
    assert pod["spec"]["schedulerName"] == "kai-scheduler"
    assert pod["metadata"]["labels"]["kai.scheduler/queue"] == "tradewind"


def test_the_role_is_what_the_worker_asked_for_and_nothing_more(made: World) -> None:
    """After all of the above and the worker's end, the API server's audit: no request was denied, and no right of the role was not used."""
    for name in set(made.started) - {"no quota", "waiting"}:
        made.ended(made.started[name])
    made.leave()
    asked = {(one["objectRef"], one["verb"], one["responseStatus"]["code"]) for one in _asked(made)}
    denied = {one for one in asked if one[2] in (401, 403)}
    assert denied == {("jobs", "create", 403)}  # the quota's, not the role's
    assert {(resource, verb) for resource, verb, _ in asked} == granted()


def _asked(made: World) -> Iterator[dict[str, Any]]:
    """Requests of the worker, and of control's sweeper, for objects; all in the namespace. What tests ask with that account is left out."""
    for event in made.cluster.audit(USER):
        reference = event.get("objectRef")
        if reference and reference.get("apiGroup") != "authorization.k8s.io":
            assert reference["namespace"] == NAMESPACE
            resource = "/".join(filter(None, (reference["resource"], reference.get("subresource"))))
            yield {**event, "objectRef": resource, "responseStatus": event.get("responseStatus", {"code": 0})}


def _account(made: World) -> Any:
    return made.folder / f"{NAMESPACE}.{WORKER}"
