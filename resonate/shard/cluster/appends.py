"""Entries on their way to the store, in order; kept while it is away, within bounds."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Final

from resonate.shard.cluster.entries import Expelled, Published
from resonate.shard.cluster.store import Append
from resonate.shard.cluster.waiting import Signal

#: Entries that are ordered and not answered: the others wait here.
WINDOW: Final = 1_000
#: What an entry counts for beside its bytes.
OVERHEAD: Final = 256


#: An entry is known by its log, its origin and its number.
Echo = tuple[str, str, int]


class _Entry:
    __slots__ = ("answered", "appended", "data", "heard", "log", "position", "published", "ref", "since", "size")

    def __init__(self, log: str, published: Published | Expelled, data: bytes, now: float) -> None:
        self.log = log
        self.published = published
        self.data = data
        self.since = now
        self.size = len(data) + OVERHEAD
        self.appended = Signal()
        self.position = 0
        self.ref = 0
        self.answered = False
        self.heard = False

    @property
    def echo(self) -> Echo:
        return self.log, self.published.origin, self.published.seq

    def order(self) -> Append:
        keep_s = self.published.keep_s if isinstance(self.published, Published) else 0
        cached = self.published.payload if isinstance(self.published, Published) and keep_s else b""
        return Append(self.ref, self.log, self.data, cached, keep_s)


class Appends:
    """`most_bytes` and `most_seconds` bound what waits while the store is away; past them the oldest is dropped.

    Where this host follows the log, an entry is done with when it has come back: until then it may be lost with a store
    that dies, and is appended again.
    """

    def __init__(self, most_bytes: int, most_seconds: float) -> None:
        self._most_bytes = most_bytes
        self._most_seconds = most_seconds
        self._waiting: deque[_Entry] = deque()
        self.delayed: Counter[str] = Counter()  # how many of those there are by log; perhaps they are delivered here
        self._ordered: dict[int, _Entry] = {}
        self._expected: dict[str, dict[Echo, _Entry]] = {}  # those, and others that are to come back, by log
        self.bytes = 0
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._waiting) + sum(map(len, self._expected.values()))

    def add(self, log: str, published: Published | Expelled, data: bytes, now: float) -> Signal:
        """To be appended, `data` are its bytes; what happens when that is done."""
        added = _Entry(log, published, data, now)
        self._waiting.append(added)
        self.delayed[log] += 1
        self.bytes += added.size
        return added.appended

    def orders(self, refs: Iterator[int]) -> list[Append]:
        """What is to be ordered now."""
        found = []
        while self._waiting and len(self._ordered) < WINDOW:
            entry = self._next()
            ref = next(refs)
            entry.ref = ref
            self._ordered[ref] = self._expected.setdefault(entry.log, {})[entry.echo] = entry
            found.append(entry.order())
        return found

    def _next(self) -> _Entry:
        entry = self._waiting.popleft()
        self.delayed[entry.log] -= 1
        if not self.delayed[entry.log]:
            del self.delayed[entry.log]
        return entry

    def answered(self, ref: int, position: int | None, will_hear: Callable[[str, int], bool]) -> bool:
        """Whether that was the answer to one of them. Those about two logs come in any order.

        `will_hear`: whether an entry of that log, at that position, is going to come back.
        """
        entry = self._ordered.pop(ref, None)
        if entry is None:
            return False
        entry.position, entry.answered = position or 0, True
        if entry.heard or not will_hear(entry.log, entry.position):
            self._forget(entry)
        entry.appended.fire(position)
        return True

    def heard(self, echo: Echo) -> None:
        """One has come back, perhaps before its answer."""
        entry = self._expected.get(echo[0], {}).get(echo)
        if entry is not None:
            entry.heard = True
            if entry.answered:
                self._forget(entry)

    def passed(self, log: str, position: int | None = None) -> None:
        """That log has been read up to there, or is not followed any more: nothing before it will come back."""
        for entry in list(self._expected.get(log, {}).values()):
            if entry.answered and (position is None or entry.position <= position):
                self._forget(entry)

    def _forget(self, entry: _Entry) -> None:
        expected = self._expected[entry.log]
        del expected[entry.echo]
        if not expected:
            del self._expected[entry.log]
        self.bytes -= entry.size

    def lost(self) -> list[tuple[str, Published | Expelled]]:
        """Nobody knows which of those that were ordered are done: all are ordered again.

        Returns those that were said to be done, and have not come back: nobody may have heard of them.
        """
        expected = sorted(chain.from_iterable(map(dict.values, self._expected.values())), key=lambda entry: entry.ref)
        self._expected.clear()
        self._ordered.clear()
        said = [(entry.log, entry.published) for entry in expected if entry.answered]
        for entry in reversed(expected):
            if entry.heard:  # so have others
                self.bytes -= entry.size
            else:
                entry.answered = False
                self._waiting.appendleft(entry)
                self.delayed[entry.log] += 1
        return said

    def bound(self, now: float) -> int:
        """While the store is away: drop what is too much or too old. How many have been."""
        before = self.dropped
        while self._waiting and (self.bytes > self._most_bytes or now - self._waiting[0].since > self._most_seconds):
            self.bytes -= self._next().size
            self.dropped += 1
        return self.dropped - before
