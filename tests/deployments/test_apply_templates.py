"""Base job templates filled from the estate: what does not fit is told before anything is sent."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from deployments.apply.declared import load
from deployments.apply.desired import PoolSpec, desired
from deployments.apply.options import ApplyOptions
from flows.adapters.settings import PROJECT_ROOT, Settings
from flows.core.errors import UserError
from tests.deployments.declarations import flows

ECS = "aws-eu-central-1-ecs"


@pytest.fixture
def deployments(tmp_path: Path) -> Path:
    """A copy of what is declared, to be edited."""
    return Path(shutil.copytree(PROJECT_ROOT / "deployments", tmp_path / "deployments", ignore=shutil.ignore_patterns("__pycache__")))


def pools(folder: Path, **settings: Any) -> dict[str, PoolSpec]:
    """The pools of the cloud profile."""
    return {pool.name: pool for pool in load(Settings(profile="cloud", deployments=folder, **settings), ApplyOptions()).pools}


def edit(path: Path, old: str, new: str) -> None:
    """Replace a text that must be there."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def edit_template(folder: Path, name: str, **variables: Any) -> dict[str, Any]:
    """The template's JSON, to be changed and written by `write`."""
    found: dict[str, Any] = json.loads((folder / "templates" / f"{name}.json").read_text())
    found["variables"]["properties"] |= variables
    return found


def write(folder: Path, name: str, template: dict[str, Any]) -> None:
    """Put the template back."""
    (folder / "templates" / f"{name}.json").write_text(json.dumps(template))


def test_the_shipped_estate_fills_every_template() -> None:
    """No `${…}` is left; types are the cloud profile's; only control stays a process pool."""
    found = pools(PROJECT_ROOT / "deployments")
    assert {name for name, pool in found.items() if pool.type == "process"} == {"control"}
    assert "${" not in json.dumps([dict(pool.template) for pool in found.values()])


def test_both_profiles_declare_the_same_deployments() -> None:
    """Only pools differ, in type and template."""
    names = []
    for profile in ("embedded", "cloud"):
        resources = desired(load(Settings(profile=profile), ApplyOptions()), flows())  # type: ignore[arg-type]
        names.append({(one.kind, one.name) for one in resources})
        assert all(one.fields["job_variables"] == {} for one in resources if one.kind == "deployment")
    assert names[0] == names[1]


@pytest.mark.parametrize("name", sorted(set(pools(PROJECT_ROOT / "deployments")) - {"control"}))
def test_who_a_run_is_stands_in_the_template(name: str) -> None:
    """Site, pool, image repository and cost tags are fixed; the command sets the identity last, over any environment."""
    body = pools(PROJECT_ROOT / "deployments")[name].template["job_configuration"]
    site = next(pool.site for pool in pools(PROJECT_ROOT / "deployments").values() if pool.name == name)
    assert body["command"].startswith(f"env TRADEWIND_PROFILE=cloud TRADEWIND_SITE={site} TRADEWIND_POOL={name} ")
    assert (body["env"]["TRADEWIND_SITE"], body["env"]["TRADEWIND_POOL"]) == (site, name)
    assert (body["labels"]["tradewind-site"], body["labels"]["tradewind-workload"]) == (site, "{{ workload }}")
    assert json.dumps(body).count("@{{ image }}") == 1


def test_what_is_optional_and_not_there_is_left_out() -> None:
    """No empty variable, no half of a secret; what the settings know goes along."""
    folder = PROJECT_ROOT / "deployments"
    run = pools(folder)["gcp-us-central1-cloudrun"].template["job_configuration"]
    assert "prefect_api_auth_string_secret" not in run
    assert "TRADEWIND_MLFLOW_URL" not in run["env"]
    run = pools(folder, mlflow_url="https://mlflow.example.com")["gcp-us-central1-cloudrun"].template["job_configuration"]
    assert run["env"]["TRADEWIND_MLFLOW_URL"] == "https://mlflow.example.com"


def test_a_cloud_run_job_is_not_tried_again_by_google() -> None:
    """A second try is the lifecycle's to decide, with a decision of its own."""
    run = pools(PROJECT_ROOT / "deployments")["gcp-us-central1-cloudrun"].template["job_configuration"]
    assert run["job_body"]["template"]["template"]["maxRetries"] == 0


def test_a_name_that_the_template_needs_is_asked_for_with_its_line(deployments: Path) -> None:
    """The message names the pool's line, the field and what to add."""
    path = deployments / "estate" / "pools.yaml"
    edit(path, "    cluster: tradewind-us-east-1 ", "    # cluster: tradewind-us-east-1 ")
    with pytest.raises(UserError) as caught:
        pools(deployments)
    (problem,) = caught.value.problems
    assert problem.what == "`aws-us-east-1-ecs` has no `cluster`, which its template asks for"
    assert problem.file == str(path)
    assert "name: aws-us-east-1-ecs" in "".join(path.read_text().splitlines(keepends=True)[: problem.line])


def test_a_site_without_its_account_is_asked_for_it(deployments: Path) -> None:
    """Every pool there that needs it is named."""
    edit(deployments / "estate" / "sites.yaml", "  region: us-central1\n  account: tradewind-example\n", "  region: us-central1\n")
    with pytest.raises(UserError, match=r"sites\.yaml:\d+: .*`gcp-us-central1` has no `account`"):
        pools(deployments)


