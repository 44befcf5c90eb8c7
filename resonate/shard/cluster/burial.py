"""Taking out what a party has left behind: its members in all logs, and what it has counted."""

from __future__ import annotations

from collections.abc import Set

from resonate.shard.cluster.desk import Desk
from resonate.shard.cluster.entries import Left, Seal, party_and_user
from resonate.shard.cluster.store import Bury, Leave, Logs, Look, Page
from resonate.shard.cluster.waiting import Steps


def burial(desk: Desk, seal: Seal, party: str, seen: Set[str]) -> Steps[None]:
    """Steps that take a party's members out of all logs, then forget it. Two who try at a time do it once.

    `seen` are logs in which it has some, whether or not the store has noted that.
    """
    noted = (yield desk.ask(Logs, party)) or ()
    for log in sorted({*seen, *noted}):
        page = yield desk.ask(Look, log)
        if isinstance(page, Page):
            left = [desk.ask(Leave, log, field, seal.close(log, Left(party, user))) for field, user in _of(page, party)]
            for each in left:
                _ = yield each
    yield desk.ask(Bury, party)


def _of(page: Page, party: str) -> list[tuple[str, str]]:
    """The fields of a party, with their users."""
    found = []
    for field, _ in page.members or ():
        try:
            owner, user = party_and_user(field)
        except ValueError:
            continue  # none of ours
        if owner == party:
            found.append((field, user))
    return found
