"""Who acts: tokens of a real issuer over HTTP, local users, and what their roles let them do."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from pydantic import SecretStr

from flows.adapters.settings import PROJECT_ROOT, Settings
from flows.core.errors import GuardRefused, PolicyDenied, Unavailable, UserError
from flows.core.placement.policy import Action
from flows.services.declarations import Declarations
from flows.services.identity import Identity, permit, service, who

AUDIENCE = "tradewind"
KEYS = {name: rsa.generate_private_key(public_exponent=65537, key_size=2048) for name in ("first", "strange")}


@dataclass
class Issuer:
    """A server with a discovery document and one published key."""

    url: str = ""
    says: dict[str, Any] = field(default_factory=dict)

    def token(self, *, key: str = "first", kid: str | None = "first", algorithm: str = "RS256", **claims: Any) -> str:
        now = int(time.time())
        told = {"iss": self.url, "aud": AUDIENCE, "sub": "ada", "groups": ["model-approvers"], "nbf": now - 5, "exp": now + 300, **claims}
        body = {name: value for name, value in told.items() if value is not None}
        secret: Any = {"none": None, "HS256": "a secret that everybody may know"}.get(algorithm, KEYS[key])
        return jwt.encode(body, secret, algorithm=algorithm, headers={"kid": kid} if kid else None)


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    found = Issuer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = found.says.get(self.path)
            self.send_response(200 if body else 404)
            self.end_headers()
            self.wfile.write(json.dumps(body or {}).encode())

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_port}"
    published = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(KEYS["first"].public_key())) | {"kid": "first", "use": "sig"}
    found.says = {
        "/.well-known/openid-configuration": {"issuer": found.url, "jwks_uri": f"{found.url}/keys"},
        "/keys": {"keys": [published]},
        "/other/.well-known/openid-configuration": {"issuer": "https://elsewhere.example", "jwks_uri": f"{found.url}/keys"},
    }
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield found
    server.shutdown()
    server.server_close()


def cloud(issuer: Issuer, token: str | None, **other: Any) -> Settings:
    secret = None if token is None else SecretStr(token)
    return Settings(**{"profile": "cloud", "token": secret, "oidc_issuer": issuer.url, "oidc_audience": AUDIENCE, **other})


@pytest.fixture
def declared(tmp_path: Path) -> Path:
    """The shipped declarations, with two people of their own roles."""
    folder = shutil.copytree(PROJECT_ROOT / "deployments", tmp_path / "deployments", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    roles = folder / "roles.yaml"
    roles.write_text(roles.read_text().replace("principals: {}", "principals: {ada: [viewer], bob: [data-scientist]}"))
    return folder


def test_a_token_gives_its_principal_its_own_roles_and_those_of_its_groups(issuer: Issuer, declared: Path) -> None:
    """The name is a verified claim; groups that are not declared give nothing."""
    token = issuer.token(groups=["model-approvers", "unheard-of"])
    assert who(cloud(issuer, token, deployments=declared)) == Identity("ada", ("approver", "viewer"), "oidc")


def test_the_keys_may_be_named_without_a_discovery_document(issuer: Issuer) -> None:
    """An issuer whose document cannot be reached is told where its keys are."""
    assert who(cloud(issuer, issuer.token(), oidc_jwks_url=f"{issuer.url}/keys")).name == "ada"


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"exp": 1}, "has expired"),
        ({"nbf": 4_000_000_000, "exp": 4_000_000_300}, "does not hold yet"),
        ({"aud": "another"}, "meant for somebody else; expected audience `tradewind`"),
        ({"iss": "https://elsewhere.example"}, "another issuer's"),
        ({"algorithm": "none"}, r"not signed \(`alg: none`\)"),
        ({"algorithm": "HS256"}, "signed by `HS256`"),
        ({"kid": "unknown", "key": "strange"}, "none of the issuer's"),
        ({"kid": None}, "names no key"),
        ({"key": "strange"}, "signature does not hold"),
        ({"exp": None}, "no claim `exp`"),
        ({"nbf": None}, "no claim `nbf`"),
        ({"aud": None}, "no claim `aud`"),
        ({"sub": " "}, "names nobody"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_a_token_that_does_not_hold_is_refused_with_one_message(issuer: Issuer, how: dict[str, Any], told: str) -> None:
    """What is wrong and where, and no part of the token."""
    token = issuer.token(**how)
    with pytest.raises(GuardRefused, match=told) as caught:
        who(cloud(issuer, token))
    assert len(caught.value.problems) == 1
    assert not [part for part in token.split(".") if part and part in str(caught.value)]


@pytest.mark.parametrize("name", ["prefect-ui", "scheduler", "p-0123456789abcdef"])
def test_no_person_takes_the_name_of_a_service_or_an_opaque_id(issuer: Issuer, name: str) -> None:
    """A token that the issuer signed for such a name is refused too, and so is a local claim."""
    for settings in (cloud(issuer, issuer.token(sub=name)), Settings(principal=name)):
        with pytest.raises(UserError, match="the name of no person"):
            who(settings)


@pytest.mark.parametrize("text", ["", ".", "a.b.c", "x" * 5000, "é.é.é"])
def test_what_is_no_token_is_told_as_such(issuer: Issuer, text: str) -> None:
    """Any text gives one message."""
    with pytest.raises(GuardRefused, match="no token that can be read"):
        who(cloud(issuer, text))


def test_an_issuer_that_does_not_answer_is_told_as_such() -> None:
    """Neither the discovery document nor the keys: trying again may help."""
    issuer = Issuer("http://127.0.0.1:9")
    for other in ({}, {"oidc_jwks_url": "http://127.0.0.1:9/keys"}):
        with pytest.raises(Unavailable, match="does not answer with its keys"):
            who(cloud(issuer, issuer.token(), **other))


@pytest.mark.parametrize(("at", "told"), [("/other", "not the discovery document"), ("http://example.org", "no address to trust")])
def test_keys_are_taken_only_from_the_issuer_itself(issuer: Issuer, at: str, told: str) -> None:
    """A document of somebody else, or an address that anyone on the way may change, is a mistake of the settings."""
    address = at if at.startswith("http") else issuer.url + at
    with pytest.raises(UserError, match=told):
        who(cloud(issuer, issuer.token(), oidc_issuer=address))


def test_the_cloud_profile_asks_for_a_token() -> None:
    """No claim stands in for one."""
    with pytest.raises(UserError, match="asks for a token"):
        who(Settings(profile="cloud", principal="ada"))


def test_a_token_without_an_issuer_in_the_settings_is_not_believed(issuer: Issuer) -> None:
    """Nothing says whose word counts."""
    with pytest.raises(UserError, match="nothing says whose"):
        who(Settings(token=SecretStr(issuer.token())))


def test_the_local_user_has_the_roles_of_the_local_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the operating system's word, not by the environment's."""
    import os
    import pwd

    for name in ("USER", "LOGNAME"):
        monkeypatch.setenv(name, "ada")
    found = who(Settings())
    assert (found.name, found.how) == (pwd.getpwuid(os.getuid()).pw_name, "local")
    assert "operator" in found.roles


