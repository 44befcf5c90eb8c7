"""Makes the file of an inbox anew where it has vanished."""

from __future__ import annotations

from collections.abc import Callable
from logging import Logger

from resonate.bus.directory import RunDirectory


class Mender:
    """`bind` makes the file of the process `name`, and raises OSError where that cannot be done."""

    def __init__(self, directory: RunDirectory, name: str, bind: Callable[[], None]) -> None:
        self._directory = directory
        self._name = name
        self._bind = bind
        self._trouble = ""

    def mend(self, log: Logger) -> None:
        """Make it anew if it has vanished. Why that fails is said once."""
        trouble = ""
        if not self._directory.file(self._name).exists():
            trouble = self._directory.ensure()
            try:
                self._bind()
                log.warning("the run directory %s had vanished, and has been made anew", self._directory.path)
            except OSError as error:
                trouble = trouble or str(error.strerror)
        if trouble and trouble != self._trouble:
            log.error("%s. Trying again each second", trouble)
        self._trouble = trouble
