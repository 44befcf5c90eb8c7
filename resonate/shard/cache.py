"""The last events of cache channels, for those who subscribe later. Bounded in bytes and in time."""

from __future__ import annotations

from collections import OrderedDict

#: Payload bytes that one shard keeps; past it the channel that was published to the longest ago is forgotten.
MAX_BYTES = 64 * 1024 * 1024
#: What an entry costs beside its payload, roughly: small events must not make the bound meaningless.
OVERHEAD = 256

Key = tuple[str, str]


class EventCache:
    """Times are seconds of any clock that only goes forward."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max = max_bytes
        self._size = 0
        self._entries: OrderedDict[Key, tuple[bytes, float, int]] = OrderedDict()

    def __contains__(self, key: Key) -> bool:
        return key in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, key: Key, payload: bytes, now: float, keep_s: float, place: int = 0) -> None:
        """Keep `payload` in place of what was kept before.

        An event that is not new has a `place` in the shard's order, below 0 where nobody knows it: it does not replace
        one with a later place.
        """
        if place and key in self._entries and place < self._entries[key][2]:
            return
        self._remove(key)
        self._entries[key] = (payload, now + keep_s, place)
        self._size += len(payload) + OVERHEAD
        while self._size > self._max:
            self._remove(next(iter(self._entries)))

    def get(self, key: Key, now: float) -> bytes | None:
        """The payload, unless its time is over."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if now < entry[1]:
            return entry[0]
        self._remove(key)
        return None

    def items(self, now: float) -> list[tuple[Key, bytes, int, int]]:
        """All that is kept, the oldest first, with the whole seconds that it still has, and its place."""
        return [
            (key, payload, int(until - now), place)
            for key, (payload, until, place) in self._entries.items()
            if until - now >= 1
        ]

    def prune(self, now: float) -> None:
        """Forget what has run out."""
        for key in [key for key, (_, until, _) in self._entries.items() if until <= now]:
            self._remove(key)

    def forget(self, key: Key) -> None:
        """It is not the last event any more."""
        self._remove(key)

    def _remove(self, key: Key) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._size -= len(entry[0]) + OVERHEAD
