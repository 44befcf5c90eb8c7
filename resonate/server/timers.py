"""One coarse timing wheel for all deadlines of a worker: idle, pong, handshake, keep-alive, lingering.

Moving a deadline costs nothing: whoever waits says at its check when the next one is due. Only a deadline that comes
*nearer* has to be told.
"""

from __future__ import annotations

from typing import Protocol


class Waiter(Protocol):
    """Something with deadlines. `check_at` belongs to the wheel: the tick of its next check, 0 for none."""

    check_at: int

    def check(self, now: int) -> int:
        """Act upon deadlines that have passed; return the tick of the next check, or 0 for none."""
        ...


class Wheel:
    """Ticks are whole seconds since the worker began; `now` is the present one."""

    def __init__(self) -> None:
        self.now = 1  # 0 means "no check"
        self._slots: dict[int, set[Waiter]] = {}

    def schedule(self, waiter: Waiter, tick: int) -> None:
        """Check `waiter` at `tick`, or at the next one when that has passed, instead of when it was to be before."""
        self.cancel(waiter)
        waiter.check_at = max(tick, self.now + 1)
        self._slots.setdefault(waiter.check_at, set()).add(waiter)

    def cancel(self, waiter: Waiter) -> None:
        """Check it no more."""
        if waiter.check_at:
            slot = self._slots[waiter.check_at]
            slot.discard(waiter)
            if not slot and waiter.check_at != self.now:
                del self._slots[waiter.check_at]
            waiter.check_at = 0

    def advance(self) -> None:
        """One second has passed."""
        self.now += 1
        due = self._slots.get(self.now)
        while due:  # a check may cancel or put off others of the same tick
            waiter = due.pop()
            waiter.check_at = 0
            following = waiter.check(self.now)
            if following and not waiter.check_at:
                self.schedule(waiter, following)
        self._slots.pop(self.now, None)
