"""Pickles read as data: nothing is imported, nothing is called, whatever the file says.

A pickle is a program. This machine follows its stack, but what would import a name leaves a `Symbol`
and what would call it leaves a `Call`, both inert. A name that is not on the reader's list ends the
reading. So no allow-listed function can be abused either, as `bytearray(10**12)` can under
`torch.load(weights_only=True)`, and the records need no process group, no device and no library.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import IO, Any

from ckptaudit.checkpoints.json_files import clipped
from ckptaudit.checkpoints.torch_files.opcodes import MalformedError, Source, steps
from ckptaudit.errors import CheckpointError, printable
from ckptaudit.foreign_files.places import Place

MAX_KEY_PARTS = 16


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


def read_pickle(stream: IO[bytes], path: Place, allowed: Collection[str]) -> Any:
    """The next pickle of the stream, as plain values, `Symbol`s, `Call`s and `External`s.

    `collections.OrderedDict` becomes a dict and `torch.Size` a tuple. Raises CheckpointError if a name
    outside `allowed` is asked for, or the pickle is damaged or too large.
    """
    source, machine = Source(stream), _Machine(allowed)
    try:
        for code, argument in steps(source):
            machine.step(code, argument)
        source.close()
        return machine.result()
    except MalformedError as error:
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


class _Machine:
    """The stack machine of the pickle format, over inert values."""

    def __init__(self, allowed: Collection[str]) -> None:
        self._allowed = allowed
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: list[Any] = []
        self._memo_out_of_order: dict[str, Any] = {}
        self._steps = 0
        self._copied = 0

    def step(self, code: int, argument: Any) -> None:
        self._steps += 1
        action = _ACTIONS[code]
        if action is None:
            self._stack.append(argument)
        else:
            action(self, argument)

    def result(self) -> Any:
        (value,) = self._stack
        return value

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
                raise MalformedError("its pickle takes more from its stack than there is")
            self._stack[-count:] = [tuple(self._stack[-count:])]

    def _fresh_dict(self, _: Any) -> None:
        items = self._pop_mark()
        self._stack.append({})
        self._put(items)

    def _put(self, items: list[Any]) -> None:
        target = self._stack[-1]
        target = target.items if isinstance(target, Call) else target
        if not isinstance(target, dict) or len(items) % 2:
            raise MalformedError("its pickle fills something that is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_key(key)] = value

    def _extend(self, items: list[Any]) -> None:
        if not isinstance(self._stack[-1], list):
            raise MalformedError("its pickle appends to something that is no list")
        self._stack[-1].extend(items)

    def _symbol(self, name: str) -> None:
        if name not in self._allowed:
            raise MalformedError(
                f"its pickle asks for {clipped(name)}, which no weights need; "
                "save the state dict alone, best as safetensors"
            )
        self._stack.append(Symbol(name))

    def _stack_global(self, _: Any) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise MalformedError("its pickle asks for a name that is no text")
        self._symbol(f"{module}.{name}")

    def _call(self, _: Any) -> None:
        args, made = self._stack.pop(), self._stack.pop()
        if not isinstance(made, Symbol) or not isinstance(args, tuple):
            raise MalformedError("its pickle calls something that is no name")
        self._stack.append(self._made(made.name, args))

    def _made(self, name: str, args: tuple[Any, ...]) -> Any:
        if name == "collections.OrderedDict":
            return {_key(key): value for key, value in self._copy(args)}
        return tuple(self._copy(args)) if name == "torch.Size" else Call(name, args)

    def _copy(self, args: tuple[Any, ...]) -> list[Any]:
        """The entries of a list that another step made; in all, no more than there were steps to make them."""
        listed = args[0] if args else []
        if not isinstance(listed, list | tuple):
            raise MalformedError("its pickle makes a dictionary or a shape of something that is no list")
        self._copied += len(listed)
        if self._copied > self._steps:
            raise MalformedError("its pickle copies one list again and again")
        return list(listed)

    def _build(self, _: Any) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        if isinstance(target, Call):
            target.state = state
        elif not isinstance(target, dict):
            raise MalformedError("its pickle gives a state to something that has none")

    def _persistent(self, _: Any) -> None:
        self._stack.append(External(self._stack.pop()))

    def _remember(self, key: int | None) -> None:
        # Writers count up from 0. A number out of order could be chosen so that it collides in a table of numbers.
        memo, value = self._memo, self._stack[-1]
        if key is None or key == len(memo):
            memo.append(value)
        elif 0 <= key < len(memo):
            memo[key] = value
        else:
            self._memo_out_of_order[_digits(key)] = value

    def _recall(self, key: int) -> None:
        known = 0 <= key < len(self._memo)
        self._stack.append(self._memo[key] if known else self._memo_out_of_order[_digits(key)])

    def _pop_pair(self) -> list[Any]:
        value, key = self._stack.pop(), self._stack.pop()
        return [key, value]


def _key(key: Any) -> Any:
    """A dictionary's key as one whose hash is cheap and cannot be foreseen.

    Texts are hashed with a secret of the process; numbers are not, and a few thousand that collide would cost
    quadratic time, so they are kept as texts. Nested tuples that share their parts hash in exponential time.
    """
    if isinstance(key, str | Call | Symbol):
        return key
    if isinstance(key, int | float | bytes | None):
        return _Number(_digits(key))
    if isinstance(key, tuple) and len(key) <= MAX_KEY_PARTS and all(isinstance(part, str | int) for part in key):
        return tuple(part if isinstance(part, str) else _Number(_digits(part)) for part in key)
    raise MalformedError("its pickle has a dictionary key that is neither text nor a number")


@dataclass(frozen=True, slots=True)
class _Number:
    """A key that is no text, by its digits; equal to no text."""

    digits: str


def _digits(number: object) -> str:
    if isinstance(number, int) and number.bit_length() > 64:
        raise MalformedError("its pickle has a number of more than 64 bits where it counts or names something")
    return repr(number)


def _ignore(*_: Any) -> None:
    """For what says nothing about the values."""


def _constant(value: Any) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine._stack.append(value)


_ACTIONS: list[Callable[[_Machine, Any], None] | None] = [None] * 256
for _codes, _action in {
    b"\x80\x95.": _ignore,
    b"N": _constant(None), b"\x88": _constant(True), b"\x89": _constant(False), b")": _constant(()),
    b"}": lambda m, _: m._stack.append({}),
    b"]\x8f": lambda m, _: m._stack.append([]),
    b"(": _Machine._mark,
    b"t": lambda m, _: m._tuple(None), b"\x85": lambda m, _: m._tuple(1),
    b"\x86": lambda m, _: m._tuple(2), b"\x87": lambda m, _: m._tuple(3),
    b"l\x91": lambda m, _: m._close(list),
    b"d": _Machine._fresh_dict,
    b"s": lambda m, _: m._put(m._pop_pair()), b"u": lambda m, _: m._put(m._pop_mark()),
    b"a": lambda m, _: m._extend([m._stack.pop()]), b"e\x90": lambda m, _: m._extend(m._pop_mark()),
    b"c": lambda m, name: m._symbol(name),
    b"\x93": _Machine._stack_global,
    b"R\x81": _Machine._call, b"b": _Machine._build, b"Q": _Machine._persistent,
    b"\x94pqr": _Machine._remember, b"ghj": _Machine._recall,
    b"0": lambda m, _: m._stack.pop() and None,
}.items():  # fmt: skip
    for _code in _codes:
        _ACTIONS[_code] = _action


def pickle_of(data: bytes, path: Place, allowed: Collection[str]) -> Any:
    """As `read_pickle`, of bytes in memory."""
    return read_pickle(io.BytesIO(data), path, allowed)
