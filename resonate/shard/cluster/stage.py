"""Requests on their way to the shard: each worker's in order, and none before what it waits for has come."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from resonate.messages import Request
from resonate.shard.cluster.waiting import Task


class Ticket:
    """A request, and the task that it waits for. What has been claimed for it is given back by `release`."""

    __slots__ = ("release", "request", "seq", "task", "worker")

    def __init__(self, worker: str, seq: int, request: Request) -> None:
        self.worker = worker
        self.seq = seq
        self.request = request
        self.task: Task[Any] | None = None
        self.release: Callable[[bool], None] | None = None  # told whether the request has been handled

    @property
    def ready(self) -> bool:
        """Whether it may be handled."""
        return self.task is None or self.task.done

    def drop(self) -> None:
        """It will not be handled: its worker has gone."""
        if self.task is not None:
            self.task.drop()
        self.settle(False)

    def settle(self, handled: bool) -> None:
        """It has been handled, or will not be."""
        release, self.release = self.release, None
        if release is not None:
            release(handled)


class Stage:
    """The tickets of all workers, until their requests have been handled."""

    def __init__(self) -> None:
        self._waiting: dict[str, deque[Ticket]] = {}
        self._tickets: dict[tuple[str, int], Ticket] = {}

    def add(self, ticket: Ticket, queued: bool = True) -> None:
        """Take one in. One that is not `queued` is handled at a time that others decide."""
        self._tickets[ticket.worker, ticket.seq] = ticket
        if queued:
            self._waiting.setdefault(ticket.worker, deque()).append(ticket)

    def unfinished(self) -> list[Ticket]:
        """Those that wait for something."""
        return [ticket for ticket in self._tickets.values() if not ticket.ready]

    def ready(self) -> Iterator[tuple[str, int, Sequence[Request]]]:
        """What may be handled now, as (worker, number of the first, requests), in each worker's order."""
        for worker, queue in self._waiting.items():
            found: list[Ticket] = []
            while queue and queue[0].ready:
                found.append(queue.popleft())
            if found:
                yield worker, found[0].seq, [ticket.request for ticket in found]
        self._waiting = {worker: queue for worker, queue in self._waiting.items() if queue}

    def outcome(self, worker: str, seq: int) -> Any:
        """What a request has waited for."""
        ticket = self._tickets.get((worker, seq))
        return ticket.task.value if ticket is not None and ticket.task is not None else None

    def handled(self, worker: str, seq: int) -> None:
        """A request has been handled."""
        ticket = self._tickets.pop((worker, seq), None)
        if ticket is not None:
            ticket.settle(True)

    def gone(self, worker: str) -> None:
        """That worker has gone: what it wanted is not wanted."""
        self._waiting.pop(worker, None)
        for key in [key for key in self._tickets if key[0] == worker]:
            self._tickets.pop(key).drop()
