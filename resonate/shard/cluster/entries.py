"""What stands in a log, as bytes: a head of JSON, behind it an event's payload, before it the seal if there is one.

What comes from the store is data: whatever does not have the shape of an entry raises EntryError, and nothing else.
"""

from __future__ import annotations

import hmac
from typing import Any, Final, NamedTuple

import orjson

from resonate.errors import ResonateError
from resonate.messages import check_data

#: The longest entry that is taken from the store, in bytes: of all hosts and by whatever way. No request is as long.
MAX_BYTES: Final = 64 * 1024 * 1024
_PLAIN, _SEALED = b"1", b"2"
_SEAL_BYTES: Final = 32


class EntryError(ResonateError):
    """Bytes that are no entry, or not one of this cluster."""


class Published(NamedTuple):
    """An event. `origin` and `seq` name the request: its worker, and that one's number for it. Else as in `Publish`."""

    origin: str
    seq: int
    payload: bytes
    except_: str | None
    keep_s: int


class Expelled(NamedTuple):
    """All connections of a user are to be closed; in the log of the app. `origin` and `seq` as in `Published`."""

    origin: str
    seq: int
    user: str


class Joined(NamedTuple):
    """A user is with a party now. `data` is what came with the connection `socket`, which joined at `since`, in ms."""

    party: str
    user: str
    data: dict[str, Any]
    socket: str
    since: int


class Left(NamedTuple):
    """A user is with a party no more."""

    party: str
    user: str


LogEntry = Published | Expelled | Joined | Left

_KINDS: Final[tuple[type[LogEntry], ...]] = (Published, Expelled, Joined, Left)
_NUMBERS: Final = {kind: number for number, kind in enumerate(_KINDS)}
_SHAPES: Final[tuple[tuple[tuple[type, ...], ...], ...]] = (
    ((str,), (int,), (int,), (str, type(None)), (int,)),
    ((str,), (int,), (str,)),
    ((str,), (str,), (dict,), (str,), (int,)),
    ((str,), (str,)),
)


class Seal:
    """Signs what this cluster writes with its secret (HMAC-SHA256 over the log and the entry), if it has one.

    An entry cannot be moved to another log. One that is older can be given again: numbers tell.
    """

    def __init__(self, secret: str | None) -> None:
        self._secret = secret.encode() if secret is not None else None

    def close(self, log: str, entry: LogEntry) -> bytes:
        """The bytes of an entry for that log."""
        return self._close(log, _write(entry))

    def _close(self, log: str, body: bytes) -> bytes:
        if self._secret is None:
            return _PLAIN + body
        return b"".join((_SEALED, self._digest(self._secret, log, body), body))

    def open(self, log: str, data: bytes) -> LogEntry:
        """The entry in bytes from that log. Raises EntryError."""
        if len(data) > MAX_BYTES:
            raise EntryError(f"an entry of {len(data)} bytes is too long")
        if self._secret is None:
            if data[:1] != _PLAIN:
                signed = data[:1] == _SEALED
                raise EntryError("an entry is signed, and no scaling.secret is set" if signed else "it is no entry")
            return _read(data[1:])
        seal, body = data[1 : 1 + _SEAL_BYTES], data[1 + _SEAL_BYTES :]
        if data[:1] != _SEALED or not hmac.compare_digest(seal, self._digest(self._secret, log, body)):
            raise EntryError("an entry is not signed with this scaling.secret")
        return _read(body)

    @staticmethod
    def _digest(secret: bytes, log: str, body: bytes) -> bytes:
        return hmac.digest(secret, log.encode() + b"\n" + body, "sha256")


def _write(entry: LogEntry) -> bytes:
    number, payload = _NUMBERS[type(entry)], b""
    fields: tuple[Any, ...] = entry
    if isinstance(entry, Published):
        payload = entry.payload
        fields = (entry.origin, entry.seq, len(payload), entry.except_, entry.keep_s)
    head = orjson.dumps((number, *fields))
    return b"".join((len(head).to_bytes(4, "big"), head, payload))


def _read(body: bytes) -> LogEntry:
    try:
        size = int.from_bytes(body[:4], "big") + 4
        number, *fields = orjson.loads(body[4:size])
        if type(number) is not int or number < 0:
            raise ValueError("it is of no kind")
        kinds = tuple(map(type, fields))
        shape = _SHAPES[number]
        if len(kinds) != len(shape) or not all(kind in kinds_ for kind, kinds_ in zip(kinds, shape, strict=True)):
            raise ValueError("its fields have other types")
        payload = body[size:]
        if number == _NUMBERS[Published]:
            if fields[2] != len(payload):
                raise ValueError("its payload is not whole")
            fields[2] = payload
        elif payload:
            raise ValueError("there is something behind it")
        if number == _NUMBERS[Joined]:
            check_data(fields[2])
        made: LogEntry = _KINDS[number]._make(fields)
    except (ValueError, TypeError, LookupError) as error:  # JSONDecodeError is a ValueError
        raise EntryError(f"{len(body)} bytes are no entry: {error!r}") from None
    return made


def field_of(party: str, user: str) -> str:
    """The field of a log's members for a user with a party."""
    return f"{party} {user}"


def party_and_user(field: str) -> tuple[str, str]:
    """The opposite. Raises ValueError for what is no such field."""
    party, user = field.split(" ", 1)
    return party, user
