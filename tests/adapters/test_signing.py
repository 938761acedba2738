"""Signatures: only the holder of the key signs, everybody verifies, and the private key shows nowhere."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from flows.adapters import signing
from flows.adapters.settings import Settings
from flows.core.errors import IntegrityError, UserError

AT = datetime(2026, 1, 5, tzinfo=UTC)


@pytest.fixture
def signer() -> signing.Signer:
    """A signer with a key of its own."""
    return signing.signer(signing.new_key())


def test_an_enrolled_key_verifies_what_it_signed_and_nothing_else(tmp_path: Path, signer: signing.Signer) -> None:
    """One changed byte, another key or an unknown key is no signature."""
    signing.enroll(tmp_path, signer.public_key, at=AT)
    keyring, signature = signing.Keyring.load(tmp_path), signer.sign(b"decision")
    assert keyring.verify(b"decision", signature)
    assert not keyring.verify(b"decisioN", signature)
    stranger = signing.signer(signing.new_key())
    assert not keyring.verify(b"decision", stranger.sign(b"decision"))
    assert not keyring.verify(b"decision", signing.Signature(signer.key_id, stranger.sign(b"decision").value))
    assert not keyring.verify(b"decision", signing.Signature(signer.key_id, "no base64"))


def test_a_key_is_enrolled_once_and_earlier_ones_stay(tmp_path: Path, signer: signing.Signer) -> None:
    """What an earlier key signed stays verifiable after a restart brought a new one."""
    later = signing.signer(signing.new_key())
    assert [signing.enroll(tmp_path, one.public_key, at=AT) for one in (signer, signer, later)] == [True, False, True]
    assert set(signing.Keyring.load(tmp_path).keys) == {signer.key_id, later.key_id}


def test_a_line_that_was_cut_off_is_no_key_and_is_mended(tmp_path: Path, signer: signing.Signer) -> None:
    """A writer that died within its line leaves no half key behind."""
    (tmp_path / signing.KEYS).write_bytes(b'{"key": "12')
    assert signing.Keyring.load(tmp_path).keys == {}
    assert signing.enroll(tmp_path, signer.public_key, at=AT)
    assert set(signing.Keyring.load(tmp_path).keys) == {signer.key_id}


@pytest.mark.parametrize("line", [b"{}\n", b"no json\n", b'{"key": "0123456789abcdef", "public_key": "AAAA"}\n', b"[]\n"])
def test_a_line_that_is_no_key_is_told(tmp_path: Path, line: bytes) -> None:
    """A file of keys that was tampered with is no keyring."""
    (tmp_path / signing.KEYS).write_bytes(line)
    with pytest.raises(IntegrityError, match="no public key"):
        signing.Keyring.load(tmp_path)


@pytest.mark.parametrize("text", ["", "short", "AAAA", "not base64 at all!"])
def test_a_text_that_is_no_key_is_told_without_showing_it(text: str) -> None:
    """The message names the variable, never its value."""
    with pytest.raises(UserError, match=signing.VARIABLE) as told:
        signing.signer(text)
    assert not text or text not in str(told.value)


def test_a_signer_shows_its_id_only(signer: signing.Signer) -> None:
    """Neither the key nor its text is in what a log would print."""
    assert repr(signer) == f"Signer({signer.key_id})"


@pytest.mark.parametrize("found", [None, {}, {"key": 1, "value": "x"}, "text"])
def test_what_is_no_signature_is_told(found: object) -> None:
    """A stored signature has one form."""
    with pytest.raises(IntegrityError, match="no signature"):
        signing.Signature.parse(found)


def test_a_signature_survives_its_json(signer: signing.Signer) -> None:
    """What was stored is what was signed."""
    signature = signer.sign(b"x")
    assert signing.Signature.parse(signature.to_json()) == signature


def test_a_container_verifies_with_the_keys_that_it_was_given(tmp_path: Path, signer: signing.Signer) -> None:
    """Not with those in a folder that it has; given none, it verifies nothing."""
    stranger = signing.signer(signing.new_key())
    signing.enroll(tmp_path / "anchors", stranger.public_key, at=AT)
    signing.enroll(tmp_path / "control", signer.public_key, at=AT)
    text = signing.Keyring.load(tmp_path / "control").text
    given = signing.keyring(Settings(home=tmp_path, public_keys=text))
    assert given.verify(b"ticket", signer.sign(b"ticket"))
    assert not given.verify(b"ticket", stranger.sign(b"ticket"))
    assert signing.keyring(Settings(home=tmp_path, public_keys="")).keys == {}
    assert set(signing.keyring(Settings(home=tmp_path)).keys) == {stranger.key_id}


@pytest.mark.parametrize("text", ["AAAA", "not base64", "AAAA,AAAA"])
def test_given_keys_that_are_none_are_told(tmp_path: Path, text: str) -> None:
    """Rather than verifying with what is left of them."""
    with pytest.raises(IntegrityError, match="no public keys"):
        signing.keyring(Settings(home=tmp_path, public_keys=text))
