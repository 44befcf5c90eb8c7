"""The examples in `ops/` do what they say: their own command lines are run, against servers that they have started."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from configparser import ConfigParser
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from resonate.supervisor.reload_command import MARGIN_S

from resonate.settings import Server as Settings
from tests.docs.pages import ROOT, blocks
from tests.support.client import Client
from tests.support.cluster import processes
from tests.support.eventually import eventually
from tests.support.ports import free_port
from tests.support.server import BIN, ONE_APP, Server, configuration

OPS = ROOT / "ops"
#: How long a stop may take, in seconds: what workers are given, and what the master adds.
STOP_S = Settings().drain_timeout + 5

Unit = dict[str, dict[str, list[str]]]


@pytest.fixture
def directory() -> Iterator[Path]:
    """Private, and with a short path: sockets lie in it."""
    with tempfile.TemporaryDirectory(prefix="ops") as name:
        yield Path(name)


def run(words: Sequence[str], directory: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """A command that ends by itself, with the virtual environment on its path."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    clean["PATH"] = f"{BIN}:{os.environ['PATH']}"
    return subprocess.run(
        list(words), cwd=directory, env={**clean, **env}, capture_output=True, text=True, timeout=60, check=False
    )


def workers(directory: Path) -> set[str]:
    """How the workers are called that have come to the run directory of the server in there, and have not left it."""
    return {path.name for path in directory.glob("resonate-*/w-*-*")}


def replaced(directory: Path, old: set[str]) -> bool:
    """Whether there are as many workers, and all are new."""
    new = workers(directory)
    return len(new) == len(old) and not new & old


def is_there(client: Client, channel: str) -> bool:
    """Whether the server knows the client by the socket id that it was given: what it signs has it in it."""
    client.subscribed(channel)
    return client.barrier() == []


# --- systemd ---------------------------------------------------------------------------------------------------------


#: What may be said more than once; of everything else the last word holds.
LISTS = ("Environment", "ExecStart", "ExecReload")


def parsed(*texts: str) -> Unit:
    """A unit file and its drop-ins, by section and name; an empty value takes back what was there."""
    found: Unit = {}
    for text in texts:
        section: dict[str, list[str]] | None = None
        for line in text.splitlines():
            if not line or line[0] in "#;":
                continue
            if matched := re.fullmatch(r"\[(\w+)\]", line):
                section = found.setdefault(matched[1], {})
                continue
            name, is_assigned, value = line.partition("=")
            assert section is not None
            assert is_assigned, line
            assert re.fullmatch(r"[A-Z]\w+", name), line
            before = section.get(name, []) if name in LISTS else []
            section[name] = [*before, value] if value else []
    return found


def unit(directory: Path, *drop_ins: str) -> dict[str, list[str]]:
    """The section [Service], with the paths of a test in place of those of an installation."""
    service = parsed((OPS / "resonate.service").read_text(), *drop_ins)["Service"]
    places = {
        "/opt/resonate/bin": str(BIN),
        "/etc/resonate": str(directory),
        "/srv/mysite": str(directory),
        "%t/resonate": str(directory),
        "127.0.0.1:8000": "127.0.0.1:{port}",
        "--port 8080": "--port {port}",
        "--workers auto": "--workers 2",
        "mysite.wsgi": "resonate:app",
    }
    for name, values in service.items():
        for place, test in places.items():
            values = [value.replace(place, test) for value in values]
        service[name] = values
    return service


