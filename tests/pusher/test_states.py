"""Every state of a session with every input: what it answers, and the state afterwards."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from resonate.messages import Connect, Connected, Detach, Disconnect, Subscribed, Unsubscribe
from resonate.pusher import Close, Effect, Session
from resonate.pusher.session import State
from tests.pusher.support import APP, ID, SERVER, joined, message, opened, told

ESTABLISHED = (
    b'{"event":"pusher:connection_established","data":"{\\"socket_id\\":\\"123.456\\",\\"activity_timeout\\":30}"}'
)
OVER_QUOTA = (
    b'{"event":"pusher:error","data":"{\\"code\\":4004,\\"message\\":\\"Application is over connection quota\\"}"}'
)
TOO_LONG = b'{"event":"pusher:error","data":"{\\"code\\":4019,\\"message\\":\\"Message size exceeded\\"}"}'


def connecting() -> Session:
    session = Session(APP, ID, SERVER)
    assert session.open() == [Connect("app1", ID, None)]
    return session


def refused() -> Session:
    session = connecting()
    session.connected(Connected("app1", ID, False))
    return session


def left() -> Session:
    session = opened()
    session.close()
    return session


def subscribed() -> Session:
    session = opened()
    joined(session, "news")
    return session


INPUTS: dict[str, Callable[[Session], list[Effect] | None]] = {
    "message": lambda session: session.receive(message("pusher:ping"), 0),
    "oversized": lambda session: session.oversized(),
    "stray answer": lambda session: session.subscribed(Subscribed("app1", "other", ID, 1, None, None)),
    "repeated answer": lambda session: session.subscribed(Subscribed("app1", "news", ID, 1, None, None)),
    "close": lambda session: session.close(),
}

STATES: dict[str, Callable[[], Session]] = {
    "connecting": connecting,
    "open": opened,
    "subscribed": subscribed,
    "refused": refused,
    "closed": left,
}

Expected = tuple[list[Effect] | None, State]
GIVEN_BACK: list[Effect] = [Disconnect("app1")]
#: Nobody is there any more. (A place that comes now is given back by whoever took the session away.)
WHEN_CLOSED: dict[str, list[Effect] | None] = {
    "message": [],
    "oversized": [],
    "stray answer": None,
    "repeated answer": None,
    "close": [],
}
TABLE: dict[tuple[str, str], Expected] = {
    ("connecting", "message"): ([], State.CONNECTING),
    ("connecting", "oversized"): ([], State.CONNECTING),
    ("connecting", "stray answer"): (None, State.CONNECTING),
    ("connecting", "repeated answer"): (None, State.CONNECTING),
    ("connecting", "close"): ([], State.CLOSED),
    ("open", "message"): ([b'{"event":"pusher:pong"}'], State.OPEN),
    ("open", "oversized"): ([TOO_LONG], State.OPEN),
    ("open", "stray answer"): (None, State.OPEN),
    ("open", "repeated answer"): (None, State.OPEN),
    ("open", "close"): (GIVEN_BACK, State.CLOSED),
    ("subscribed", "message"): ([b'{"event":"pusher:pong"}'], State.OPEN),
    ("subscribed", "oversized"): ([TOO_LONG], State.OPEN),
    ("subscribed", "stray answer"): (None, State.OPEN),
    ("subscribed", "repeated answer"): (None, State.OPEN),
    ("subscribed", "close"): ([Unsubscribe("app1", "news", None), Detach("app1"), *GIVEN_BACK], State.CLOSED),
    **{("refused", given): (expected, State.CLOSED) for given, expected in WHEN_CLOSED.items()},
    **{("closed", given): (expected, State.CLOSED) for given, expected in WHEN_CLOSED.items()},
}


def test_table_is_complete() -> None:
    assert set(TABLE) == {(state, given) for state in STATES for given in INPUTS}


@pytest.mark.parametrize(("state", "given"), TABLE)
def test_every_state_with_every_input(state: str, given: str) -> None:
    session = STATES[state]()
    effects, after = TABLE[state, given]
    answered = INPUTS[given](session)
    assert (answered if answered is None else told(answered)) == effects
    assert session.state is after


@pytest.mark.parametrize("state", STATES)
def test_closing_twice_gives_nothing_up_twice(state: str) -> None:
    session = STATES[state]()
    session.close()
    assert session.close() == []
    assert session.subscriptions == {}


def test_a_place() -> None:
    session = connecting()
    assert session.connected(Connected("app1", ID, True)) == [ESTABLISHED]
    assert session.state is State.OPEN


def test_no_place() -> None:
    session = connecting()
    refusal: list[Effect] = [OVER_QUOTA, Close(4004, "Application is over connection quota")]
    assert told(session.connected(Connected("app1", ID, False))) == refusal
    assert session.state is State.CLOSED


def test_a_session_that_closes_while_a_subscription_is_pending_gives_it_up() -> None:
    session = opened()
    (request, _) = session.receive(message("pusher:subscribe", {"channel": "news"}), 0)
    assert session.close() == [Unsubscribe("app1", "news", None), Detach("app1"), *GIVEN_BACK]
    assert session.subscribed(Subscribed("app1", "news", ID, request.ref, None, None)) is None  # type: ignore[union-attr]
