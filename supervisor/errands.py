"""Errands: what this program executes itself for, by the code that is on the disk by then.

A reload wants the new code. A master that has the old one loaded cannot fork it; so it executes its own command line
once more, with a letter in which stands what to do there. The letter, settings and secrets included, is memory that
only the two processes have; its number is in the environment.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterable
from typing import Any, Final, NoReturn

VARIABLE: Final = "RESONATE_ERRAND"

#: What such a process should find as at the start of a program, whatever has become of it here.
_DEFAULT_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGPIPE)


def send(letter: dict[str, Any], descriptors: Iterable[int], stderr: int | None = None) -> int:
    """Execute this program with that letter, and these descriptors as they are numbered here; its pid.

    Signals that are blocked here are blocked there. Raises OSError.
    """
    envelope = memory(json.dumps(letter).encode())
    passed = [envelope, *descriptors]
    try:
        for descriptor in passed:
            os.set_inheritable(descriptor, True)  # nothing else is executed meanwhile: this process has one thread
        return os.posix_spawn(
            sys.executable,
            _words(),
            _environment(envelope),
            file_actions=[] if stderr is None else [(os.POSIX_SPAWN_DUP2, stderr, 2)],
            setsigdef=_DEFAULT_SIGNALS,
        )
    finally:
        os.close(envelope)
        for descriptor in passed[1:]:
            os.set_inheritable(descriptor, False)


def become(letter: dict[str, Any], descriptors: Iterable[int]) -> NoReturn:
    """The same in place of this program: its process goes on as that. Raises OSError."""
    envelope = memory(json.dumps(letter).encode())
    for descriptor in (envelope, *descriptors):
        os.set_inheritable(descriptor, True)
    os.execve(sys.executable, _words(), _environment(envelope))  # noqa: S606 - itself


def _words() -> list[str]:
    """The command line of this process, as the interpreter was given it."""
    return [sys.executable, *sys.orig_argv[1:]]


def _environment(envelope: int) -> dict[str, str]:
    return {**os.environ, VARIABLE: str(envelope), "PWD": _directory()}


def received() -> dict[str, Any] | None:
    """The letter with which this process was executed, if it was; taken, so that its own children do not find it."""
    number = os.environ.pop(VARIABLE, None)
    if number is None:
        return None
    os.chdir(os.environ["PWD"])
    letter: dict[str, Any] = json.loads(content(int(number)))
    os.close(int(number))
    return letter


def memory(data: bytes = b"") -> int:
    """A descriptor of memory that holds this."""
    descriptor = os.memfd_create("resonate")
    with open(descriptor, "wb", closefd=False) as file:
        file.write(data)
    return descriptor


def content(descriptor: int, most: int = -1) -> bytes:
    """What such memory holds, `most` bytes of it."""
    with open(descriptor, "rb", closefd=False) as file:
        file.seek(0)
        return file.read(most)


def _entered_by_name() -> bool:
    name = os.environ.get("PWD", "")
    return os.path.isabs(name) and os.path.exists(name) and os.path.samefile(name, ".")


_BY_NAME: Final = _entered_by_name()


def _directory() -> str:
    """The working directory by the name under which it was entered: a link that a deploy has turned is followed."""
    name = os.environ.get("PWD", "")
    return name if _BY_NAME and os.path.isdir(name) else os.getcwd()
