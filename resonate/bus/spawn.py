"""Starts shard processes. They are executed, not forked: a ØMQ context, a hub and threads do not survive a fork."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from resonate.bus.directory import RunDirectory
from resonate.version import PROTOCOL


def spawn(directory: RunDirectory, index: int, timeout_s: float, log_format: str, *, replace: bool = False) -> int:
    """Start a shard process; its pid. If there is one of this number it ends at once. Raises OSError.

    With `replace` it ends the other one as soon as it can take its place.
    """
    words = [sys.executable, "-m", "resonate.bus", str(directory.path), str(index), str(timeout_s), log_format]
    words.append(str(PROTOCOL))  # that of the code on the disk may be another by now
    if replace:
        words.append("--replace")
    root = str(Path(__file__).parents[2])
    path = os.environ.get("PYTHONPATH")
    return os.posix_spawn(
        sys.executable,
        words,
        {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{path}" if path else root},
        file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)],
        setsigmask=[],
        setsigdef=[signal.SIGTERM, signal.SIGCHLD, signal.SIGPIPE],
    )