def test_a_claimed_name_has_what_is_declared_for_it_and_no_more(declared: Path) -> None:
    """Declared names have their own roles, all others none."""
    assert who(Settings(principal="bob", deployments=declared)).roles == ("data-scientist",)
    assert who(Settings(principal="mallory", deployments=declared)).roles == ()


@pytest.mark.parametrize(
    ("roles", "action", "allowed"),
    [
        (("data-scientist",), "run", True),
        (("viewer",), "run", False),
        ((), "run", False),
        (("compliance-officer",), "erase", True),
        (("operator",), "erase", False),
        (("platform-engineer",), "apply", True),
        (("operator",), "apply", False),
        (("operator",), "site", True),
        (("approver",), "review", True),
        (("operator",), "approve", False),
        (("compliance-officer",), "import", True),
        (("operator",), "import", True),
        (("data-scientist",), "import", False),
        (("platform-engineer",), "publish", True),
        (("operator",), "publish", False),
    ],
)
def test_the_rules_decide_what_roles_may_do(roles: tuple[str, ...], action: Action, allowed: bool) -> None:
    """The shipped policies, asked about control."""
    identity = Identity("ada", roles, "local")
    declarations = Declarations.load(Settings())

    def ask() -> None:
        permit(declarations, identity, action, workload="nafld", at=datetime(2026, 1, 5, tzinfo=UTC))

    if allowed:
        ask()
    else:
        with pytest.raises(PolicyDenied, match=f"`ada` may not {action} `nafld`: default-deny"):
            ask()


def test_services_have_the_roles_that_are_declared() -> None:
    """And nobody else is one."""
    assert service(Settings(), "prefect-ui") == Identity("prefect-ui", ("operator",), "service")
    with pytest.raises(UserError, match="`ada` is no service"):
        service(Settings(), "ada")


@pytest.mark.parametrize(
    ("old", "new", "line", "told"),
    [
        ("local: [approver", "local: [aprover", True, "aprover"),
        ("principals: {ada: [viewer]", "principals: {scheduler: [viewer]", False, "is a service and a principal"),
        ("  worker: [operator]\n", "", False, "leaves out `worker`"),
        ("principals: {ada", "principles: {ada", True, "principles"),
    ],
)
def test_a_mistake_in_the_declaration_is_told_with_its_file(declared: Path, old: str, new: str, line: bool, told: str) -> None:
    """A role outside the closed list, a name that is two things, a service that is missing, an unknown key."""
    file = declared / "roles.yaml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(UserError, match=told) as caught:
        who(Settings(deployments=declared))
    (problem, *_) = caught.value.problems
    assert problem.file == str(file)
    if line:
        lines = file.read_text().splitlines()
        assert problem.line is not None and new in lines[problem.line - 1]


def test_the_token_never_shows(issuer: Issuer) -> None:
    """Not in the settings' text, not in what a run is given."""
    from flows.workers.guarded import identity_of

    settings = cloud(issuer, "secret-token")
    assert "secret-token" not in repr(settings)
    for site in ("control", "onprem-fra"):
        assert "secret-token" not in str(identity_of(site, "pool", settings, "http://x").environment)
