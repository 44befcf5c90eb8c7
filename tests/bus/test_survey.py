"""Questions of type `metrics`: what one host answers of what it has."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resonate.bus.envelope import HOST, Envelope
from resonate.bus.survey import MOST_CHANNELS, MOST_CONNECTIONS
from resonate.shard.channel import User
from resonate.shard.cluster.outside import Survey

INFO = "occupied,user_count,subscription_count,cache"


class Small:
    """One host with somebody on three channels; `attached` connections have a subscription."""

    def __init__(self, attached: int = 3, channels: int = 0) -> None:
        self._attached = attached
        self._channels = {"room": 2, "presence-a": 3, "cache-b": 1, **{f"c{number}": 1 for number in range(channels)}}

    def connections(self, app: str) -> tuple[int, int]:
        return (9, self._attached) if app == "app1" else (0, 0)

    def occupied(self, app: str) -> dict[str, int]:
        return self._channels if app == "app1" else {}

    def held_users(self, app: str, name: str) -> list[tuple[str, User]]:
        if (app, name) != ("app1", "presence-a"):
            return []
        return [
            ("ann", User({"user_id": "ann", "user_info": {"n": 1}})),
            ("7", User({"user_id": 7, "user_info": None})),
        ]

    def last(self, app: str, name: str, now: float) -> bytes | None:
        return b'{"event":"e"}' if name == "cache-b" else None


def envelope() -> Envelope:
    return Envelope("h1", 600)


def asked(payload: Any, by: Envelope, app: str = "app1") -> list[Any]:
    return list(by.heard(json.dumps({"type": "metrics", "application": app, "payload": payload}).encode()))


def answered(about: str, app: str = "app1", here: Small | None = None, **options: Any) -> Any:
    """The metrics of an answer whose frame is as it should be."""
    by = envelope()
    (survey,) = asked({"key": "k1", "node": "n1", "type": about, "options": options}, by, app)
    assert isinstance(survey, Survey)
    data = by.answer(survey, here or Small(), 0.0)
    assert data is not None
    assert (by.refused, by.complaints()) == (0, [])
    value = json.loads(data)
    assert value.pop(HOST) == "h1"
    metrics = value["payload"].pop("metrics")
    assert value == {"type": "metrics", "application": app, "payload": {"key": "k1", "node": "h1"}}
    return metrics


@pytest.mark.parametrize(
    ("channel", "info", "expected"),
    [
        ("room", INFO, {"occupied": True, "subscription_count": 2}),
        ("presence-a", INFO, {"occupied": True, "user_count": 2}),
        ("cache-b", INFO, {"occupied": True, "subscription_count": 1, "cache": {"event": "e"}}),
        ("room", "", {}),
        ("room", "user_count", {}),
        ("nobody", INFO, {"occupied": False}),
        ("nobody", "subscription_count", {}),
    ],
)
def test_one_channel(channel: str, info: str, expected: dict[str, Any]) -> None:
    assert answered("channel", channel=channel, info=info) == expected


def test_all_channels() -> None:
    assert answered("channels") == {"room": {}, "presence-a": {}, "cache-b": {}}
    assert answered("channels", filter="presence-", info="user_count") == {"presence-a": {"user_count": 2}}
    assert answered("channels", filter=None, info=None) == {"room": {}, "presence-a": {}, "cache-b": {}}
    named = answered("channels", channels=["room", "nobody", 7], info="occupied")
    assert named == {"room": {"occupied": True}, "nobody": {"occupied": False}}


def test_who_is_there() -> None:
    assert answered("channel_users", channel="presence-a") == [{"id": "ann"}, {"id": 7}]
    assert answered("channel_users", channel="room") == answered("channel_users") == []
    presence = {"count": 2, "ids": ["ann", 7], "hash": {"ann": {"n": 1}, "7": None}}
    assert answered("presence_data", channel="presence-a") == {"presence": presence}
    assert answered("presence_data", channel="nobody") == {}
    assert answered("presence_connections", channel="presence-a", user_id="ann") == []


def test_connections_are_so_many() -> None:
    assert len(answered("connections")) == 3
    assert len(answered("connections", here=Small(attached=MOST_CONNECTIONS))) == MOST_CONNECTIONS


@pytest.mark.parametrize("about", ["channel", "channels", "channel_users", "connections", "presence_data"])
def test_who_knows_nothing_of_an_app_says_so(about: str) -> None:
    """Who asks waits for it."""
    assert not answered(about, app="another")


def test_an_answer_of_somebody_is_no_question() -> None:
    by = envelope()
    assert asked({"key": "k1", "node": "n1", "metrics": []}, by) == []
    assert by.refused == 0


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"key": 7, "type": "channel"},
        {"key": "k"},
        {"key": "k", "type": ["channel"]},
        {"key": "k", "type": "secrets"},
        {"key": "k", "type": "channel", "options": [1]},
    ],
)
def test_what_is_no_question_is_counted_and_told_once(payload: Any) -> None:
    by = envelope()
    for count in (1, 2):
        assert asked(payload, by) == []
        assert (by.refused, len(by.complaints())) == (count, count == 1)


@pytest.mark.parametrize(
    ("about", "here"),
    [("channels", Small(channels=MOST_CHANNELS)), ("connections", Small(attached=MOST_CONNECTIONS + 1))],
)
def test_what_would_be_too_long_is_not_answered(about: str, here: Small) -> None:
    by = envelope()
    (survey,) = asked({"key": "k1", "type": about}, by)
    assert by.answer(survey, here, 0.0) is None
    assert (by.refused, len(by.complaints())) == (1, 1)


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.sampled_from(
        ["channel", "channels", "channel_users", "connections", "presence_data", "presence_connections", "x"]
    )
    | _json,
    st.dictionaries(st.sampled_from(["channel", "channels", "filter", "info", "user_id"]), _json) | _json,
)
def test_whatever_is_asked_nothing_is_raised(about: Any, options: Any) -> None:
    by = envelope()
    for survey in asked({"key": "k", "type": about, "options": options}, by):
        by.answer(survey, Small(), 0.0)
