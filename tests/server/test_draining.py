"""When each of those goes who cannot go on in another worker."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator

from hypothesis import given
from hypothesis import strategies as st

from resonate.server.draining import Pace
from resonate.server.hosting import HostedStream
from tests.server.support import World
from tests.server.test_replies import UPGRADE

COUNTS = st.integers(0, 200)
WINDOWS = st.floats(0.1, 100)
SEEDS = st.integers(0, 2**32)


def chance(seed: int) -> Callable[[], float]:
    """Where in its share of the time each one goes, also at its very ends."""
    source = random.Random(seed)
    return lambda: source.choice((0.0, 1.0, source.random()))


def looks(window: float, number: int = 100) -> Iterator[float]:
    """Moments at which somebody looks, up to the end and past it."""
    yield from (window * index / number for index in range(number + 1))
    yield window * 1.1


def told(pace: Pace, left: list[int], now: float) -> list[int]:
    """Those who go now; they are not left any more."""
    gone = list(pace.due(left, now))
    del left[: len(gone)]
    return gone


@given(COUNTS, WINDOWS, SEEDS)
def test_evenly_and_the_newest_last(count: int, window: float, seed: int) -> None:
    pace, left = Pace(0.0, window, chance(seed)), list(range(count))
    gone: list[int] = []
    for now in looks(window):
        gone += told(pace, left, now)
        share = count * min(1.0, now / window)
        assert math.floor(share - 1e-6) - 1 <= len(gone) <= math.ceil(share + 1e-6) + 1
    assert gone == list(range(count))


@given(COUNTS, WINDOWS, SEEDS)
def test_all_have_been_told_at_the_end(count: int, window: float, seed: int) -> None:
    pace, left = Pace(0.0, window, chance(seed)), list(range(count))
    told(pace, left, window / 2)
    told(pace, left, window)
    assert left == []


@given(st.integers(10, 200), WINDOWS, SEEDS)
def test_who_comes_or_goes_meanwhile_changes_the_pace(count: int, window: float, seed: int) -> None:
    """Whoever is left at a moment has all the time that is left then: nobody goes in a heap at the end."""
    pace, left, source = Pace(0.0, window, chance(seed)), list(range(count)), random.Random(seed)
    gone: list[int] = []
    for number, now in enumerate(looks(window)):
        fair = len(left) / max(101 - number, 1)  # of this look and those that follow
        now_told = told(pace, left, now)
        gone += now_told
        assert len(now_told) <= math.ceil(fair) + 2
        if number < 90:
            if source.random() < 0.2:
                left.append(count + number)  # the newest
            if left and source.random() < 0.2:
                left.remove(source.choice(left))
    assert left == []
    assert gone == sorted(gone)


def test_no_time_at_all() -> None:
    left = [1, 2, 3]
    assert told(Pace(5.0, 5.0, lambda: 0.5), left, 5.0) == [1, 2, 3]


def test_who_comes_when_nobody_was_left_has_the_rest_of_the_time() -> None:
    pace = Pace(0.0, 10.0, lambda: 0.5)
    assert list(pace.due([], 6.0)) == []
    assert list(pace.due([1], 7.9)) == []
    assert list(pace.due([1], 8.0)) == [1]


def test_only_a_websocket_for_which_too_much_waits_is_stranded() -> None:
    world = World()
    world.open()
    assert not world.transport.protocol.stranded  # HTTP ends by itself
    world.say(UPGRADE)
    connection = world.transport.protocol
    assert (connection.movable, connection.stranded) == (True, False)
    world.transport.write(bytes(8 * 1024 * 1024))
    world.transport.flush()
    assert (connection.movable, connection.stranded) == (False, True)
    connection.drain()
    assert not world.transport.protocol.stranded  # it has been told
    world.transport.abort()
    world.peer.close()


def test_a_websocket_of_the_hosted_site_is_stranded_until_it_has_been_told() -> None:
    world = World()
    world.open()
    stream = HostedStream(world.transport)
    assert not stream.stranded  # a request ends by itself
    stream.upgraded = True
    assert stream.stranded
    stream.drain()
    assert not stream.stranded
    world.transport.abort()
    world.peer.close()
