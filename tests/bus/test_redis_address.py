"""Where Redis is, by host and port, URL, or Sentinels; and that no password gets into a text."""

from __future__ import annotations

from typing import Any

import pytest

from resonate.bus.redis_address import AddressError, Place, address, sentinels
from resonate.bus.redis_connection import locate
from resonate.scaling import Scaling

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        (Place(), {"host": "127.0.0.1", "port": 6379, "db": 0}),
        (Place(host="cache", port=1, database=3), {"host": "cache", "port": 1, "db": 3}),
        (Place(host="/run/redis.sock"), {"unix_socket_path": "/run/redis.sock"}),
        (Place(host="tls://cache"), {"host": "cache", "ssl": True}),
        (Place(url="rediss://ann:p%40ss@cache/2"), {"host": "cache", "username": "ann", "password": "p@ss", "db": 2}),
        (Place(url="redis://cache:5", password="p"), {"host": "cache", "port": 5, "password": "p", "ssl": False}),
        (Place(url="unix:///run/a%20b.sock", password="p"), {"unix_socket_path": "/run/a b.sock", "password": "p"}),
        (Place(url="redis://[::1]:5/0"), {"host": "::1", "port": 5, "db": 0}),
    ],
)
def test_where_it_is(place: Place, expected: dict[str, Any]) -> None:
    assert locate(place).items() >= expected.items()


@pytest.mark.parametrize(
    ("place", "hosts", "master", "options"),
    [
        (Place(sentinels=(("a", 1), ("b", 2)), master="m", database=4), (("a", 1), ("b", 2)), "m", {"db": 4}),
        (Place(url="redis+sentinel://a,b:5/m"), (("a", 26379), ("b", 5)), "m", {"db": 0}),
        (Place(url="redis+sentinel://a"), (("a", 26379),), "mymaster", {"db": 0}),
        (
            Place(url="rediss+sentinel://ann:p%40ss@[::1]:7,[::2]/m/3"),
            (("::1", 7), ("::2", 26379)),
            "m",
            {"db": 3, "username": "ann", "password": "p@ss", "ssl": True},
        ),
    ],
)
def test_who_knows_where_it_is(
    place: Place, hosts: tuple[tuple[str, int], ...], master: str, options: dict[str, Any]
) -> None:
    found = sentinels(place)
    assert (found.hosts, found.master) == (hosts, master)
    assert found.options.items() >= options.items()
    assert str(place) == "Redis by Sentinel"


@pytest.mark.parametrize("url", [f"redis://:{SECRET}/x@cache:1", f"redis+sentinel://:{SECRET}/x@a:1/m"])
def test_a_url_that_cannot_be_read_is_not_quoted(url: str) -> None:
    place = Place(url=url)
    with pytest.raises(AddressError) as caught:
        locate(place)
    assert SECRET not in f"{caught.value} {place} {place!r}"


def test_what_holds_by_itself_is_what_the_configuration_says() -> None:
    assert Place() == Place.of(Scaling())


def test_no_password_in_a_text() -> None:
    place = Place(password=SECRET, sentinel_password=SECRET, url=f"redis://ann:{SECRET}@cache")
    assert SECRET not in repr(place) + str(place)
    assert str(place) == "Redis at cache:6379"


def test_settings_beside_a_url_hold_where_it_says_nothing() -> None:
    found = address("redis://cache", "other", 1, "ann", SECRET, 2)
    assert found == {"host": "cache", "port": 1, "username": "ann", "password": SECRET, "db": 2, "ssl": False}
