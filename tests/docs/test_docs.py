"""The documentation is true: its examples run, and its tables are those of the code."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
from gunicorn.config import Config, make_settings
from resonate.supervisor.doctor.examination import CHECKS

from resonate.config.schema import APP, OTHER_VARIABLES, SERVER, Key
from resonate.scaling import Redis, Scaling
from resonate.settings import App, AppOptions, RateLimiting, Server, Tls
from tests.docs.pages import ROOT, Block, anchors, blocks, links, pages, prose, table
from tests.support.client import TEXT, Client
from tests.support.server import BIN, OURS
from tests.support.server import Server as Running

CONFIGURATION = ROOT / "docs" / "configuration.md"
CREDENTIALS = {"REVERB_APP_ID": "1001", "REVERB_APP_KEY": "app-key", "REVERB_APP_SECRET": "app-secret"}
DOCUMENTED_APP = {"app_id": "1001", "key": "app-key", "secret": "app-secret"}
#: Folders with settings of their own: example sites and the tests of real clients.
ELSEWHERE = (ROOT / "docs" / "examples", ROOT / "tests")

COMMANDS = ("start", "status", "reload", "restart", "doctor")

ALL_PAGES = pages()


def name_of(value: Block | Path) -> str:
    """How a parametrised test is called."""
    return value.name if isinstance(value, Block) else str(value.relative_to(ROOT))


def run(words: Iterable[str | Path], directory: Path, env: Mapping[str, str] | None = None) -> str:
    """Run a command without settings of ours in its environment; its output, which must be that of success."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    done = subprocess.run(
        [str(word) for word in words],
        cwd=directory,
        env={**clean, "PYTHONPATH": str(ROOT), **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


# --- pages and links -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", ALL_PAGES, ids=name_of)
def test_relative_links_lead_somewhere(page: Path) -> None:
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert file.is_relative_to(ROOT), target
        if anchor:
            assert anchor in anchors(file), target


def test_every_page_of_docs_can_be_reached_from_the_readme() -> None:
    reached, found = set[Path](), [ROOT / "README.md", ROOT / "docs" / "index.md"]
    while found:
        page = found.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        found += [(page.parent / target.partition("#")[0]).resolve() for target in links(page) if target[0] != "#"]
    assert {*(ROOT / "docs").rglob("*.md")} - reached == {ROOT / "docs" / "README.md"}


@pytest.mark.parametrize("page", ALL_PAGES, ids=name_of)
def test_variables_that_are_named_exist(page: Path) -> None:
    if any(page.is_relative_to(folder) for folder in ELSEWHERE):
        return
    known = {key.env for key in (*SERVER.values(), *APP.values())} | set(OTHER_VARIABLES)
    used = set(re.findall(r"\b(?<!VITE_)(?:REVERB|RESONATE|REDIS)_[A-Z0-9_]*[A-Z0-9]\b", page.read_text("utf-8")))
    assert used <= known, used - known


def test_minimum_versions_are_those_of_setup_cfg() -> None:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    required = dict(line.split(" >= ") for line in setup["options"]["install_requires"].split("\n") if line)
    rows = table(ROOT / "docs" / "decisions" / "README.md", "Dependencies")
    assert {name.strip("`"): version.strip("`") for name, version, _ in rows} == required


# --- configuration.md ------------------------------------------------------------------------------------------------


def documented(heading: str) -> dict[str, list[str]]:
    """The rows of a table of keys, by key."""
    rows = table(CONFIGURATION, heading)
    keys = [row[0].strip("`") for row in rows]
    assert len(set(keys)) == len(keys)
    return {key: row[1:] for key, row in zip(keys, rows, strict=True)}


#: The parts of the settings; their names stand before a dot in the fields of the keys.
PARTS = {"tls": Tls, "scaling": Scaling, "redis": Redis, "options": AppOptions, "rate_limiting": RateLimiting}


def default_of(table_name: str, field: str) -> Any:
    """None where there is none."""
    part, _, name = field.rpartition(".")
    kind = PARTS[part] if part else Server if table_name == "Server keys" else App
    (default,) = [each.default for each in dataclasses.fields(kind) if each.name == name]
    return None if default is dataclasses.MISSING else default


@pytest.mark.parametrize(("heading", "keys"), [("Server keys", SERVER), ("App keys", APP)])
def test_every_key_is_documented_and_no_other(heading: str, keys: dict[str, Key]) -> None:
    rows = documented(heading)
    assert list(rows) == list(keys)
    for name, (variable, default, _, meaning, used) in rows.items():
        key = keys[name]
        assert variable.strip("`") == (key.env or ""), name
        assert meaning or used.startswith("accepted"), name
        if key.field is None:
            assert (default, used == "yes") == ("–", False), name
            continue
        value = default_of(heading, key.field)
        if default == "required":
            assert name in ("app_id", "key", "secret")
        elif default == "none":
            assert value is None, name
        else:
            written = tomllib.loads(f"value = {default.strip('`')}")["value"]
            assert (tuple(written) if isinstance(written, list) else written) == value, name
            assert type(written) is type(value) or isinstance(value, tuple), name


def test_fixed_limits_are_those_of_the_code() -> None:
    for limit, value, where, _ in table(CONFIGURATION, "Fixed limits"):
        module, _, constant = where.strip("`").rpartition(".")
        number = re.match(r"`([\d.]+)`", value)
        assert number, limit
        assert float(number[1]) == getattr(importlib.import_module(module), constant), limit


@pytest.mark.parametrize("block", blocks("toml"), ids=name_of)
def test_toml_is_a_configuration(block: Block, tmp_path: Path) -> None:
    (tmp_path / "resonate.toml").write_text(block.text)
    env = {} if "apps" in tomllib.loads(block.text) else CREDENTIALS
    program = "from pathlib import Path; from resonate import config; print(config.load(directory=Path('.')).notices)"
    assert run([sys.executable, "-c", program], tmp_path, env) == "()\n"


@pytest.mark.parametrize("block", blocks("dotenv"), ids=name_of)
def test_dotenv_is_a_configuration(block: Block, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(block.text)
    program = "from resonate import config; print(config.load().apps[0].key)"
    assert run([sys.executable, "-c", program], tmp_path) == "app-key\n"


# --- commands --------------------------------------------------------------------------------------------------------


def commands(block: Block) -> Iterator[list[str]]:
    """The words of each command line, without variables that are set before it and comments behind it."""
    for line in block.text.replace("\\\n", " ").splitlines():
        for part in line.split(" && "):
            words = shlex.split(part, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                del words[0]
            if words:
                yield [Path(words[0]).name, *words[1:]]


def options_of_resonate(command: str) -> set[str]:
    return set(re.findall(r"--[a-z-]+", run([BIN / "resonate", command, "--help"], ROOT)))


def test_commands_use_options_that_exist() -> None:
    known, seen = {name: options_of_resonate(name) for name in COMMANDS}, 0
    gunicorn = Config().parser()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for block in blocks("sh"):
        for program, *words in commands(block):
            if program == "resonate":
                assert {word for word in words if word.startswith("--")} <= known[words[0]], block.name
                seen += 1
            elif program == "gunicorn":
                given = gunicorn.parse_args(words)
                assert given.worker_class == "resonate.worker", block.name
                seen += 1
            elif program == "make":
                assert set(words) <= targets, block.name
                seen += 1
    assert seen > 5


def test_every_check_of_the_doctor_is_documented_and_no_other() -> None:
    rows = table(ROOT / "docs" / "operations" / "doctor.md", "What is looked at")
    assert [name for name, _ in rows] == ["configuration", *(name for name, _ in CHECKS)]


@pytest.mark.parametrize("page", ALL_PAGES, ids=name_of)
def test_options_in_the_text_exist(page: Path) -> None:
    known = options_of_resonate("start") if "`resonate start -" in prose(page) else set()
    for code in re.findall(r"`resonate start (-[^`]*)`", prose(page)):
        assert {word for word in code.split() if word.startswith("--")} <= known, code


def test_options_of_gunicorn_exist() -> None:
    known = {name for setting in make_settings().values() for name in setting.cli or ()}
    rows = table(ROOT / "docs" / "hosting.md", "gunicorn's options")
    written = {name for row in rows for name in re.findall(r"`(--[a-z-]+)`", row[0])}
    assert len(written) > 8
    assert written <= known


@pytest.mark.parametrize("block", [block for block in blocks("sh") if "config.load()" in block.text], ids=name_of)
def test_the_check_of_the_configuration_finds_mistakes(block: Block, tmp_path: Path) -> None:
    (words,) = commands(block)
    run([sys.executable, *words[1:]], tmp_path, CREDENTIALS)
    (tmp_path / "resonate.toml").write_text("[servers.reverb]\nprot = 1\n")
    with pytest.raises(AssertionError, match=r"servers\.reverb\.prot"):
        run([sys.executable, *words[1:]], tmp_path, CREDENTIALS)


# --- Python ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def documented_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server with the app of the examples."""
    with Running(tmp_path_factory.mktemp("documented"), apps=[DOCUMENTED_APP]) as running:
        yield running


def test_python_blocks_compile() -> None:
    for block in blocks("python"):
        compile(block.text, block.name, "exec")


@pytest.mark.parametrize("block", [block for block in blocks("python") if not block.file], ids=name_of)
def test_python_runs_and_publishes(block: Block, documented_server: Running, tmp_path: Path) -> None:
    port = str(documented_server.port)
    with Client(documented_server.host, documented_server.port, "/app/app-key") as client:
        client.established().subscribed("orders")
        run([sys.executable, "-c", block.text.replace("8080", port)], tmp_path)
        published = [(event["event"], json.loads(event["data"])) for event in client.barrier()]
    wanted = [("order.shipped", {"id": 42})] if "8080" in block.text else []
    assert published == wanted


def test_signature_of_a_private_channel_is_accepted(documented_server: Running) -> None:
    (block,) = [block for block in blocks("python") if "auth = " in block.text]
    with Client(documented_server.host, documented_server.port, "/app/app-key").established() as client:
        scope: dict[str, Any] = {}
        exec(block.text.replace("123456789.987654321", client.socket_id), scope)
        client.send("pusher:subscribe", {"channel": scope["channel"], "auth": scope["auth"]})
        assert client.event()["event"] == "pusher_internal:subscription_succeeded"


def test_hosted_application_answers_pages_and_its_websocket(start: Callable[..., Running], tmp_path: Path) -> None:
    (block,) = [block for block in blocks("python") if block.file == "mysite.py"]
    site = tmp_path / "site"
    site.mkdir()
    (site / block.file).write_text(block.text)
    options = ["-k", "resonate.worker", "--chdir", str(site), "--bind", "127.0.0.1:{port}"]
    server = start(command=["gunicorn", *options, "mysite:application"], env=CREDENTIALS)
    with Client(server.host, server.port, "/echo") as client:
        client.send_text("Hello!")
        assert client.frame() == (TEXT, b"Hello!")
    with Client(server.host, server.port, "/app/app-key") as client:
        client.established()


def test_gunicorn_takes_the_configuration(tmp_path: Path) -> None:
    (block,) = [block for block in blocks("python") if block.file == "gunicorn.conf.py"]
    (tmp_path / block.file).write_text(block.text)
    run([BIN / "gunicorn", "--check-config", "-c", block.file, "resonate:app"], tmp_path, CREDENTIALS)
    names: dict[str, Any] = {}
    exec(block.text, names)
    assert set(names) - {"__builtins__"} <= set(make_settings())


# --- other languages -------------------------------------------------------------------------------------------------


def scripts() -> list[tuple[str, str]]:
    """Name and text of each piece of JavaScript."""
    found = [(block.name, block.text) for block in blocks("js")]
    for block in blocks("html"):
        found += [(block.name, text) for text in re.findall(r"<script>(.*?)</script>", block.text, re.DOTALL)]
    return found


def test_there_is_javascript_to_check() -> None:
    assert len(scripts()) >= 2


@pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")
@pytest.mark.parametrize(("name", "text"), scripts())
def test_javascript_parses(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / "script.mjs").write_text(text)
    run(["node", "--check", "script.mjs"], tmp_path)


@pytest.mark.parametrize("block", blocks("json"), ids=name_of)
def test_json_is_json_and_so_is_its_data(block: Block) -> None:
    value = json.loads(block.text)
    if str(value.get("event", "")).startswith("pusher") and "data" in value:
        assert isinstance(json.loads(value["data"]), dict)


@pytest.mark.parametrize("block", blocks("mermaid"), ids=name_of)
def test_diagram_has_known_participants_only(block: Block) -> None:
    kind, *lines = [line.strip() for line in block.text.splitlines() if line.strip()]
    if kind != "sequenceDiagram":
        assert kind.startswith(("flowchart ", "stateDiagram-v2"))
        return
    participants, nesting = set[str](), 0
    for line in lines:
        assert ";" not in line  # it would end the statement
        if matched := re.fullmatch(r"participant (\w+) as .+", line):
            participants.add(matched[1])
        elif matched := re.fullmatch(r"(\w+)(?:--?>>|--x)(\w+): .+", line):
            assert {matched[1], matched[2]} <= participants, line
        elif matched := re.fullmatch(r"Note over (\w+(?:,\w+)*): .+", line):
            assert set(matched[1].split(",")) <= participants
        else:
            assert line == "end" or line.startswith("loop "), line
            nesting += -1 if line == "end" else 1
    assert nesting == 0


# --- ops/ ------------------------------------------------------------------------------------------------------------


def unit() -> dict[str, list[str]]:
    """The settings of the unit; some may stand more than once."""
    found: dict[str, list[str]] = {}
    for line in (ROOT / "ops" / "resonate.service").read_text().splitlines():
        if line and line[0] not in "#[":
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def test_unit_waits_longer_than_a_drain_takes() -> None:
    settings = unit()
    assert settings["Type"] == ["notify"]
    assert settings["RestartPreventExitStatus"] == ["2"]
    assert int(settings["TimeoutStopSec"][0]) > Server().drain_timeout + 5
    assert int(settings["LimitNOFILE"][0]) >= 65536
    program, command, *words = shlex.split(settings["ExecStart"][0])
    assert (Path(program).name, command) == ("resonate", "start")
    assert {word for word in words if word.startswith("--")} <= options_of_resonate("start")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_unit_is_valid(tmp_path: Path) -> None:
    text = (ROOT / "ops" / "resonate.service").read_text()
    (tmp_path / "resonate.service").write_text(text.replace("/opt/resonate/bin", str(BIN)))
    assert run(["systemd-analyze", "verify", "--man=no", "./resonate.service"], tmp_path) == ""


def test_nginx_passes_upgrades_on_and_is_patient() -> None:
    text = re.sub(r"#.*", "", (ROOT / "ops" / "nginx.conf").read_text())
    assert text.count("{") == text.count("}")
    for line in filter(None, map(str.strip, text.splitlines())):
        assert line[-1] in ";{}", line
    location = text.partition("location /app/ {")[2].partition("}")[0]
    (patience,) = re.findall(r"proxy_read_timeout (\d+)s;", location)
    assert int(patience) > App(app_id="1", key="k", secret="s").ping_interval
    assert re.search(r"proxy_set_header Upgrade +\$http_upgrade;", text)
    assert re.search(r"proxy_set_header Connection +\$resonate_connection;", text)
    assert "proxy_http_version 1.1;" in text


@pytest.mark.skipif(shutil.which("nginx") is None or shutil.which("openssl") is None, reason="nginx is not installed")
def test_nginx_takes_the_configuration(tmp_path: Path) -> None:
    subject = ["-subj", "/CN=ws.example.com", "-keyout", "privkey.pem", "-out", "fullchain.pem"]
    run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", *subject], tmp_path)
    text = (ROOT / "ops" / "nginx.conf").read_text().replace("/etc/ssl/ws.example.com", str(tmp_path))
    whole = f"pid {tmp_path}/pid; error_log stderr; events {{}} http {{ access_log off; {text} }}"
    (tmp_path / "nginx.conf").write_text(whole)
    run(["nginx", "-t", "-p", tmp_path, "-c", "nginx.conf"], tmp_path)


def test_image_is_built_from_the_checkout_and_does_not_run_as_root() -> None:
    lines = (ROOT / "ops" / "docker" / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    steps = [line.split(" ", 1) for line in lines if line and line[0] != "#"]
    assert [value.split()[0] for step, value in steps if step == "FROM"] == ["python:3.11-slim"] * 2
    sources = [value.split()[:-1] for step, value in steps if step == "COPY" and "--from" not in value]
    for source in (name for names in sources for name in names):
        assert (ROOT / source).exists(), source
    (user,) = [value for step, value in steps if step == "USER"]
    assert user.split(":")[0] not in ("root", "0")
    assert not any(word in value for step, value in steps if step == "RUN" for word in ("curl", "wget", "apt-get"))
    assert json.loads(next(value for step, value in reversed(steps) if step == "CMD")) == ["resonate", "start"]
