"""Configuration: sources in, checked settings out. Everything that reads files or the environment is here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resonate.config.build import build
from resonate.config.sources import Value, configuration_file, environment, read_file, unread_file
from resonate.settings import Settings

__all__ = ["load"]


def load(options: Mapping[str, Any] | None = None, file: str | None = None, directory: Path | None = None) -> Settings:
    """The settings of the working directory (or `directory`).

    `options` are `servers.reverb` keys from the command line, `file` is the configuration file named there. Raises
    ConfigurationError.
    """
    directory = directory or Path.cwd()
    variables = environment(directory)
    named = Value(file, "command line", "--config") if file else variables.get("RESONATE_CONFIG")
    path = configuration_file(directory, named)
    notices = [] if path else unread_file(directory)
    return build(read_file(path) if path else {}, str(path or ""), variables, options or {}, notices)
