"""What two masters say to each other, and what it takes to cut them off."""

from __future__ import annotations

import logging
import selectors
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from resonate.supervisor.wire import MOST_UNSENT, Wire


class End:
    """One of two masters, and what it has heard."""

    def __init__(self, sock: socket.socket) -> None:
        self.selector = selectors.PollSelector()
        self.heard: list[dict[str, Any]] = []
        self.ends = 0
        self.wire = Wire(sock, self.selector, logging.getLogger("test"), self.hear, self.end)

    def hear(self, line: dict[str, Any]) -> None:
        self.heard.append({"say": line["say"], **line})

    def end(self) -> None:
        self.ends += 1

    def turn(self) -> None:
        while ready := self.selector.select(0):
            for key, _ in ready:
                key.data()


@pytest.fixture
def pair() -> Iterator[tuple[End, End]]:
    one, other = map(End, Wire.pair())
    yield one, other
    for end in (one, other):
        end.wire.close()
        end.selector.close()


def test_all_is_heard_in_order_in_both_directions(pair: tuple[End, End]) -> None:
    one, other = pair
    one.wire.say("workers", workers=[(pid, pid % 7) for pid in range(3_000_000, 3_000_500)])
    one.wire.say("ready")
    other.wire.say("yours")
    one.turn()
    other.turn()
    assert [line["say"] for line in other.heard] == ["workers", "ready"]
    assert len(dict(other.heard[0]["workers"])) == 500
    assert one.heard == [{"say": "yours"}]


def test_the_end_of_one_is_told_to_the_other_once_after_all_it_has_said(pair: tuple[End, End]) -> None:
    one, other = pair
    one.wire.say("failed", reason="")
    one.wire.close()
    one.wire.say("nothing")
    other.turn()
    other.wire.say("stop")
    other.turn()
    assert [line["say"] for line in other.heard] == ["failed"]
    assert (one.ends, other.ends) == (0, 1)


def test_who_does_not_read_is_cut_off_after_a_while(pair: tuple[End, End]) -> None:
    one, _ = pair
    said = 0
    while not one.ends:
        one.wire.say("workers", workers="x" * 50_000)
        said += 1
        assert said < 1000
    assert said > MOST_UNSENT


def test_what_waits_is_sent_when_there_is_room(pair: tuple[End, End]) -> None:
    one, other = pair
    for number in range(MOST_UNSENT):
        one.wire.say("workers", workers="x" * 50_000, number=number)
    while len(other.heard) < MOST_UNSENT:
        other.turn()
        one.wire.flush()
    assert [line["number"] for line in other.heard] == list(range(MOST_UNSENT))


@pytest.mark.parametrize("data", [b"{", b"[]", b"{}", b"\xff", b"1"])
def test_what_cannot_be_understood_is_the_end(data: bytes) -> None:
    ours, theirs = Wire.pair()
    end = End(theirs)
    ours.send(data)
    end.turn()
    assert (end.heard, end.ends) == ([], 1)
    ours.close()
    end.selector.close()
