"""What a run may not bring along."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.workers.guard import GUARDED_NAMES, GUARDED_PREFIXES, Violation, foreign_code, is_guarded, violations


@pytest.mark.parametrize(
    "name",
    [
        "TRADEWIND_SITE",
        "TRADEWIND_ANYTHING",
        "PYTHONPATH",
        "PYTHONSTARTUP",
        "LD_PRELOAD",
        "DYLD_INSERT_LIBRARIES",
        "PATH",
        "PREFECT_API_URL",
    ],
)
def test_names_that_decide_identity_interpreter_or_server_are_guarded(name: str) -> None:
    """Whatever tells a process who it is, what it loads or whom it talks to belongs to the worker."""
    assert is_guarded(name)


@pytest.mark.parametrize("name", ["GREETING", "OMP_NUM_THREADS", "PREFECT_LOGGING_LEVEL", "MY_PATH"])
def test_other_names_are_free(name: str) -> None:
    """A run may still bring settings of its own."""
    assert not is_guarded(name)


@given(st.sampled_from(sorted(GUARDED_NAMES | {f"{prefix}X" for prefix in GUARDED_PREFIXES})), st.randoms(use_true_random=False))
def test_letter_case_hides_nothing(name: str, random: object) -> None:
    """Settings are read in any case, so the guard looks in any case."""
    flipped = "".join(letter.lower() if random.random() < 0.5 else letter for letter in name)  # type: ignore[attr-defined]
    assert is_guarded(flipped)


@pytest.mark.parametrize(
    "variables",
    [
        {"env": {"TRADEWIND_SITE": "onprem-fra"}},
        {"env.TRADEWIND_SITE": "onprem-fra"},
        {"env": {"nested.TRADEWIND_SITE": "onprem-fra"}},
        {"env": {"TRADEWIND_SITE": None}},
        {"env": {"TRADEWIND_SITE": {"deeper": "x"}}},
    ],
)
def test_a_guarded_name_is_found_however_it_is_written(variables: dict[str, object]) -> None:
    """Nested, dotted or empty: the name is what counts."""
    assert Violation("TRADEWIND_SITE", "the flow run") in violations(variables, "the flow run")


@pytest.mark.parametrize("variables", [{"command": "sh -c true"}, {"working_dir": "/"}, {"command.0": "sh"}])
def test_command_and_folder_are_the_workers(variables: dict[str, object]) -> None:
    """A run executes the engine in a folder of its site, nothing else anywhere else."""
    assert [violation.name for violation in violations(variables, "the deployment")] in (["command"], ["working_dir"])


@pytest.mark.parametrize(
    "variables",
    [None, {}, {"env": {}}, {"env": {"GREETING": "hi"}}, {"command": None}, {"stream_output": False}, {"labels": {"PATH": "x"}}],
)
def test_harmless_job_variables_pass(variables: dict[str, object] | None) -> None:
    """Only what guards something is refused."""
    assert violations(variables, "the flow run") == ()


def test_every_guarded_name_is_reported_at_once() -> None:
    """Nobody has to try once per mistake."""
    found = violations({"command": "x", "env": {"PATH": "/", "LD_PRELOAD": "evil.so", "FREE": "1"}}, "the deployment")
    assert [str(one) for one in found] == [
        "`LD_PRELOAD` in the job variables of the deployment",
        "`PATH` in the job variables of the deployment",
        "`command` in the job variables of the deployment",
    ]


@pytest.mark.parametrize(
    ("entrypoint", "pull_steps", "reason"),
    [
        ("flows.train.train", None, None),
        ("flows.train.train", [], None),
        ("flows/train.py:train", None, "is a file"),
        ("evil.module.flow", None, "outside the project"),
        (None, None, "no `entrypoint`"),
        ("flows.train.train", [{"prefect.deployments.steps.run_shell_script": {"script": "true"}}], "`pull_steps`"),
    ],
)
def test_only_the_projects_own_code_runs(entrypoint: str | None, pull_steps: object, reason: str | None) -> None:
    """A deployment names a module of the project and brings no steps that run before it."""
    found = foreign_code(entrypoint, pull_steps, frozenset({"flows"}))
    assert (found is None) if reason is None else (found is not None and reason in found)
