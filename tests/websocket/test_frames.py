"""The corpus of frames, each row fed whole and in pieces: how TCP cuts a stream must not be seen."""

from __future__ import annotations

from time import process_time

import pytest

from resonate.websocket import Close, Event, Fail, Message, WebSocket
from tests.support.client import frame
from tests.websocket.corpus import CASES, LARGE, MIB, Case, Large


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def acted_upon(limit: int, received: list[bytes]) -> list[Event]:
    """What a connection acts upon: it stops at a close frame or a failure. The wording of failures is free."""
    websocket, events = WebSocket(limit), list[Event]()
    for data in received:
        for event in websocket.receive(data):
            events.append(Fail(event.code, "") if isinstance(event, Fail) else event)
            if isinstance(event, Close | Fail):
                return events
    return events


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_frames(case: Case) -> None:
    assert acted_upon(case.limit, [case.sent]) == case.events
    assert acted_upon(case.limit, pieces(case.sent, 1)) == case.events


def test_every_row_has_a_name_of_its_own() -> None:
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("large", LARGE, ids=str)
def test_large_messages(large: Large) -> None:
    frames, expected = large.frames(), [Message(large.data())]
    assert acted_upon(large.size, [frames]) == expected
    assert acted_upon(large.size, pieces(frames, large.chop)) == expected


def test_a_message_in_chops_costs_time_in_proportion_to_its_length() -> None:
    """8 MiB in pieces as a network brings them. A buffer that is copied at each one holds up a worker for seconds."""
    chops = pieces(frame(b"x" * 8 * MIB), 1000)
    begun = process_time()
    assert acted_upon(8 * MIB, chops) == [Message(b"x" * 8 * MIB)]
    assert process_time() - begun < 1.0


def test_payload_over_what_is_read_is_not_waited_for() -> None:
    """1009 comes with the head of the frame, when not a byte of its payload has been read."""
    head = frame(b"x" * 161)[:4]
    assert [event.code for event in WebSocket(10).receive(head) if isinstance(event, Fail)] == [1009]
