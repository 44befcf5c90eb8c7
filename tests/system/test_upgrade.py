"""A new version of the package: the files change below a running server, and a reload brings the new code."""

from __future__ import annotations

import os
import shutil
import signal
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from resonate.version import VERSION
from tests.support.client import Client
from tests.support.cluster import kill, shards_of, workers_of
from tests.support.eventually import eventually
from tests.support.rest import Rest
from tests.support.server import Server

ROOT = Path(__file__).parents[2]
HEALTHY = b'{"health":"OK"}'


class Installed:
    """A server whose package lies in a folder of its own."""

    def __init__(self, directory: Path) -> None:
        self.package = directory / "site" / "resonate"
        unwanted = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "resonate", self.package, ignore=unwanted)
        shutil.copytree(ROOT / "supervisor", self.package / "supervisor", ignore=unwanted)
        path = os.pathsep.join((str(self.package.parent), str(ROOT)))
        self.server = Server(directory / "run", env={"PYTHONPATH": path, "RESONATE_WORKERS": "2"})

    def edit(self, file: str, before: str, after: str) -> None:
        """Change the package on the disk."""
        path = self.package / file
        text = path.read_text()
        assert before in text
        path.write_text(text.replace(before, after))

    def upgrade(self) -> None:
        """To a version that answers otherwise."""
        self.edit("version.py", VERSION, "99.0.0")
        self.edit("server/outage.py", '{"health":"OK"}', '{"health":"NEW"}')

    def reload(self) -> None:
        self.server.process.send_signal(signal.SIGHUP)

    def said(self, words: str) -> None:
        eventually(lambda: words in self.server.log(), within=60)

    def health(self) -> bytes:
        with urllib.request.urlopen(f"{self.server.url}/up", timeout=20) as answer:
            body: bytes = answer.read()
            return body


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[Installed]:
    made = Installed(tmp_path)
    with made.server:
        yield made


def echoed(client: Client) -> None:
    client.send("pusher:ping")
    assert client.event() == {"event": "pusher:pong"}


def test_the_new_code_serves_and_nobody_is_disconnected(installed: Installed) -> None:
    server = installed.server
    with Client(server.host, server.port).established() as client:
        client.subscribed("chat")
        old = workers_of(server)
        assert installed.health() == HEALTHY
        installed.upgrade()
        installed.reload()
        installed.said("reload 2 done")
        assert "version 99.0.0 is on the disk" in server.log()
        assert installed.health() == b'{"health":"NEW"}'
        assert not set(old) & set(workers_of(server))
        echoed(client)
        kill(workers_of(server)[0])  # who follows is of the new code as well
        eventually(lambda: len(workers_of(server)) == 2)
        assert {installed.health() for _ in range(10)} == {b'{"health":"NEW"}'}


def test_a_package_that_cannot_be_imported_changes_nothing(installed: Installed) -> None:
    server = installed.server
    with Client(server.host, server.port).established() as client:
        old = workers_of(server)
        installed.edit("server/hub.py", "from __future__", "from __past__")
        installed.reload()
        installed.said("the reload is refused, nothing changes")
        assert "__past__" in server.log()
        assert workers_of(server) == old
        echoed(client)
        installed.edit("server/hub.py", "from __past__", "from __future__")
        installed.reload()
        installed.said("reload 2 done")
        echoed(client)


def test_a_version_that_cannot_work_with_this_one_is_refused(installed: Installed) -> None:
    server = installed.server
    with Client(server.host, server.port).established() as client:
        installed.upgrade()
        installed.edit("version.py", "PROTOCOL: Final = ", "PROTOCOL: Final = 1000 + ")
        installed.reload()
        installed.said(f"version 99.0.0 cannot work with {VERSION}, which runs: restart the server")
        assert installed.health() == HEALTHY
        echoed(client)


def test_a_new_master_brings_the_new_code_to_every_process(installed: Installed) -> None:
    server = installed.server
    with Client(server.host, server.port).established() as client:
        client.subscribed("chat")
        installed.upgrade()
        server.process.send_signal(signal.SIGUSR2)
        assert server.process.wait(60) == 0
        installed.said("Starting Resonate 99.0.0")
        assert installed.health() == b'{"health":"NEW"}'
        eventually(lambda: len(shards_of(server)) == 1)
        with closing(Rest(server.host, server.port)) as rest:
            assert rest.publish("chat", "hello", "{}").status == 200
        assert client.event()["event"] == "hello"


def test_a_new_master_that_cannot_work_with_this_one_is_refused(installed: Installed) -> None:
    server = installed.server
    with Client(server.host, server.port).established() as client:
        installed.upgrade()
        installed.edit("version.py", "PROTOCOL: Final = ", "PROTOCOL: Final = 1000 + ")
        server.process.send_signal(signal.SIGUSR2)
        installed.said("exited with code 2: this one serves on as before")
        assert f"version 99.0.0 cannot follow {VERSION}, which runs: restart the server" in server.log()
        assert installed.health() == HEALTHY
        echoed(client)


def test_a_shard_of_the_new_version_serves_workers_of_the_old_one(installed: Installed) -> None:
    server = installed.server
    with Client(server.host, server.port).established() as client:
        client.subscribed("chat")
        installed.upgrade()
        (old,) = shards_of(server)
        kill(old)
        eventually(lambda: shards_of(server) not in ([], [old]), within=60)
        with closing(Rest(server.host, server.port)) as rest:
            assert rest.publish("chat", "hello", "{}").status == 200
        assert client.event()["event"] == "hello"
