"""Which shard is home to what."""

from __future__ import annotations

from collections import Counter
from typing import Any, get_args

import pytest

from resonate.messages import (
    Attach,
    Connect,
    CountConnections,
    Describe,
    Detach,
    Disconnect,
    HandOver,
    Inspect,
    ListChannels,
    ListUsers,
    Publish,
    Refresh,
    Request,
    Subscribe,
    Terminate,
    Unsubscribe,
)
from resonate.shard.homes import homes

OF_CHANNELS = (
    Subscribe("app1", "chat", "1.1", 1, None),
    Refresh("app1", "chat", "1.1", 1),
    Unsubscribe("app1", "chat", None),
    Publish(1, "app1", "chat", b"", None, 0),
    Describe(1, "app1", "chat"),
    ListUsers(1, "app1", "chat"),
)
OF_APPS = (
    Connect("app1", "1.1", None),
    Disconnect("app1"),
    Attach("app1"),
    Detach("app1"),
    CountConnections(1, "app1"),
    Terminate(1, "app1", "ann"),
)
OF_ALL = (ListChannels(1, "app1", "", False), Inspect(1))


def test_every_request_has_a_home() -> None:
    assert {type(request) for request in (*OF_CHANNELS, *OF_APPS, *OF_ALL)} | {HandOver} == set(get_args(Request))


def test_a_hand_over_says_which_shard_it_is_for() -> None:
    assert homes(HandOver(1, "w-2-2", 3, False, [], []), 4) == (3,)


@pytest.mark.parametrize(
    ("app", "channel", "of_2", "of_3", "of_8", "of_64"),
    [
        ("app1", "chat", 1, 2, 5, 45),
        ("app1", "private-user-1", 0, 1, 4, 20),
        ("app1", "presence-room.7", 1, 0, 5, 5),
        ("app2", "chat", 1, 1, 3, 3),
        ("123456", "private-encrypted-ä", 0, 2, 0, 0),
        ("a", "日本", 1, 2, 5, 45),
    ],
)
def test_the_home_of_a_channel_is_for_ever(app: str, channel: str, of_2: int, of_3: int, of_8: int, of_64: int) -> None:
    """All workers must agree, those of another version too: figures that change here are a mistake."""
    found = [list(homes(Describe(1, app, channel), shards)) for shards in (2, 3, 8, 64)]
    assert found == [[of_2], [of_3], [of_8], [of_64]]


@pytest.mark.parametrize(
    ("app", "of_2", "of_3", "of_8", "of_64"),
    [
        ("app1", 0, 0, 6, 38),
        ("app2", 0, 2, 4, 28),
        ("123456", 1, 2, 1, 33),
        ("ä", 1, 2, 3, 3),
    ],
)
def test_the_home_of_an_app_is_for_ever(app: str, of_2: int, of_3: int, of_8: int, of_64: int) -> None:
    found = [list(homes(CountConnections(1, app), shards)) for shards in (2, 3, 8, 64)]
    assert found == [[of_2], [of_3], [of_8], [of_64]]


@pytest.mark.parametrize("requests", [OF_CHANNELS, OF_APPS], ids=["channel", "app"])
@pytest.mark.parametrize("shards", [1, 2, 3, 8, 64])
def test_all_that_concerns_the_same_has_the_same_home(requests: tuple[Any, ...], shards: int) -> None:
    assert len({tuple(homes(request, shards)) for request in requests}) == 1
    assert all(len(homes(request, shards)) == 1 for request in requests)


@pytest.mark.parametrize("request_", OF_ALL, ids=lambda request: type(request).__name__)
def test_some_questions_go_to_all(request_: Request) -> None:
    assert list(homes(request_, 1)) == [0]
    assert list(homes(request_, 5)) == [0, 1, 2, 3, 4]


def test_one_shard_is_home_to_all() -> None:
    assert all(list(homes(request, 1)) == [0] for request in (*OF_CHANNELS, *OF_APPS, *OF_ALL))


@pytest.mark.parametrize("shards", [2, 3, 5, 8, 16])
def test_channels_are_spread_evenly(shards: int) -> None:
    counts = Counter(homes(Describe(1, "app1", f"private-user-{index}"), shards)[0] for index in range(8000))
    assert set(counts) == set(range(shards))
    assert max(counts.values()) < 1.2 * 8000 / shards


@pytest.mark.parametrize("shards", [2, 3, 8])
def test_the_same_channel_of_many_apps_is_spread_evenly(shards: int) -> None:
    counts = Counter(homes(Describe(1, f"app{index}", "chat"), shards)[0] for index in range(8000))
    assert max(counts.values()) < 1.2 * 8000 / shards


def test_a_name_that_is_no_text_has_a_home_too() -> None:
    assert list(homes(Describe(1, "app1", "\ud800"), 2)) in ([0], [1])
