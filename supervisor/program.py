"""What a process of this program is: the master, or one that a master has executed for an errand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NoReturn, TypeAlias

from resonate.supervisor import children, errands, reading, restarting, succession
from resonate.supervisor.accession import Accession, Heritage
from resonate.supervisor.application import Application
from resonate.supervisor.inheritance import Inheritance
from resonate.supervisor.master import Master

from resonate.settings import Settings

Load: TypeAlias = Callable[[], Settings]
Make: TypeAlias = Callable[[Settings], Application]
Letter: TypeAlias = dict[str, Any]


def serve(load: Load, application: Make) -> NoReturn:
    """Serve what `load` reads, as `application` makes it. Raises ConfigurationError when it cannot begin."""
    letter = errands.received()
    if letter is None:
        Master(application(load())).run()
    _ERRANDS[letter["errand"]](letter, load, application)


def _work(letter: Letter, load: Load, application: Make) -> NoReturn:
    children.work(letter, application)


def _restart(letter: Letter, load: Load, application: Make) -> NoReturn:
    Master(application(load()), Inheritance.of(letter)).run()


def _succeed(letter: Letter, load: Load, application: Make) -> NoReturn:
    accession = Accession(Heritage(letter))
    Master(application(load()), accession=accession).run()


_ERRANDS: Final[dict[str, Callable[[Letter, Load, Make], NoReturn]]] = {
    children.NAME: _work,
    reading.NAME: reading.answer,
    restarting.CHECK: restarting.check,
    restarting.NAME: _restart,
    succession.NAME: _succeed,
}
