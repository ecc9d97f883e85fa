"""Pickles read as data: nothing is imported, nothing is called, whatever the file says.

A pickle is a program. This machine follows its stack, but what would import a name leaves a `Symbol`
and what would call it leaves a `Call`, both inert. A name that is not on the reader's list ends the
reading. So no allow-listed function can be abused either, as `bytearray(10**12)` can under
`torch.load(weights_only=True)`, and the records need no process group, no device and no library.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from ckptaudit.checkpoints.json_files import clipped
from ckptaudit.errors import CheckpointError, printable

MAX_PICKLE = 256 * 2**20
PIECE = 2**20
MAX_STEPS = 40_000_000  # about half a million shards; bounds the memory of what the pickle builds


@dataclass(frozen=True, slots=True)
class Symbol:
    """A name that the pickle wanted imported."""

    name: str


@dataclass(slots=True, eq=False)
class Call:
    """An object that the pickle wanted made: by which name, from what, and the state it was to be given."""

    name: str
    args: tuple[Any, ...]
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class External:
    """A persistent id: for torch, the storage that a tensor's values lie in."""

    key: Any


class _Malformed(Exception):
    """The pickle is not one that a checkpoint's writer makes."""


def read_pickle(stream: IO[bytes], path: Path, allowed: Collection[str]) -> Any:
    """The next pickle of the stream, as plain values, `Symbol`s, `Call`s and `External`s.

    `collections.OrderedDict` becomes a dict and `torch.Size` a tuple. Raises CheckpointError if a name
    outside `allowed` is asked for, or the pickle is damaged or too large.
    """
    machine = _Machine(allowed)
    try:
        for steps, (opcode, argument, _) in enumerate(pickletools.genops(_Bounded(stream))):  # type: ignore[arg-type]
            if steps > MAX_STEPS:
                raise _Malformed(f"more than {MAX_STEPS:,} steps")
            machine.step(opcode.name, argument)
        return machine.result()
    except _Malformed as error:
        raise CheckpointError(f"{printable(path)}: {error}; nothing of it was run.") from error
    except (
        ValueError,
        IndexError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise CheckpointError(
            f"{printable(path)}: its pickle is damaged ({clipped(error)}); save or download it again."
        ) from error


class _Bounded:
    """The reading half of a file, for at most MAX_PICKLE bytes."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._left = MAX_PICKLE
        self.tell = stream.tell

    def read(self, size: int) -> bytes:
        if size <= PIECE:
            return self._spend(self._stream.read(size))
        # Piece by piece: a file's read reserves what is asked for before it knows what there is.
        pieces = []
        while size > 0 and (piece := self._stream.read(min(size, PIECE))):
            pieces.append(self._spend(piece))
            size -= len(piece)
        return b"".join(pieces)

    def readline(self) -> bytes:
        line = self._spend(self._stream.readline(min(self._left, 65_536) + 1))
        if b"\\" in line:
            raise _Malformed("its pickle holds escaped text, which no checkpoint needs")
        return line

    def _spend(self, data: bytes) -> bytes:
        self._left -= len(data)
        if self._left < 0:
            raise _Malformed(f"its pickle is larger than the {MAX_PICKLE:,} bytes that are read")
        return data


class _Machine:
    """The stack machine of the pickle format, over inert values."""

    def __init__(self, allowed: Collection[str]) -> None:
        self._allowed = allowed
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def step(self, opcode: str, argument: Any) -> None:
        action = _ACTIONS.get(opcode)
        if action is not None:
            action(self, argument)
        elif opcode in _LITERALS:
            self._stack.append(argument)
        elif opcode in _CONSTANTS:
            self._stack.append(_CONSTANTS[opcode])
        elif opcode not in _IGNORED:
            raise _Malformed(f"its pickle uses {opcode}, which no checkpoint needs")

    def result(self) -> Any:
        (value,) = self._stack
        return value

    def _empty(self, make: Callable[[], Any]) -> None:
        self._stack.append(make())

    def _mark(self, _: Any) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def _pop_mark(self) -> list[Any]:
        items, self._stack = self._stack, self._marks.pop()
        return items

    def _close(self, make: Callable[[list[Any]], Any]) -> None:
        items = self._pop_mark()
        self._stack.append(make(items))

    def _tuple(self, count: int | None) -> None:
        if count is None:
            self._close(tuple)
        else:
            if len(self._stack) < count:
                raise _Malformed("its pickle takes more from its stack than there is")
            self._stack[-count:] = [tuple(self._stack[-count:])]

    def _fresh_dict(self, _: Any) -> None:
        items = self._pop_mark()
        self._stack.append({})
        self._put(items)

    def _put(self, items: list[Any]) -> None:
        target = self._stack[-1]
        target = target.items if isinstance(target, Call) else target
        if not isinstance(target, dict) or len(items) % 2:
            raise _Malformed("its pickle fills something that is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_hashable(key)] = value

    def _extend(self, items: list[Any]) -> None:
        if not isinstance(self._stack[-1], list):
            raise _Malformed("its pickle appends to something that is no list")
        self._stack[-1].extend(items)

    def _symbol(self, name: str) -> None:
        if name not in self._allowed:
            raise _Malformed(
                f"its pickle asks for {clipped(name)}, which no weights need; "
                "save the state dict alone, best as safetensors"
            )
        self._stack.append(Symbol(name))

    def _stack_global(self, _: Any) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise _Malformed("its pickle asks for a name that is no text")
        self._symbol(f"{module}.{name}")

    def _call(self, _: Any) -> None:
        args, made = self._stack.pop(), self._stack.pop()
        if not isinstance(made, Symbol) or not isinstance(args, tuple):
            raise _Malformed("its pickle calls something that is no name")
        self._stack.append(_made(made.name, args))

    def _build(self, _: Any) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        if isinstance(target, Call):
            target.state = state
        elif not isinstance(target, dict):
            raise _Malformed("its pickle gives a state to something that has none")

    def _persistent(self, _: Any) -> None:
        self._stack.append(External(self._stack.pop()))

    def _remember(self, key: int | None) -> None:
        self._memo[len(self._memo) if key is None else key] = self._stack[-1]

    def _recall(self, key: int) -> None:
        self._stack.append(self._memo[key])

    def _pop_pair(self) -> list[Any]:
        value, key = self._stack.pop(), self._stack.pop()
        return [key, value]


def _made(name: str, args: tuple[Any, ...]) -> Any:
    if name == "collections.OrderedDict":
        pairs = args[0] if args else []
        return {_hashable(key): value for key, value in pairs}
    if name == "torch.Size":
        return tuple(args[0]) if args else ()
    return Call(name, args)


def _hashable(key: Any) -> Any:
    # Only keys whose hash costs one look: nested tuples that share their parts hash in exponential time.
    if isinstance(key, str | int | float | bytes | None | Call | Symbol):
        return key
    if isinstance(key, tuple) and all(isinstance(part, str | int) for part in key):
        return key
    raise _Malformed("its pickle has a dictionary key that is neither text nor a number")


_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = frozenset(
    {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "UNICODE"}
    | {"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "STRING", "BINSTRING", "SHORT_BINSTRING"}
    | {"BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"}
)
_IGNORED = frozenset({"PROTO", "FRAME", "STOP"})
_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "EMPTY_DICT": lambda m, _: m._empty(dict),
    "EMPTY_LIST": lambda m, _: m._empty(list),
    "EMPTY_SET": lambda m, _: m._empty(list),
    "MARK": _Machine._mark,
    "TUPLE": lambda m, _: m._tuple(None),
    "TUPLE1": lambda m, _: m._tuple(1),
    "TUPLE2": lambda m, _: m._tuple(2),
    "TUPLE3": lambda m, _: m._tuple(3),
    "LIST": lambda m, _: m._close(list),
    "FROZENSET": lambda m, _: m._close(list),
    "DICT": _Machine._fresh_dict,
    "SETITEM": lambda m, _: m._put(m._pop_pair()),
    "SETITEMS": lambda m, _: m._put(m._pop_mark()),
    "APPEND": lambda m, _: m._extend([m._stack.pop()]),
    "APPENDS": lambda m, _: m._extend(m._pop_mark()),
    "ADDITEMS": lambda m, _: m._extend(m._pop_mark()),
    "GLOBAL": lambda m, name: m._symbol(name.replace(" ", ".", 1)),
    "STACK_GLOBAL": _Machine._stack_global,
    "REDUCE": _Machine._call,
    "NEWOBJ": _Machine._call,
    "BUILD": _Machine._build,
    "BINPERSID": _Machine._persistent,
    "MEMOIZE": lambda m, _: m._remember(None),
    "PUT": _Machine._remember,
    "BINPUT": _Machine._remember,
    "LONG_BINPUT": _Machine._remember,
    "GET": _Machine._recall,
    "BINGET": _Machine._recall,
    "LONG_BINGET": _Machine._recall,
    "POP": lambda m, _: m._stack.pop() and None,
}


def pickle_of(data: bytes, path: Path, allowed: Collection[str]) -> Any:
    """As `read_pickle`, of bytes in memory."""
    return read_pickle(io.BytesIO(data), path, allowed)
