"""This shard and others as the store knows them: parties with a lease, and who has to be buried."""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import Final

#: A lease is renewed so often within it.
RENEWALS: Final = 3


class Parties:
    """`host` is the host's id, `index` and `process` say which shard this is; a name is never used twice.

    `lease_s` is how long a party is believed to live without a sign, in seconds.
    """

    def __init__(self, host: str, index: int, process: str, lease_s: float) -> None:
        self._host = host
        self._seat = f"{host}.{index}."
        self._process = process
        self._number = 0
        self._renew_at = 0.0
        self._trusted_at = 0.0
        self.lease_s = lease_s
        self.name = ""
        self.burying: set[str] = set()
        self._former: set[str] = set()  # names of this party before: nobody else may know them any more
        self._strangers: set[str] = set()  # parties that were seen, and not known when that was asked last
        self._seen: dict[str, set[str]] = {}  # logs in which a party has members; it may be that nobody knows it

    @property
    def ours(self) -> str:
        """How the names of all parties of this host begin."""
        return f"{self._host}."

    def arrive(self, now: float) -> str:
        """A new name, for a new life."""
        if self.name:
            self._former.add(self.name)
        self._number += 1
        self._renew_at = now + self.lease_s / RENEWALS
        self._trusted_at = now + self.lease_s
        self.name = f"{self._seat}{self._process}.{self._number}"
        return self.name

    def due(self, now: float) -> bool:
        """Whether the lease should be renewed, and others looked at."""
        if now < self._renew_at:
            return False
        self._renew_at = now + self.lease_s / RENEWALS
        return True

    def counts(self, party: str) -> bool:
        """Whether what a party has counts here: another of this host does not, its workers say what they hold."""
        return party == self.name or not party.startswith(self.ours)

    def saw(self, party: str, log: str) -> None:
        """A party has a member in that log."""
        if party != self.name:
            self._seen.setdefault(party, set()).add(log)

    def seen(self, party: str) -> Set[str]:
        """The logs in which it had members, when that was seen last."""
        return self._seen.pop(party, set())

    def buried(self, party: str) -> None:
        """Nothing is left of it."""
        self.burying.discard(party)
        self._former.discard(party)

    def dead(self, known: Mapping[str, bool], returned: bool, now: float) -> list[str]:
        """Whom to bury: those whose lease has run out, and those who had this shard's seat before it.

        The latter only when it has `returned`: until all its members are in, they are there through those. The others
        not before it has been there for a lease: if the store was away for all, all have to come back. Nobody, if the
        store has lost this party, and so others who live. Who has members and is not known has been lost and died; or
        has just come, so that is asked twice.
        """
        if not known.get(self.name):
            return []
        self._seen = {party: logs for party, logs in self._seen.items() if not known.get(party)}
        unknown = {party for party in self._seen if party not in known}
        strangers, self._strangers = self._strangers & unknown, unknown
        trusted = now >= self._trusted_at
        return sorted(
            party
            for party, lives in {**dict.fromkeys((*self._former, *strangers), False), **known}.items()
            if party not in self.burying
            and party != self.name
            and (returned if party.startswith(self._seat) else trusted and not lives)
        )
