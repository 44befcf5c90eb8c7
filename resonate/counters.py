"""Snapshots of what processes count, and how those of several are added up.

A snapshot is a dict: a counter is a number, a dict of numbers by label, or a list of numbers.
A worker makes one each second, a shard when it is asked.
"""

from __future__ import annotations

from itertools import zip_longest
from typing import Any, Final

Snapshot = dict[str, Any]

#: What only grows, and is counted where it happens. The rest of a snapshot is true of its moment or of its process, and
#: means nothing when that has gone.
COUNTERS: Final = (
    # of a worker
    "messages_received",
    "messages_sent",
    "deliveries",
    "publishes",
    "errors",
    "http_requests",
    "slow_consumers",
    "handed_over",
    "drained",
    "rest_latency",
    "rest_latency_sum_s",
    # of a shard
    "requests",
    "frames_in",
    "frames_out",
    "scaling",
    # of both
    "undecodable",
)


def add(total: Snapshot, snapshot: Snapshot) -> Snapshot:
    """The counters of both, and nothing else: what remains of a process that has gone. Neither is changed."""
    return {name: _sum(total.get(name), snapshot.get(name)) for name in COUNTERS if name in total or name in snapshot}


def _sum(left: Any, right: Any) -> Any:
    if left is None or right is None:
        return right if left is None else left
    if type(left) is not type(right):
        return left  # one of them is of a broken process
    if isinstance(left, dict):
        return {label: _sum(left.get(label), right.get(label)) for label in left | right}
    if isinstance(left, list):
        return [_sum(one, other) for one, other in zip_longest(left, right)]
    return left + right
