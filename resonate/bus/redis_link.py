"""Everything between this process and Redis from one `Ready` to the next `Lost`: it lives and dies as one thing."""

from __future__ import annotations

import logging
import re
import select
from collections import Counter, deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from redis.crc import key_slot

from resonate.bus.redis_connection import Connection
from resonate.bus.redis_orders import ANSWERS, PARTIAL_ANSWERS, TALKS, Command, Orders, Talk, entry
from resonate.bus.redis_wire import LinkError, Wire
from resonate.bus.resp import Refusal, pack, plain
from resonate.scaling import Scaling
from resonate.shard.cluster.entries import MAX_BYTES
from resonate.shard.cluster.store import (
    Append,
    Follow,
    Followed,
    Join,
    Keep,
    Leave,
    Listen,
    Look,
    Order,
    Read,
    Reply,
    Report,
    Said,
    Unfollow,
)

#: Bytes that have not been sent, and orders that have not been answered: Redis does not keep up with more. After a
#: break each log is read, all at once. The longest entry fits, also with a cached event, and behind another one.
MOST_BYTES: Final = 3 * MAX_BYTES
MOST_OPEN: Final = 1_000_000
#: Kinds of errors that are logged once each; further ones only count.
MOST_KINDS: Final = 50

#: Errors about the server or its role, also where a script of Redis 6 quotes them. Others are about data.
_ROLE: Final = re.compile(
    r"(?:^|[\s:-])(?:READONLY|LOADING|CLUSTERDOWN|MOVED|ASK|TRYAGAIN|CROSSSLOT|NOSCRIPT|MASTERDOWN|NOAUTH|WRONGPASS|NOPERM"
    r"|OOM|MISCONF|NOREPLICAS|BUSY|UNKILLABLE|UNBLOCKED)(?:\s|$)"
)


#: What is done of a log in the order in which it was ordered, `Follow` included.
_OF_A_LOG: Final = frozenset({Follow, Unfollow, Append, Keep, Read, Join, Leave, Look})


class Node:
    """A Redis of its own, or a master of a cluster: one connection for orders, one to listen."""

    def __init__(self, orders: Wire, listener: Wire) -> None:
        self.orders = orders
        self.listener = listener
        self.expected: deque[Callable[[Any], None]] = deque()  # what is done with each reply that is to come
        self.leaving: Counter[bytes] = Counter()  # channels that are no longer followed, until that is said

    @property
    def wires(self) -> tuple[Wire, Wire]:
        return self.orders, self.listener


class Made:
    """What it takes to make a link: connections that have been made, and what is known of them.

    Of a cluster: `slots` has the index of a node for each slot, `nodes` where all nodes are, replicas too.
    """

    def __init__(
        self,
        connections: list[tuple[Connection, Connection]],
        slots: Sequence[int] | None = None,
        sharded: bool = False,
        nodes: Sequence[tuple[str, int]] = (),
    ) -> None:
        self.connections = connections
        self.slots = slots
        self.sharded = sharded
        self.nodes = nodes

    def close(self) -> None:
        """Close all connections."""
        for pair in self.connections:
            for connection in pair:
                connection.close()


