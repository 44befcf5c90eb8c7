"""Kinds of channels by prefix (wire.md, *Channels*)."""

from __future__ import annotations

import pytest

from resonate.pusher import Kind, kind_of, user_channel

PUBLIC, PRIVATE, PRESENCE = Kind(), Kind(private=True), Kind(private=True, presence=True)


@pytest.mark.parametrize(
    ("channel", "kind"),
    [
        ("private-cache-x", Kind(private=True, cache=True)),
        ("presence-cache-x", Kind(private=True, presence=True, cache=True)),
        ("private-cache-", Kind(private=True, cache=True)),
        ("private-cachex", PRIVATE),
        ("presence-cachex", PRESENCE),
        ("cache-x", Kind(cache=True)),
        ("cache", Kind(cache=True)),
        ("cachet", Kind(cache=True)),
        ("private-x", PRIVATE),
        ("private", PRIVATE),
        ("privateer", PRIVATE),
        ("private-encrypted-x", PRIVATE),
        ("presence-x", PRESENCE),
        ("presence", PRESENCE),
        ("presences", PRESENCE),
        ("news", PUBLIC),
        ("Private-x", PUBLIC),
        (" private-x", PUBLIC),
        ("my-private-x", PUBLIC),
        ("#server-to-user-7", PUBLIC),
        ("", PUBLIC),
    ],
)
def test_kind(channel: str, kind: Kind) -> None:
    assert kind_of(channel) == kind


def test_channel_of_a_user() -> None:
    assert user_channel("7") == "#server-to-user-7"
