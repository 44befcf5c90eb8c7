"""The `resonate` command."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

from resonate.supervisor import reload_command, restart_command, status
from resonate.supervisor.application import Application
from resonate.supervisor.program import serve

from resonate import __version__, config
from resonate.bus.directory import RunDirectory
from resonate.errors import ConfigurationError
from resonate.server import tls
from resonate.settings import Server, Settings

#: What may be asked for in seconds.
LONGEST_WAIT_S: Final = 86_400.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exits with status 2 when something in it or in the configuration cannot be used."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except ConfigurationError as error:
        fail(error)


def fail(error: ConfigurationError) -> NoReturn:
    """One clear line, and exit status 2."""
    status.say(str(error))
    sys.exit(2)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="resonate", description="A real-time server that speaks the Pusher protocol.")
    parser.add_argument("--version", action="version", version=f"resonate {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    start = commands.add_parser("start", help="run the server in the foreground")
    _add_settings(start)
    start.add_argument("--debug", action="store_true", help="log each message, secrets and presence data left out")
    start.set_defaults(run=_start)
    renewed = commands.add_parser("reload", help="new configuration and new workers; nobody is disconnected")
    renewed.add_argument("--drain", action="store_true", help="stop instead: send clients away one by one, and wait")
    renewed.add_argument("--timeout", metavar="S", type=_seconds, help="how long to wait (default: what it may take)")
    renewed.add_argument(
        "--health-timeout",
        metavar="S",
        type=_seconds,
        help="until all new workers must be ready (default: as configured)",
    )
    renewed.add_argument("--run-dir", metavar="DIR", help="where its run directory is (default: as configured)")
    renewed.set_defaults(run=_reload)
    again = commands.add_parser("restart", help="end everything and start anew: every client is disconnected")
    again.add_argument("--timeout", metavar="S", type=_seconds, help="how long to wait (default: what it may take)")
    again.add_argument("--run-dir", metavar="DIR", help="where its run directory is (default: as configured)")
    again.set_defaults(run=_restart)
    shown = commands.add_parser("status", help="show the processes of the servers that run here")
    shown.add_argument("--run-dir", metavar="DIR", help="where their run directories are (default: as configured)")
    shown.add_argument("--json", action="store_true", help="print one JSON object")
    shown.set_defaults(run=_status)
    checked = commands.add_parser("doctor", help="check this machine and the configuration, and say what to change")
    _add_settings(checked)
    checked.add_argument("--json", action="store_true", help="print one JSON object")
    checked.set_defaults(run=_doctor)
    return parser


def _add_settings(command: argparse.ArgumentParser) -> None:
    command.add_argument("--host", help="address to listen on (default 0.0.0.0), or unix:/path of a socket")
    command.add_argument("--port", help="port to listen on (default 8080)")
    command.add_argument("--path", help="prefix of all paths, such as /ws")
    command.add_argument("--hostname", help="name under which clients reach the server")
    command.add_argument("--workers", help="number of worker processes, or auto: one for each core (default 1)")
    command.add_argument("--config", metavar="FILE", help="configuration file (default resonate.toml, if there)")


def _seconds(text: str) -> float:
    seconds = float(text)  # argparse says so, where it is none
    if not 0 < seconds <= LONGEST_WAIT_S:
        raise argparse.ArgumentTypeError(f"must be more than 0, and {LONGEST_WAIT_S:g} or less")
    return seconds


def _settings(options: argparse.Namespace) -> Settings:
    given = {name: getattr(options, name) for name in ("host", "port", "path", "hostname", "workers")}
    return config.load(given, options.config)


def _start(options: argparse.Namespace) -> None:
    def load() -> Settings:
        settings = _settings(options)
        if settings.server.tls is not None:
            tls.context_of(settings.server.tls)
        return settings

    serve(load, lambda settings: Application(settings, options.debug))


def _reload(options: argparse.Namespace) -> None:
    try:
        directory = reload_command.master(options.run_dir or _configured_run_dir())
        if options.drain:
            summary = reload_command.drain(directory, options.timeout)
        else:
            progress = status.say if sys.stderr.isatty() else _say_nothing
            summary = reload_command.reload(directory, options.health_timeout, options.timeout, progress)
    except reload_command.Failure as error:
        status.say(str(error))
        sys.exit(1)
    print(summary)


def _restart(options: argparse.Namespace) -> None:
    try:
        directory = reload_command.master(options.run_dir or _configured_run_dir())
        progress = status.say if sys.stderr.isatty() else _say_nothing
        summary = restart_command.restart(directory, _configured_server(), options.timeout, progress)
    except reload_command.Failure as error:
        status.say(str(error))
        sys.exit(1)
    print(summary)


def _say_nothing(text: str) -> None:
    """Nobody looks on."""


def _status(options: argparse.Namespace) -> None:
    parent = options.run_dir or _configured_run_dir()
    sockets = [found.control for found in RunDirectory.masters(parent)]
    masters = status.collect(filter(Path.exists, sockets), status.say)  # gunicorn's own masters have none
    if not masters:
        status.say(f"no server runs here{f' ({parent})' if parent else ''}; start one with: resonate start")
        sys.exit(1)
    print(status.show(masters, options.json))


def _doctor(options: argparse.Namespace) -> None:
    from resonate.supervisor.doctor import examination, report
    from resonate.supervisor.doctor.case import Machine  # the others need not load what it looks at

    found = list(examination.examine(lambda: _settings(options), Machine.here()))
    print(report.as_json(found) if options.json else report.as_text(found))
    sys.exit(report.status(found))


def _configured_run_dir() -> str | None:
    """Also where the configuration cannot be used: somebody may be about to hear that from the server."""
    try:
        return config.load().server.run_dir
    except ConfigurationError as error:
        run_dir = os.environ.get("RESONATE_RUN_DIR")
        place = run_dir or tempfile.gettempdir()
        status.say(f"{error}. Looking for a server in {place}; --run-dir names another place")
        return run_dir


def _configured_server() -> Server | None:
    try:
        return config.load().server
    except ConfigurationError:
        return None
