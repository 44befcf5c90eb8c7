"""What a process of this program is: the master, or one that a master has executed for an errand."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from resonate.supervisor import children, errands, reading, restarting, succession
from resonate.supervisor.application import Application
from resonate.supervisor.inheritance import Inheritance
from resonate.supervisor.master import Master
from resonate.supervisor.succession import Accession, Heritage

from resonate.settings import Settings


def serve(load: Callable[[], Settings], application: Callable[[Settings], Application]) -> NoReturn:
    """Serve what `load` reads, as `application` makes it. Raises ConfigurationError when it cannot begin."""
    letter = errands.received()
    if letter is None:
        Master(application(load())).run()
    elif letter["errand"] == restarting.NAME:
        Master(application(load()), Inheritance.of(letter)).run()
    elif letter["errand"] == restarting.CHECK:
        restarting.check(letter, load, application)
    elif letter["errand"] == succession.NAME:
        accession = Accession(Heritage(letter))
        Master(application(load()), accession=accession).run()
    elif letter["errand"] == reading.NAME:
        reading.answer(letter, load, application)
    else:
        children.work(letter, application)
