"""The `resonate` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from resonate.supervisor import status
from resonate.supervisor.address import check_address
from resonate.supervisor.application import Application
from resonate.supervisor.master import Master

from resonate import __version__, config
from resonate.bus.directory import RunDirectory
from resonate.errors import ConfigurationError
from resonate.server import tls


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
    start.add_argument("--host", help="address to listen on (default 0.0.0.0), or unix:/path of a socket")
    start.add_argument("--port", help="port to listen on (default 8080)")
    start.add_argument("--path", help="prefix of all paths, such as /ws")
    start.add_argument("--hostname", help="name under which clients reach the server")
    start.add_argument("--workers", help="number of worker processes, or auto: one for each core (default 1)")
    start.add_argument("--config", metavar="FILE", help="configuration file (default resonate.toml, if there)")
    start.add_argument("--debug", action="store_true", help="log each message, secrets and presence data left out")
    start.set_defaults(run=_start)
    shown = commands.add_parser("status", help="show the processes of the servers that run here")
    shown.add_argument("--run-dir", metavar="DIR", help="where their run directories are (default: as configured)")
    shown.add_argument("--json", action="store_true", help="print one JSON object")
    shown.set_defaults(run=_status)
    return parser


def _start(options: argparse.Namespace) -> None:
    given = {name: getattr(options, name) for name in ("host", "port", "path", "hostname", "workers")}
    settings = config.load(given, options.config)
    if settings.server.tls is not None:
        tls.context_of(settings.server.tls)
    check_address(settings.server.host, settings.server.port)
    Master(Application(settings, options.debug)).run()


def _status(options: argparse.Namespace) -> None:
    parent = options.run_dir or _configured_run_dir()
    sockets = [found.control for found in RunDirectory.masters(parent)]
    masters = status.collect(filter(Path.exists, sockets), status.say)  # gunicorn's own masters have none
    if not masters:
        status.say(f"no server runs here{f' ({parent})' if parent else ''}; start one with: resonate start")
        sys.exit(1)
    print(status.show(masters, options.json))


def _configured_run_dir() -> str | None:
    """Without a configuration that can be used the default place is as good as any."""
    try:
        return config.load().server.run_dir
    except ConfigurationError:
        return None
