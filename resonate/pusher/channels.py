"""What the name of a channel says about it."""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

#: A subscription may name a channel of at most this many characters.
MAX_NAME: Final = 200
#: The channel on which a signed-in user is reached; only that user may be on it.
USER_PREFIX: Final = "#server-to-user-"


class Kind(NamedTuple):
    """The traits of a channel. `private`: a subscription must be signed; presence channels are private ones too."""

    private: bool = False
    presence: bool = False
    cache: bool = False


_KINDS: Final = (
    ("private-cache-", Kind(private=True, cache=True)),
    ("presence-cache-", Kind(private=True, presence=True, cache=True)),
    ("cache", Kind(cache=True)),
    ("private", Kind(private=True)),
    ("presence", Kind(private=True, presence=True)),
)
_PUBLIC: Final = Kind()


@lru_cache(maxsize=4096)
def kind_of(channel: str) -> Kind:
    """The kind by prefix, in Reverb's order; the last three prefixes need no dash (`privateer` is private)."""
    for prefix, kind in _KINDS:
        if channel.startswith(prefix):
            return kind
    return _PUBLIC


def user_channel(user: str) -> str:
    """The channel of a signed-in user (Pusher's send-to-user)."""
    return USER_PREFIX + user
