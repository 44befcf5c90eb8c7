"""What plugins keep of a connection: what of it another worker gets."""

from __future__ import annotations

import datetime
import enum
import json
import math
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resonate.errors import UNFIT
from resonate.server.luggage import Bag, Luggage
from resonate.server.moving import Passenger
from resonate.server.plugin_state import MOST, Left, packed, unpacked
from resonate.server.pusher_connection import PusherConnection
from tests.server.test_snapshots import Worlds, worlds
from tests.websocket.test_snapshots import json_values

__all__ = ["worlds"]
SECRET = "do not print this"

#: What JSON and a turn of it leave as they are.
numbers = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
fit = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


class Colour(enum.Enum):
    RED = SECRET


class Number(enum.IntEnum):
    ONE = 1


class Word(enum.StrEnum):
    ONE = "one"


class Name(str):
    __slots__ = ()


@dataclass
class Record:
    secret: str = SECRET


class Odd(dict[str, Any]):
    pass


def circle() -> list[Any]:
    made: list[Any] = [SECRET]
    made.append(made)
    return made


def deep(levels: int) -> list[Any]:
    made: list[Any] = []
    for _ in range(levels):
        made = [made]
    return made


NO_JSON: list[Any] = [
    {SECRET},
    (SECRET,),
    {"a": (SECRET,)},
    SECRET.encode(),
    object(),
    Record(),
    Colour.RED,
    Odd(a=SECRET),
    {1: SECRET},
    {"a": math.nan},
    math.inf,
    2**64,
    "\ud800" + SECRET,
    datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    circle(),
    deep(1000),
]


@given(st.dictionaries(st.text(max_size=5), fit, max_size=4))
def test_json_arrives_as_it_was(state: dict[str, Any]) -> None:
    texts, left = packed(state)
    assert left == []
    arrived = unpacked(orjson.loads(orjson.dumps(texts)))
    assert arrived == state
    assert json.dumps(arrived) == json.dumps(state)  # 1, 1.0 and true are equal


@given(st.dictionaries(st.text(max_size=5), json_values | st.binary() | st.tuples(st.integers()), max_size=4))
def test_of_anything_each_goes_as_it_is_or_is_named(state: dict[str, Any]) -> None:
    texts, left = packed(state)
    arrived = unpacked(texts)
    assert {*arrived} | {plugin for plugin, _ in left} == {*state}
    assert len(arrived) + len(left) == len(state)
    assert all(state[plugin] == kept for plugin, kept in arrived.items())


@pytest.mark.parametrize("value", NO_JSON, ids=lambda value: type(value).__name__)
def test_what_is_no_json_stays_behind_alone(value: Any) -> None:
    texts, ((plugin, reason),) = packed({"chat": value, "typing": {"a": 1}})
    assert plugin == "chat"
    assert reason.startswith("it is no JSON")
    assert SECRET not in reason
    assert unpacked(texts) == {"typing": {"a": 1}}


class Hostile:
    def __repr__(self) -> str:
        raise AssertionError("nobody asks for its text")

    __str__ = __repr__


@pytest.mark.parametrize("name", [1, None, True, 1.5, (SECRET,), b"chat", Colour.RED, Number.ONE, Hostile()], ids=type)
def test_what_is_kept_under_no_text_stays_behind_alone(name: Any) -> None:
    texts, left = packed({name: {"a": 1}, "typing": {"a": 1}})
    assert left == [Left(f"<{type(name).__name__}>", "its name is no text")]
    assert unpacked(texts) == {"typing": {"a": 1}}


@pytest.mark.parametrize("name", ["\ud800", Name("chat")], ids=["surrogate", "subclass"])
def test_what_is_kept_under_a_text_that_json_does_not_know_stays_behind_alone(name: str) -> None:
    texts, ((plugin, reason),) = packed({name: {"a": 1}, "typing": {"a": 1}})
    assert plugin == name
    assert reason.startswith("it is no JSON")
    assert unpacked(texts) == {"typing": {"a": 1}}


