"""What a host holds of each app, told to the store as absolute numbers; and its share of an app's quota."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Set

from resonate.shard.cluster.store import SLICE, Admit, Count
from resonate.shard.cluster.waiting import Signal

#: How many connections of an app there are on this host, and how many of them with a subscription.
Connections = Callable[[str], tuple[int, int]]
#: How many subscriptions there are on this host, by app and channel.
Subscriptions = Callable[[str, str], int]


class Counts:
    """What is about to be handled is counted before: who is answered can be found on every host."""

    def __init__(self, connections: Connections, subscriptions: Subscriptions) -> None:
        self._connections = connections
        self._subscriptions = subscriptions
        self._coming: Counter[tuple[str, str]] = Counter()  # subscriptions
        self._connecting: Counter[str] = Counter()
        self._attaching: Counter[str] = Counter()
        self._changed: dict[str, set[str]] = {}
        self._next: dict[str, Signal] = {}  # when what has changed of an app is told
        self._telling: dict[int, Signal] = {}

    def changed(self, app: str, channel: str | None = None) -> Signal:
        """It is to be told anew; what happens when it has been."""
        channels = self._changed.setdefault(app, set())
        if channel is not None:
            channels.add(channel)
        return self._next.setdefault(app, Signal())

    def subscribing(self, app: str, channel: str) -> Signal:
        """One more is about to be on a channel; what happens when that has been told."""
        self._coming[app, channel] += 1
        return self.changed(app, channel)

    def subscribed(self, app: str, channel: str, came: bool) -> None:
        """It is there; or has not come."""
        self._coming[app, channel] -= 1
        if not self._coming[app, channel]:
            del self._coming[app, channel]
        if not came:
            self.changed(app, channel)

    def connecting(self, app: str) -> None:
        """A connection has been admitted, and is about to be there."""
        self._connecting[app] += 1
        self.changed(app)

    def arrived(self, app: str, came: bool) -> None:
        """It is there; or has not come."""
        self._connecting[app] -= 1
        if not came:
            self.changed(app)

    def attaching(self, app: str) -> None:
        """A connection is about to have a subscription."""
        self._attaching[app] += 1
        self.changed(app)

    def attached(self, app: str, came: bool) -> None:
        """It has; or has not come."""
        self._attaching[app] -= 1
        if not came:
            self.changed(app)

    def connected(self, app: str) -> int:
        """Connections of an app, with those that are about to be."""
        return self._connections(app)[0] + self._connecting[app]

    def orders(self, refs: Iterator[int], party: str, asking: Set[str] = frozenset()) -> list[Count]:
        """What is to be told now; not of apps for which places are being `asked`: it could take those back.

        An app that takes several orders has been told when the last of them is answered.
        """
        found = []
        for app in [app for app in self._changed if app not in asking]:
            channels = list(self._changed.pop(app))
            connected, attached = self.connected(app), self._connections(app)[1] + self._attaching[app]
            for begin in range(0, max(1, len(channels)), SLICE):
                names = channels[begin : begin + SLICE]
                numbers = {name: self._subscriptions(app, name) + self._coming[app, name] for name in names}
                ref = next(refs)
                found.append(Count(ref, party, app, connected, attached, numbers))
                self._telling[ref] = Signal()
            self._telling[ref] = self._next.pop(app, Signal())
        return found

    def answered(self, ref: int) -> bool:
        """Whether that was the answer to one of them."""
        signal = self._telling.pop(ref, None)
        if signal is not None:
            signal.fire()
        return signal is not None

    def lost(self) -> None:
        """What was being told is told again with everything else."""
        self._telling.clear()
        self._changed.clear()
        self._next.clear()


class Admissions:
    """Asks the store for places, for all at a time who want one of the same app."""

    def __init__(self, held: Callable[[str], int]) -> None:
        self._held = held
        self._wanted: dict[str, deque[tuple[Signal, int]]] = {}
        self._asking: dict[int, tuple[str, int]] = {}

    def ask(self, app: str, limit: int) -> Signal:
        """Ask for a place; what happens, with whether there is one."""
        signal = Signal()
        self._wanted.setdefault(app, deque()).append((signal, limit))
        return signal

    @property
    def asking(self) -> Set[str]:
        """Apps for which a question is under way."""
        return {app for app, _ in self._asking.values()}

    def orders(self, refs: Iterator[int], party: str) -> list[Admit]:
        """What is to be asked now: one question for each app at a time."""
        asking, found = self.asking, []
        for app, wanted in self._wanted.items():
            if wanted and app not in asking:
                ref = next(refs)
                self._asking[ref] = (app, len(wanted))
                found.append(Admit(ref, party, app, self._held(app), len(wanted), wanted[-1][1]))
        return found

    def answered(self, ref: int, granted: int | None) -> str | None:
        """The app, if that was the answer to one of them: so many have a place. None: nobody knows how many."""
        if ref not in self._asking:
            return None
        app, asked = self._asking.pop(ref)
        wanted = self._wanted[app]
        for number in range(asked):
            if wanted:
                wanted.popleft()[0].fire(None if granted is None else number < granted)
        if not wanted:
            del self._wanted[app]
        return app

    def lost(self) -> None:
        """Nobody is answered."""
        self._wanted.clear()
        self._asking.clear()
