"""Where Redis is, by host and port, URL, or Sentinels; and that no password gets into a text."""

from __future__ import annotations

from typing import Any

import pytest

from resonate.bus.redis_address import AddressError, address, described
from resonate.bus.redis_connection import locate
from resonate.scaling import Redis

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (Redis(), {"host": "127.0.0.1", "port": 6379, "db": 0}),
        (Redis(host="cache", port=1, database=3), {"host": "cache", "port": 1, "db": 3}),
        (Redis(host="/run/redis.sock"), {"unix_socket_path": "/run/redis.sock"}),
        (Redis(host="tls://cache"), {"host": "cache", "ssl": True, "ssl_check_hostname": True}),
        (Redis(host="tls://cache", ca_file="/ca.pem"), {"ssl_ca_certs": "/ca.pem"}),
        (Redis(url="rediss://ann:p%40ss@cache/2"), {"host": "cache", "username": "ann", "password": "p@ss", "db": 2}),
        (Redis(url="redis://cache:5", password="p"), {"host": "cache", "port": 5, "password": "p", "ssl": False}),
        (Redis(url="unix:///run/a%20b.sock", password="p"), {"unix_socket_path": "/run/a b.sock", "password": "p"}),
        (Redis(url="redis://[::1]:5/0"), {"host": "::1", "port": 5, "db": 0}),
    ],
)
def test_where_it_is(told: Redis, expected: dict[str, Any]) -> None:
    assert locate(told, 1.0).items() >= expected.items()


@pytest.mark.parametrize(
    ("told", "options"),
    [
        (Redis(sentinels=("a:1", "b:2"), sentinel_master="m", database=4), {"db": 4}),
        (Redis(url="redis+sentinel://a,b:5/m"), {"db": 0}),
        (
            Redis(url="rediss+sentinel://ann:p%40ss@[::1]:7,[::2]/m/3", ca_file="/ca.pem"),
            {"db": 3, "username": "ann", "password": "p@ss", "ssl": True, "ssl_ca_certs": "/ca.pem"},
        ),
    ],
)
def test_what_is_said_to_whom_sentinels_name(told: Redis, options: dict[str, Any]) -> None:
    assert address(told, told.database).items() >= options.items()
    assert described(told) == "Redis by Sentinel"


@pytest.mark.parametrize("host", ["/run/redis.sock", "tls://cache"])
def test_sentinels_are_asked_whatever_laravel_has_beside_them(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def made(options: dict[str, Any], patience_s: float) -> Any:
        asked.append(options)
        raise OSError("not here")

    monkeypatch.setattr("resonate.bus.redis_connection.Connection", made)
    with pytest.raises(OSError, match="not here"):
        locate(Redis(host=host, sentinels=("s1:1",), sentinel_master="m"), 1.0)
    assert [(options["host"], options["port"]) for options in asked] == [("s1", 1)]
    assert not {"unix_socket_path", "ssl"} & set(asked[0])


def test_a_url_that_cannot_be_read_is_not_quoted() -> None:
    told = Redis(url=f"redis://:{SECRET}/x@cache:1")
    with pytest.raises(AddressError) as caught:
        locate(told, 1.0)
    assert SECRET not in f"{caught.value} {described(told)} {told!r}"


def test_no_password_in_a_text() -> None:
    told = Redis(password=SECRET, sentinel_password=SECRET, url=f"redis://ann:{SECRET}@cache")
    assert SECRET not in repr(told) + described(told)
    assert described(told) == "Redis at cache:6379"


def test_settings_beside_a_url_hold_where_it_says_nothing() -> None:
    found = address(Redis(url="redis://cache", host="other", port=1, username="ann", password=SECRET), 2)
    assert found == {"host": "cache", "port": 1, "username": "ann", "password": SECRET, "db": 2, "ssl": False}
