"""Frames of the bus as bytes: MessagePack, of the types that resonate.messages declares.

What comes in is data: whatever does not have these types raises EncodingError, and nothing else. Nobody looks into what
is declared as `Any`: the info of a member, the counters of a process.
"""

from __future__ import annotations

from typing import Final

from msgspec import MsgspecError
from msgspec.msgpack import Decoder, Encoder

from resonate.errors import ResonateError
from resonate.messages import Frame


class EncodingError(ResonateError):
    """Bytes that are no frame."""


_ENCODER: Final = Encoder()
_DECODER: Final[Decoder[Frame]] = Decoder(Frame)


def encode(frame: Frame) -> bytes:
    """The bytes of a frame."""
    return _ENCODER.encode(frame)


def decode(data: bytes) -> Frame:
    """The frame in these bytes. Raises EncodingError."""
    try:
        return _DECODER.decode(data)
    except (MsgspecError, UnicodeDecodeError, TypeError, RecursionError) as error:  # TypeError: a map as a key
        raise EncodingError(f"{len(data)} bytes are no frame: {error}") from None
