"""Whatever a client sends, a session neither raises nor does anything that is not its to do."""

from __future__ import annotations

import gc
import json
from types import TracebackType
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from resonate.errors import Fault
from resonate.messages import Attach, Detach, Publish, Refresh, Subscribe, Subscribed, Unsubscribe
from resonate.pusher import Close, Effect, Session
from resonate.pusher.session import State
from resonate.settings import RateLimiting, Server
from tests.pusher.support import ID, app, message, opened, signature, told

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
NUMBERS = st.integers(-(2**70), 2**70) | st.floats()
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
PUSHER_EVENTS = ["pusher:ping", "pusher:pong", "pusher:subscribe", "pusher:unsubscribe", "pusher:signin", "pusher:x"]
EVENTS = st.sampled_from([*PUSHER_EVENTS, "client-x", "x"])
CHANNELS = st.sampled_from(
    ["news", "cache-x", "private-x", "private-cache-x", "presence-x", "presence-cache-x", "#server-to-user-7"]
)
CHANNEL_DATA = st.fixed_dictionaries({}, optional={"user_id": JSON, "user_info": JSON, "id": JSON}) | JSON


def signed(channel: str, content: Any, how: str) -> dict[str, Any]:
    """Data of a subscription or a sign-in with a right signature over arbitrary content."""
    data = json.dumps(content)
    return {
        "channel": channel,
        "channel_data": data,
        "user_data": data,
        "auth": signature(f"{ID}::user::{data}" if how == "user" else f"{ID}:{channel}:{data}"),
    }


DATA = st.one_of(
    JSON,
    st.fixed_dictionaries({}, optional={"channel": CHANNELS | JSON, "auth": TEXT | JSON, "channel_data": JSON}),
    st.builds(signed, CHANNELS, CHANNEL_DATA, st.sampled_from(["user", "channel"])),
)
MESSAGES = st.fixed_dictionaries(
    {"event": EVENTS | JSON}, optional={"data": DATA | DATA.map(json.dumps), "channel": CHANNELS}
)
INPUTS = st.lists(MESSAGES.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=60), max_size=12)
ALLOWED = (bytes, Fault, Close, Attach, Detach, Subscribe, Refresh, Unsubscribe, Publish)


def check(session: Session, effects: list[Effect]) -> None:
    """Effects of a message: payloads are JSON events, requests speak of this app and this connection."""
    for index, effect in enumerate(effects):
        assert isinstance(effect, ALLOWED)
        if isinstance(effect, bytes | Fault):
            (text,) = told([effect])
            assert isinstance(json.loads(text)["event"], str)
        elif isinstance(effect, Close):
            assert index == len(effects) - 1
            assert 4000 <= effect.code < 5000
            assert len(effect.reason.encode()) <= 123  # what a close frame can carry
        else:
            assert effect.app == "app1"
        if isinstance(effect, Publish):
            assert effect.except_ == ID
            assert json.loads(effect.payload)["event"].startswith("client-")


def answered(session: Session, effects: list[Effect]) -> None:
    """Let the shard answer at once."""
    for effect in effects:
        if isinstance(effect, Subscribe | Refresh):
            held = session.subscriptions[effect.channel].member
            members = None if held is None else [(held.data["user_id"], held.data["user_info"])]
            told = session.subscribed(Subscribed("app1", effect.channel, ID, effect.ref, members, None))
            assert told is not None
            check(session, told)


@given(messages=INPUTS, policy=st.sampled_from(["all", "members", "none"]), most=st.integers(1, 3))
def test_nothing_raises_and_everything_is_given_back(messages: list[bytes], policy: str, most: int) -> None:
    session = opened(app(accept_client_events_from=policy), Server(max_subscriptions_per_connection=most))
    held: set[str] = set()
    for text in messages:
        effects = session.receive(text, 0)
        check(session, effects)
        answered(session, effects)
        held |= {effect.channel for effect in effects if isinstance(effect, Subscribe)}
        held -= {effect.channel for effect in effects if isinstance(effect, Unsubscribe)}
        assert set(session.subscriptions) == held
        assert len(held) <= most
    given_up = [effect.channel for effect in session.close() if isinstance(effect, Unsubscribe)]
    assert sorted(given_up) == sorted(held)
    assert session.state is State.CLOSED


@given(messages=INPUTS)
def test_attach_and_detach_alternate(messages: list[bytes]) -> None:
    session = opened()
    effects = [effect for text in messages for effect in session.receive(text, 0)] + session.close()
    edges = [type(effect) for effect in effects if isinstance(effect, Attach | Detach)]
    assert edges == [Attach, Detach] * (len(edges) // 2)


@given(messages=INPUTS, most=st.integers(1, 4))
def test_a_rate_limit_lets_no_more_than_its_number_through(messages: list[bytes], most: int) -> None:
    session = opened(app(rate_limiting=RateLimiting(enabled=True, max_attempts=most)))
    for index, text in enumerate(messages):
        effects = told(session.receive(text, 0))
        only = effects[0] if len(effects) == 1 else None
        too_fast = isinstance(only, bytes) and b"Rate limit exceeded" in only
        assert too_fast == (index >= most)


REFUSED = (
    b"no json",
    message("pusher:subscribe", {"channel": "private-x", "auth": "key1:x"}),
    message("pusher:signin", {"auth": "key1:x", "user_data": "{}"}),
    message("client-x", {}, channel="private-x"),
)


def tracebacks() -> int:
    gc.collect()
    return sum(isinstance(thing, TracebackType) for thing in gc.get_objects())


def test_refusals_leave_nothing_behind() -> None:
    """An exception that is raised again grows its traceback, and with it keeps every message that was refused."""
    session = opened()
    before = tracebacks()
    for _ in range(100):
        for text in REFUSED:
            session.receive(text, 0)
    assert tracebacks() - before < 50
