"""Following one log: from where, how far, and without a gap after the store was away."""

from __future__ import annotations

from enum import Enum, auto
from typing import Final, NamedTuple

from resonate.shard.cluster.store import PAGE, Page

#: Entries that are kept while the log is read. With more it is read once more from there: they are in it.
BUFFERED: Final = 2_000
#: How long before its position a successor begins to read, in milliseconds: what comes once more must be known again.
LOOK_BACK_MS: Final = 10_000
#: Positions of one millisecond: the store's clock makes them.
PER_MS: Final = 1 << 16

Numbered = tuple[int, bytes]


class State(Enum):
    """ABSENT: the log is not followed. FOLLOWING: that has been ordered. READING: what was before is being read."""

    ABSENT = auto()
    FOLLOWING = auto()
    READING = auto()
    LIVE = auto()


class Step(NamedTuple):
    """What a page leads to: entries that have been applied before, entries to apply, and from where to read on.

    `after` is None when the log has been read; `gap`: entries may have been lost before these.
    """

    known: list[Numbered]
    fresh: list[Numbered]
    after: int | None
    gap: bool


class Feed:
    """`position` is that of the last entry that has been applied, None while there is none to go on from."""

    __slots__ = ("_began", "_buffer", "_first", "_guessed", "_overflown", "broken", "log", "position", "state")

    def __init__(self, log: str, position: int | None = None) -> None:
        self.log = log
        self.position = position
        self._guessed = False
        self.broken = False  # whether what it was read from may not be what it had been followed in
        self.state = State.ABSENT
        self._buffer: list[Numbered] = []
        self._began = 0  # where the reading did
        self._overflown = False
        self._first = True  # whether the next page is the first of a reading

    def guess(self, position: int) -> None:
        """There most likely it was when somebody began to listen, for who has no position."""
        if self.position is None:
            self.position, self._guessed = position, True

    def begin(self) -> None:
        """It is to be followed. If it was before, what comes meanwhile is kept: the store may lose it unread."""
        self.state = State.FOLLOWING

    def lost(self) -> None:
        """Nothing of it comes any more."""
        self.state, self._overflown = State.ABSENT, False
        self._buffer.clear()

    def followed(self) -> int | None:
        """Each entry comes from now on; from where to read what was before. None: only how it stands.

        The entry at the position is read too: if it is not there any more, others behind it may be gone as well.
        """
        self.state, self._first, self._began = State.READING, True, self.position or 0
        return None if self.position is None else max(0, self.position - 1)

    def look_back(self) -> int:
        """From where to read instead, for who has a position and knows nothing of what was before it."""
        return max(0, (self.position or 0) - LOOK_BACK_MS * PER_MS)

    def entry(self, position: int, data: bytes) -> list[Numbered]:
        """One has come; what is to be applied."""
        if self.state is State.LIVE and position > (self.position or 0):  # else it has been read, and was told later
            self.position = position
            return [(position, data)]
        if self.state in (State.FOLLOWING, State.READING):
            if len(self._buffer) < BUFFERED:
                self._buffer.append((position, data))
            else:
                self._overflown = True
        return []

    def read(self, page: Page) -> Step:
        """A page of what was before."""
        first, self._first = self._first, False
        if self.position is None:  # nobody has heard anything: what was before is nobody's concern
            self.position = self._began = page.last
            if self._overflown:
                return self._once_more(page.last)
            return Step([], self._caught_up(page.last), None, False)
        guessed, self._guessed = self._guessed, False
        if first:
            self.broken = page.last < self.position and not guessed  # its data is lost, or what a node had not told
        if first and self.broken:
            self.position = 0
            if page.last:
                return Step([], [], 0, True)
        gap = first and not guessed and bool(page.entries) and page.entries[0][0] > self.position > 0
        self.broken |= gap
        known = [each for each in page.entries if each[0] <= self.position]
        fresh = page.entries[len(known) :]
        self._has_read(fresh)
        if guessed:
            self.position = min(self.position, page.last)
        if page.entries:
            self.position = max(self.position, page.entries[-1][0])
        if len(page.entries) >= PAGE or self._overflown:
            if len(page.entries) < PAGE:
                self._overflown = False
                self._buffer.clear()
            return Step(known, fresh, page.entries[-1][0] if page.entries else self.position, gap)
        last = max(self.position, page.last)
        return Step(known, sorted(fresh + self._forgotten(last)) + self._caught_up(last), None, gap)

    def _once_more(self, after: int) -> Step:
        """More has come than is kept: it is in the log."""
        self._overflown = False
        self._buffer.clear()
        return Step([], [], after, False)

    def _has_read(self, entries: list[Numbered]) -> None:
        if self._buffer and entries:
            read = {position for position, _ in entries}
            self._buffer = [each for each in self._buffer if each[0] not in read]

    def _forgotten(self, last: int) -> list[Numbered]:
        """What has come before the store lost it."""
        return [each for each in self._buffer if self._began < each[0] <= last]

    def _caught_up(self, last: int) -> list[Numbered]:
        """What has come meanwhile and was not read."""
        fresh = [each for each in self._buffer if each[0] > last]
        self._buffer.clear()
        self.state = State.LIVE
        if fresh:
            self.position = fresh[-1][0]
        return fresh