class Systemd:
    """Starts, reloads and stops what a unit says, and hears what is told to the service manager."""

    def __init__(self, directory: Path, *drop_ins: str) -> None:
        self.directory, self.service = directory, unit(directory, *drop_ins)
        self._heard: list[dict[str, str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(str(directory / "notify"))
        assert self.service["WorkingDirectory"] == [str(directory)]  # that of `Server`, too
        self.env = dict(assignment.split("=", 1) for assignment in self.service["Environment"])
        (start,) = self.service["ExecStart"]
        variables = {**self.env, "NOTIFY_SOCKET": str(directory / "notify")}
        self.server = Server(directory, command=shlex.split(start), env=variables)

    def __enter__(self) -> Systemd:
        self.server.__enter__()
        eventually(lambda: [told for told in self.told() if "READY" in told])
        return self

    def __exit__(self, *error: Any) -> None:
        self.server.__exit__(*error)
        self._socket.close()

    def run(self, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return run(words, self.directory, self.env)

    def reload(self, *more: str) -> subprocess.CompletedProcess[str]:
        """`systemctl reload`: it fails when this does."""
        (line,) = self.service["ExecReload"]
        return self.run([*shlex.split(line.replace("$MAINPID", str(self.server.process.pid))), *more])

    def told(self) -> list[dict[str, str]]:
        """What the service has said so far, one message after the other."""
        while True:
            try:
                message = self._socket.recv(4096).decode()
            except BlockingIOError:
                return self._heard
            self._heard.append(dict(line.split("=", 1) for line in message.splitlines()))

    def states(self) -> list[str]:
        """The same, without all that is said beside."""
        return [name for told in self.told() for name in told if name in ("READY", "RELOADING", "STOPPING")]


def test_systemd_reloads_and_is_told_when_it_has_not_worked(directory: Path) -> None:
    with Systemd(directory) as systemd:
        server = systemd.server
        with Client(server.host, server.port).established() as client:
            old, began = workers(directory), time.monotonic()
            done = systemd.reload()
            assert done.returncode == 0, done.stderr
            assert replaced(directory, old)
            new = workers(directory)
            assert is_there(client, "private-1")
            eventually(lambda: systemd.states() == ["READY", "RELOADING", "READY"])
            (at,) = [int(told["MONOTONIC_USEC"]) for told in systemd.told() if "RELOADING" in told]
            assert began <= at / 1e6 <= time.monotonic()

            late = systemd.reload("--health-timeout", "0.01")  # nothing is ready by then
            assert late.returncode == 1
            assert "not reloaded" in late.stderr
            (directory / "resonate.toml").write_text("[servers.reverb\n")
            refused = systemd.reload()
            assert refused.returncode == 1
            assert "resonate.toml" in refused.stderr
            assert workers(directory) == new
            assert is_there(client, "private-2")
            eventually(lambda: systemd.states() == ["READY", *["RELOADING", "READY"] * 3])

            assert systemd.service["KillMode"] == ["mixed"]  # SIGTERM to the main process alone
            server.process.send_signal(signal.SIGTERM)
            assert client.closed() == 4200
        assert server.process.wait(STOP_S) == 0
        assert systemd.states()[-1] == "STOPPING"
        assert processes(server) == []


def test_systemd_waits_longer_than_a_reload_and_a_stop_take() -> None:
    service, server = unit(Path("/x")), Settings()
    assert service["Type"] == ["notify"]
    assert int(service["TimeoutStartSec"][0]) > server.health_timeout + STOP_S + MARGIN_S
    assert int(service["TimeoutStopSec"][0]) > STOP_S
    assert "AF_UNIX" in service["RestrictAddressFamilies"][0].split()


#: As the first of the sockets that are handed down, to the process that begins with these words.
HAND_DOWN = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
os.execv(sys.argv[2], sys.argv[2:])
"""


@contextmanager
def activated(systemd_unit: Mapping[str, list[str]], directory: Path, held: socket.socket) -> Iterator[int]:
    """The service as systemd starts it when it holds the socket, for as long as the block lasts; its pid."""
    words = shlex.split(systemd_unit["ExecStart"][0].replace("{port}", "1"))  # what is handed down goes before
    env = {**os.environ, **dict(assignment.split("=", 1) for assignment in systemd_unit["Environment"])}
    with (directory / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", HAND_DOWN, str(held.fileno()), *words],
            cwd=directory,
            env=env,
            pass_fds=[held.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield process.pid
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOP_S) == 0, (directory / "log").read_text()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_socket_of_systemd_keeps_who_comes_during_a_restart(directory: Path) -> None:
    (address,) = parsed((OPS / "resonate.socket").read_text())["Socket"]["ListenStream"]
    assert f"--host {address.replace(':', ' --port ')} " in (OPS / "resonate.service").read_text()
    service = unit(directory)
    (directory / "resonate.toml").write_text(configuration([ONE_APP], {"metrics_port": 0}))
    with socket.create_server(("127.0.0.1", 0)) as held:
        place = held.getsockname()[:2]
        early = socket.create_connection(place, timeout=30)  # nobody is there to accept it
        early.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")  # /up would say what it waits for
        with early, activated(service, directory, held):
            assert early.recv(4096).startswith(b"HTTP/1.1 200 ")
            with Client(*place).established() as client:
                done = run(shlex.split(service["ExecReload"][0]), directory, {})
                assert done.returncode == 0, done.stderr
                assert is_there(client, "private-1")
        socket.create_connection(place).close()  # nobody is there again, and nobody is refused


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_takes_the_units(directory: Path) -> None:
    """It reads them, and starts nothing."""
    for name in ("resonate.service", "resonate.socket"):
        (directory / name).write_text((OPS / name).read_text().replace("/opt/resonate/bin", str(BIN)))
    done = run(["systemd-analyze", "verify", "--man=no", "./resonate.service", "./resonate.socket"], directory, {})
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def drop_in() -> str:
    """What the page on reloads says of gunicorn."""
    (block,) = [block for block in blocks("ini") if block.page == ROOT / "docs" / "operations" / "reload.md"]
    return block.text


def test_the_unit_serves_gunicorn_with_its_drop_in(directory: Path) -> None:
    with Systemd(directory, drop_in()) as systemd:
        server = systemd.server
        with Client(server.host, server.port).established() as client:
            eventually(lambda: len(workers(directory)) == 2)
            old = workers(directory)
            assert systemd.reload().returncode == 0
            eventually(lambda: replaced(directory, old), within=60)
            assert is_there(client, "private-1")
            server.process.send_signal(signal.SIGTERM)
            assert client.closed() == 4200
        timeout_s = int(systemd.service["TimeoutStopSec"][0])
        assert server.process.wait(timeout_s) == 0


# --- Docker ----------------------------------------------------------------------------------------------------------


def image() -> dict[str, list[str]]:
    """The instructions of the last stage, by name."""
    text = (OPS / "docker" / "Dockerfile").read_text().replace("\\\n", " ")
    found: dict[str, list[str]] = {}
    for line in text.rpartition("\nFROM ")[2].splitlines()[1:]:
        if line and line[0] != "#":
            name, value = line.split(" ", 1)
            found.setdefault(name, []).append(value.strip())
    return found


NAMESPACE = ("--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--kill-child")


@pytest.fixture
def pid_namespaces() -> None:
    """Skips where they are not to be had."""
    if shutil.which("unshare") is None or shutil.which("nsenter") is None:
        pytest.skip("unshare and nsenter are not installed: no process 1 can be had without a container")
    if subprocess.run(["unshare", *NAMESPACE, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine permits no PID namespace: no process 1 can be had without a container")


@pytest.mark.usefixtures("pid_namespaces")
def test_the_master_is_process_1_of_a_container(directory: Path) -> None:
    steps, temporary = image(), {"TMPDIR": str(directory)}
    (command,) = (json.loads(value) for value in steps["CMD"])
    words = ["unshare", *NAMESPACE, str(BIN / command[0]), *command[1:], "--port", "{port}", "--workers", "2"]
    with Server(directory, command=[str(shutil.which(words[0])), *words[1:]], env=temporary) as server:
        (master,) = server.workers()  # the child of unshare
        entering = ["nsenter", f"--target={master}", "--user", "--preserve-credentials", "--pid", "--mount", "--"]

        def inside(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
            """`docker exec`."""
            return run([*entering, *command], directory, temporary)

        eventually(lambda: len(workers(directory)) == 2)
        with Client(server.host, server.port).established() as client:
            old = workers(directory)
            os.kill(master, signal.SIGHUP)  # `docker kill -s HUP`
            eventually(lambda: replaced(directory, old), within=60)
            assert is_there(client, "private-1")

            orphan = inside(["sh", "-c", "sleep 0.1 & echo $!"]).stdout.strip()
            eventually(lambda: inside(["test", "!", "-e", f"/proc/{orphan}"]).returncode == 0)

            health = json.loads(steps["HEALTHCHECK"][0].partition("CMD ")[2])
            assert inside([word.replace("8080", str(server.port)) for word in health]).returncode == 0
            os.kill(master, getattr(signal, steps["STOPSIGNAL"][0]))
            assert client.closed() == 4200
        assert server.process.wait(STOP_S) == 0
        assert inside(health).returncode != 0


def test_compose_gives_the_container_what_it_needs() -> None:
    (service,) = yaml.safe_load((OPS / "docker" / "compose.yaml").read_text())["services"].values()
    build = (OPS / "docker" / service["build"]["context"]).resolve()
    assert (build / service["build"]["dockerfile"]).samefile(OPS / "docker" / "Dockerfile")
    assert int(service["stop_grace_period"].removesuffix("s")) > STOP_S
    (mounted,) = service["volumes"]
    assert mounted.split(":")[1] == image()["WORKDIR"][0]
    assert service["read_only"]
    assert service["tmpfs"] == ["/tmp"]
    assert "init" not in service


# --- Kubernetes ------------------------------------------------------------------------------------------------------


def manifests() -> dict[str, dict[str, Any]]:
    """By kind."""
    return {it["kind"]: it for it in yaml.safe_load_all((OPS / "kubernetes.yaml").read_text())}


def pod() -> dict[str, Any]:
    specification: dict[str, Any] = manifests()["Deployment"]["spec"]["template"]["spec"]
    return specification


def project(volume: Path, files: Mapping[str, str]) -> None:
    """Put files into a volume as the kubelet does: all at once, by a link that changes."""
    fresh = Path(tempfile.mkdtemp(prefix="..", dir=volume))
    for name, text in files.items():
        (fresh / name).write_text(text)
        if not (volume / name).is_symlink():
            (volume / name).symlink_to(Path("..data", name))
    (volume / "..data_tmp").symlink_to(fresh.name)
    (volume / "..data_tmp").rename(volume / "..data")


def test_a_pod_reloads_and_drains(directory: Path) -> None:
    files = {**manifests()["ConfigMap"]["data"], **manifests()["Secret"]["stringData"]}
    (container,), volume = pod()["containers"], directory / "volume"
    volume.mkdir()
    project(volume, files)
    env = {"TMPDIR": str(directory)}
    elsewhere = {"REVERB_SERVER_PORT": "{port}", "RESONATE_METRICS_PORT": "0"}
    (words,) = (json.loads(value) for value in image()["CMD"])
    assert "command" not in container  # that of the image
    command = ["env", f"--chdir={volume}", *(f"{name}={value}" for name, value in elsewhere.items())]
    unset = {"RESONATE_WORKERS": "", "RESONATE_BUS_SHARDS": ""}
    command = [str(shutil.which("env")), *command[1:], str(BIN / words[0]), *words[1:]]
    probe = container["readinessProbe"]["httpGet"]["path"]
    assert container["livenessProbe"]["httpGet"]["path"] == probe
    with Server(directory, command=command, env={**env, **unset}, up=probe) as server:

        def inside(words: Sequence[str]) -> subprocess.CompletedProcess[str]:
            """`kubectl exec`."""
            return run(words, volume, env)

        eventually(lambda: len(workers(directory)) == 2)
        with Client(server.host, server.port, "/app/app-key", secret="change-me").established() as client:
            assert is_there(client, "private-1")
            old = workers(directory)
            project(volume, {**files, ".env": files[".env"].replace("change-me", "changed")})
            told = re.search(r"^#   kubectl exec deploy/resonate -- (.+)$", (OPS / "kubernetes.yaml").read_text(), re.M)
            assert told is not None
            done = inside(shlex.split(told[1]))
            assert done.returncode == 0, done.stderr
            assert replaced(directory, old)
            client.secret = "changed"
            assert is_there(client, "private-2")

            drained = inside(container["lifecycle"]["preStop"]["exec"]["command"])
            assert drained.returncode == 0, drained.stderr
            assert client.closed() == 4200
        assert server.process.wait(STOP_S) == 0


def test_the_manifests_fit_together() -> None:
    found, specification = manifests(), pod()
    deployment, (container,) = found["Deployment"]["spec"], specification["containers"]
    labels = deployment["template"]["metadata"]["labels"].items()
    assert found["Service"]["spec"]["selector"].items() <= labels
    assert deployment["selector"]["matchLabels"].items() <= labels
    assert deployment["replicas"] == 1
    ports = {port["name"] for port in container["ports"]}
    assert {port["targetPort"] for port in found["Service"]["spec"]["ports"]} == ports
    assert {container[f"{kind}Probe"]["httpGet"]["port"] for kind in ("readiness", "liveness")} == ports

    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    assert sorted(mounts.values()) == sorted(volume["name"] for volume in specification["volumes"])
    assert set(mounts) == {image()["WORKDIR"][0], "/tmp"}
    assert not any("subPath" in mount for mount in container["volumeMounts"])
    (configured,) = [volume["projected"] for volume in specification["volumes"] if "projected" in volume]
    sources = {kind: source["name"] for each in configured["sources"] for kind, source in each.items()}
    assert sources == {kind: found[name]["metadata"]["name"] for kind, name in SOURCES.items()}
    assert str(specification["securityContext"]["runAsUser"]) == image()["USER"][0].partition(":")[0]

    (_, _, script) = container["lifecycle"]["preStop"]["exec"]["command"]
    (pause,) = re.findall(r"^sleep (\d+);", script)
    assert specification["terminationGracePeriodSeconds"] > int(pause) + STOP_S
    probe = container["livenessProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] > Settings().worker_timeout


SOURCES = {"configMap": "ConfigMap", "secret": "Secret"}


# --- supervisord -----------------------------------------------------------------------------------------------------


def test_supervisord_reloads_and_stops(directory: Path) -> None:
    text, port = (OPS / "supervisord.conf").read_text(), free_port()
    places = {
        "/opt/resonate/bin": BIN,
        "/etc/resonate": directory,
        "/var/log": directory,
        "--port 8080": f"--port {port}",
    }
    for place, test in places.items():
        text = text.replace(place, str(test))
    assert "user=resonate\n" in text
    text = text.replace("user=resonate\n", "").replace("--workers auto", "--workers 2")
    (directory / "resonate.conf").write_text(text)
    (directory / "supervisord.conf").write_text(SUPERVISORD.format(directory=directory))
    # Not on its path: the folder `supervisor` of the checkout has its name.
    env = {"PYTHONPATH": "", "TMPDIR": str(directory)}
    server = Server(directory, command=["supervisord", "-c", str(directory / "supervisord.conf")], env=env, port=port)

    def control(*words: str) -> subprocess.CompletedProcess[str]:
        return run(["supervisorctl", "-c", str(directory / "supervisord.conf"), *words], directory, {})

    with server:
        eventually(lambda: len(workers(directory)) == 2)
        with Client(server.host, server.port).established() as client:
            old = workers(directory)
            (words,) = re.findall(r"^;   supervisorctl (signal .*?)  ", text, re.MULTILINE)
            done = control(*words.split())
            assert done.returncode == 0, done.stdout + done.stderr
            eventually(lambda: replaced(directory, old), within=60)
            assert is_there(client, "private-1")
            stopped = control("stop", "resonate")
            assert "stopped" in stopped.stdout
            assert client.closed() == 4200
    assert server.process.returncode == 0


SUPERVISORD = """
[unix_http_server]
file={directory}/supervisor.sock
[supervisord]
nodaemon=true
logfile={directory}/supervisord.log
pidfile={directory}/supervisord.pid
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl=unix://{directory}/supervisor.sock
[include]
files={directory}/resonate.conf
"""


def test_supervisord_waits_longer_than_a_stop_takes() -> None:
    conf = ConfigParser(interpolation=None)
    conf.read(OPS / "supervisord.conf")
    program = conf["program:resonate"]
    assert program.getint("stopwaitsecs") > STOP_S
    assert program["stopsignal"] == "TERM"
    assert not program.getboolean("stopasgroup", False)
