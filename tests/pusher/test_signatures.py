"""Signatures: Pusher's published examples, and what is compared of an `auth` value."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resonate.pusher import signatures

#: The credentials of the examples in Pusher's documentation of channel authorisation.
SECRET = b"7ad3773142a6692b25b8"
PRIVATE = "58df8b0c36d6982b82c3ecf6b4662e34fe8c25bba48f5369f135bf843651c3a4"
PRESENCE = "31935e7d86dba64c2a90aed31fdc61869f9b22ba9d8863bba239c03ca481bc80"
CHANNEL_DATA = '{"user_id":10,"user_info":{"name":"Mr. Channels"}}'


def test_documented_private_channel() -> None:
    text = signatures.subscription_text("1234.1234", "private-foobar", None)
    assert text == "1234.1234:private-foobar"
    assert signatures.sign(SECRET, text) == PRIVATE


def test_documented_presence_channel() -> None:
    text = signatures.subscription_text("1234.1234", "presence-foobar", CHANNEL_DATA)
    assert text == f"1234.1234:presence-foobar:{CHANNEL_DATA}"
    assert signatures.sign(SECRET, text) == PRESENCE


def test_signin_text() -> None:
    assert signatures.signin_text("1234.1234", '{"id":"7"}') == '1234.1234::user::{"id":"7"}'


@pytest.mark.parametrize(
    ("auth", "signature"),
    [("key:abc", "abc"), ("abc", "abc"), (":abc", "abc"), ("key:a:b", "a:b"), ("key:", ""), ("", "")],
)
def test_what_follows_the_first_colon_is_compared(auth: str, signature: str) -> None:
    assert signatures.of_auth(auth) == signature


@given(text=st.text(st.characters(exclude_categories=["Cs"])), other=st.text(st.characters(exclude_categories=["Cs"])))
def test_only_the_signature_matches(text: str, other: str) -> None:
    signature = signatures.sign(SECRET, text)
    assert signatures.matches(SECRET, text, signature)
    assert not signatures.matches(SECRET, text, other)
    assert not signatures.matches(SECRET, text, signature.upper() + "Z")
    assert signatures.matches(SECRET, other, signature) == (text == other)


@pytest.mark.parametrize("length", range(0, 64, 7))
def test_a_prefix_does_not_match(length: int) -> None:
    assert not signatures.matches(SECRET, "1234.1234:private-foobar", PRIVATE[:length])


def test_md5_of_a_body() -> None:
    assert signatures.body_md5(b"") == "d41d8cd98f00b204e9800998ecf8427e"
    body = b'{"name":"foo","channels":["project-3"],"data":"{\\"some\\":\\"data\\"}"}'
    assert signatures.body_md5(body) == "ec365a775a4cd0599faeb73354201b6f"  # Pusher's documented example