class Link:
    """Orders go in, reports come out of `read`. Raises LinkError, after which it can only be closed."""

    def __init__(
        self,
        made: Made,
        scaling: Scaling,
        poll: select.epoll,
        log: logging.Logger,
        counters: dict[str, int],
        now: float,
    ) -> None:
        self._orders = Orders(scaling, made.sharded)
        self._slots = made.slots
        self._verbs = (b"SSUBSCRIBE", b"SUNSUBSCRIBE") if made.sharded else (b"SUBSCRIBE", b"UNSUBSCRIBE")
        self._nodes = [
            Node(*(Wire(connection, poll, scaling.patience, now) for connection in pair)) for pair in made.connections
        ]
        self._log = log
        self._counters = counters
        self._kinds: set[str] = set()  # of errors that have been logged
        self._following: dict[str, list[Order]] = {}  # logs to be followed; what was ordered of each after that
        self._held = 0  # of those orders
        self._reports: list[Report] = []

    def close(self) -> None:
        """Close all connections."""
        for node in self._nodes:
            for wire in node.wires:
                wire.close()

    # --- orders ------------------------------------------------------------------------------------------------------

    def order(self, orders: Sequence[Order]) -> None:
        """Send as much of it as can be sent at once. Raises LinkError."""
        for order in orders:
            self._do(order)
        self._flush()

    def _do(self, order: Any) -> None:
        kind = type(order)
        if kind in _OF_A_LOG and order.log in self._following:
            self._following[order.log].append(order)
            self._held += 1
        elif kind is Follow:
            self._following[order.log] = []
            self._subscribe(order.log)
        elif kind is Unfollow:
            self._unsubscribe(order.log)
        elif kind is Listen:
            channel = self._orders.open_channel
            self._node(channel).listener.send(pack((b"SUBSCRIBE", channel)))
        elif kind in TALKS:
            odd: list[bytes] = []
            self._go_on(order, TALKS[kind](self._orders, order, odd), odd, None)
        else:
            *before, last = self._orders.commands(order)
            for command in before:
                self._send(command, _pass)
            self._send(last, partial(self._answer, order))

    def _flush(self) -> None:
        for node in self._nodes:
            node.orders.flush()
            node.listener.flush()
            open_ = self._held + len(node.expected)
            if max(node.orders.waits, node.listener.waits) > MOST_BYTES or open_ > MOST_OPEN:
                raise LinkError("Redis does not keep up with what it is asked")

    def _node(self, key: bytes) -> Node:
        return self._nodes[0 if self._slots is None else self._slots[key_slot(key)]]

    def _send(self, command: Command, then: Callable[[Any], None]) -> None:
        node = self._node(command.key)
        node.orders.send(command.packed)
        node.expected.append(then)

    def _go_on(self, order: Any, talk: Talk, odd: list[bytes], reply: Any) -> None:
        """Redis has replied to the last command of a talk: the next one, or the answer."""
        value = None
        if isinstance(reply, Refusal):
            self._refused(order, reply)
            reply = None
        try:
            self._send(talk.send(reply), partial(self._go_on, order, talk, odd))
            return
        except StopIteration as end:
            value = end.value
        except (ValueError, TypeError, LookupError):
            self._misfit(order)
        self._report(order, value, odd)

    def _answer(self, order: Any, reply: Any) -> None:
        kind, value = type(order), None
        odd: list[bytes] = []
        if isinstance(reply, Refusal):
            self._refused(order, reply)
        else:
            try:
                value = PARTIAL_ANSWERS[kind](reply, odd) if kind in PARTIAL_ANSWERS else ANSWERS[kind](reply)
            except (ValueError, TypeError, LookupError):
                self._misfit(order)
        self._report(order, value, odd)

    def _report(self, order: Any, value: Any, odd: list[bytes]) -> None:
        for _ in odd:
            self._complain(f"{_named(order)}: a field is no text")
        ref = getattr(order, "ref", None)
        if ref is not None:
            self._reports.append(Reply(ref, value))

    def _misfit(self, order: Any) -> None:
        self._complain(f"{_named(order)}: what lies there is none of ours")

    def _refused(self, order: Any, refusal: Refusal) -> None:
        self._complain(f"{_named(order)}: {plain(refusal.text)}")

    def _complain(self, text: str) -> None:
        """About data in Redis: once for each kind, otherwise it may be said for each event."""
        self._counters["refused"] += 1
        self._tell_once(f"Redis has refused an order; further ones are only counted. {text}")

    def _tell_once(self, text: str) -> None:
        if text not in self._kinds and len(self._kinds) < MOST_KINDS:
            self._kinds.add(text)
            self._log.error("%s", text)

    # --- followed logs -----------------------------------------------------------------------------------------------

    def _subscribe(self, log: str) -> None:
        channel = self._orders.channel(log)
        self._node(channel).listener.send(pack((self._verbs[0], channel)))

    def _unsubscribe(self, log: str) -> None:
        channel = self._orders.channel(log)
        node = self._node(channel)
        node.leaving[channel] += 1
        node.listener.send(pack((self._verbs[1], channel)))

    def _followed(self, log: str) -> None:
        """What was ordered of it since goes over another connection: only now nothing of that can be missed."""
        self._reports.append(Followed(log))
        held = self._following.pop(log, [])
        self._held -= len(held)
        for order in held:
            self._do(order)

    def _hear(self, node: Node, message: Any) -> None:
        if isinstance(message, Refusal):
            raise LinkError(plain(message.text))
        if not isinstance(message, list) or len(message) != 3:
            return  # a sign of life
        kind, channel, content = message
        if channel == self._orders.open_channel:
            if kind == b"message":
                self._reports.append(Said(content))
            return
        if kind in (b"message", b"smessage"):
            try:
                self._reports.append(entry(self._orders.log(channel), content))
            except ValueError:
                self._counters["dropped_messages"] += 1
                self._tell_once("Redis has told us what is none of ours; further messages are only counted")
        elif kind in (b"subscribe", b"ssubscribe"):
            self._followed(self._orders.log(channel))
        elif node.leaving[channel] > 1:
            node.leaving[channel] -= 1
        elif node.leaving.pop(channel, 0) == 0:
            raise LinkError("Redis has given a part of its keys to another node")

    # --- each turn ---------------------------------------------------------------------------------------------------

    def read(self, ready: set[int], now: float) -> list[Report]:
        """What has come over connections that are ready.

        Raises LinkError; what had come before is lost then, as if it had not.
        """
        for node in self._nodes:
            if node.orders.descriptor in ready:
                for reply in node.orders.read(now):
                    self._reply(node, reply)
            if node.listener.descriptor in ready:
                for message in node.listener.read(now):
                    self._hear(node, message)
        self._watch(now)
        self._flush()
        reports, self._reports = self._reports, []
        return reports

    def _reply(self, node: Node, reply: Any) -> None:
        if isinstance(reply, Refusal) and _ROLE.search(reply.text):
            raise LinkError(plain(reply.text))
        if not node.expected:
            raise LinkError("Redis has answered what it was not asked")
        node.expected.popleft()(reply)

    def _watch(self, now: float) -> None:
        for node in self._nodes:
            if node.orders.watch(now):
                node.expected.append(_pass)
            node.listener.watch(now)


def _pass(reply: Any) -> None:
    """Nothing is to be done."""


def _named(order: Any) -> str:
    """What an order is called, and whose keys it is about."""
    subject = getattr(order, "log", None) or getattr(order, "app", None)
    return type(order).__name__ if subject is None else f"{type(order).__name__} of {subject}"
