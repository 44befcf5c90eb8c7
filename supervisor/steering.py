"""Which sockets of an SO_REUSEPORT group get new connections: a classic BPF program that the kernel asks."""

from __future__ import annotations

import ctypes
import socket
import struct
from collections.abc import Iterable
from typing import Final

_SO_ATTACH_REUSEPORT_CBPF: Final = 51  # asm-generic/socket.h; the module `socket` has neither
_SO_DETACH_REUSEPORT_BPF: Final = 68

# Instructions of linux/bpf_common.h and linux/filter.h: code, jump if true, jump if false, operand.
_LOAD_RANDOM: Final = (0x20, 0, 0, 0xFFFFF000 + 56)  # BPF_LD | BPF_W | BPF_ABS of SKF_AD_OFF + SKF_AD_RANDOM
_RETURN: Final = (0x16, 0, 0, 0)  # BPF_RET | BPF_A


def _modulo(operand: int) -> tuple[int, int, int, int]:
    return 0x94, 0, 0, operand


def _next_one_from(index: int) -> Iterable[tuple[int, int, int, int]]:
    """Add one if it is `index` or more."""
    return (0x35, 0, 1, index), (0x04, 0, 0, 1)


def program(size: int, excluded: Iterable[int]) -> bytes:
    """Choose any index below `size` at random, but none of `excluded` (not all of them)."""
    without = sorted(excluded)
    skips = [instruction for index in without for instruction in _next_one_from(index)]
    return b"".join(
        struct.pack("HBBI", *instruction)
        for instruction in (_LOAD_RANDOM, _modulo(size - len(without)), *skips, _RETURN)
    )


def attach(sock: socket.socket, code: bytes) -> None:
    """Let the group of `sock` be chosen from by this program. Raises OSError where the kernel is too old."""
    buffer = ctypes.create_string_buffer(code, len(code))
    argument = struct.pack("HL", len(code) // 8, ctypes.addressof(buffer))  # struct sock_fprog
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, argument)


def detach(sock: socket.socket) -> None:
    """Back to the kernel's own choice, by a hash of the addresses. Raises OSError when there is no program."""
    sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_REUSEPORT_BPF, 0)
