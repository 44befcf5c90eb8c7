"""What a client may send and what must come of it: Autobahn's groups 1 to 7, 9 and 10, and the limits of our own.

A row is a name, the bytes, and the events a connection acts upon. Nothing is acted upon after a close frame or a
failure, so rows end there. The frames are built by the test client's own encoder, not by the code under test.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from resonate.websocket import Close, Event, Fail, Message, Oversized, Ping, Pong
from tests.support.client import BINARY, CLOSE, PING, PONG, TEXT, frame

CONTINUATION = 0
MIB = 1024 * 1024
DATA_OPCODES, CONTROL_OPCODES = (TEXT, BINARY), (CLOSE, PING, PONG)
PROTOCOL_ERROR, INVALID_PAYLOAD, TOO_BIG = (Fail(code, "") for code in (1002, 1007, 1009))

LIMIT = 100_000
#: For the rows about limits: small enough to be seen through. Frames over 16 times as much are refused.
SMALL = 10


class Case(NamedTuple):
    name: str
    sent: bytes
    events: Sequence[Event]
    limit: int = LIMIT


def message(data: bytes, opcode: int = TEXT) -> bytes:
    return frame(data, opcode)


def fragments(parts: Sequence[bytes], opcode: int = TEXT, final: bool = True) -> list[bytes]:
    """The frames of one message; `final` False leaves its end open."""
    last = len(parts) - 1
    return [
        frame(part, CONTINUATION if index else opcode, fin=final and index == last) for index, part in enumerate(parts)
    ]


def octets(data: bytes) -> list[bytes]:
    return [data[index : index + 1] for index in range(len(data))]


def close(code: int, reason: bytes = b"") -> bytes:
    return frame(code.to_bytes(2, "big") + reason, CLOSE)


def declared(size: int, opcode: int = TEXT, fin: bool = True, width: int = 8) -> bytes:
    """The head of a frame whose payload does not follow; `width` is that of the length, in bytes."""
    return bytes([0x80 * fin | opcode, 0x80 | (126 if width == 2 else 127)]) + size.to_bytes(width, "big") + b"mask"


# --- 1: messages of every width of length ----------------------------------------------------------------------------


def sizes() -> Iterator[Case]:
    for size in (0, 1, 124, 125, 126, 127, 128, 255, 256, 65535, 65536):
        for opcode, kind, octet in ((TEXT, "text", b"*"), (BINARY, "binary", b"\xfe")):
            yield Case(f"1 {kind} of {size}", message(octet * size, opcode), [Message(octet * size)])
    several = message(b"a") + message(b"", BINARY) + message(b"b")
    yield Case("1 several in a row", several, [Message(b"a"), Message(b""), Message(b"b")])
    yield Case("1 masked with zeros", frame(b"abc", mask=b"\0\0\0\0"), [Message(b"abc")])
    yield Case("1 masked with ones", frame(b"abcde", mask=b"\xff" * 4), [Message(b"abcde")])
    whole = message(b"x" * 300)
    for cut in (1, 2, 3, 4, 7, 8, len(whole) - 1):
        yield Case(f"1 cut off after {cut}", whole[:cut], [])


# --- 2: pings and pongs ----------------------------------------------------------------------------------------------


def pings() -> Iterator[Case]:
    for size in (0, 1, 5, 124, 125):
        payload = bytes(range(size))
        yield Case(f"2 ping of {size}", frame(payload, PING), [Ping(payload)])
        yield Case(f"2 pong of {size}, not asked for", frame(payload, PONG), [Pong(payload)])
    for size in (126, 127, 65536):
        yield Case(f"2 ping of {size}", frame(b"x" * size, PING), [PROTOCOL_ERROR])
        yield Case(f"2 pong of {size}", frame(b"x" * size, PONG), [PROTOCOL_ERROR])
    yield Case("2 ping with a long length refused at its head", bytes([0x89, 0xFE]), [PROTOCOL_ERROR])
    binary = bytes.fromhex("00fffefdfcfb00ff")
    yield Case("2 binary ping", frame(binary, PING), [Ping(binary)])
    ten = [b"payload-%d" % index for index in range(10)]
    yield Case("2 ten pings", b"".join(frame(payload, PING) for payload in ten), [*map(Ping, ten)])
    yield Case("2 pong, then ping", frame(b"a", PONG) + frame(b"b", PING), [Pong(b"a"), Ping(b"b")])


# --- 3 and 4: reserved bits and opcodes, masking ---------------------------------------------------------------------


def reserved() -> Iterator[Case]:
    for rsv in range(1, 8):
        for opcode in (CONTINUATION, *DATA_OPCODES, *CONTROL_OPCODES):
            yield Case(f"3 bits {rsv} with opcode {opcode}", frame(b"x", opcode, rsv=rsv), [PROTOCOL_ERROR])
        after = message(b"Hello") + frame(b"x", rsv=rsv) + frame(b"", PING)
        yield Case(f"3 bits {rsv} after a message", after, [Message(b"Hello"), PROTOCOL_ERROR])
        inside = frame(b"a", fin=False) + frame(b"b", CONTINUATION, rsv=rsv)
        yield Case(f"3 bits {rsv} in a continuation", inside, [PROTOCOL_ERROR])
    for opcode in (*range(3, 8), *range(11, 16)):
        yield Case(f"4 opcode {opcode}, empty", frame(b"", opcode), [PROTOCOL_ERROR])
        yield Case(f"4 opcode {opcode}", frame(b"payload", opcode), [PROTOCOL_ERROR])
        yield Case(f"4 opcode {opcode}, not final", frame(b"", opcode, fin=False), [PROTOCOL_ERROR])
        after = message(b"Hello") + frame(b"", opcode) + frame(b"", PING)
        yield Case(f"4 opcode {opcode} after a message", after, [Message(b"Hello"), PROTOCOL_ERROR])
        inside = frame(b"a", fin=False) + frame(b"", opcode)
        yield Case(f"4 opcode {opcode} inside a message", inside, [PROTOCOL_ERROR])


def unmasked() -> Iterator[Case]:
    for opcode in (*DATA_OPCODES, *CONTROL_OPCODES):
        yield Case(f"5.1 opcode {opcode} without a mask", frame(b"", opcode, mask=None), [PROTOCOL_ERROR])
    after = message(b"a") + frame(b"b", mask=None)
    yield Case("5.1 a mask, then none", after, [Message(b"a"), PROTOCOL_ERROR])


# --- 5: fragmentation ------------------------------------------------------------------------------------------------


def fragmentation() -> Iterator[Case]:
    for opcode in CONTROL_OPCODES:
        yield Case(f"5 opcode {opcode}, fragmented", frame(b"", opcode, fin=False), [PROTOCOL_ERROR])
        both = frame(b"", opcode, fin=False) + frame(b"", CONTINUATION)
        yield Case(f"5 opcode {opcode} and a continuation", both, [PROTOCOL_ERROR])
    for opcode in DATA_OPCODES:
        yield from _fragmented(opcode)
    yield from _out_of_place()


def _fragmented(opcode: int) -> Iterator[Case]:
    parts = [b"fragment1", b"fragment2", b"", b"fragment3", b"fragment4"]
    frames, whole = fragments(parts, opcode), Message(b"".join(parts))
    yield Case(f"5 opcode {opcode} in two", b"".join(fragments(parts[:2], opcode)), [Message(b"fragment1fragment2")])
    yield Case(f"5 opcode {opcode} in five", b"".join(frames), [whole])
    yield Case(f"5 opcode {opcode} in octets", b"".join(fragments(octets(b"Hello"), opcode)), [Message(b"Hello")])
    yield Case(f"5 opcode {opcode} in nothing but empty parts", b"".join(fragments([b""] * 3, opcode)), [Message(b"")])
    one, two = frame(b"one", PING), frame(b"two", PONG)
    yield Case(f"5 opcode {opcode} with a ping within", frames[0] + one + b"".join(frames[1:]), [Ping(b"one"), whole])
    between = b"".join(part + one for part in frames)
    yield Case(f"5 opcode {opcode} with pings between", between, [*[Ping(b"one")] * 4, whole, Ping(b"one")])
    mixed = frames[0] + one + frames[1] + two + b"".join(frames[2:])
    yield Case(f"5 opcode {opcode} with ping and pong", mixed, [Ping(b"one"), Pong(b"two"), whole])
    closed = b"".join(frames[:2]) + close(1000) + b"".join(frames[2:])
    yield Case(f"5 opcode {opcode} with a close within", closed, [Close(1000, "")])
    open_end = b"".join(fragments(parts, opcode, final=False))
    yield Case(f"5 opcode {opcode} without an end", open_end + one, [Ping(b"one")])
    twice = b"".join(frames) + b"".join(fragments([b"a", b"b"], opcode)) + message(b"c")
    yield Case(f"5 opcode {opcode} and further messages", twice, [whole, Message(b"ab"), Message(b"c")])


def _out_of_place() -> Iterator[Case]:
    for fin in (True, False):
        lonely = frame(b"x", CONTINUATION, fin=fin)
        end = "final" if fin else "not final"
        yield Case(f"5 continuation of nothing, {end}", lonely + message(b"Hello"), [PROTOCOL_ERROR])
        yield Case(f"5 continuation after a message, {end}", message(b"a") + lonely, [Message(b"a"), PROTOCOL_ERROR])
        done = b"".join(fragments([b"a", b"b"])) + lonely
        yield Case(f"5 continuation after the end, {end}", done, [Message(b"ab"), PROTOCOL_ERROR])
        for opcode in DATA_OPCODES:
            inside = frame(b"a", fin=False) + frame(b"b", opcode, fin=fin)
            yield Case(f"5 opcode {opcode} inside a message, {end}", inside, [PROTOCOL_ERROR])
    empty = frame(b"", fin=False) + message(b"b")
    yield Case("5 message inside one that has begun with nothing", empty, [PROTOCOL_ERROR])


# --- 6: UTF-8 --------------------------------------------------------------------------------------------------------

KOSME = bytes.fromhex("cebae1bdb9cf83cebcceb5")  # characters that end at 2, 5, 7, 9 and 11
VALID_UTF8 = [
    "Hello-µ@ßöäüàá-UTF-8!!".encode(),
    KOSME,
    *(KOSME[:end] for end in (2, 5, 7, 9)),
    *map(bytes.fromhex, ("00", "c280", "e0a080", "f0908080")),  # the first of each length
    *map(bytes.fromhex, ("7f", "dfbf", "efbfbf", "f48fbfbf")),  # the last
    *map(bytes.fromhex, ("ed9fbf", "ee8080", "efbfbd")),  # around the surrogates
    *map(bytes.fromhex, ("efbfbe", "efb790", "f09fbfbe", "f09fbfbf", "f0afbfbe", "f3bfbfbf", "f48fbfbe")),  # unassigned
    *map(bytes.fromhex, ("efbfb9", "efbfba", "efbfbb", "efbfbc", "efbbbf")),  # specials, and the byte order mark
]

_STARTS = (0xC0, 0xE0, 0xF0, 0xF8, 0xFC, 0xFE)  # of sequences of 2, 3, 4, 5 and 6 bytes
_LONELY = [bytes(range(start, end)) for start, end in pairwise(_STARTS)]
_CUT = ["c0", "e080", "f08080", "f8808080", "fc80808080", "df", "efbf", "f7bfbf", "fbbfbfbf", "fdbfbfbfbf"]
INVALID_UTF8 = [
    KOSME + bytes.fromhex("eda080") + b"edited",
    KOSME + bytes.fromhex("f4908080") + b"edited",
    *(KOSME[:end] for end in (1, 3, 4, 6, 8, 10)),
    *map(bytes.fromhex, ("f888808080", "fc8480808080", "f7bfbfbf", "fbbfbfbfbf", "fdbfbfbfbfbf")),  # too long
    bytes.fromhex("f4908080"),  # above U+10FFFF
    *(bytes([0x80, 0xBF] * 4)[:size] for size in range(1, 8)),
    b"\xbf",
    bytes(range(0x80, 0xC0)),
    *(b" ".join(octets(starts)) + b" " for starts in _LONELY),
    *map(bytes.fromhex, _CUT),
    bytes.fromhex("".join(_CUT)),
    *map(bytes.fromhex, ("fe", "ff", "fefeffff")),
    *map(bytes.fromhex, ("c0af", "e080af", "f08080af", "f8808080af", "fc80808080af")),  # overlong solidus
    *map(bytes.fromhex, ("c1bf", "e09fbf", "f08fbfbf", "f887bfbfbf", "fc83bfbfbfbf")),  # the longest overlong ones
    *map(bytes.fromhex, ("c080", "e08080", "f0808080", "f880808080", "fc8080808080")),  # overlong NUL
    *map(bytes.fromhex, ("eda080", "edadbf", "edae80", "edafbf", "edb080", "edbe80", "edbfbf")),  # surrogates
    *map(bytes.fromhex, ("eda080edb080", "eda080edbfbf", "edadbfedb080", "edafbfedbfbf")),  # and pairs of them
    b"Hello\xff",
    b"\xffHello",
]


def utf8() -> Iterator[Case]:
    for texts, result in ((VALID_UTF8, None), (INVALID_UTF8, INVALID_PAYLOAD)):
        for text in texts:
            events = [result or Message(text)]
            name = f"6 {'invalid' if result else 'valid'} {text[:16].hex()}"
            yield Case(f"{name}, {len(text)} bytes whole", message(text), events)
            yield Case(f"{name}, {len(text)} bytes in octets", b"".join(fragments(octets(text))), events)
            yield Case(f"{name}, {len(text)} bytes binary", message(text, BINARY), [Message(text)])
    split = frame(KOSME[:3], fin=False) + frame(b"p", PING) + frame(KOSME[3:], CONTINUATION)
    yield Case("6 a ping inside a character", split, [Ping(b"p"), Message(KOSME)])
    binary = b"".join(fragments([b"\xff", b"\xfe"], BINARY)) + message(b"\xff")
    yield Case("6 binary fragments, then invalid text", binary, [Message(b"\xff\xfe"), INVALID_PAYLOAD])
    late = b"".join(fragments([b"a" * 1000, b"\xce"])) + message(b"b")
    yield Case("6 the last character is cut off", late, [INVALID_PAYLOAD])


# --- 7: closing ------------------------------------------------------------------------------------------------------

VALID_CODES = (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4200, 4999)
INVALID_CODES = (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 1999, 2000, 2999, 5000, 65535)


def closing() -> Iterator[Case]:
    yield Case("7 close without a body", frame(b"", CLOSE), [Close(None, "")])
    yield Case("7 close with half a code", frame(b"\x03", CLOSE), [PROTOCOL_ERROR])
    for code in VALID_CODES:
        yield Case(f"7 code {code}", close(code), [Close(code, "")])
        yield Case(f"7 code {code} with a reason", close(code, b"Bye"), [Close(code, "Bye")])
    for code in INVALID_CODES:
        yield Case(f"7 code {code}", close(code), [PROTOCOL_ERROR])
        yield Case(f"7 code {code} with a reason", close(code, b"Bye"), [PROTOCOL_ERROR])
    yield Case("7 reason of 123", close(1000, b"*" * 123), [Close(1000, "*" * 123)])
    yield Case("7 reason of 124", close(1000, b"*" * 124), [PROTOCOL_ERROR])
    yield Case("7 reason in Greek", close(1000, KOSME), [Close(1000, KOSME.decode())])
    for text in (KOSME + bytes.fromhex("eda080"), b"\xff", KOSME[:1]):
        yield Case(f"7 reason {text.hex()}", close(1000, text), [INVALID_PAYLOAD])
    more = {"close": close(1001), "ping": frame(b"", PING), "text": message(b"x"), "rubbish": b"\xff" * 9}
    for name, after in more.items():
        yield Case(f"7 {name} after close", close(1000) + after, [Close(1000, "")])
    yield Case("7 text, then close", message(b"a") + close(1000), [Message(b"a"), Close(1000, "")])
    large = message(b"B" * 20_000) + close(1000) + frame(b"", PING)
    yield Case("7 large text, then close", large, [Message(b"B" * 20_000), Close(1000, "")])


# --- the limits of our own -------------------------------------------------------------------------------------------


def limits() -> Iterator[Case]:
    after, next_one = message(b"next"), Message(b"next")
    for size, first in ((SMALL, Message(b"x" * SMALL)), (SMALL + 1, Oversized()), (16 * SMALL, Oversized())):
        yield Case(f"limit: {size} bytes", message(b"x" * size) + after, [first, next_one], SMALL)
    yield Case("limit: binary", message(b"\xff" * 11, BINARY) + after, [Oversized(), next_one], SMALL)
    yield Case("limit: two in a row", message(b"x" * 99) * 2 + after, [Oversized(), Oversized(), next_one], SMALL)
    yield Case("limit: invalid UTF-8 in what is dropped", message(b"\xff" * 11) + after, [Oversized(), next_one], SMALL)
    yield Case("limit: dropped and not ended", message(b"x" * 99)[:-1], [], SMALL)
    yield Case("limit: pings do not count", frame(b"p" * 125, PING), [Ping(b"p" * 125)], SMALL)
    yield from _refused_unread()
    yield from _fragments_that_add_up()
    yield from _no_limit()


def _refused_unread() -> Iterator[Case]:
    for size, width in ((16 * SMALL + 1, 2), (65535, 2), (65536, 8), (2**32, 8), (2**63 - 1, 8)):
        yield Case(f"limit: {size} bytes in {width} declared", declared(size, width=width), [TOO_BIG], SMALL)
        yield Case(f"limit: {size} bytes in {width} of binary", declared(size, BINARY, width=width), [TOO_BIG], SMALL)
    for size, width in ((0, 2), (125, 2), (0, 8), (125, 8), (126, 8), (65535, 8)):
        yield Case(
            f"length: {size} in {width} is not the shortest form", declared(size, width=width), [PROTOCOL_ERROR], SMALL
        )
    for size in (2**63, 2**64 - 1):
        yield Case(f"limit: {size} bytes, the highest bit set", declared(size), [PROTOCOL_ERROR], SMALL)


def _fragments_that_add_up() -> Iterator[Case]:
    after, next_one, ping = message(b"next"), Message(b"next"), frame(b"p", PING)

    def add_up(name: str, parts: Sequence[int], events: list[Event], between: bytes = b"") -> Case:
        frames = fragments([b"x" * size for size in parts])
        return Case(f"limit: fragments {name}", between.join(frames) + after, events, SMALL)

    yield add_up("up to the limit", (5, 5), [Message(b"x" * 10), next_one])
    yield add_up("over the limit", (5, 6), [Oversized(), next_one])
    yield add_up("over the limit with the second of three", (5, 6, 1), [Oversized(), next_one])
    yield add_up("over the limit with the first", (11, 0), [Oversized(), next_one])
    yield add_up("that are large and empty by turns", (11, 0, 11, 0, 0), [Oversized(), next_one])
    yield add_up("with pings between", (5, 6, 1), [Ping(b"p"), Ping(b"p"), Oversized(), next_one], ping)
    yield add_up("up to what is read", (80, 80), [Oversized(), next_one])
    yield add_up("over what is read", (80, 81), [TOO_BIG])
    yield add_up("of one byte over what is read", (1,) * 161, [TOO_BIG])
    started = frame(b"x" * 11, fin=False)
    yield Case("limit: a message inside a dropped one", started + after, [PROTOCOL_ERROR], SMALL)
    yield Case("limit: close inside a dropped one", started + close(1000), [Close(1000, "")], SMALL)
    yield Case("limit: bad frame inside a dropped one", started + frame(b"", 11), [PROTOCOL_ERROR], SMALL)
    yield Case("limit: dropped for good", started + ping + frame(b"x", CONTINUATION, fin=False), [Ping(b"p")], SMALL)
    done = started + frame(b"", CONTINUATION) + frame(b"", CONTINUATION)
    yield Case("limit: continuation after a dropped one", done, [Oversized(), PROTOCOL_ERROR], SMALL)


def _no_limit() -> Iterator[Case]:
    yield Case("no limit: a message", message(b"x" * 20_000), [Message(b"x" * 20_000)], 0)
    yield Case("no limit: 64 MiB may begin", declared(64 * MIB), [], 0)
    yield Case("no limit: 64 MiB and a byte", declared(64 * MIB + 1), [TOO_BIG], 0)
    both = frame(b"x", fin=False) + declared(64 * MIB, CONTINUATION)
    yield Case("no limit: a fragment and 64 MiB", both, [TOO_BIG], 0)


CASES: list[Case] = [
    case for group in (sizes, pings, reserved, unmasked, fragmentation, utf8, closing, limits) for case in group()
]


# --- 9 and 10: large ones, fed in chunks -----------------------------------------------------------------------------


class Large(NamedTuple):
    """A message of `size` bytes in fragments of `part` bytes, fed in chunks of `chop` bytes."""

    size: int
    part: int
    chop: int
    opcode: int = TEXT

    def frames(self) -> bytes:
        data = self.data()
        return b"".join(
            fragments([data[start : start + self.part] for start in range(0, len(data), self.part)], self.opcode)
        )

    def data(self) -> bytes:
        return b"BAsd7&jh23"[:8] * (self.size // 8)


LARGE: list[Large] = [
    *(Large(size, size, 65536, opcode) for size in (65536, 262144, MIB, 4 * MIB, 16 * MIB) for opcode in DATA_OPCODES),
    *(Large(4 * MIB, part, 65536) for part in (256, 4096, 65536, MIB)),
    Large(MIB, 64, 65536, BINARY),
    *(Large(MIB, MIB, chop) for chop in (512, 2048)),
    Large(65536, 65536, 1300),  # 10.1.1
]
