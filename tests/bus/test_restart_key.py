"""The restart key: how Laravel names it, what it holds, and when it says something new."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resonate.bus.restart_key import RestartKey, Values, compare, names, number, slug
from resonate.scaling import Redis, Scaling
from resonate.settings import Server

KEY = "laravel:reverb:restart"


def test_both_styles_of_prefixes_are_known() -> None:
    assert names(Server(restart_app_name="My Shop")) == (
        f"my_shop_database_my_shop_cache_{KEY}",
        f"my_shop_database_{KEY}",  # with CACHE_PREFIX set, and empty
        f"my-shop-database-my-shop-cache-{KEY}",
        f"my-shop-database-{KEY}",
    )


@pytest.mark.parametrize(
    ("redis", "cache", "expected"),
    [
        ("r_", "c_", [f"r_c_{KEY}"]),
        ("r_", None, [f"r_shop_cache_{KEY}", f"r_{KEY}", f"r_shop-cache-{KEY}"]),
        (None, "c_", [f"shop_database_c_{KEY}", f"shop-database-c_{KEY}"]),
    ],
)
def test_prefixes_that_are_set_hold(redis: str | None, cache: str | None, expected: list[str]) -> None:
    server = Server(restart_app_name="Shop", restart_redis_prefix=redis, restart_cache_prefix=cache)
    assert list(names(server)) == expected


@pytest.mark.parametrize(
    ("name", "underscored", "hyphened"),
    [
        ("Laravel", "laravel", "laravel"),
        ("  My  Shop! ", "my_shop", "my-shop"),
        ("my-shop_2", "my_shop_2", "my-shop-2"),
        ("ann@home", "ann_at_home", "ann-at-home"),
        ("a -_ b", "a_b", "a-b"),
        ("Café (beta)", "cafe_beta", "cafe-beta"),
        ("?!", "", ""),
    ],
)
def test_slug(name: str, underscored: str, hyphened: str) -> None:
    assert (slug(name, "_"), slug(name, "-")) == (underscored, hyphened)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"1764000000", 1764000000),
        (b"i:1764000000;", 1764000000),
        (b's:10:"1764000000";', 1764000000),
        (b"", None),
        (b"-1", None),
        (b"1e9", None),
        (b'O:8:"stdClass":0:{}', None),
        (b"i:1764000000;\n", None),
        (b"9" * 32, None),
        ("١٢".encode(), None),
    ],
)
def test_a_time_plain_or_serialized_and_nothing_else(value: bytes, expected: int | None) -> None:
    assert number(value) == expected


@given(st.integers(0, 10**18 - 1), st.binary(max_size=40))
def test_every_time_is_understood_and_nothing_breaks_it(time: int, junk: bytes) -> None:
    assert number(b"%d" % time) == number(b"i:%d;" % time) == time
    assert number(b"i:%d;" % time + b"}" + junk) is None


def test_what_is_news() -> None:
    known: Values = {"a": 5}
    assert compare({}, {"a": 5}) == (False, {"a": 5})  # the first time
    assert compare(known, {"a": 5}) == (False, {"a": 5})
    assert compare(known, {"a": 6}) == (True, {"a": 6})
    assert compare(known, {"a": 4}) == (True, {"a": 4})  # a clock may be wrong
    assert compare(known, {"a": None}) == (False, {"a": 5})  # the cache was cleared
    assert compare({"a": None}, {"a": 5}) == (True, {"a": 5})
    assert compare(known, {"b": 5}) == (False, {"b": 5})  # another configuration


@given(st.lists(st.dictionaries(st.sampled_from("ab"), st.none() | st.integers(0, 3), min_size=2), min_size=1))
def test_each_change_is_news_once(seen: list[Values]) -> None:
    last: Values = {}
    known: Values = {}
    for values in seen:
        told = {name: value for name, value in values.items() if value is not None}
        news = any(name in known and last.get(name) != value for name, value in told.items())
        changed, known = compare(known, values)
        assert changed == news
        assert compare(known, values) == (False, known)
        last |= told


def at(restart_database: int = 1, **redis: Any) -> Server:
    """Settings of a cache in such a Redis."""
    return Server(restart_database=restart_database, scaling=Scaling(redis=Redis(**redis)))


@pytest.mark.parametrize(
    ("server", "place"),
    [
        (Server(), "127.0.0.1:6379, database 1"),
        (at(host="/run/redis.sock"), "/run/redis.sock, database 1"),
        (at(host="tls://cache.example.com", port=6380), "cache.example.com:6380, database 1"),
        (at(url="redis://:hunter2@cache:6380/3"), "cache:6380, database 3"),
        (at(url="tls://ann:hunter2@cache", restart_database=2), "cache:6379, database 2"),
        (at(url="unix:///run/redis.sock"), "/run/redis.sock, database 1"),
        (at(url="tcp://cache/none?x=1"), "cache:6379, database 1"),
    ],
)
def test_where_it_is(server: Server, place: str) -> None:
    assert RestartKey(server).place == f"Redis at {place}"
