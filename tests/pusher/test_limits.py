"""The rate window, against a naive count."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from resonate.pusher.limits import RateWindow
from resonate.settings import RateLimiting


def window(attempts: int, seconds: int) -> RateWindow:
    return RateWindow(RateLimiting(enabled=True, max_attempts=attempts, decay_seconds=seconds))


def test_the_first_message_opens_the_window() -> None:
    rate = window(2, 10)
    assert [rate.admits(now) for now in (100, 109, 109.9, 110, 111, 112)] == [True, True, False, True, True, False]


def test_what_is_refused_does_not_prolong_the_window() -> None:
    rate = window(1, 10)
    assert [rate.admits(now) for now in (0, 3, 6, 9, 10)] == [True, False, False, False, True]


@given(
    attempts=st.integers(1, 5),
    seconds=st.integers(1, 10),
    pauses=st.lists(st.floats(0, 12, allow_nan=False), max_size=60),
)
def test_as_many_as_are_allowed_in_every_window(attempts: int, seconds: int, pauses: list[float]) -> None:
    rate = window(attempts, seconds)
    now, began, admitted = 0.0, None, 0
    for pause in pauses:
        now += pause
        if began is None or now >= began + seconds:
            began, admitted = now, 0
        assert rate.admits(now) == (admitted < attempts)
        admitted += 1
