"""REST calls that wait for shards."""

from __future__ import annotations

import json
import logging
from collections.abc import Generator
from typing import Any

import pytest

from resonate.api.validation import InvalidError
from resonate.errors import HttpError
from resonate.http import Response
from resonate.messages import Answer, CountConnections, Request
from resonate.server.calls import PATIENCE_S, Calls
from resonate.server.stats import Stats

LOG = logging.getLogger("test")


class Desk:
    """Calls, what they have sent to shards, and what was responded."""

    def __init__(self) -> None:
        self.sent: list[Request] = []
        self.responses: list[Response] = []
        self.calls = Calls(self.sent.append, LOG, Stats())

    def start(self, endpoint: Generator[list[Request], list[Any], Response]) -> None:
        self.calls.start(endpoint, self.responses.append)


def asking(*refs: int) -> Generator[list[Request], list[Any], Response]:
    """Asks once, and responds with the answers in the order in which they are handed to it."""
    answers = yield [CountConnections(ref, "app1") for ref in refs]
    return Response(200, json.dumps(answers).encode())


def failing(error: Exception) -> Generator[list[Request], list[Any], Response]:
    yield [CountConnections(1, "app1")]
    raise error


def test_answers_are_handed_on_in_the_order_of_the_requests() -> None:
    desk = Desk()
    desk.start(asking(1, 2, 3))
    assert desk.sent == [CountConnections(ref, "app1") for ref in (1, 2, 3)]
    for ref in (3, 1):
        desk.calls.answer(Answer(ref, f"answer {ref}"))
    assert desk.responses == []
    desk.calls.answer(Answer(2, "answer 2"))
    assert desk.responses == [Response(200, b'["answer 1", "answer 2", "answer 3"]')]


def test_calls_do_not_mix() -> None:
    desk = Desk()
    desk.start(asking(1, 2))
    desk.start(asking(3))
    for ref in (2, 3, 1):
        desk.calls.answer(Answer(ref, ref))
    assert desk.responses == [Response(200, b"[3]"), Response(200, b"[1, 2]")]


def test_a_shard_may_answer_while_it_is_asked() -> None:
    responses: list[Response] = []
    calls = Calls(lambda request: calls.answer(Answer(request.ref, 7)), LOG, Stats())  # type: ignore[union-attr]
    calls.start(asking(1, 2), responses.append)
    assert responses == [Response(200, b"[7, 7]")]


def test_an_endpoint_may_ask_twice() -> None:
    def twice() -> Generator[list[Request], list[Any], Response]:
        first = yield [CountConnections(1, "app1")]
        second = yield [CountConnections(2, "app1")]
        return Response(200, json.dumps([*first, *second]).encode())

    desk = Desk()
    desk.start(twice())
    desk.calls.answer(Answer(1, "a"))
    desk.calls.answer(Answer(2, "b"))
    assert desk.responses == [Response(200, b'["a", "b"]')]


def test_an_endpoint_that_asks_nobody_is_answered() -> None:
    desk = Desk()
    desk.start(asking())
    assert desk.responses == [Response(200, b"[]")]


@pytest.mark.parametrize(
    ("error", "status", "body"),
    [
        (HttpError(404, "No."), 404, b'{"error":"No."}'),
        (InvalidError({"name": ["Bad."]}), 422, b'{"name":["Bad."]}'),
        (KeyError("x"), 500, b'{"error":"Server error."}'),
    ],
)
def test_what_an_endpoint_raises_is_responded(
    error: Exception, status: int, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk()
    desk.start(failing(error))
    desk.calls.answer(Answer(1, None))
    assert [(response.status, response.body) for response in desk.responses] == [(status, body)]
    assert bool(caplog.records) == (status == 500)


def test_what_several_shards_know_is_put_together() -> None:
    desk = Desk()
    desk.calls = Calls(desk.sent.append, LOG, Stats(), lambda _: 2)
    desk.start(asking(1, 2))
    for answer in (Answer(1, {"a": 1}), Answer(2, [1]), Answer(2, [2]), Answer(1, {"b": 2})):
        assert desk.responses == []
        desk.calls.answer(answer)
    assert desk.responses == [Response(200, b'[{"a": 1, "b": 2}, [1, 2]]')]


def test_a_call_that_no_shard_answers_is_given_up() -> None:
    desk = Desk()
    desk.start(asking(1, 2))
    desk.calls.answer(Answer(1, 1))
    for _ in range(PATIENCE_S):
        desk.calls.tick()
    assert desk.responses == []
    desk.calls.tick()
    assert [response.status for response in desk.responses] == [503]
    desk.calls.answer(Answer(2, 2))  # it comes after all, and disturbs nobody
    assert len(desk.responses) == 1
