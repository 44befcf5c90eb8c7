"""Reading the configuration for a reload: a process of its own does it, by the code that is on the disk.

So new keys of a new version are understood, a package that cannot be imported harms nobody, and the master's loop goes
on meanwhile.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, Final, NamedTuple, NoReturn

from resonate.supervisor import errands

from resonate.settings import Settings
from resonate.version import PROTOCOL, VERSION

NAME: Final = "read"
#: The exit status of the command line for a configuration that cannot be used.
REFUSED: Final = 2
#: Bytes that are logged of what such a process has complained about.
MOST_SAID: Final = 16 * 1024


class Found(NamedTuple):
    """What was read: `version` is that of the code on the disk."""

    version: str
    settings: Settings


class Unreadable(Exception):  # noqa: N818 - it is no error of the program
    """Nothing could be read. The text says why in a line, `said` is all that the process has said."""

    def __init__(self, reason: str, said: str = "") -> None:
        self.said = said
        super().__init__(reason)


class Reading:
    """Under way from when it is made. Raises OSError when it cannot be."""

    def __init__(self, until: float) -> None:
        self.until = until
        self._answer, self._complaint = errands.memory(), errands.memory()
        try:
            letter = {"errand": NAME, "answer": self._answer}
            self.pid = errands.send(letter, [self._answer], stderr=self._complaint)
        except OSError:
            self.close()
            raise

    def kill(self) -> None:
        """It is not wanted any more, or takes too long."""
        os.kill(self.pid, signal.SIGKILL)  # it is there: it has not been reaped

    def ended(self, status: int) -> Found:
        """What has come of it, now that it has been reaped with this status. Raises Unreadable."""
        try:
            answer = errands.content(self._answer)
            said = errands.content(self._complaint, MOST_SAID).decode(errors="replace").strip()
        finally:
            self.close()
        code = os.waitstatus_to_exitcode(status)
        if code == REFUSED:
            raise Unreadable(said.removeprefix("resonate: "))
        if code == -signal.SIGKILL:
            raise Unreadable("it took too long to read the configuration, or there was no memory for it", said)
        if code != 0:
            raise Unreadable(f"the configuration cannot be read: {said.rpartition(chr(10))[2]}", said)
        return _understood(answer)

    def close(self) -> None:
        """Nobody asks what has come of it."""
        os.close(self._answer)
        os.close(self._complaint)


def answer(letter: dict[str, Any], load: Callable[[], Settings], check: Callable[[Settings], object]) -> NoReturn:
    """The life of that process. Raises ConfigurationError; `check` may raise anything."""
    settings = load()
    check(settings)
    content = {"protocol": PROTOCOL, "version": VERSION, "settings": settings.plain()}
    with open(letter["answer"], "wb") as file:
        file.write(json.dumps(content).encode())
    sys.exit(0)


def _understood(text: bytes) -> Found:
    try:
        content = json.loads(text)
        if content["protocol"] != PROTOCOL:
            raise Unreadable(f"version {content['version']} cannot work with {VERSION}, which runs: restart the server")
        return Found(content["version"], Settings.restored(content["settings"]))
    except (LookupError, TypeError, ValueError) as error:
        raise Unreadable(f"the version on the disk reads the configuration differently: {error!r}") from None
