"""What one worker counts.

On the hot path an attribute is incremented, and nothing else is done. Once a second a snapshot is taken of all of it;
what the numbers are called outside is said in metrics.py.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from math import inf
from typing import Final, Literal, get_args

from resonate.counters import Snapshot

#: Upper bounds of the latency histogram, in seconds; what took longer is counted behind the last one.
BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

#: Why connections change their worker: theirs goes, or has more than others.
Reason = Literal["balance", "retirement"]

#: Seconds between two ticks, and how many ticks are looked back upon: who scrapes every 15 s misses nothing.
TICK_S: Final = 1.0
LAGS: Final = 15


class Stats:
    """One per worker; whoever has something to count increments the attribute."""

    __slots__ = (
        "_due",
        "_lags",
        "client_publishes",
        "deliveries",
        "drained",
        "errors",
        "handed_over",
        "messages_received",
        "messages_sent",
        "responses",
        "rest_latency",
        "rest_latency_sum_s",
        "rest_publishes",
        "slow_consumers",
    )

    def __init__(self) -> None:
        self.messages_received = 0  # from clients
        self.messages_sent = 0  # to clients; broadcasts are deliveries
        self.deliveries = 0
        self.client_publishes = 0
        self.rest_publishes = 0
        self.slow_consumers = 0
        self.handed_over: dict[Reason, int] = dict.fromkeys(get_args(Reason), 0)  # to other workers
        self.drained = 0  # WebSockets sent away one after another
        self.errors: Counter[int] = Counter()  # pusher:error events by code
        self.responses = [0] * 600  # of HTTP, by status: a list is faster than a dict
        self.rest_latency = [0] * (len(BUCKETS_S) + 1)  # not cumulative
        self.rest_latency_sum_s = 0.0
        self._lags = deque((0.0,), maxlen=LAGS)  # how late the last ticks were, in seconds
        self._due = inf  # when the next tick should come

    def answered(self, status: int, took_s: float) -> None:
        """A REST request has been answered, that long after it was read."""
        self.responses[status] += 1
        self.rest_latency[bisect_left(BUCKETS_S, took_s)] += 1
        self.rest_latency_sum_s += took_s

    def tick(self, now: float) -> None:
        """To be called by a timer of the loop each second; `now` is monotonic. How late it comes is the loop's lag.

        libev keeps to the timetable, unless it is a whole period behind: then it goes on from there. A tick that comes
        early shows that the timetable was thought too late.
        """
        self._lags.append(max(0.0, now - self._due))
        self._due = max(min(self._due, now) + TICK_S, now)

    def snapshot(self, transports: int) -> Snapshot:
        """All counters, as JSON can carry them, and what is true now; `transports` is the number of open ones."""
        return {
            "messages_received": self.messages_received,
            "messages_sent": self.messages_sent,
            "deliveries": self.deliveries,
            "publishes": {"rest": self.rest_publishes, "client": self.client_publishes},
            "errors": {str(code): count for code, count in self.errors.items()},
            "http_requests": {str(status): count for status, count in enumerate(self.responses) if count},
            "slow_consumers": self.slow_consumers,
            "handed_over": self.handed_over.copy(),
            "drained": self.drained,
            "rest_latency": self.rest_latency.copy(),
            "rest_latency_sum_s": self.rest_latency_sum_s,
            "transports": transports,
            "loop_lag_s": max(self._lags),
        }
