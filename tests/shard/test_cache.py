"""The cache of last events, against a model that looks at every entry."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from resonate.shard.cache import OVERHEAD, EventCache

KEY = ("app1", "cache-x")


def test_keeps_the_last_event_until_its_time_is_over() -> None:
    cache = EventCache()
    cache.put(KEY, b"first", 100, 10)
    cache.put(KEY, b"second", 105, 10)
    assert cache.get(KEY, 114.9) == b"second"
    assert cache.get(KEY, 115) is None
    assert len(cache) == 0


def test_apps_do_not_share_a_channel() -> None:
    cache = EventCache()
    cache.put(KEY, b"x", 0, 10)
    assert cache.get(("app2", "cache-x"), 0) is None


def test_prune_forgets_what_has_run_out_and_nothing_else() -> None:
    cache = EventCache()
    cache.put(("a", "1"), b"x", 0, 10)
    cache.put(("a", "2"), b"x", 0, 11)
    cache.prune(10)
    assert len(cache) == 1
    assert cache.get(("a", "2"), 10) == b"x"


def test_forgets_the_channel_that_was_published_to_the_longest_ago() -> None:
    cache = EventCache(3 * (OVERHEAD + 1))
    for name in "123":
        cache.put(("a", name), b"x", 0, 10)
    cache.put(("a", "1"), b"y", 0, 10)
    cache.put(("a", "4"), b"z", 0, 10)
    assert [cache.get(("a", name), 0) for name in "1234"] == [b"y", None, b"x", b"z"]


def test_what_is_larger_than_the_cache_is_not_kept() -> None:
    cache = EventCache(OVERHEAD)
    cache.put(KEY, b"x", 0, 10)
    assert cache.get(KEY, 0) is None
    assert len(cache) == 0


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["put", "get", "prune"]), st.sampled_from("abcd"), st.integers(0, 300), st.integers(0, 4)
    ),
    max_size=60,
)


@given(steps=STEPS, room=st.integers(1, 1500))
def test_against_a_naive_model(steps: list[tuple[str, str, int, int]], room: int) -> None:
    cache = EventCache(room)
    entries: dict[str, tuple[int, int]] = {}  # size and end, the last published to at the end
    now = 0
    for what, name, size, seconds in steps:
        now += seconds
        if what == "put":
            cache.put(("a", name), bytes(size), now, 5)
            entries.pop(name, None)
            entries[name] = (size, now + 5)
            while entries and sum(size + OVERHEAD for size, _ in entries.values()) > room:
                del entries[next(iter(entries))]
        elif what == "prune":
            cache.prune(now)
            entries = {name: entry for name, entry in entries.items() if entry[1] > now}
        else:
            expected = entries.get(name)
            if expected is not None and expected[1] <= now:
                expected = entries.pop(name) and None
            assert cache.get(("a", name), now) == (None if expected is None else bytes(expected[0]))
        assert len(cache) == len(entries)
