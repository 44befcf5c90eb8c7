"""A short soak: visitors come and go in every way, and nothing is lost or left behind. `make soak` is the long one."""

from __future__ import annotations

from tests.bench.soak import soak


def test_nothing_is_lost_and_nothing_is_left() -> None:
    outcome = soak(12, visitors=3, every=1, growth=30)
    print(outcome)
    assert outcome.failures == []  # counts at the end, losses, tracebacks, and memory, whose bound is generous here
    assert outcome.counts["rounds"] >= 20
