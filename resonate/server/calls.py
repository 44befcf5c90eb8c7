"""REST calls that wait for shards: runs endpoints, collects the answers they ask for."""

from __future__ import annotations

from collections.abc import Callable
from logging import Logger
from typing import Any

from resonate.api import Endpoint
from resonate.errors import HttpError
from resonate.http import Response, error_response
from resonate.messages import Answer, Question

Respond = Callable[[Response], None]

_FAILED = error_response(HttpError(500, "Server error."))


class _Running:
    """An endpoint that has asked: the answers so far, in the order of its requests."""

    __slots__ = ("answers", "endpoint", "missing", "respond")

    def __init__(self, endpoint: Endpoint, respond: Respond) -> None:
        self.endpoint = endpoint
        self.respond = respond
        self.answers: list[Any] = []
        self.missing = 0


class Calls:
    """`send` takes a request to the shard that is its home."""

    def __init__(self, send: Callable[[Question], None], log: Logger) -> None:
        self._send = send
        self._log = log
        self._waiting: dict[int, tuple[_Running, int]] = {}

    def start(self, endpoint: Endpoint, respond: Respond) -> None:
        """Run it; `respond` is called once, at once or when the last answer has come."""
        self._advance(_Running(endpoint, respond), None)

    def answer(self, answer: Answer) -> None:
        """A shard has answered."""
        running, index = self._waiting.pop(answer.ref)
        running.answers[index] = answer.value
        running.missing -= 1
        if not running.missing:
            self._advance(running, running.answers)

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
        running.missing = len(requests)
        running.answers = [None] * len(requests)
        for index, request in enumerate(requests):
            self._waiting[request.ref] = (running, index)
        for request in requests:
            self._send(request)
