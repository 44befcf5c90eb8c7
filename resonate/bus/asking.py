"""A client of the master's control socket: a request is one line of JSON, the answer one or several."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

Line: TypeAlias = dict[str, Any]


def ask(path: Path, command: str, timeout_s: float) -> Line:
    """One request, and the first line of the answer.

    Raises OSError when nobody answers in time, ValueError for no answer.
    """
    for line in converse(path, {"command": command}, lambda: timeout_s):
        return line
    raise ValueError("there is no answer")


def converse(path: Path, request: Mapping[str, Any], patience_s: Callable[[], float]) -> Iterator[Line]:
    """One request, and all lines of the answer. `patience_s` says before each how long to wait for it.

    Raises OSError when nothing comes in time, ValueError for what is no answer.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(max(patience_s(), 0.001))
        sock.connect(str(path))
        sock.sendall(encoded(request))
        received = b""
        while True:
            line, newline, rest = received.partition(b"\n")
            if newline:
                received = rest
                yield _decoded(line)
                continue
            sock.settimeout(max(patience_s(), 0.001))
            data = sock.recv(65536)
            if not data:
                return
            received += data


def encoded(line: Mapping[str, Any]) -> bytes:
    """As it is sent."""
    return json.dumps(line).encode() + b"\n"


def _decoded(line: bytes) -> Line:
    found = json.loads(line)
    if not isinstance(found, dict):
        raise ValueError("the answer is no object")
    return found
