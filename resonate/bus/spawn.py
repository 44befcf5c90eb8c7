"""Starts shard processes. They are executed, not forked: a ØMQ context, a hub and threads do not survive a fork."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from resonate.bus.directory import RunDirectory
from resonate.errors import ConfigurationError
from resonate.scaling import Scaling
from resonate.version import PROTOCOL


def spawn(
    directory: RunDirectory,
    index: int,
    timeout_s: float,
    log_format: str,
    scaling: Scaling,
    cache_ttl: int,
    *,
    replace: bool = False,
) -> int:
    """Start a shard process; its pid. If there is one of this number it ends at once. Raises OSError.

    With `replace` it ends the other one as soon as it can take its place. Where `scaling` is enabled it is told so on
    its standard input: there is a password in it, and everybody may read the words of a command. `cache_ttl` is that of
    the server, for events that come in an envelope.
    """
    words = [sys.executable, "-m", "resonate.bus", str(directory.path), str(index), str(timeout_s), log_format]
    words.append(str(PROTOCOL))  # that of the code on the disk may be another by now
    if replace:
        words.append("--replace")
    if scaling.enabled:
        words.append("--scaled")
        if scaling.envelope is not None:
            words.append(f"--cache-ttl={cache_ttl}")
    root = str(Path(__file__).parents[2])
    path = os.environ.get("PYTHONPATH")
    letter = _memory(scaling) if scaling.enabled else os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.posix_spawn(
            sys.executable,
            words,
            {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{path}" if path else root},
            file_actions=[(os.POSIX_SPAWN_DUP2, letter, 0)],
            setsigmask=[],
            setsigdef=[signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE],
        )
    finally:
        os.close(letter)


def _memory(scaling: Scaling) -> int:
    """A descriptor of memory that holds it, to be read from its beginning. Raises OSError."""
    with os.fdopen(os.memfd_create("resonate"), "wb") as file:
        file.write(json.dumps(scaling.plain()).encode())
        file.seek(0)
        return os.dup(file.fileno())


def told() -> Scaling:
    """What the process that has started this one has told it; nobody can read it from then on. Raises ValueError."""
    with open(0, "rb", closefd=False) as file:
        data = file.read()
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    try:
        return Scaling.restored(json.loads(data))
    except (ValueError, LookupError, TypeError, AttributeError, ConfigurationError) as error:
        raise ValueError(f"what it is told of scaling cannot be understood: {error!r}") from None
