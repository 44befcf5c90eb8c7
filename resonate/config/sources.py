"""Where values come from: a TOML file, `.env` in the working directory, the environment. Later ones win."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from dotenv import dotenv_values

from resonate.errors import ConfigurationError

FILE: Final = "resonate.toml"
PHP_FILE: Final = "config/reverb.php"


class Value(NamedTuple):
    """A value as it was found. `source` and `key` are what an error message names."""

    raw: Any
    source: str
    key: str


def environment(directory: Path) -> dict[str, Value]:
    """The variables of `.env` and of the process, the latter on top. Empty ones count as unset."""
    path = directory / ".env"
    found: dict[str, Value] = {}
    try:
        text = dotenv_values(path, encoding="utf-8-sig") if path.exists() else {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(str(path), f"cannot be read: {error}") from None
    for source, variables in ((".env", text), ("environment", os.environ)):
        found.update({name: Value(value, source, name) for name, value in variables.items() if value})
    return found


def configuration_file(directory: Path, named: Value | None) -> Path | None:
    """The file to read: the one that was named, else the usual one if it is there, else none."""
    if named is not None:
        path = directory / str(named.raw)
        if not path.is_file():
            raise ConfigurationError(named.key, "no such file", source=named.source, value=named.raw)
        return path
    usual = directory / FILE
    return usual if usual.exists() else None


def unread_file(directory: Path) -> list[str]:
    """What to say of a file that looks like the configuration and is not read."""
    if not (directory / PHP_FILE).is_file():
        return []
    return [f"{PHP_FILE} is not read by this version: what it sets beyond the environment belongs into {FILE}"]


def read_file(path: Path) -> Mapping[str, Any]:
    """The tree of a configuration file. Raises ConfigurationError with the line of a mistake."""
    if path.suffix == ".php":
        raise ConfigurationError(
            str(path), "PHP files cannot be read by this version: use resonate.toml, or REVERB_APP_ID, _KEY and _SECRET"
        )
    try:
        return tomllib.loads(path.read_text("utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(str(path), f"cannot be read: {error}") from None


def flatten(tree: Any, known: Mapping[str, Any], source: str, prefix: str) -> dict[str, Value]:
    """The leaves of a table as `a.b.c`. An unknown key is an error; a list of what is known is its remedy."""
    found: dict[str, Value] = {}
    _walk(tree, "", known, source, prefix, found)
    return found


def _walk(tree: Any, path: str, known: Mapping[str, Any], source: str, prefix: str, found: dict[str, Value]) -> None:
    if not isinstance(tree, dict):
        raise ConfigurationError(f"{prefix}{path.rstrip('.')}", "must be a table", source=source)
    for name, value in tree.items():
        key = f"{path}{name}"
        if key in known:
            found[key] = Value(value, source, prefix + key)
        elif any(other.startswith(key + ".") for other in known):
            _walk(value, key + ".", known, source, prefix, found)
        else:
            expected = ", ".join(sorted(known))
            raise ConfigurationError(prefix + key, f"is not a key here; there are {expected}", source=source)
