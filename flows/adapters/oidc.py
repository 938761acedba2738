"""OIDC tokens: verified by the issuer's published keys, or refused with one clear message. OpenID Connect Discovery 1.0, RFC 7519."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from flows.core.errors import GuardRefused, Unavailable, UserError

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Asymmetric ones only: whoever can verify cannot forge."""
REQUIRED = ("exp", "nbf", "iss", "aud")
LEEWAY = timedelta(seconds=30)
"""How far two machines' clocks may differ."""
TIMEOUT_SECONDS = 10.0
LOOPBACK = ("localhost", "127.0.0.1", "::1")
TOKEN = "TRADEWIND_TOKEN"
_AGAIN = "get a new token from the issuer"


def verified(
    token: str, *, issuer: str, audience: str, jwks_url: str | None = None, timeout_seconds: float = TIMEOUT_SECONDS
) -> dict[str, Any]:
    """The claims of a token that the issuer signed for this audience and that holds now.

    Args:
        jwks_url: where the issuer's keys are; left out: where its discovery document says.

    Raises:
        GuardRefused: the token is not signed by the issuer, not for this audience, or does not hold now.
        UserError: an address is no HTTPS address, or the discovery document is not the issuer's.
        Unavailable: the issuer does not answer.
    """
    import jwt

    with _told(issuer, audience):
        header = jwt.get_unverified_header(token)
        algorithm = header.get("alg")
        if algorithm not in ALGORITHMS:
            what = "is not signed (`alg: none`)" if str(algorithm).lower() == "none" else f"is signed by `{algorithm}`"
            raise GuardRefused(f"the token {what}", field=TOKEN, expected=f"one of {', '.join(ALGORITHMS)}", fix=_AGAIN)
        if not header.get("kid"):
            raise GuardRefused("the token names no key (`kid`)", field=TOKEN, fix=_AGAIN)
        address = _secure(jwks_url or _discovered(issuer, timeout_seconds))
        key = jwt.PyJWKClient(address, timeout=timeout_seconds).get_signing_key_from_jwt(token)
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=list(ALGORITHMS),
            audience=audience,
            issuer=issuer,
            leeway=LEEWAY,
            options={"require": list(REQUIRED)},
        )
    return claims


@contextmanager
def _told(issuer: str, audience: str) -> Iterator[None]:
    """Say in our words what PyJWT found; its own text may hold parts of the token."""
    import jwt

    try:
        yield
    except jwt.PyJWKClientConnectionError as error:
        raise _silent(issuer) from error
    except (jwt.PyJWKClientError, jwt.PyJWKSetError, jwt.PyJWKError) as error:
        raise GuardRefused(
            "the token's key (`kid`) is none of the issuer's", field=TOKEN, expected=f"a key that `{issuer}` publishes", fix=_AGAIN
        ) from error
    except jwt.ExpiredSignatureError as error:
        raise GuardRefused("the token has expired", field=TOKEN, fix=_AGAIN) from error
    except jwt.ImmatureSignatureError as error:
        raise GuardRefused("the token does not hold yet", field=TOKEN, fix="compare this machine's clock with the issuer's") from error
    except jwt.InvalidAudienceError as error:
        raise GuardRefused("the token is meant for somebody else", field=TOKEN, expected=f"audience `{audience}`", fix=_AGAIN) from error
    except jwt.InvalidIssuerError as error:
        raise GuardRefused("the token is another issuer's", field=TOKEN, expected=f"issuer `{issuer}`", fix=_AGAIN) from error
    except jwt.MissingRequiredClaimError as error:
        raise GuardRefused(f"the token has no claim `{error.claim}`", field=TOKEN, expected=", ".join(REQUIRED), fix=_AGAIN) from error
    except jwt.InvalidSignatureError as error:
        raise GuardRefused("the token's signature does not hold", field=TOKEN, fix=_AGAIN) from error
    except jwt.PyJWTError as error:
        raise GuardRefused(f"this is no token that can be read: {type(error).__name__}", field=TOKEN, fix=_AGAIN) from error


def _discovered(issuer: str, timeout_seconds: float) -> str:
    """Where the issuer's discovery document says that its keys are."""
    import httpx

    address = f"{_secure(issuer).rstrip('/')}/.well-known/openid-configuration"
    try:
        answer = httpx.get(address, timeout=timeout_seconds)
        answer.raise_for_status()
        document = answer.json()
    except httpx.HTTPError as error:
        raise _silent(issuer) from error
    except ValueError:
        document = None
    if not isinstance(document, Mapping) or document.get("issuer") != issuer or not isinstance(document.get("jwks_uri"), str):
        raise UserError(
            f"`{address}` is not the discovery document of `{issuer}`",
            expected="a JSON object with that very `issuer` and a `jwks_uri`",
            fix="correct TRADEWIND_OIDC_ISSUER, or set TRADEWIND_OIDC_JWKS_URL",
        )
    return str(document["jwks_uri"])


def _secure(address: str) -> str:
    """The address, if what it answers cannot be changed on the way."""
    parts = urlsplit(address)
    if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK):
        return address
    raise UserError(f"`{address}` is no address to trust keys from", expected="an `https://` address")


def _silent(issuer: str) -> Unavailable:
    return Unavailable(
        f"the issuer `{issuer}` does not answer with its keys", fix="check TRADEWIND_OIDC_ISSUER and the network, then try again"
    )
