"""What a worker counts, and how snapshots are added up."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resonate.counters import COUNTERS, Snapshot, add
from resonate.server.stats import BUCKETS_S, LAGS, Stats


def counted() -> Stats:
    """A worker's counters, none of them zero."""
    stats = Stats()
    for name in ("messages_received", "messages_sent", "deliveries", "client_publishes", "rest_publishes"):
        setattr(stats, name, 3)
    stats.slow_consumers = 1
    stats.errors[4009] += 2
    stats.answered(200, 0.003)
    stats.answered(401, 99)
    return stats


def test_a_snapshot_is_what_json_can_carry() -> None:
    snapshot = counted().snapshot(transports=7)
    assert json.loads(json.dumps(snapshot)) == snapshot
    assert snapshot["transports"] == 7
    assert snapshot["publishes"] == {"rest": 3, "client": 3}
    assert snapshot["errors"] == {"4009": 2}
    assert snapshot["http_requests"] == {"200": 1, "401": 1}
    assert snapshot["rest_latency_sum_s"] == pytest.approx(99.003)


def test_a_snapshot_does_not_change_any_more() -> None:
    stats = counted()
    snapshot = stats.snapshot(0)
    before = json.dumps(snapshot)
    stats.answered(200, 0.003)
    stats.errors[4009] += 1
    assert json.dumps(snapshot) == before


@pytest.mark.parametrize(
    ("took_s", "bucket"),
    [(0.0, 0), (0.001, 0), (0.0011, 1), (0.003, 2), (1.0, 9), (9.9, 12), (10.0, 12), (10.1, 13), (999.0, 13)],
)
def test_a_bucket_holds_what_took_no_longer_than_its_bound(took_s: float, bucket: int) -> None:
    stats = Stats()
    stats.answered(200, took_s)
    assert [index for index, count in enumerate(stats.rest_latency) if count] == [bucket]
    assert len(stats.rest_latency) == len(BUCKETS_S) + 1


def test_what_a_broken_process_has_counted_disturbs_nobody() -> None:
    sound, broken = {"rest_latency": [1, 2]}, {"rest_latency": ["a", [3], 4]}
    assert add(sound, broken) == {"rest_latency": [1, 2, 4]}


# --- the lag of the loop ---------------------------------------------------------------------------------------------


def lags(*ticks: float) -> list[float]:
    """How late each tick was; they are at these times."""
    stats = Stats()
    for now in ticks:
        stats.tick(now)
    return list(stats._lags)[1:]


def test_ticks_in_time_are_no_lag() -> None:
    assert lags(100, 101, 102, 103) == [0, 0, 0, 0]


def test_a_late_tick_is_a_lag_and_the_next_one_in_time_is_none() -> None:
    assert lags(100, 101.25, 102, 103) == [0, 0.25, 0, 0]


def test_a_loop_that_is_late_each_time_has_a_lag_each_time() -> None:
    assert lags(100, 101.25, 102.25, 103.25) == [0, 0.25, 0.25, 0.25]


def test_after_more_than_a_period_the_timetable_begins_anew() -> None:
    """libev runs a timer that has missed a period at once, and then every second from there."""
    assert lags(100, 103.5, 103.5, 104.5, 105.5) == [0, 2.5, 0, 0, 0]


def test_a_first_tick_that_is_late_does_not_hide_later_ones() -> None:
    assert lags(100.5, 101, 102.25) == [0, 0, 0.25]


def test_the_worst_lag_is_told_until_it_is_long_ago() -> None:
    stats = Stats()
    for now in (100, 101.5, 102.25):
        stats.tick(now)
    for now in range(103, 102 + LAGS):
        assert stats.snapshot(0)["loop_lag_s"] == 0.5
        stats.tick(now)
    assert stats.snapshot(0)["loop_lag_s"] == 0.25
    stats.tick(102 + LAGS)
    assert stats.snapshot(0)["loop_lag_s"] == 0


# --- adding up -------------------------------------------------------------------------------------------------------

NUMBER = st.integers(0, 10**6)
SNAPSHOTS = st.fixed_dictionaries(
    {"transports": NUMBER},
    optional={
        "messages_sent": NUMBER,
        "errors": st.dictionaries(st.sampled_from(["4009", "4200"]), NUMBER),
        "rest_latency": st.lists(NUMBER, min_size=3, max_size=3),
    },
)


def test_counters_are_added_and_nothing_else_is_kept() -> None:
    snapshot = counted().snapshot(7)
    total = add(add({}, snapshot), {**snapshot, "apps": {"a": [1, 2, 3]}, "queue_bytes": {"w": 5}})
    assert set(total) == set(COUNTERS) & set(snapshot)
    assert total["deliveries"] == 6
    assert total["errors"] == {"4009": 4}
    assert total["publishes"] == {"rest": 6, "client": 6}
    assert total["rest_latency"] == [2 * count for count in snapshot["rest_latency"]]


def test_a_snapshot_of_another_version_can_be_added() -> None:
    total: Snapshot = {"messages_sent": 1, "rest_latency": [1, 2]}
    assert add(total, {"rest_latency": [1, 2, 3], "news_of_tomorrow": 5}) == {
        "messages_sent": 1,
        "rest_latency": [2, 4, 3],
    }


@given(one=SNAPSHOTS, two=SNAPSHOTS, three=SNAPSHOTS)
def test_the_order_does_not_matter_and_nobody_is_changed(one: Any, two: Any, three: Any) -> None:
    before = json.dumps([one, two, three])
    assert add(add(one, two), three) == add(one, add(three, two))
    assert json.dumps([one, two, three]) == before
