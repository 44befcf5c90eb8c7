"""The `resonate` command."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from resonate.supervisor.arbiter import Application, check_address, exit_with

from resonate import __version__, config
from resonate.errors import ConfigurationError
from resonate.server import tls


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exits with status 2 when something in it or in the configuration cannot be used."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except ConfigurationError as error:
        exit_with(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="resonate", description="A real-time server that speaks the Pusher protocol.")
    parser.add_argument("--version", action="version", version=f"resonate {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    start = commands.add_parser("start", help="run the server in the foreground")
    start.add_argument("--host", help="address to listen on (default 0.0.0.0)")
    start.add_argument("--port", help="port to listen on (default 8080)")
    start.add_argument("--path", help="prefix of all paths, such as /ws")
    start.add_argument("--hostname", help="name under which clients reach the server")
    start.add_argument("--workers", help="number of worker processes")
    start.add_argument("--config", metavar="FILE", help="configuration file (default resonate.toml, if there)")
    start.add_argument("--debug", action="store_true", help="log each message, secrets and presence data left out")
    start.set_defaults(run=_start)
    return parser


def _start(options: argparse.Namespace) -> None:
    given = {name: getattr(options, name) for name in ("host", "port", "path", "hostname", "workers")}
    settings = config.load(given, options.config)
    if settings.server.tls is not None:
        tls.context_of(settings.server.tls)
    check_address(settings.server.host, settings.server.port)
    Application(settings, options.debug).run()
