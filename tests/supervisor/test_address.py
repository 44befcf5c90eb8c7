from __future__ import annotations

import socket
from pathlib import Path

import pytest
from resonate.supervisor.address import Address, check_address, resolve, text

from resonate.errors import ConfigurationError


@pytest.mark.parametrize(
    ("host", "family", "name"),
    [
        ("127.0.0.1", socket.AF_INET, ("127.0.0.1", 80)),
        ("::1", socket.AF_INET6, ("::1", 80, 0, 0)),
        ("[::1]", socket.AF_INET6, ("::1", 80, 0, 0)),
        ("unix:/run/x.sock", socket.AF_UNIX, "/run/x.sock"),
    ],
)
def test_addresses(host: str, family: socket.AddressFamily, name: object) -> None:
    assert resolve(host, 80) == Address(family, name)


@pytest.mark.parametrize(
    ("host", "expected"),
    [("0.0.0.0", "0.0.0.0:80"), ("::", "[::]:80"), ("[::1]", "[::1]:80"), ("unix:/x", "unix:/x")],
)
def test_as_gunicorn_writes_them(host: str, expected: str) -> None:
    assert text(host, 80) == expected


def refusal(host: str, port: int = 0) -> str:
    with pytest.raises(ConfigurationError) as caught:
        check_address(host, port)
    return str(caught.value)


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as taken:
        assert "another process listens there" in refusal("127.0.0.1", taken.getsockname()[1])


def test_a_path_that_can_be_used(tmp_path: Path) -> None:
    check_address(f"unix:{tmp_path}/x.sock", 0)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(f"{tmp_path}/x.sock")
    check_address(f"unix:{tmp_path}/x.sock", 0)


def test_a_path_where_somebody_listens(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(f"{tmp_path}/x.sock")
        taken.listen()
        assert "another process listens there" in refusal(f"unix:{tmp_path}/x.sock")


def test_a_path_that_is_something_else(tmp_path: Path) -> None:
    (tmp_path / "x.sock").write_text("precious")
    assert "no socket" in refusal(f"unix:{tmp_path}/x.sock")
    assert (tmp_path / "x.sock").read_text() == "precious"


@pytest.mark.parametrize(
    ("path", "named"),
    [("", "107 bytes"), ("/" + "x" * 107, "107 bytes"), ("/no/such/folder/x.sock", "/no/such/folder")],
)
def test_a_path_that_cannot_be(path: str, named: str) -> None:
    assert named in refusal(f"unix:{path}")


def test_what_systemd_hands_down_is_not_tried() -> None:
    check_address("no.such.host.invalid", 1, {"LISTEN_FDS": "1"})
