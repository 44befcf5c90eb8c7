"""`resonate doctor` as an operator meets it: real ports, files, proxies, servers, and a real Redis."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis
import trustme

from tests.support.proxy import Proxy, forwarding, without_upgrade
from tests.support.redis import RedisServer
from tests.support.server import BIN, ONE_APP, OURS, Server, configuration, free_port

#: What never may be printed.
SECRETS = ("secret1", "hunter2")


class Report(NamedTuple):
    """Exit status, and what the command has printed for machines."""

    status: int
    findings: list[dict[str, str]]

    def of(self, check: str) -> list[tuple[str, str]]:
        """Level and text of what a check has found, but for what is good."""
        found = [found for found in self.findings if found["check"] == check]
        assert found, check
        return [(found["level"], found["what"]) for found in found if found["level"] != "ok"]

    def bad(self) -> list[dict[str, str]]:
        return [found for found in self.findings if found["level"] in ("warning", "problem")]


def run(directory: Path, *words: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(OURS)}
    done = subprocess.run(
        [str(BIN / "resonate"), "doctor", *words],
        cwd=directory,
        env={**clean, "PYTHONPATH": clean.get("PYTHONPATH", str(Path(__file__).parents[2])), **(env or {})},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    assert not any(secret in done.stdout for secret in SECRETS)
    return done


def examined(directory: Path, *words: str, env: Mapping[str, str] | None = None) -> Report:
    done = run(directory, "--json", *words, env=env)
    return Report(done.returncode, json.loads(done.stdout)["findings"])


@pytest.fixture
def directory() -> Iterator[Path]:
    """The working directory, and where run directories lie; sockets in it may not have long paths."""
    with tempfile.TemporaryDirectory(prefix="r") as name:
        yield Path(name)


@pytest.fixture
def configured(directory: Path) -> Callable[..., Path]:
    """Writes a configuration that would do, with these keys besides."""

    def write(app: Mapping[str, object] = {}, **server: object) -> Path:
        usual = {"host": "127.0.0.1", "port": free_port(), "metrics_port": 0, "run_dir": str(directory)}
        (directory / "resonate.toml").write_text(configuration([{**ONE_APP, **app}], {**usual, **server}))
        return directory

    return write


# --- this machine ----------------------------------------------------------------------------------------------------


def test_a_good_machine(configured: Callable[..., Path]) -> None:
    report = examined(configured())
    assert report.status == 0
    assert not [found for found in report.bad() if found["level"] == "problem"]
    assert report.of("configuration") == report.of("packages") == report.of("run directory") == []


def test_what_people_see(configured: Callable[..., Path]) -> None:
    lines = run(configured()).stdout.splitlines()
    assert lines[0].startswith("resonate doctor ")
    assert any(line.startswith("ok       configuration") for line in lines)
    assert lines[-1].startswith("no problems, ")


def test_a_port_that_somebody_else_has(configured: Callable[..., Path]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        report = examined(configured(), "--port", str(port))
    assert report.status == 1
    ((level, what), _) = report.of("listening")
    assert level == "problem"
    assert what.startswith(f"127.0.0.1:{port}: another process listens there: ")
    assert f"(pid {os.getpid()})" in what


def test_a_configuration_that_cannot_be_used(directory: Path) -> None:
    (directory / "resonate.toml").write_text('[servers.reverb]\nport = "many"\n')
    report = examined(directory)
    assert report.status == 1
    ((level, what),) = report.of("configuration")
    assert level == "problem"
    assert what == f"{directory}/resonate.toml: servers.reverb.port = 'many': must be a whole number"
    assert run(directory).stdout.splitlines()[-1] == "1 problem, no warnings"


def test_notices_are_warnings(configured: Callable[..., Path]) -> None:
    report = examined(configured(), env={"RESONATE_WORKER": "2"})
    assert report.status == 0
    assert report.of("configuration") == [("warning", "RESONATE_WORKER is not a setting and is ignored")]


def test_few_open_files(configured: Callable[..., Path]) -> None:
    report = examined(configured({"max_connections": 10_000_000_000}))
    assert "problem" in {level for level, _ in report.of("open files")}
    assert report.status == 1


def test_a_certificate_that_has_expired(configured: Callable[..., Path], directory: Path) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    cert = trustme.CA().issue_cert("localhost", not_before=yesterday - timedelta(days=90), not_after=yesterday)
    cert.private_key_and_cert_chain_pem.write_to_path(directory / "cert.pem")
    report = examined(configured(options={"tls": {"local_cert": "cert.pem"}}))
    assert report.status == 1
    expired, _ = report.of("certificate")  # nor is it trusted
    assert expired[0] == "problem"
    assert expired[1].startswith("the certificate has expired: ")


# --- a server that runs, and what is in front of it ------------------------------------------------------------------


def public(port: int) -> dict[str, object]:
    return {"options": {"host": "127.0.0.1", "port": port, "scheme": "http"}}


def test_our_own_server_is_no_stranger(directory: Path) -> None:
    with Server(directory, server={"run_dir": str(directory)}) as server:
        report = examined(directory, "--host", "127.0.0.1", "--port", str(server.port))
    assert report.status == 0
    listening, _ = [found["what"] for found in report.findings if found["check"] == "listening"]
    assert listening == f"127.0.0.1:{server.port}: our own server listens there (pid {server.process.pid})"
    (limits,) = [found["what"] for found in report.findings if found["check"] == "open files"]
    assert f"the server that runs here (pid {server.process.pid})" in limits
    greeted, _ = [found["what"] for found in report.findings if found["check"] == "proxy"]
    assert greeted == f"127.0.0.1:{server.port} passes a WebSocket, and the server greets"


def test_a_server_with_a_certificate_of_its_own(directory: Path) -> None:
    """Its authority is unknown to this machine, until it is told of it."""
    authority = trustme.CA()
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(directory / "cert.pem")
    authority.cert_pem.write_to_path(directory / "authority.pem")
    settings = {"run_dir": str(directory), "options": {"tls": {"local_cert": "cert.pem"}}}
    with Server(directory, server=settings, scheme="https") as server:
        port = str(server.port)
        env = {"REVERB_HOST": "localhost", "REVERB_PORT": port, "REVERB_SCHEME": "https"}
        words = ("--host", "127.0.0.1", "--port", port)
        stranger = examined(directory, *words, env=env)
        friend = examined(directory, *words, env={**env, "SSL_CERT_FILE": str(directory / "authority.pem")})
    assert (stranger.status, friend.status) == (0, 0)
    assert [level for level, _ in stranger.of("certificate")] == ["warning"]
    assert [level for level, _ in stranger.of("proxy")] == ["warning", "note"]
    assert friend.of("certificate") == []
    assert [level for level, _ in friend.of("proxy")] == ["note"]
    shown = [found["what"] for found in friend.findings if found["level"] == "ok"]
    assert "the certificate is for localhost" in shown
    assert f"localhost:{port} passes a WebSocket, and the server greets" in shown


def test_a_proxy_in_front_of_a_server_that_runs(directory: Path) -> None:
    with (
        Server(directory, server={"run_dir": str(directory)}) as server,
        Proxy(server.port, forwarding) as good,
        Proxy(server.port, without_upgrade) as bad,
    ):
        for way, status in ((good, 0), (bad, 1)):
            env = {"REVERB_HOST": "127.0.0.1", "REVERB_PORT": str(way.port), "REVERB_SCHEME": "http"}
            report = examined(directory, "--host", "127.0.0.1", "--port", str(server.port), env=env)
            assert report.status == status
            direct, through, _ = [found for found in report.findings if found["check"] == "proxy"]
            assert direct["level"] == "ok"
            if way is good:
                assert through["what"] == f"127.0.0.1:{good.port} passes a WebSocket, and the server greets"
            else:
                assert through["what"].startswith(f"127.0.0.1:{bad.port} refuses a WebSocket: HTTP/1.1 426")
                assert "proxy_set_header Upgrade" in through["remedy"]
    assert "Traceback" not in server.log()


def test_a_proxy_while_the_server_is_stopped(configured: Callable[..., Path]) -> None:
    """What arrives there is seen then."""
    port = free_port()
    with Proxy(port, forwarding) as way:
        report = examined(configured(public(way.port), port=port))
    assert report.status == 0
    assert [found["what"] for found in report.findings if found["check"] == "proxy"] == [
        f"127.0.0.1:{way.port} passes WebSockets on to this server",
        "X-Forwarded-For and X-Forwarded-Proto arrive",
    ]


# --- Redis -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with tempfile.TemporaryDirectory() as name, RedisServer(Path(name)) as running:
        yield running


@pytest.fixture
def admin(server: RedisServer) -> Iterator[redis.Redis]:
    """Whatever is changed is as before afterwards."""
    with redis.Redis(port=server.port) as client:
        yield client
        client.config_set("maxmemory-policy", "noeviction")
        client.execute_command("ACL", "DELUSER", "limited")
        client.execute_command("ACL", "SETUSER", "default", "nopass")


#: However busy the machine of the tests is.
PATIENT = {"RESONATE_SCALING_PATIENCE": "60", "RESONATE_SCALING_LEASE": "120"}


def scaled(port: int, **more: str) -> dict[str, str]:
    """The environment of one of several hosts."""
    return {"REVERB_SCALING_ENABLED": "true", "REDIS_PORT": str(port), **PATIENT, **more}


def redis_of(report: Report) -> Any:
    """The only bad finding about Redis, but for how fast it answers."""
    assert report.status == int(any(found["level"] == "problem" for found in report.bad()))
    bad = [found for found in report.bad() if found["check"] == "redis"]
    (found,) = [found for found in bad if "PINGs" not in found["what"]]
    return found


@pytest.mark.parametrize("env", [{"REVERB_SCALING_ENABLED": "true"}, {"CACHE_STORE": "redis"}])
def test_a_good_redis(configured: Callable[..., Path], server: RedisServer, env: dict[str, str]) -> None:
    report = examined(configured(), env={**PATIENT, **env, "REDIS_PORT": str(server.port)})
    assert report.status == 0
    assert not [what for level, what in report.of("redis") if level != "note" and "PINGs" not in what]
    assert any(": Redis " in found["what"] for found in report.findings if found["check"] == "redis")


def test_a_redis_that_is_not_there(configured: Callable[..., Path]) -> None:
    port = free_port()
    found = redis_of(examined(configured(), env=scaled(port)))
    assert found["level"] == "problem"
    assert found["what"].startswith(f"for several hosts: 127.0.0.1:{port}, database 0 cannot be used: ")


def test_a_wrong_password(configured: Callable[..., Path], server: RedisServer, admin: redis.Redis) -> None:
    admin.execute_command("ACL", "SETUSER", "default", "resetpass", ">right")
    found = redis_of(examined(configured(), env=scaled(server.port, REDIS_PASSWORD="hunter2")))
    assert found["level"] == "problem"
    assert "does not let us in" in found["what"]
    assert "REDIS_PASSWORD" in found["remedy"]
    assert examined(configured(), env=scaled(server.port, REDIS_PASSWORD="right")).status == 0


def test_a_redis_that_may_throw_things_away(
    configured: Callable[..., Path], server: RedisServer, admin: redis.Redis
) -> None:
    admin.config_set("maxmemory-policy", "allkeys-lru")
    found = redis_of(examined(configured(), env=scaled(server.port)))
    assert (found["level"], found["what"]) == ("warning", "maxmemory-policy is allkeys-lru")
    assert "CONFIG SET maxmemory-policy noeviction" in found["remedy"]


def test_a_user_without_scripts(configured: Callable[..., Path], server: RedisServer, admin: redis.Redis) -> None:
    admin.execute_command("ACL", "SETUSER", "limited", "on", ">hunter2", "~*", "&*", "+@all", "-@scripting")
    env = scaled(server.port, REDIS_USERNAME="limited", REDIS_PASSWORD="hunter2")
    found = redis_of(examined(configured(), env=env))
    assert (found["level"], found["what"]) == ("problem", "its user may not: SCRIPT LOAD, EVALSHA")
    assert "+script|load +evalsha" in found["remedy"]
    assert examined(configured(), env={**env, "CACHE_STORE": "redis", "REVERB_SCALING_ENABLED": "false"}).status == 0
