"""Deaths under load: does anything get lost, doubled or out of order, does presence lie?  `make storm`

    python tests/bench/storm.py [--minutes 1] [--workers 4] [--clients 300] [--users 100] [--barrier 5000]
                                [--master own|gunicorn] [--shards N] [--kill workers|shards|both|files|none] [--seed N]

Clients join and leave presence channels at random, some of them read numbered streams that are published over REST at
a steady rate, and meanwhile workers, shards or both are killed with -9, or the run directory is removed. What the run
holds the server to:

- streams: at each reader what was answered with 200 is in order, from its subscription on none of it is missing,
  nothing comes twice, and all readers see the same order;
- presence: each client's list (from its subscription, and the edges since) has each member_added for one who was absent
  and each member_removed for one who was present; at the end it equals the truth, and so does what REST says;
- who never left is never said to have left.

What was not answered with 200 may come once, or not at all. Exit status 1 when anything is violated.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[2]))  # run as a script

from tests.support.client import Client
from tests.support.cluster import (
    Crowd,
    Kind,
    Peer,
    Stage,
    clients_on,
    cluster,
    kill,
    rests_on,
    run_directory,
    settled,
    shards_of,
    workers_of,
)
from tests.support.eventually import eventually
from tests.support.rest import Rest
from tests.support.server import Server

STREAMS: Final = ("stream-0", "stream-1", "stream-2", "private-stream-3")
ROOMS: Final = ("presence-0", "presence-1")
#: Seconds between two publications on a stream, and most between two deaths.
PACE_S: Final = 0.03
DEATH_S: Final = 1.2
#: One visitor in so many reads streams, and one in so many stays for ever.
READERS: Final = 8
STEADY: Final = 10
#: How long the server may take to come to rest, in seconds.
REST_S: Final = 60.0
#: Violations that are told; the rest would say the same.
TOLD: Final = 20


class Options(NamedTuple):
    """`joins` is how many times a second somebody joins or leaves."""

    seconds: float
    workers: int = 4
    clients: int = 300
    users: int = 100
    kill: str = "none"
    joins: float = 60.0
    seed: int = 1


class Outcome(NamedTuple):
    """What a run has shown; it went well when there are no violations."""

    counts: dict[str, int]
    violations: list[str]


# --- streams ----------------------------------------------------------------------------------------------------------


class Publisher(threading.Thread):
    """Publishes 1, 2, 3... on a channel, each when the one before has been answered or has failed."""

    def __init__(self, server: Server, channel: str) -> None:
        super().__init__(name=channel)
        self.channel = channel
        self.begun = 0
        self.answered: list[int] = []
        self.failed: dict[int, str] = {}
        self._server = server
        self._rest = Rest(server.host, server.port)
        self._stopping = threading.Event()

    def run(self) -> None:
        """At a steady pace, until stopped."""
        while not self._stopping.wait(PACE_S):
            self.publish()

    def stop(self) -> None:
        """No more, until `publish` is called by hand."""
        self._stopping.set()
        self.join()

    def close(self) -> None:
        """The end."""
        self._rest.close()

    def publish(self) -> bool:
        """The next number; whether it was answered with 200. Otherwise nobody knows whether it was published."""
        number = self.begun + 1
        self.begun = number
        try:
            answer = self._rest.publish(self.channel, "number", str(number))
        except (OSError, http.client.HTTPException) as error:
            self.failed[number] = repr(error)
            self._rest.close()
            self._rest = Rest(self._server.host, self._server.port)
            return False
        if answer.status != 200:
            self.failed[number] = f"{answer.status} {answer.body!r}"
            return False
        self.answered.append(number)
        return True


class Reading:
    """What one subscriber has had of a stream. `before` was the last answered number when it asked to subscribe."""

    def __init__(self, publisher: Publisher) -> None:
        self.publisher = publisher
        self.before = publisher.answered[-1] if publisher.answered else 0
        self.since: int | None = None  # the last begun number when it had subscribed
        self.numbers: list[int] = []

    def subscribed(self) -> None:
        """From now on nothing may be missing."""
        self.since = self.publisher.begun

    def violations(self, who: str, survived: bool) -> list[str]:
        """What is wrong with it, at the end."""
        numbers, answered = self.numbers, set(self.publisher.answered)
        had, told = set(numbers), [number for number in numbers if number in answered]
        where = f"{who} on {self.publisher.channel}"
        found = [f"{where}: {number} came {times} times" for number, times in Counter(numbers).items() if times > 1]
        found += [f"{where}: {b} came after {a}" for a, b in pairwise(told) if b < a]
        found += [f"{where}: {number} is from before its subscription" for number in told if number <= self.before]
        if self.since is not None and (told or survived):
            first = min([self.since + 1, *told[:1]])
            last = self.publisher.begun if survived else max(told)
            lost = [number for number in self.publisher.answered if first <= number <= last and number not in had]
            found += [f"{where}: {number} is lost" for number in lost]
        return found


def same_order(readings: list[Reading]) -> list[str]:
    """Whether all subscribers of a stream have seen one order, whatever was answered."""
    if not readings:
        return []
    longest = max(readings, key=lambda reading: len(reading.numbers))
    places = {number: place for place, number in enumerate(longest.numbers)}
    found = []
    for reading in readings:
        seen = [places[number] for number in reading.numbers if number in places]
        if seen != sorted(seen):
            found.append(f"{reading.publisher.channel}: two readers have seen two orders")
    return found


# --- presence ---------------------------------------------------------------------------------------------------------


class Visitor(Peer):
    """Joins a room as a user, and reads the streams if told to. `view` is who it believes to be in the room."""

    def __init__(self, storm: Storm, number: int, user: str, *, reads: bool, steady: bool) -> None:
        self.number, self.user, self.reads, self.steady = number, user, reads, steady
        self.room = ROOMS[number % len(ROOMS)]
        self.wanted = True
        self.view: set[str] | None = None
        self.readings: dict[str, Reading] = {}
        self._storm = storm
        super().__init__(storm.crowd, storm.server_of(number))

    def __str__(self) -> str:
        return f"client {self.number} ({self.user}, {self.socket_id})"

    @property
    def present(self) -> bool:
        """Whether it is in its room, for all that it knows."""
        return self.stage is Stage.ESTABLISHED and self.wanted

    def established(self) -> None:
        if self.wanted:
            self.subscribe(self.room, self.user)
        if self.reads:
            for publisher in self._storm.publishers:
                self.readings[publisher.channel] = Reading(publisher)
                self.subscribe(publisher.channel)

    def toggle(self) -> None:
        """Join, or leave the room."""
        self.wanted = not self.wanted
        self.view = None
        if self.stage is not Stage.ESTABLISHED:
            return  # it will ask when it is, if it still wants to
        if self.wanted:
            self.subscribe(self.room, self.user)
        else:
            self.unsubscribe(self.room)

    def gone(self) -> None:
        self._storm.died(self)

    def heard(self, event: dict[str, Any]) -> None:
        handler = _HEARD.get(event["event"])
        if handler is None:
            self._storm.wrong(f"{self} hears {event}")
        else:
            handler(self, event["channel"], event)

    def _number(self, channel: str, event: dict[str, Any]) -> None:
        self.readings[channel].numbers.append(int(event["data"]))
        self._storm.counts["numbers"] += 1

    def _succeeded(self, channel: str, event: dict[str, Any]) -> None:
        if channel in self.readings:
            self.readings[channel].subscribed()
        elif self.wanted:
            ids = json.loads(event["data"])["presence"]["ids"]
            self.view = set(ids)
            if len(ids) != len(self.view) or self.user not in self.view:
                self._storm.wrong(f"{self} is told a list of {ids}")

    def _settled(self, channel: str, event: dict[str, Any]) -> None:
        """All that came before has been heard."""

    def _added(self, channel: str, event: dict[str, Any]) -> None:
        user = json.loads(event["data"])["user_id"]
        self._storm.edge(user)
        if self.view is None:
            return
        if user in self.view:
            self._storm.wrong(f"{self} is told a second time that {user} has come")
        self.view.add(user)

    def _removed(self, channel: str, event: dict[str, Any]) -> None:
        user = json.loads(event["data"])["user_id"]
        self._storm.edge(user)
        if self.view is None:
            return
        if user not in self.view or user == self.user:
            what = "it has itself" if user == self.user else f"{user} has, who was not there,"
            self._storm.wrong(f"{self} is told that {what} gone")
        self.view.discard(user)


_HEARD: Final[dict[str, Callable[[Visitor, str, dict[str, Any]], None]]] = {
    "number": Visitor._number,
    "settled": Visitor._settled,
    "pusher_internal:subscription_succeeded": Visitor._succeeded,
    "pusher_internal:member_added": Visitor._added,
    "pusher_internal:member_removed": Visitor._removed,
}


# --- the storm --------------------------------------------------------------------------------------------------------


class Storm:
    """One run against a server of `kind`."""

    def __init__(self, server: Server, kind: Kind, options: Options) -> None:
        self.counts: Counter[str] = Counter()
        self.violations: list[str] = []
        self.crowd = Crowd(server)
        self.publishers = [Publisher(server, channel) for channel in STREAMS]
        self._server, self._kind, self._options = server, kind, options
        self._random = random.Random(options.seed)
        self._visitors: dict[int, Visitor] = {}  # by number; the last that had it
        self._all: list[Visitor] = []
        self._steady_edges: Counter[str] = Counter()
        self._patient = True
        self._ending = False

    def run(self) -> Outcome:
        """Gather, storm, come to rest, look."""
        try:
            with self.crowd:
                self._gather()
                for publisher in self.publishers:
                    publisher.start()
                self._storm()
                self._end_streams()
                self._come_to_rest()
                self._last_deaths()
                self._look()
        finally:
            for publisher in self.publishers:
                publisher.stop()
                publisher.close()
        self._count()
        return Outcome(dict(self.counts), self.violations)

    # What visitors ask and tell

    def server_of(self, number: int) -> Server:
        """To whom the client of that number connects."""
        return self._server

    def wrong(self, text: str) -> None:
        """Something that must not be."""
        self.violations.append(text)

    def edge(self, user: str) -> None:
        """A client has been told that this user has come or gone."""
        self.counts["edges"] += 1
        if user.startswith("steady"):
            self._steady_edges[user] += 1

    def died(self, visitor: Visitor) -> None:
        """The server has ended a connection: with its worker, unless something is wrong. Another one comes."""
        self.counts["clients died"] += 1
        if self._options.kill not in ("workers", "both"):
            self.wrong(f"{visitor} has lost its connection ({visitor.code})")
        if self._ending:
            del self._visitors[visitor.number]
        else:
            self._enter(visitor.number)

    # The course of events

    def _enter(self, number: int) -> None:
        """A new client; who follows another in its place is somebody else, and does not always join the room."""
        follows = number in self._visitors
        steady = number % STEADY == 0 and not follows
        user = f"steady-{number}" if steady else f"user-{self._random.randrange(self._options.users)}"
        visitor = Visitor(self, number, user, reads=number % READERS == 1, steady=steady)
        visitor.wanted = steady or not follows or self._random.random() < 0.5
        self._visitors[number] = visitor
        self._all.append(visitor)

    def _gather(self) -> None:
        for number in range(self._options.clients):
            self._enter(number)
        self.crowd.until(self._at_rest, REST_S)
        self._steady_edges.clear()

    def _storm(self) -> None:
        now = time.monotonic()
        end, next_join, next_death = now + self._options.seconds, now, now + self._random.uniform(0, DEATH_S)
        while (now := time.monotonic()) < end:
            self.crowd.turn(max(0.0, min(next_join - now, 0.02)))
            if now >= next_join:
                next_join = max(next_join + 1 / self._options.joins, now - 1)
                self._somebody_moves()
            if self._options.kill != "none" and now >= next_death and self._somebody_dies():
                next_death = now + self._random.uniform(0.05, DEATH_S)

    def _somebody_moves(self) -> None:
        visitor = self._visitors[self._random.randrange(self._options.clients)]
        if visitor.steady or visitor.stage is Stage.CLOSED:
            return
        self.counts["moves"] += 1
        way = self._random.random()
        if way < 0.7 or (visitor.reads and way < 0.95):
            visitor.toggle()
            if way < 0.1:  # at once back
                visitor.toggle()
        else:
            visitor.leave(politely=way < 0.85)
            self._enter(visitor.number)

    def _somebody_dies(self) -> bool:
        """Kill one, if that would not be more than is to be borne at a time.

        A worker and a shard that die at the same moment may lose what was answered. Shards alone may die at any time:
        one in four does while others recover from the death before.
        """
        mode = self._options.kill
        if mode == "both":
            mode = "shards" if self.counts["workers killed"] > self.counts["shards killed"] else "workers"
        patient = self._options.kill == "both" or (mode in ("shards", "files") and self._patient)
        if patient and not self._settled():
            return False
        if not _KILL[mode](self):
            return False
        self.counts[f"{mode} killed"] += 1
        self._patient = self._random.random() > 0.25
        return True

    def _kill_workers(self) -> bool:
        victims = workers_of(self._server)
        if len(victims) <= self._options.workers // 2:
            return False
        kill(self._random.choice(victims))
        return True

    def _kill_shards(self) -> bool:
        victims = shards_of(self._server)
        if victims:
            kill(self._random.choice(victims))
        return bool(victims)

    def _kill_files(self) -> bool:
        path = run_directory(self._server)
        if path is not None:
            shutil.rmtree(path, ignore_errors=True)
        return path is not None

    def _end_streams(self) -> None:
        for publisher in self.publishers:
            publisher.stop()
        self.crowd.until(self._settled, REST_S)
        for publisher in self.publishers:
            eventually(publisher.publish, within=REST_S)

    def _come_to_rest(self) -> None:
        """What is not so in the end is looked at afterwards: this does not fail."""
        with contextlib.suppress(AssertionError):
            self.crowd.until(self._at_rest, REST_S)
        for room in ROOMS:  # nothing may be on its way any more
            with contextlib.closing(Rest(self._server.host, self._server.port)) as rest:
                if rest.publish(room, "settled", "x").status != 200:
                    self.wrong("publishing fails at the end")
        if not self._at_rest():
            self.wrong("the views are not the truth after a minute")

    def _last_deaths(self) -> None:
        """Whoever joins is told the truth, and so are those around it; now nobody joins after a worker has died.

        With nothing on its way that could be lost, it may die together with the shards.
        """
        self._ending = True
        if self._options.kill not in ("workers", "both"):
            return
        victims = [self._random.choice(workers_of(self._server))]
        if self._options.kill == "both":
            victims += shards_of(self._server)
        for victim in victims:
            kill(victim)
        with contextlib.suppress(AssertionError):
            self.crowd.until(lambda: self._recovered(victims), REST_S)

    def _recovered(self, victims: list[int]) -> bool:
        here = {*workers_of(self._server), *shards_of(self._server)}
        return here.isdisjoint(victims) and self._settled() and self._at_rest()

    def _settled(self) -> bool:
        return settled(self._server, self._options.workers, self._kind.shards)

    # The truth

    def _truth(self) -> dict[str, set[str]]:
        present = [visitor for visitor in self._visitors.values() if visitor.present]
        return {room: {visitor.user for visitor in present if visitor.room == room} for room in ROOMS}

    def _at_rest(self) -> bool:
        truth = self._truth()
        return all(
            visitor.stage is Stage.ESTABLISHED
            and visitor.view == (truth[visitor.room] if visitor.wanted else None)
            and all(self._up_to_date(reading) for reading in visitor.readings.values())
            for visitor in self._visitors.values()
        )

    def _up_to_date(self, reading: Reading) -> bool:
        last = reading.publisher.begun
        return reading.since is not None and (reading.since >= last or reading.numbers[-1:] == [last])

    def _look(self) -> None:
        truth = self._truth()
        for visitor in self._visitors.values():
            believed = visitor.view or set()
            expected = truth[visitor.room] if visitor.present else set()
            if believed != expected:
                self.wrong(f"{visitor}: ghosts {believed - expected}, missing {expected - believed}")
        self._look_at_streams()
        self._look_at_the_steady()
        self._look_at_rest(truth)

    def _look_at_streams(self) -> None:
        for visitor in self._all:
            for reading in visitor.readings.values():
                self.violations += reading.violations(str(visitor), visitor.stage is not Stage.CLOSED)
        for publisher in self.publishers:
            channel = publisher.channel
            if self._refused(publisher):
                self.wrong(f"{channel}: not answered with 200: {publisher.failed}")
            self.violations += same_order([each.readings[channel] for each in self._all if channel in each.readings])

    def _refused(self, publisher: Publisher) -> bool:
        """Whether it was not served without an excuse: a shard that dies again and again may be away for long."""
        if self._options.kill in ("shards", "files"):
            return any(not text.startswith("503") for text in publisher.failed.values())
        return self._options.kill == "none" and bool(publisher.failed)

    def _look_at_the_steady(self) -> None:
        for visitor in self._all:
            if visitor.steady and visitor.stage is not Stage.CLOSED and self._steady_edges[visitor.user]:
                self.wrong(f"{visitor} never left, and {self._steady_edges[visitor.user]} edges say that it moved")

    def _look_at_rest(self, truth: dict[str, set[str]]) -> None:
        """What any worker's REST API says, compared with the truth."""
        with contextlib.closing(Rest(self._server.host, self._server.port)) as rest:
            for room, users in truth.items():
                listed = [user["id"] for user in rest.call("GET", f"/channels/{room}/users").json()["users"]]
                if sorted(listed) != sorted(users):
                    self.wrong(f"REST lists {sorted(listed)} in {room}, and there are {sorted(users)}")
            expected = sum(visitor.present or visitor.reads for visitor in self._visitors.values())
            with contextlib.suppress(AssertionError):
                eventually(lambda: connections(rest) == expected)
            if connections(rest) != expected:
                self.wrong(f"REST counts {connections(rest)} connections, and there are {expected}")

    def _count(self) -> None:
        self.counts["answered"] = sum(len(publisher.answered) for publisher in self.publishers)
        self.counts["not answered"] = sum(len(publisher.failed) for publisher in self.publishers)
        self.counts["clients"] = len(self._all)


