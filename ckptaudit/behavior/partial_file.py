"""Results that grow on the disk, so that an interrupted collection continues; the final file is complete or absent.

`FILE.part` holds the numbers and `FILE.part.json` how many samples they are of.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import msgspec
import torch
from torch import Tensor

from ckptaudit.atomic_write import write_bytes
from ckptaudit.errors import CollectionError, parameter, printable

NAMES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
Shapes = Mapping[str, tuple[int, ...]]


class State(msgspec.Struct):
    """How far a collection came; `key` tells which one it is, `loss` sums the losses so far.

    `size` is that of the next batch: a rerun must not find out anew what did not fit.
    """

    key: str
    done: int = 0
    loss: float = 0.0
    size: Annotated[int, msgspec.Meta(ge=1)] = 1


class Sink(Protocol):
    """Where samples go, one after another, in any order of theirs that a rerun keeps to."""

    done: int
    loss: float
    size: int
    lost: float
    """The share of the entries that became zero as they were stored; known at the end."""

    def add(self, index: int, gradients: Mapping[str, Tensor], loss: float) -> None:
        """Take the sample that stands at `index` in the order of the file."""

    def commit(self) -> None:
        """Make what was taken so far outlive this process."""

    def finish(self) -> None:
        """Put the final file in its place."""


def open_sink(
    what: Literal["gradients", "fisher"], output: Path, key: str, shapes: Shapes, *, samples: int, dtype: str
) -> Sink:
    """The sink of a collection, at the sample where an earlier run of it broke off. Raises CollectionError."""
    if output.suffix != ".safetensors":
        raise CollectionError(
            f"{parameter('output')} {printable(output)}: name it .safetensors, so that it is read as what it is."
        )
    if output.is_dir() or not output.absolute().parent.is_dir():
        raise CollectionError(
            f"{parameter('output')} {printable(output)}: no file can be written there; name another."
        )
    if what == "gradients":
        return _Stacks(output, key, shapes, samples=samples, dtype=dtype)
    return _Squares(output, key, shapes, dtype=dtype)


class _Files:
    """The final file and the two beside it that a collection in progress has."""

    lost = 0.0

    def __init__(self, output: Path, key: str) -> None:
        self.output = output
        self.part = output.with_name(f"{output.name}.part")
        self._state = output.with_name(f"{output.name}.part.json")
        found = self._read() if self.part.is_file() else None
        state = found if found is not None and found.key == key else State(key)
        self.key, self.done, self.loss, self.size = key, state.done, state.loss, state.size

    def commit(self) -> None:
        write_bytes(self._state, msgspec.json.encode(self._now()), durable=True)

    def finish(self) -> None:
        self.part.replace(self.output)
        self._state.unlink(missing_ok=True)

    def _now(self) -> State:
        return State(self.key, self.done, self.loss, self.size)

    def _read(self) -> State | None:
        try:
            return msgspec.json.decode(self._state.read_bytes(), type=State)
        except (OSError, msgspec.MsgspecError):
            return None


class _Stacks(_Files):
    """Every sample in its place of a safetensors file that has its full size from the start."""

    def __init__(self, output: Path, key: str, shapes: Shapes, *, samples: int, dtype: str) -> None:
        super().__init__(output, key)
        self._dtype: torch.dtype = getattr(torch, dtype)
        self._sizes = {name: prod(shape) * self._dtype.itemsize for name, shape in shapes.items()}
        header, self._starts = _header(shapes, samples, dtype, self._sizes)
        length = len(header) + samples * sum(self._sizes.values())
        if not self.done or self.part.stat().st_size != length:
            self.done, self.loss = 0, 0.0
            with self.part.open("wb") as file:
                file.write(header)
                file.truncate(length)

    def add(self, index: int, gradients: Mapping[str, Tensor], loss: float) -> None:
        with self.part.open("r+b") as file:
            for name, gradient in gradients.items():
                file.seek(self._starts[name] + index * self._sizes[name])
                stored = gradient.to("cpu", self._dtype).contiguous()
                file.write(stored.flatten().view(torch.uint8).numpy().data)
        self.done, self.loss = self.done + 1, self.loss + loss

    def commit(self) -> None:
        with self.part.open("r+b") as file:
            os.fsync(file.fileno())
        super().commit()


class _Squares(_Files):
    """Sums of squared gradients in float64; each commit writes them anew, with their count in the same file."""

    def __init__(self, output: Path, key: str, shapes: Shapes, *, dtype: str) -> None:
        super().__init__(output, key)
        self._dtype: torch.dtype = getattr(torch, dtype)
        self._sums = {name: torch.zeros(shape, dtype=torch.float64) for name, shape in shapes.items()}
        if self.done:
            self._go_on()

    def _go_on(self) -> None:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.part, framework="pt") as file:
                state = msgspec.json.decode((file.metadata() or {}).get("state", ""), type=State)
                self._sums = {name: file.get_tensor(name) for name in self._sums}
                self.done, self.loss, self.size = state.done, state.loss, state.size
        except (SafetensorError, OSError, msgspec.MsgspecError):
            self.done, self.loss = 0, 0.0

    def add(self, index: int, gradients: Mapping[str, Tensor], loss: float) -> None:
        for name, gradient in gradients.items():
            wide = gradient.to("cpu", torch.float64)
            self._sums[name].addcmul_(wide, wide)
        self.done, self.loss = self.done + 1, self.loss + loss

    def commit(self) -> None:
        self._save(self._sums, {"state": msgspec.json.encode(self._now()).decode()})
        super().commit()

    def finish(self) -> None:
        stored = {name: (s / self.done).to(self._dtype) for name, s in self._sums.items()}
        lost = sum(int(((one == 0) & (self._sums[name] != 0)).sum()) for name, one in stored.items())
        self.lost = lost / sum(one.numel() for one in stored.values())
        self._save(stored, {"samples": str(self.done)})
        super().finish()

    def _save(self, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
        from safetensors.torch import save

        write_bytes(self.part, save(tensors, metadata), durable=True)


def _header(shapes: Shapes, samples: int, dtype: str, sizes: Mapping[str, int]) -> tuple[bytes, dict[str, int]]:
    """A safetensors header for the stacks, and the byte at which each begins in the file."""
    entries: dict[str, Any] = {"__metadata__": {"samples": str(samples)}}
    offsets, end = {}, 0
    for name, shape in shapes.items():
        offsets[name], end = end, end + samples * sizes[name]
        entries[name] = {"dtype": NAMES[dtype], "shape": [samples, *shape], "data_offsets": [offsets[name], end]}
    text = msgspec.json.encode(entries)
    text += b" " * (-len(text) % 8)
    header = len(text).to_bytes(8, "little") + text
    return header, {name: len(header) + offset for name, offset in offsets.items()}
