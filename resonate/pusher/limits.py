"""The message rate of one client, as Laravel's RateLimiter counts it: a fixed window that its first message opens."""

from __future__ import annotations

from resonate.settings import RateLimiting


class RateWindow:
    """Counts messages. Times are seconds of any clock that only goes forward."""

    __slots__ = ("_count", "_ends", "_rule")

    def __init__(self, rule: RateLimiting) -> None:
        self._rule = rule
        self._ends = 0.0
        self._count = 0

    def snapshot(self, now: float) -> list[float]:
        """Seconds that are left of the window, below 0 when it has ended, and what has been counted in it. No time is
        among them: clocks differ between processes.
        """
        return [self._ends - now, self._count]

    @classmethod
    def restore(cls, rule: RateLimiting, snapshot: list[float], now: float) -> RateWindow:
        """Go on with a window that another has opened; by a shorter rule it ends sooner. Raises `UNFIT`."""
        made = cls(rule)
        left, count = snapshot
        made._ends, made._count = now + min(left, rule.decay_seconds), int(count)
        return made

    def admits(self, now: float) -> bool:
        """Count one message; False when it is one too many in its window."""
        if now >= self._ends:
            self._ends = now + self._rule.decay_seconds
            self._count = 0
        self._count += 1
        return self._count <= self._rule.max_attempts
