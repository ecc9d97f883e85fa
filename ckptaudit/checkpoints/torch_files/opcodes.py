"""The bytes of a pickle as steps: the number of an opcode and its argument, read from a stream piece by piece.

The same arguments as `pickletools.genops` gives, ten times as fast; a pickle that claims more bytes than there
are, or steps out of proportion to its bytes, ends the reading.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import IO, Any

MAX_PICKLE = 256 * 2**20
MAX_STEPS = 40_000_000  # about half a million shards; bounds the memory of what the pickle builds
PIECE = 2**20
FREE_STEPS = 100_000
STEPS_PER_BYTE = 0.6  # torch.save takes 0.4 at most, torch.distributed.checkpoint 0.55
_LINE = 65_536


class MalformedError(Exception):
    """The pickle is not one that a checkpoint's writer makes."""


class Source:
    """The reading half of a file, for at most MAX_PICKLE bytes; `close` gives back what was read ahead."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._buffer = b""
        self._at = 0
        self._taken = 0

    def take(self, size: int) -> bytes:
        """The next bytes. Raises MalformedError or ValueError if there are not as many."""
        end = self._at + size
        if end > len(self._buffer):
            self._fill(size)
            end = size
        data = self._buffer[self._at : end]
        self._at = end
        return data

    def line(self) -> bytes:
        """The bytes up to the next end of a line, which is left out."""
        end = self._buffer.find(b"\n", self._at, self._at + _LINE)
        if end < 0:
            self._fill(1, at_least=_LINE)
            end = self._buffer.find(b"\n", 0, _LINE)
        if end < 0:
            raise ValueError("a line without an end")
        line = self._buffer[self._at : end]
        self._at = end + 1
        if b"\\" in line:
            raise MalformedError("its pickle holds escaped text, which no checkpoint needs")
        return line

    def allowed_steps(self) -> int:
        """How many steps the bytes used so far may make."""
        used = self._taken - (len(self._buffer) - self._at)
        return min(MAX_STEPS, FREE_STEPS + int(STEPS_PER_BYTE * used))

    def close(self) -> None:
        """Leave the stream behind the pickle."""
        self._stream.seek(self._at - len(self._buffer), 1)

    def _fill(self, size: int, at_least: int = PIECE) -> None:
        """At least `size` bytes from the present place on, which becomes the buffer's first."""
        # Piece by piece: a file's read reserves what is asked for before it knows what there is.
        pieces = [self._buffer[self._at :]]
        there = len(pieces[0])
        while there < max(size, at_least) and (piece := self._stream.read(PIECE)):
            pieces.append(piece)
            there += len(piece)
            self._taken += len(piece)
            if self._taken > MAX_PICKLE + PIECE:
                raise MalformedError(f"its pickle is larger than the {MAX_PICKLE:,} bytes that are read")
        if there < size:
            raise ValueError("it ends too early")
        self._buffer, self._at = b"".join(pieces), 0


def steps(source: Source) -> Iterator[tuple[int, Any]]:
    """Opcode and argument, step by step, up to the end of the pickle. Raises MalformedError and ValueError."""
    take, arguments = source.take, _ARGUMENTS
    done, allowed = 0, 0
    while True:
        (code,) = take(1)
        read = arguments[code]
        yield code, None if read is None else read(source)
        if code == _STOP:
            return
        done += 1
        if done > allowed:
            allowed = source.allowed_steps()
            if done > allowed:
                raise MalformedError(f"{done:,} steps in its pickle, more than its size warrants")


def _fixed(form: str) -> Callable[[Source], Any]:
    shape = struct.Struct(form)
    return lambda source: shape.unpack(source.take(shape.size))[0]


def _counted(form: str, of: Callable[[bytes], Any]) -> Callable[[Source], Any]:
    length = _fixed(form)

    def read(source: Source) -> Any:
        size = length(source)
        if not 0 <= size <= MAX_PICKLE:
            raise ValueError("it ends too early")
        return of(source.take(size))

    return read


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def _latin(data: bytes) -> str:
    return data.decode("latin-1")


def _integer(data: bytes) -> int:
    return int.from_bytes(data, "little", signed=True)


def _decimal(source: Source) -> int | bool:
    line = source.line()
    return {b"00": False, b"01": True}[line] if line in (b"00", b"01") else int(line)


def _quoted(source: Source) -> str:
    line = source.line().strip()
    if len(line) < 2 or line[:1] not in (b"'", b'"') or line[-1:] != line[:1]:
        raise ValueError("a text without quotes")
    return line[1:-1].decode("ascii")


def _names(source: Source) -> str:
    return f"{source.line().decode('utf-8')}.{source.line().decode('utf-8')}"


def _refused(code: int) -> Callable[[Source], Any]:
    def read(_: Source) -> Any:
        import pickletools

        name = next((o.name for o in pickletools.opcodes if o.code == chr(code)), f"opcode {code}")
        raise MalformedError(f"its pickle uses {name}, which no checkpoint needs")

    return read


_STOP = ord(".")
_PLAIN = b".()]}[NR\x88\x89\x85\x86\x87tldsuaebQ0\x81\x8f\x90\x91\x93\x94"
_ARGUMENTS: list[Callable[[Source], Any] | None] = [
    None if code in _PLAIN else _refused(code) for code in range(256)
]
for _code, _read in {
    b"K": _fixed("<B"), b"M": _fixed("<H"), b"J": _fixed("<i"), b"G": _fixed(">d"),
    b"I": _decimal, b"L": lambda s: int(s.line().removesuffix(b"L")), b"F": lambda s: float(s.line()),
    b"\x8a": _counted("<B", _integer), b"\x8b": _counted("<i", _integer),
    b"X": _counted("<I", _text), b"\x8c": _counted("<B", _text), b"\x8d": _counted("<Q", _text),
    b"S": _quoted, b"V": lambda s: _latin(s.line()), b"T": _counted("<i", _latin), b"U": _counted("<B", _latin),
    b"B": _counted("<I", bytes), b"C": _counted("<B", bytes), b"\x8e": _counted("<Q", bytes),
    b"\x96": _counted("<Q", bytearray),
    b"c": _names, b"p": lambda s: int(s.line()), b"g": lambda s: int(s.line()),
    b"q": _fixed("<B"), b"h": _fixed("<B"), b"r": _fixed("<I"), b"j": _fixed("<I"),
    b"\x80": _fixed("<B"), b"\x95": _fixed("<Q"),
}.items():  # fmt: skip
    _ARGUMENTS[_code[0]] = _read