def test_a_misspelt_name_is_found(deployments: Path) -> None:
    """What no template asks for would never take effect."""
    edit(deployments / "estate" / "pools.yaml", "    security_groups: ", "    security_group: ")
    with pytest.raises(UserError, match=r"asks for no `security_group`(.|\n)*did you mean `security_groups`\?"):
        pools(deployments)


@pytest.mark.parametrize("name", ["public_keys", "sites", "account"])
def test_a_pool_says_nothing_that_control_says(deployments: Path, name: str) -> None:
    """Its runs would take tickets that another key signed, or data from elsewhere."""
    edit(deployments / "estate" / "pools.yaml", "    max_hours: 24\n", f"    max_hours: 24\n    {name}: elsewhere\n")
    with pytest.raises(UserError, match=f"`{name}` of `gcp-us-central1-vertex` is not the pool's to say"):
        pools(deployments)


def test_a_password_in_the_estate_is_refused_and_not_repeated(deployments: Path) -> None:
    """Secrets are named, never written down."""
    edit(
        deployments / "estate" / "pools.yaml", "    max_hours: 24\n", "    max_hours: 24\n    database_url: postgresql://u:hush@db/state\n"
    )
    with pytest.raises(UserError, match=r"`database_url` of `gcp-us-central1-vertex` holds a password") as caught:
        pools(deployments)
    assert "hush" not in str(caught.value)


def test_a_variable_that_the_template_does_not_have_is_found(deployments: Path) -> None:
    """A placeholder nobody fills would be dropped in silence by Prefect."""
    template = edit_template(deployments, "ecs")
    template["job_configuration"]["task_definition"]["containerDefinitions"][0]["cpu"] = "{{ cpus }}"
    write(deployments, "ecs", template)
    with pytest.raises(UserError, match=r"ecs\.json: `job_configuration`: `\{\{ cpus \}\}` is no variable(.|\n)*did you mean `cpu`\?"):
        pools(deployments)


def test_a_variable_that_the_offers_do_not_fill_is_found(deployments: Path) -> None:
    """Every offer of every pool is tried against the template's schema."""
    template = edit_template(deployments, "vertex-ai", colour={"type": "string"})
    template["variables"]["required"].append("colour")
    write(deployments, "vertex-ai", template)
    with pytest.raises(UserError, match=r"the template refuses `n1-standard-4`: 'colour' is a required property"):
        pools(deployments)


def test_a_template_that_is_no_schema_is_found(deployments: Path) -> None:
    """Before a server refuses it."""
    write(deployments, "ecs", edit_template(deployments, "ecs", cpu={"type": "wholenumber"}))
    with pytest.raises(UserError, match=r"ecs\.json: `variables`: no JSON schema"):
        pools(deployments)


def test_a_template_of_another_region_is_found(deployments: Path) -> None:
    """A region that was written by hand is not the site's everywhere."""
    template = edit_template(deployments, "vertex-ai")
    template["job_configuration"]["region"] = "europe-west4"
    write(deployments, "vertex-ai", template)
    with pytest.raises(UserError) as caught:
        pools(deployments)
    (problem,) = caught.value.problems
    assert problem.what == "the template of `gcp-us-central1-vertex` runs in `europe-west4`"
    assert problem.expected == "`us-central1`, the region of `gcp-us-central1`"


def test_an_offer_of_another_kind_than_the_template_is_found(deployments: Path) -> None:
    """A Fargate size has no place among instances."""
    with (deployments / "estate" / "offers.csv").open("a") as offers:
        offers.write("aws-eu-central-1,fargate-4c-8g,,,4,8,0.2,,eu-central-1,x86_64,,12,assumed,2026-11-24\n")
    path = deployments / "estate" / "pools.yaml"
    text = path.read_text()
    at = text.index(f"- name: {ECS}")
    path.write_text(text[:at] + text[at:].replace('offers: ["c6a.*"', 'offers: ["fargate-*", "c6a.*"', 1))
    with pytest.raises(UserError, match=r"the template refuses `fargate-4c-8g`"):
        pools(deployments)


def test_a_fargate_pool_takes_the_template_for_it(deployments: Path) -> None:
    """Same type, another template: task sizes instead of instances."""
    with (deployments / "estate" / "offers.csv").open("a") as offers:
        offers.write("aws-eu-central-1,fargate-4c-8g,,,4,8,0.2,0.07,eu-central-1,x86_64,0.01,12,assumed,2026-11-24\n")
    path = deployments / "estate" / "pools.yaml"
    text = path.read_text()
    at = text.index(f"- name: {ECS}")
    own = (
        text[at:]
        .replace("template: ecs", "template: ecs-fargate", 1)
        .replace('offers: ["c6a.*", "c7g.*", "m6a.*", "g5.*"]', 'offers: ["fargate-*"]', 1)
    )
    path.write_text(text[:at] + own)
    body = pools(deployments)[ECS].template["job_configuration"]
    assert body["task_run_request"]["launchType"] == "{{ launch_type }}"
    assert body["task_definition"]["requiresCompatibilities"] == ["FARGATE"]
