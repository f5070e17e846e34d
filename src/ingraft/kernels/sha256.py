"""sha256 of two messages at once, where the processor has instructions for it: little more work than that of one."""

from __future__ import annotations

import struct

try:
    from ingraft.kernels import _sha256

    TWO_AT_ONCE = _sha256.SUPPORTED
except ImportError:
    TWO_AT_ONCE = False

_BLOCK = 64  # bytes
_START = struct.pack(
    "8I", 0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19
)


class Sha256:
    """What hashlib's sha256 is, for pieces of whole blocks of 64 bytes, and one last piece of any size."""

    def __init__(self) -> None:
        self._state, self._length, self._rest = bytearray(_START), 0, b""

    def update(self, piece: memoryview) -> None:
        if not piece:
            return
        whole = len(piece) // _BLOCK * _BLOCK
        self._take(len(piece))
        _sha256.compress(piece[:whole], self._state)
        self._rest = bytes(piece[whole:])

    def _take(self, count: int) -> None:
        if self._rest:
            raise ValueError("only the last piece may have a part of a block")
        self._length += count

    def hexdigest(self) -> str:
        state, end = bytearray(self._state), self._rest + b"\x80"
        end += bytes((-8 - len(end)) % _BLOCK) + struct.pack(">Q", 8 * self._length)
        _sha256.compress(end, state)
        return struct.pack(">8I", *struct.unpack("8I", state)).hex()


def update_both(first: Sha256, piece: memoryview, second: Sha256, other: memoryview) -> None:
    """`first.update(piece)` and `second.update(other)`, both of the same number of whole blocks."""
    _sha256.compress_both(piece, other, first._state, second._state)
    first._take(len(piece))
    second._take(len(other))
