"""A session that goes on in another worker."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resonate.errors import UNFIT
from resonate.messages import Detach, Disconnect, Member, Refresh, Subscribe, Unsubscribe
from resonate.pusher import Session
from resonate.pusher.limits import RateWindow
from resonate.pusher.session import _PLAIN, State
from resonate.settings import App, RateLimiting
from tests.pusher.support import APP, ID, SERVER, answer, app, asked, joined, message, opened, say, signature
from tests.websocket.test_snapshots import json_values

BOB = '{"user_id":7,"user_info":{"name":"Bob \\u00fc"}}'
LIMITED = app(rate_limiting=RateLimiting(enabled=True, max_attempts=2, decay_seconds=10))


def carried(value: Any) -> Any:
    """What arrives of it at another process."""
    return json.loads(json.dumps(value))


def moved(session: Session, application: App = APP, before: float = 0, after: float = 0) -> Session:
    """As another worker has it, whose clock shows `after` when that of the first shows `before`."""
    return Session.restore(application, SERVER, carried(session.snapshot(before)), after)


def lived() -> Session:
    """One that has done all there is to do."""
    session = opened()
    joined(session, "news")
    joined(session, "presence-room", BOB)
    user = '{"id":"7"}'
    request, _ = say(session, message("pusher:signin", {"user_data": user, "auth": signature(f"{ID}::user::{user}")}))
    session.subscribed(answer(request))
    return session


def test_everything_is_as_it_was() -> None:
    session = lived()
    again = moved(session)
    assert (again.id, again.user, again.state, again.app) == (ID, "7", State.OPEN, APP)
    assert again.subscriptions == session.subscriptions
    assert list(again.subscriptions) == ["news", "presence-room", "#server-to-user-7"]
    assert again.snapshot(0) == session.snapshot(0)
    assert again.holdings() == [
        ("news", None),
        ("presence-room", Member("7", {"user_id": 7, "user_info": {"name": "Bob ü"}})),
        ("#server-to-user-7", None),
    ]
    assert again.is_user("7")


def test_plain_subscriptions_stay_one_object() -> None:
    again = moved(lived())
    assert again.subscriptions["news"] is again.subscriptions["#server-to-user-7"] is _PLAIN


def test_the_two_say_the_same_from_then_on() -> None:
    session = lived()
    again = moved(session)
    for text in (
        message("pusher:subscribe", {"channel": "other"}),
        message("pusher:subscribe", {"channel": "news"}),
        message("client-hello", {"a": 1}, channel="presence-room"),
        message("pusher:unsubscribe", {"channel": "news"}),
        message("pusher:ping"),
        b"no json",
    ):
        assert say(again, text) == say(session, text)
    assert again.close() == session.close()


def test_answers_are_not_taken_for_those_of_earlier_requests() -> None:
    session = lived()
    again = moved(session)
    assert asked(again, "other").ref == asked(session, "other").ref
    (refresh,) = say(again, message("pusher:subscribe", {"channel": "news"}))
    assert isinstance(refresh, Refresh)
    assert again.subscribed(answer(refresh))


def test_it_gives_up_there_what_it_held_here() -> None:
    session = lived()
    again = moved(session)
    session.forget()
    assert session.state is State.CLOSED
    assert session.holdings() == []
    assert session.close() == []
    assert again.close() == [
        Unsubscribe("app1", "news", None),
        Unsubscribe("app1", "presence-room", "7"),
        Unsubscribe("app1", "#server-to-user-7", None),
        Detach("app1"),
        Disconnect("app1"),
    ]


def test_what_is_forgotten_says_nothing_any_more() -> None:
    session = opened()
    session.forget()
    assert say(session, message("pusher:ping")) == []
    assert session.oversized() == []


# --- the rate --------------------------------------------------------------------------------------------------------

PING = message("pusher:ping")


def is_too_fast(session: Session, now: float) -> bool:
    return b"Rate limit" in bytes(say(session, PING, now)[0])  # type: ignore[arg-type]


def test_the_window_goes_on_by_another_clock() -> None:
    session = opened(LIMITED)
    say(session, PING, 1000)
    again = moved(session, LIMITED, before=1004, after=7)
    assert not is_too_fast(again, 8)
    assert is_too_fast(again, 12.9)
    assert not is_too_fast(again, 13)


def test_the_new_app_decides_whether_there_is_a_limit() -> None:
    without, limited = opened(), opened(LIMITED)
    for _ in range(2):
        say(limited, PING, 1000)
    again = moved(limited, APP, 1000, 7)
    assert not any(is_too_fast(again, 7) for _ in range(9))
    again = moved(without, LIMITED, 1000, 7)
    assert [is_too_fast(again, 7) for _ in range(3)] == [False, False, True]
    stricter = app(rate_limiting=RateLimiting(enabled=True, max_attempts=3, decay_seconds=5))
    again = moved(limited, stricter, 1000, 7)
    assert [is_too_fast(again, now) for now in (8, 8, 11.9, 12)] == [False, True, True, False]


@given(
    attempts=st.integers(1, 4),
    pauses=st.lists(st.tuples(st.integers(0, 12), st.booleans()), max_size=40),
    ahead=st.integers(-1000, 1000),
)
def test_a_window_that_is_moved_admits_the_same(attempts: int, pauses: list[tuple[int, bool]], ahead: int) -> None:
    rule = RateLimiting(enabled=True, max_attempts=attempts, decay_seconds=10)
    stays, moves = RateWindow(rule), RateWindow(rule)
    now, other = 1000, 1000
    for pause, move in pauses:
        now, other = now + pause, other + pause
        if move:
            snapshot = carried(moves.snapshot(other))
            other += ahead
            moves = RateWindow.restore(rule, snapshot, other)
        assert stays.admits(now) == moves.admits(other)


# --- what does not fit -----------------------------------------------------------------------------------------------


def test_what_a_later_version_adds_is_ignored() -> None:
    assert Session.restore(APP, SERVER, lived().snapshot(0) | {"later": [1]}, 0).user == "7"


@pytest.mark.parametrize(
    "change",
    [
        {"id": 3},
        {"user": 7},
        {"ref": "x"},
        {"ref": None},
        {"subscriptions": None},
        {"subscriptions": ["news"]},
        {"subscriptions": [["news"]]},
        {"subscriptions": [[3, None]]},
        {"subscriptions": [["presence-a", ["7"]]]},
        {"subscriptions": [["presence-a", [7, {"user_id": 7, "user_info": None}]]]},
        {"subscriptions": [["presence-a", ["7", {"user_id": 7}]]]},
        {"subscriptions": [["presence-a", ["7", ["user_id", "user_info"]]]]},
        {"rate": [1]},
        {"rate": ["a", "b"]},
    ],
)
def test_what_is_no_snapshot(change: dict[str, Any]) -> None:
    with pytest.raises(UNFIT):
        Session.restore(LIMITED, SERVER, lived().snapshot(0) | change, 0)


@given(st.dictionaries(st.sampled_from(["id", "user", "ref", "subscriptions", "rate"]), json_values))
def test_whatever_comes_raises_nothing_else(change: dict[str, Any]) -> None:
    try:
        session = Session.restore(LIMITED, SERVER, opened().snapshot(0) | change, 0)
    except UNFIT:
        return
    say(session, PING)
    session.close()


def test_a_subscription_that_is_unanswered_is_not_carried_as_one() -> None:
    """Whoever moves a session waits for its answers; should one be late, it is dropped, and the channel is held."""
    session = opened()
    request = asked(session, "news")
    again = moved(session)
    assert isinstance(request, Subscribe)
    assert again.subscribed(answer(request)) is None
    assert again.holdings() == [("news", None)]
