"""Bodies that break rules, and Laravel's words for them (as a genuine Reverb answered)."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resonate.api import validation
from resonate.api.validation import InvalidError
from resonate.errors import HttpError
from resonate.http import error_response
from tests.api.support import asked

NO_NAME = {"name": ["The name field is required."]}
NO_DATA = {"data": ["The data field is required."]}
NO_CHANNEL = {
    "channels": ["The channels field is required when channel is not present."],
    "channel": ["The channel field is required when channels is not present."],
}
NOTHING = {**NO_NAME, **NO_DATA, **NO_CHANNEL}
NAME_IS_NO_STRING = {"name": ["The name field must be a string."]}
DATA_IS_NO_STRING = {"data": ["The data field must be a string."]}
INFO_IS_NO_STRING = {"info": ["The info field must be a string."]}
SOCKET_IS_NO_STRING = {"socket_id": ["The socket id field must be a string."]}
CHANNEL_IS_NO_STRING = {"channel": ["The channel field must be a string."]}
ONE = {"name": "e", "data": "x", "channel": "a"}

EVENTS: list[tuple[Any, dict[str, list[str]]]] = [
    ({"channel": "a", "data": "x"}, NO_NAME),
    ({"name": "e", "channel": "a"}, NO_DATA),
    ({"name": "e", "data": "x"}, NO_CHANNEL),
    ({}, NOTHING),
    ([], NOTHING),
    ([1], NOTHING),
    ("text", NOTHING),
    (5, NOTHING),
    (None, NOTHING),
    *(({**ONE, "data": data}, DATA_IS_NO_STRING) for data in ({"a": 1}, [1], 5, True)),
    *(({**ONE, "data": data}, NO_DATA) for data in (None, "", "  ")),
    *(({**ONE, "name": name}, NAME_IS_NO_STRING) for name in (5, ["e"], True)),
    *(({**ONE, "name": name}, NO_NAME) for name in (None, "")),
    *(({**ONE, "channel": channel}, NO_CHANNEL) for channel in (None, "")),
    *(({**ONE, "channel": channel}, CHANNEL_IS_NO_STRING) for channel in (["a"], 5)),
    ({"name": "e", "data": "x", "channels": None}, NO_CHANNEL),
    ({"name": "e", "data": "x", "channels": []}, NO_CHANNEL),
    ({"name": "e", "data": "x", "channels": "a"}, {"channels": ["The channels field must be an array."]}),
    ({"name": "e", "data": "x", "channels": [5]}, {"channels.0": ["The channels.0 field must be a string."]}),
    (
        {"name": "e", "data": "x", "channels": ["a", None, ["b"]]},
        {f"channels.{index}": [f"The channels.{index} field must be a string."] for index in (1, 2)},
    ),
    *(({**ONE, "info": info}, INFO_IS_NO_STRING) for info in (["subscription_count"], 5)),
    *(({**ONE, "socket_id": socket}, SOCKET_IS_NO_STRING) for socket in (5, ["1.1"])),
    ({"data": 5, "channel": 5}, {**NO_NAME, **DATA_IS_NO_STRING, **CHANNEL_IS_NO_STRING}),
]

BATCH_ITEM_EMPTY = {
    "batch.0.name": ["The batch.0.name field is required."],
    "batch.0.data": ["The batch.0.data field is required."],
    "batch.0.channel": ["The batch.0.channel field is required when channels is not present."],
}
NO_BATCHES: tuple[Any, ...] = ({}, [], {"batch": []}, {"batch": None})
NO_ITEMS: tuple[Any, ...] = ({}, "x", None, [])
BATCHES: list[tuple[Any, dict[str, list[str]]]] = [
    *((value, {"batch": ["The batch field is required."]}) for value in NO_BATCHES),
    *(({"batch": value}, {"batch": ["The batch field must be an array."]}) for value in ("x", 5)),
    *(({"batch": [item]}, BATCH_ITEM_EMPTY) for item in NO_ITEMS),
    ({"batch": [{"data": "x", "channel": "a"}]}, {"batch.0.name": ["The batch.0.name field is required."]}),
    ({"batch": [{**ONE, "data": {"a": 1}}]}, {"batch.0.data": ["The batch.0.data field must be a string."]}),
    (
        {"batch": [{"name": "e", "data": "x", "channels": ["a"]}]},
        {"batch.0.channel": ["The batch.0.channel field is required when channels is not present."]},
    ),
    ({"batch": [ONE, {"name": "e", "channel": "a"}]}, {"batch.1.data": ["The batch.1.data field is required."]}),
]


@pytest.mark.parametrize(
    ("path", "data", "errors"),
    [
        *(("/events", *row) for row in EVENTS),
        *(("/batch_events", *row) for row in BATCHES),
        ("/users/7/events", {}, {**NO_NAME, **NO_DATA}),
        ("/users/7/events", {"name": 5, "data": {}}, {**NAME_IS_NO_STRING, **NO_DATA}),
    ],
)
def test_refused_with_laravels_words(path: str, data: Any, errors: dict[str, list[str]]) -> None:
    requests, response = asked("POST", path, json.dumps(data).encode())
    assert requests == []
    assert response.status == 422
    assert json.loads(response.body) == errors
    assert list(json.loads(response.body)) == list(errors)  # the order of Laravel's rules


@pytest.mark.parametrize("body", [b"", b"{", b"text", b'{"name":\xff}', b"{}{}", b"[" * 2000])
@pytest.mark.parametrize("path", ["/events", "/batch_events", "/users/7/events"])
def test_what_is_no_json(path: str, body: bytes) -> None:
    with pytest.raises(HttpError, match="400"):
        asked("POST", path, body)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
FIELDS = ("name", "data", "channel", "channels", "socket_id", "info", "batch")
BODIES = st.fixed_dictionaries({}, optional=dict.fromkeys(FIELDS, JSON))


@given(data=BODIES)
def test_an_event_is_strings_or_an_error(data: dict[str, Any]) -> None:
    try:
        event = validation.event(data)
    except InvalidError as invalid:
        errors = json.loads(error_response(invalid).body)
    else:
        errors = {}
        assert all(isinstance(text, str) for text in (event.name, event.data, *event.channels))
        assert isinstance(event.socket_id, str | None)
    assert all(isinstance(text, str) for texts in errors.values() for text in texts)


@given(items=st.lists(BODIES | JSON, max_size=4))
def test_a_batch_is_events_or_an_error(items: list[Any]) -> None:
    try:
        events = validation.batch({"batch": items})
    except InvalidError:
        return
    assert [event.name for event in events] == [item["name"] for item in items]
