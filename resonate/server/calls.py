"""REST calls that wait for shards: runs endpoints, collects the answers they ask for."""

from __future__ import annotations

from collections.abc import Callable
from logging import Logger
from typing import Any, Final

from resonate.api import Endpoint
from resonate.errors import HttpError
from resonate.http import Response, error_response
from resonate.messages import Publish, Question, Reply
from resonate.server.stats import Stats

Respond = Callable[[Response], None]

#: Seconds after which a call that no shard has answered is answered in its place.
PATIENCE_S: Final = 10

_FAILED = error_response(HttpError(500, "Server error."))
#: What is answered where no shard answers.
AWAY: Final = error_response(
    HttpError(
        503,
        "The shards do not answer. What was to be published may still be.",
        headers=(("Retry-After", "1"),),
    )
)


class _Running:
    """An endpoint that has asked: the answers so far, in the order of its requests, and how many are missing."""

    __slots__ = ("answers", "endpoint", "missing", "refs", "respond", "since")

    def __init__(self, endpoint: Endpoint, respond: Respond) -> None:
        self.endpoint = endpoint
        self.respond = respond
        self.refs: list[int] = []
        self.answers: list[Any] = []
        self.missing = 0
        self.since = 0


class Calls:
    """`send` takes a request to its shards, `answers` says how many of them will answer it; `stats` counts events."""

    def __init__(
        self,
        send: Callable[[Question], None],
        log: Logger,
        stats: Stats,
        answers: Callable[[Question], int] = lambda _: 1,
    ) -> None:
        self._stats = stats
        self._send = send
        self._log = log
        self._answers = answers
        self._now = 0
        self._waiting: dict[int, tuple[_Running, int]] = {}

    def start(self, endpoint: Endpoint, respond: Respond) -> None:
        """Run it; `respond` is called once, at once or when the last answer has come."""
        self._advance(_Running(endpoint, respond), None)

    def answer(self, answer: Reply) -> None:
        """A shard has answered. What several shards know is put together: of dicts the union, of lists the sum."""
        waiting = self._waiting.get(answer.ref)
        if waiting is None:
            return  # it has been given up
        running, index = waiting
        before, value = running.answers[index], answer.value
        if before is not None:
            value = before | value if isinstance(value, dict) else before + value
        running.answers[index] = value
        running.missing -= 1
        if not running.missing:
            self._forget(running)
            self._advance(running, running.answers)

    def tick(self) -> None:
        """A second has passed: give up what has waited too long."""
        self._now += 1
        late = {running for running, _ in self._waiting.values() if self._now - running.since > PATIENCE_S}
        for running in late:
            self._forget(running)
            running.endpoint.close()
            running.respond(AWAY)

    def _forget(self, running: _Running) -> None:
        for ref in running.refs:
            del self._waiting[ref]

    def _advance(self, running: _Running, answers: list[Any] | None) -> None:
        try:
            requests = next(running.endpoint) if answers is None else running.endpoint.send(answers)
        except StopIteration as end:
            running.respond(end.value)
        except HttpError as error:
            running.respond(error_response(error))
        except Exception:
            self._log.exception("a REST endpoint failed")
            running.respond(_FAILED)
        else:
            self._ask(running, requests)

    def _ask(self, running: _Running, requests: list[Question]) -> None:
        if not requests:
            self._advance(running, [])
            return
        running.since = self._now
        running.answers = [None] * len(requests)
        running.refs = [request.ref for request in requests]
        running.missing = sum(map(self._answers, requests))
        for index, ref in enumerate(running.refs):
            self._waiting[ref] = (running, index)
        for request in requests:
            if type(request) is Publish:
                self._stats.rest_publishes += 1
            self._send(request)