_KILL: Final[dict[str, Callable[[Storm], bool]]] = {
    "workers": Storm._kill_workers,
    "shards": Storm._kill_shards,
    "files": Storm._kill_files,
}


def connections(rest: Rest) -> int:
    """How many connections hold a subscription, by the REST API."""
    return int(rest.call("GET", "/connections").json()["connections"])


def storm(directory: Path, kind: Kind, options: Options) -> Outcome:
    """A run against a server of its own."""
    with cluster(directory, kind, options.workers) as server:
        outcome = Storm(server, kind, options).run()
        if "Traceback" in server.log():
            outcome.violations.append("the log has a traceback: " + server.log().partition("Traceback")[2][:2000])
        return outcome


# --- the barrier ------------------------------------------------------------------------------------------------------


def barrier(server: Server, times: int) -> int:
    """Subscribe through one worker, then at once publish through another, `times` times; how often nothing came."""
    here, there, *_ = workers_of(server)
    missed = 0
    (client,), (rest,) = clients_on(server, here), rests_on(server, there)
    with client, contextlib.closing(rest):
        for number in range(times):
            missed += not _received(client, rest, f"barrier-{number}")
    return missed


def _received(client: Client, rest: Rest, channel: str) -> bool:
    client.subscribed(channel)
    answer = rest.publish(channel, "first", "x")
    assert answer.status == 200, answer
    try:
        received: bool = client.event() == {"event": "first", "data": "x", "channel": channel}
    except TimeoutError:
        return False
    client.send("pusher:unsubscribe", {"channel": channel})
    return received


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--clients", type=int, default=300)
    parser.add_argument("--users", type=int, default=100)
    parser.add_argument("--master", choices=["own", "gunicorn"], default="own")
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--kill", choices=["workers", "shards", "both", "files", "none"], default="workers")
    parser.add_argument("--barrier", type=int, default=5000, help="subscriptions that are at once published to")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    given = parser.parse_args()
    kind = Kind(given.master, given.shards)
    options = Options(given.minutes * 60, given.workers, given.clients, given.users, given.kill, seed=given.seed)
    missed = 0
    if given.barrier:
        with tempfile.TemporaryDirectory() as directory, cluster(Path(directory), kind, given.workers) as server:
            missed = barrier(server, given.barrier)
    outcome = Outcome({}, [])
    if given.minutes:
        with tempfile.TemporaryDirectory() as directory:
            outcome = storm(Path(directory), kind, options)
    for text in outcome.violations[:TOLD]:
        print(f"VIOLATION {text[:400]}")
    figures = {"kind": str(kind), "options": options._asdict(), "barrier": given.barrier, "missed": missed}
    print(json.dumps({"case": "storm", **figures, **outcome.counts, "violations": len(outcome.violations)}))
    return 1 if missed or outcome.violations else 0


if __name__ == "__main__":
    sys.exit(main())