def test_an_enum_that_is_a_number_or_a_text_arrives_as_that() -> None:
    texts, left = packed({"chat": [Number.ONE, Word.ONE], Word.ONE: 1})
    assert left == []
    assert repr(unpacked(texts)) == "{'chat': [1, 'one'], 'one': 1}"


def test_so_much_goes_and_no_more() -> None:
    room = MOST - len('["chat",""]')
    texts, left = packed({"chat": "x" * room})
    assert (len(texts), left) == (1, [])
    assert packed({"chat": "x" * (room + 1)}) == ([], [Left("chat", f"it is more than {MOST} bytes of JSON")])


@pytest.mark.parametrize("texts", [None, 3, "x", [3], ["3"], ["[1,2]"], ["[]"], [None], ['["a"']])
def test_what_is_no_state(texts: Any) -> None:
    with pytest.raises(UNFIT):
        unpacked(texts)


# --- with its connection ---------------------------------------------------------------------------------------------


def carried(worlds: Worlds, passenger: Passenger) -> PusherConnection:
    """The connection at the heir."""
    bag, descriptor = passenger.pack()
    assert descriptor is not None
    text = orjson.dumps({"ref": 1, "beliefs": [], "bags": [bag | {"file": True}]})
    Luggage(text, [descriptor]).settle(worlds.heir.context, [])
    (connection,) = worlds.heir.hub.clients.values()
    assert isinstance(connection, PusherConnection)
    worlds.heir.transport = connection.transport
    return connection


def test_it_goes_with_its_connection_and_from_there_to_the_next(worlds: Worlds) -> None:
    connection = worlds.connected()
    connection.state["chat"] = {"room": "löbby", "seen": [1, 2.5, None, True]}
    connection.state.setdefault("typing", {})
    made = carried(worlds, Passenger(connection))
    assert made.state == {"chat": {"room": "löbby", "seen": [1, 2.5, None, True]}, "typing": {}}


def test_what_cannot_go_does_not_keep_its_connection(worlds: Worlds) -> None:
    connection = worlds.connected()
    connection.state["chat"] = object()
    passenger = Passenger(connection)
    assert carried(worlds, passenger).state == {}
    assert [plugin for plugin, _ in passenger.left] == ["chat"]


@pytest.mark.parametrize("name", [1, "\ud800"], ids=type)
def test_what_is_kept_under_no_name_does_not_keep_its_connection(worlds: Worlds, name: Any) -> None:
    connection = worlds.connected()
    connection.state.update({name: "x", "typing": {"a": 1}})
    assert carried(worlds, Passenger(connection)).state == {"typing": {"a": 1}}


@pytest.mark.parametrize("texts", [None, 3, ["3"], ['["typing",1]', '[1,"x"]'], ['["typing"'], [SECRET]], ids=repr)
def test_a_state_that_is_none_does_not_end_its_connection(
    worlds: Worlds, caplog: pytest.LogCaptureFixture, texts: Any
) -> None:
    passenger = Passenger(worlds.connected())
    pack = passenger.pack

    def another() -> tuple[Bag, int | None]:
        bag, descriptor = pack()
        return bag | {"state": texts}, descriptor

    passenger.pack = another  # type: ignore[method-assign]
    made = carried(worlds, passenger)
    assert made.state == {}
    assert not made.transport.closed
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert "the connection goes on without" in record.getMessage()
    assert SECRET not in caplog.text


def test_who_stays_after_all_has_it_still(worlds: Worlds) -> None:
    connection = worlds.connected()
    connection.state["chat"] = kept = {"a": object()}
    Passenger(connection).unload()
    assert connection.state["chat"] is kept


def test_most_connections_have_none_and_no_dict_for_it(worlds: Worlds) -> None:
    connection = worlds.connected()
    assert connection._state is None
    bag, descriptor = Passenger(connection).pack()
    assert "state" not in bag
    assert connection._state is None
    text = orjson.dumps({"ref": 1, "beliefs": [], "bags": [bag | {"file": True}]})
    Luggage(text, [descriptor or 0]).settle(worlds.heir.context, [])
    (made,) = worlds.heir.hub.clients.values()
    assert isinstance(made, PusherConnection)
    assert made._state is None
    worlds.heir.transport = made.transport
