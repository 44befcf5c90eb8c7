"""Entries on their way to the store, in order; kept while it is away, within bounds."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final

from resonate.shard.cluster.store import Append
from resonate.shard.cluster.waiting import Signal

#: Entries that are ordered and not answered: the others wait here.
WINDOW: Final = 1_000
#: What an entry counts for beside its bytes.
OVERHEAD: Final = 256


class _Entry:
    __slots__ = ("appended", "entry", "keep_s", "log", "payload", "since", "size")

    def __init__(self, log: str, entry: bytes, payload: bytes, keep_s: int, now: float) -> None:
        self.log = log
        self.entry = entry
        self.payload = payload
        self.keep_s = keep_s
        self.since = now
        self.size = len(entry) + OVERHEAD
        self.appended = Signal()


class Appends:
    """`most_bytes` and `most_seconds` bound what waits while the store is away; past them the oldest is dropped."""

    def __init__(self, most_bytes: int, most_seconds: float) -> None:
        self._most_bytes = most_bytes
        self._most_seconds = most_seconds
        self._waiting: deque[_Entry] = deque()
        self._ordered: dict[int, _Entry] = {}
        self.bytes = 0
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._waiting) + len(self._ordered)

    def add(self, log: str, entry: bytes, payload: bytes, keep_s: int, now: float) -> Signal:
        """To be appended; what happens when that is done. `payload` is the event to be kept if `keep_s` says so."""
        added = _Entry(log, entry, payload, keep_s, now)
        self._waiting.append(added)
        self.bytes += added.size
        return added.appended

    def orders(self, refs: Iterator[int]) -> list[Append]:
        """What is to be ordered now."""
        found = []
        while self._waiting and len(self._ordered) < WINDOW:
            entry = self._waiting.popleft()
            ref = next(refs)
            self._ordered[ref] = entry
            payload = entry.payload if entry.keep_s else b""
            found.append(Append(ref, entry.log, entry.entry, payload, entry.keep_s))
        return found

    def answered(self, ref: int, position: int | None) -> bool:
        """Whether that was the answer to one of them; it is done then. Those about two logs come in any order."""
        entry = self._ordered.pop(ref, None)
        if entry is None:
            return False
        self.bytes -= entry.size
        entry.appended.fire(position)
        return True

    def lost(self) -> None:
        """Nobody knows which of those that were ordered are done: all are ordered again."""
        self._waiting.extendleft(reversed(self._ordered.values()))
        self._ordered.clear()

    def bound(self, now: float) -> int:
        """While the store is away: drop what is too much or too old. How many have been."""
        before = self.dropped
        while self._waiting and (self.bytes > self._most_bytes or now - self._waiting[0].since > self._most_seconds):
            self.bytes -= self._waiting.popleft().size
            self.dropped += 1
        return self.dropped - before
