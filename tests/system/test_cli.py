"""The `resonate` command as an operator meets it: what it prints, how it stops, what it says when it cannot start."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from resonate import __version__
from tests.support.client import Client
from tests.support.eventually import eventually
from tests.support.ports import free_port
from tests.support.rest import Rest
from tests.support.server import BIN, ONE_APP, OURS, Server, configuration

Start = Callable[..., Server]
SECRETS = ("secret1", "hunter2")


def run(directory: Path, *words: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """A `resonate` command that is expected to end by itself."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(OURS)}
    root = str(Path(__file__).parents[2])
    return subprocess.run(
        [str(BIN / "resonate"), *words],
        cwd=directory,
        env={**clean, "PYTHONPATH": clean.get("PYTHONPATH", root), **(env or {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def refused(directory: Path, *words: str, env: Mapping[str, str] | None = None) -> str:
    """The one line with which `resonate start` refuses to start."""
    done = run(directory, "start", *words, env=env)
    said = done.stdout + done.stderr
    assert done.returncode == 2, said
    assert "Traceback" not in said
    assert not any(secret in said for secret in SECRETS)
    (line,) = said.splitlines()
    return line


def client(server: Server) -> Client:
    return Client(server.host, server.port).established()


def logged(server: Server, words: str) -> str:
    """The server's log, once these words are in it."""
    eventually(lambda: words in server.log())
    return server.log()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory with a configuration that would do."""
    (tmp_path / "resonate.toml").write_text(configuration([ONE_APP], {}))
    return tmp_path


# --- starting and stopping -------------------------------------------------------------------------------------------


def test_version(tmp_path: Path) -> None:
    assert run(tmp_path, "--version").stdout == f"resonate {__version__}\n"


def test_says_where_it_listens_who_may_connect_and_how_to_stop_it(server: Server) -> None:
    log = logged(server, "Ctrl-C")
    assert f"http://127.0.0.1:{server.port}" in log
    assert "key1" in log
    assert "SIGTERM" in log
    assert "secret1" not in log


@pytest.mark.parametrize("to_all", [False, True], ids=["to the master", "to the process group"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopping(start: Start, number: signal.Signals, to_all: bool) -> None:
    server = start(server={"drain_timeout": 20})
    with client(server) as first, client(server) as second, client(server) as silent:
        first.subscribed("news")
        if to_all:
            os.killpg(server.process.pid, number)
        else:
            server.process.send_signal(number)
        assert (first.closed(), second.closed(), silent.closed()) == (4200, 4200, 4200)
        assert server.process.wait(20) == 0
    assert "Traceback" not in server.log()


def test_a_client_that_does_not_close_does_not_hold_the_end_up(start: Start) -> None:
    server = start(server={"drain_timeout": 1})
    with client(server):  # reads nothing, closes nothing
        assert server.stop(within=20) == 0


def test_options(start: Start) -> None:
    server = start(arguments=["--path", "/ws", "--hostname", "ws.example.com", "--workers", "1"], up="/ws/up")
    assert f"http://ws.example.com:{server.port}/ws" in logged(server, "Ctrl-C")
    with Client(server.host, server.port, "/ws/app/key1") as connected:
        connected.established()


def test_config_option(start: Start, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text(configuration([{**ONE_APP, "key": "key2"}], {}))
    server = start(arguments=["--config", str(other)])
    with Client(server.host, server.port, "/app/key2") as connected:
        connected.established()


# --- what it says when it cannot start -------------------------------------------------------------------------------


def test_port_in_use(directory: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = refused(directory, "--host", "127.0.0.1", "--port", str(port))
    assert f"port = {port}: another process listens there" in line


@pytest.mark.parametrize(("host", "named"), [("no.such.host.invalid", "host"), ("192.0.2.1", "address")])
def test_an_address_that_is_not_ours(directory: Path, host: str, named: str) -> None:
    assert named in refused(directory, "--host", host, "--port", str(free_port()))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[servers.reverb]\nprot = 5\n", "servers.reverb.prot"),
        ('[servers.reverb]\nport = "many"\n', "servers.reverb.port = 'many'"),
        ("[servers.reverb\n", "cannot be read"),
        ("", "REVERB_APP_ID"),
        ('[[apps.apps]]\napp_id = "1"\nkey = "k"\n', "secret"),
        ('[[apps.apps]]\napp_id = "1"\nkey = "k"\nsecret = ["hunter2"]\n', "secret"),
    ],
)
def test_bad_configuration(tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / "resonate.toml").write_text(text)
    assert named in refused(tmp_path)


@pytest.mark.parametrize("value", ["many", "70000"])
def test_bad_option(directory: Path, value: str) -> None:
    assert f"command line: --port = '{value}'" in refused(directory, "--port", value)


def test_bad_variable(directory: Path) -> None:
    line = refused(directory, env={"REVERB_SERVER_PORT": "many"})
    assert "environment: REVERB_SERVER_PORT = 'many'" in line


@pytest.mark.parametrize("named", ["missing.toml", "."])
def test_missing_configuration_file(directory: Path, named: str) -> None:
    assert f"--config = '{named}': no such file" in refused(directory, "--config", named)


def test_unreadable_configuration_file(directory: Path) -> None:
    (directory / "resonate.toml").write_bytes(b"\xff\xfe")
    assert "resonate.toml: cannot be read" in refused(directory)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_configuration_file_of_somebody_else(directory: Path) -> None:
    (directory / "resonate.toml").chmod(0)
    assert "resonate.toml: cannot be read" in refused(directory)


@pytest.mark.parametrize("content", [None, "this is no certificate"])
def test_certificate_that_cannot_be_used(tmp_path: Path, content: str | None) -> None:
    tls = {"local_cert": "cert.pem", "local_pk": "key.pem", "passphrase": "hunter2"}
    (tmp_path / "resonate.toml").write_text(configuration([ONE_APP], {"options": {"tls": tls}}))
    for name in ("cert.pem", "key.pem") if content else ():
        (tmp_path / name).write_text(content or "")
    line = refused(tmp_path)
    assert "options.tls" in line
    assert "cert.pem" in line


def test_no_command(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 2
    assert "COMMAND" in done.stderr


# --- logs ------------------------------------------------------------------------------------------------------------


def traffic(server: Server) -> None:
    """Subscriptions, presence and events, with a secret in everything that may hold one."""
    rest = Rest(server.host, server.port)
    with client(server) as ann, client(server) as bob:
        ann.subscribed("presence-x", {"user_id": "hunter2", "user_info": {"name": "hunter2"}})
        bob.subscribed("presence-x", {"user_id": "bob", "user_info": "hunter2"})
        assert ann.event()["event"] == "pusher_internal:member_added"
        bob.send("client-typing", {"text": "hello"}, channel="presence-x")
        assert ann.event()["event"] == "client-typing"
        bob.subscribed("news")
        rest.publish("news", "order.shipped", '{"number":7}')
        assert bob.event()["event"] == "order.shipped"
    rest.close()


def test_debug_shows_messages_without_secrets(start: Start) -> None:
    server = start(arguments=["--debug"])
    traffic(server)
    log = logged(server, "order.shipped")
    for shown in ("pusher:subscribe", "client-typing", "hello", "presence-x", "[redacted]"):
        assert shown in log
    assert not any(secret in log for secret in SECRETS)
    assert not re.search(r"key1:[0-9a-f]{64}", log)
    assert "auth_signature" not in log


def test_without_debug_there_is_no_line_per_message(server: Server) -> None:
    before = server.log()
    traffic(server)
    assert server.log() == before


def test_deep_messages_do_not_end_a_connection_in_debug(start: Start) -> None:
    server = start(arguments=["--debug"])
    with client(server) as deep:
        deep.send_text('{"event":"client-x","channel":"private-x","data":' + "[" * 300 + "]" * 300 + "}")
        assert json.loads(deep.event()["data"])["code"] == 4200
        assert deep.barrier() == []
    assert "Traceback" not in server.log()


def test_json_logs(start: Start) -> None:
    server = start(env={"RESONATE_LOG_FORMAT": "json", "TZ": "Asia/Tokyo"}, arguments=["--debug"])
    traffic(server)
    logged(server, "key1")
    assert server.stop() == 0
    entries = [json.loads(line) for line in server.log().splitlines()]
    assert all({"time", "level", "pid", "message"} <= set(entry) for entry in entries)
    assert {"info", "debug"} <= {entry["level"] for entry in entries}
    utc = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:?00)")
    assert all(utc.fullmatch(entry["time"]) for entry in entries)
    assert any("key1" in entry["message"] for entry in entries)


@pytest.mark.parametrize(
    "command", [None, ["gunicorn", "-k", "resonate.worker", "-b", "127.0.0.1:{port}", "resonate:app"]]
)
def test_a_signal_while_the_worker_boots_is_not_lost(tmp_path: Path, command: list[str] | None) -> None:
    """Between the fork and the worker's own handlers a signal lands in a copy of the master's queue."""
    for attempt in range(3):
        server = Server(tmp_path / str(attempt), command=command)
        try:
            eventually(lambda: "Booting worker" in server.log(), every=0.001)  # noqa: B023 - called at once
            began = time.monotonic()
            assert server.stop(signal.SIGTERM) == 0
            assert time.monotonic() - began < 15, server.log()
        finally:
            server.kill()
