"""HMAC-SHA256 signatures of the Pusher protocol: of subscriptions, of sign-ins and of REST requests."""

from __future__ import annotations

import hmac
from hashlib import md5


def sign(secret: bytes, text: str) -> str:
    """The signature in lower-case hexadecimal."""
    return hmac.digest(secret, text.encode(), "sha256").hex()


def matches(secret: bytes, text: str, signature: str) -> bool:
    """Whether `signature` signs `text`; takes the same time wherever they differ."""
    return hmac.compare_digest(sign(secret, text).encode(), signature.encode())


def of_auth(auth: str) -> str:
    """The signature in an `auth` value `key:signature`; Reverb reads what follows the first colon, or all of it."""
    _, colon, signature = auth.partition(":")
    return signature if colon else auth


def subscription_text(socket_id: str, channel: str, channel_data: str | None) -> str:
    """What a back end signs for a private or presence channel."""
    return f"{socket_id}:{channel}:{channel_data}" if channel_data else f"{socket_id}:{channel}"


def signin_text(socket_id: str, user_data: str) -> str:
    """What a back end signs for `pusher:signin`."""
    return f"{socket_id}::user::{user_data}"


def body_md5(body: bytes) -> str:
    """The MD5 that a REST request carries of its body: a checksum inside the signed text, not a secret."""
    return md5(body, usedforsecurity=False).hexdigest()
