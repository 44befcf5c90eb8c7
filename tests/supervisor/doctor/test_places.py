"""Who listens where, and what a run directory is like."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from resonate.supervisor.address import Address, resolve
from resonate.supervisor.doctor import places
from resonate.supervisor.doctor.case import Machine, Resident
from resonate.supervisor.doctor.holders import holders

from tests.supervisor.doctor.cases import case, levels, machine, only
from tests.support.server import free_port

#: As /proc/net/tcp has them: 127.0.0.1:8080 listens, 0.0.0.0:9000 listens, 127.0.0.1:8081 is connected.
TCP = """  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0
   1: 00000000:2328 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 100 0 0 10 0
   2: 0100007F:1F91 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 4713 1 0 100 0 0 10 0
"""
#: [::1]:8082 listens.
TCP6 = """  sl  local_address                         remote_address                        st
   0: 00000000000000000000000001000000:1F92 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 4714 1 0 100 0
"""
UNIX = """Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0001 01 4715 /run/resonate.sock
0000000000000000: 00000002 00000000 00010000 0001 01 4716
"""


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """Process 100 has all of these sockets."""
    files = {"proc/net/tcp": TCP, "proc/net/tcp6": TCP6, "proc/net/unix": UNIX, "proc/100/comm": "other\n"}
    here = machine(tmp_path, files)
    (here.proc / "100" / "fd").mkdir()
    for number, inode in enumerate(range(4711, 4717)):
        (here.proc / "100" / "fd" / str(number)).symlink_to(f"socket:[{inode}]")
    return here.proc


@pytest.mark.parametrize(
    ("host", "port", "held"),
    [
        ("127.0.0.1", 8080, True),
        ("0.0.0.0", 8080, True),
        ("127.0.0.2", 8080, False),
        ("127.0.0.2", 9000, True),
        ("127.0.0.1", 8081, False),
        ("::1", 8082, True),
        ("::", 8080, True),
        ("unix:/run/resonate.sock", 0, True),
        ("unix:/run/other.sock", 0, False),
    ],
)
def test_who_holds_an_address(proc: Path, host: str, port: int, held: bool) -> None:
    family = socket.AF_INET6 if ":" in host and not host.startswith("unix:") else socket.AF_INET
    address = resolve(host, port) if host.startswith("unix:") else Address(family, (host, port))
    assert holders(proc, address) == ({100: "other"} if held else {})


def test_what_may_not_be_seen_is_nobody(proc: Path) -> None:
    (proc / "100" / "fd").rename(proc / "100" / "hidden")
    assert holders(proc, resolve("127.0.0.1", 8080)) == {}


# --- ports, of this machine ------------------------------------------------------------------------------------------


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which this process listens."""
    with socket.create_server(("127.0.0.1", free_port())) as listening:
        yield listening.getsockname()[1]


def test_free_ports(tmp_path: Path) -> None:
    here = case(Machine.here(), host="127.0.0.1", port=free_port(), metrics_port=free_port())
    assert levels(places.ports(here)) == ["ok", "ok"]
    assert levels(places.ports(case(Machine.here(), host="127.0.0.1", port=0, metrics_port=0))) == ["ok", "note"]


def test_a_port_of_somebody_else(taken: int) -> None:
    found = list(places.ports(case(Machine.here(), host="127.0.0.1", port=taken, metrics_port=taken)))
    assert levels(found) == ["problem", "warning"]
    assert f"(pid {os.getpid()})" in found[0].what
    assert f"kill {os.getpid()}" in found[0].remedy
    assert "RESONATE_METRICS_PORT" in found[1].remedy


def test_a_port_of_ours(taken: int, tmp_path: Path) -> None:
    ours = Resident(path=tmp_path, master=os.getpid(), processes=frozenset({os.getpid()}))
    here = case(Machine.here(), incumbent=ours, host="127.0.0.1", port=taken, metrics_port=0)
    assert places.incumbent(here.machine, here.settings.server, [ours]) is ours
    listening, _ = places.ports(here)
    assert listening.level.value == "ok"
    assert f"our own server listens there (pid {os.getpid()})" in listening.what


def test_a_port_that_systemd_hands_down(taken: int, tmp_path: Path) -> None:
    line = f"   0: 0100007F:{taken:04X} 00000000:0000 0A 0:0 00:0 0 0 0 4711 1 0 100 0 0 10 0\n"
    here = machine(tmp_path, {"proc/net/tcp": "  sl  local_address\n" + line, "proc/1/comm": "systemd\n"})
    (here.proc / "1" / "fd").mkdir()
    (here.proc / "1" / "fd" / "3").symlink_to("socket:[4711]")
    listening, _ = places.ports(case(here, host="127.0.0.1", port=taken, metrics_port=0))
    assert (listening.level.value, "socket activation" in listening.what) == ("ok", True)


def test_an_address_that_is_none_of_ours() -> None:
    here = case(Machine.here(), host="192.0.2.1", port=free_port(), metrics_port=0)
    assert levels(places.ports(here)) == ["problem", "note"]


# --- the run directory -----------------------------------------------------------------------------------------------


@pytest.fixture
def above() -> Iterator[Path]:
    """A directory with a short path."""
    with tempfile.TemporaryDirectory(prefix="r") as name:
        yield Path(name)


def directory(path: Path) -> list[str]:
    return levels(places.run_directory(case(Machine.here(), run_dir=str(path))))


def test_a_directory_that_is_there_is_left_as_it_is(above: Path) -> None:
    assert directory(above) == ["ok"]
    assert list(above.iterdir()) == []


def test_one_that_is_not_is_not_made(above: Path) -> None:
    assert directory(above / "new") == ["ok"]
    assert directory(above / "no" / "new") == ["problem"]
    assert list(above.iterdir()) == []


def test_a_path_that_is_too_long_for_sockets(above: Path) -> None:
    assert directory(above / ("x" * 80)) == ["problem"]


def test_a_file_in_its_place(above: Path) -> None:
    (above / "file").touch()
    assert directory(above / "file") == ["problem"]


def test_everybody_may_write(above: Path) -> None:
    above.chmod(0o777)
    assert directory(above) == ["warning"]
    above.chmod(0o1777)
    assert directory(above) == ["ok"]


def test_a_directory_of_somebody_else(above: Path) -> None:
    found = os.stat_result((0o40755, *above.stat()[1:4], 4321, *above.stat()[5:]))
    assert levels(places.owned(above, found, 1000)) == ["warning"]
    assert levels(places.owned(above, found, 4321)) == []


@pytest.mark.parametrize(
    ("octets", "names", "expected"),
    [(10**9, 10**6, []), (10**6, 10**6, ["warning"]), (10**9, 10, ["warning"]), (0, 10**6, ["problem"])],
)
def test_room(octets: int, names: int, expected: list[str]) -> None:
    assert levels(places.room(Path("/run"), octets, names)) == expected


def test_only_says_what_is_there(above: Path) -> None:
    assert only(places.run_directory(case(Machine.here(), run_dir=str(above)))).what == str(above)
