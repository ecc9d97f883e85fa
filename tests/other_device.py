"""A device that is not there: tensors that lie on the CPU, claim to lie on a CUDA device, and are as strict.

An operation on tensors of both devices, and NumPy on one of this device, raise as they do on a real one. Every
number that Python waits for is counted. `torch.device("cuda:0")` has to be written with its number.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

DEVICE = torch.device("cuda:0")
COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
WAITS = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
ELSEWHERE = ("cuda", "meta")
"""What C++ asks for when it means the device of a tensor, which it takes for a meta tensor."""


class Elsewhere(Tensor):
    """A tensor of the device; `here` holds its entries."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> Elsewhere:
        made: Elsewhere = Tensor._make_wrapper_subclass(
            cls,
            here.shape,
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            device=torch.device("meta"),
        )
        made.here = here
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return DEVICE

    def tolist(self) -> Any:
        _count("tolist")
        return self.here.tolist()

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def data_ptr(self) -> int:
        raise RuntimeError("the address of a tensor on another device")

    def new_tensor(self, data: Any, **options: Any) -> Tensor:  # type: ignore[override]
        return Elsewhere(self.here.new_tensor(data, **options))

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Elsewhere({self.here!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        return _run(func, args, kwargs or {})


class _Mode(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


_modes: list[_Mode] = []


@contextmanager
def other_device() -> Iterator[Counter[str]]:
    """Let `cuda:0` stand for such a device; gives the numbers that Python waited for, by operation."""
    with pytest.MonkeyPatch.context() as patch, _Mode() as mode:
        patch.setattr(torch.cuda, "_lazy_init", lambda: None)
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "device_count", lambda: 1)
        patch.setattr(torch.cuda, "empty_cache", lambda: None)
        patch.setattr(torch.cuda, "mem_get_info", lambda device=None: (0, 0))
        patch.setattr(torch.cuda, "memory_reserved", lambda device=None: 0)
        patch.setattr(torch.cuda, "memory_allocated", lambda device=None: 0)
        patch.setattr(torch, "tensor", _made)
        _modes.append(mode)
        try:
            yield mode.waits
        finally:
            _modes.remove(mode)


def _made(data: Any, *, device: Any = None, **options: Any) -> Tensor:
    """`torch.tensor`, which asks no mode."""
    made = _tensor(data, **options)
    return made if device is None or torch.device(device).type == "cpu" else Elsewhere(made)


_tensor = torch.tensor


def _count(name: str) -> None:
    if _modes:
        _modes[-1].waits[name] += 1


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    far = any(isinstance(x, Elsewhere) for x in given)
    asked = kwargs.get("device")
    result_is_far = far if asked is None else torch.device(asked).type in ELSEWHERE
    if far and func not in COPIES:
        _refuse_mixed(func, given)
    if far and (func in WAITS or (func in COPIES and _arrives_here(func, given, result_is_far))):
        _count(func.name())
    if asked is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    own = {id(x.here): x for x in given if isinstance(x, Elsewhere)}
    inside = tree_map(lambda x: x.here if isinstance(x, Elsewhere) else x, (args, kwargs))
    found = func(*inside[0], **inside[1])

    def returned(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        return own.get(id(x), Elsewhere(x)) if result_is_far else x

    return tree_map(returned, found)


def _arrives_here(func: Any, given: list[Tensor], result_is_far: bool) -> bool:
    """Whether a copy is one to the CPU."""
    return not result_is_far if func is COPIES[0] else not isinstance(given[0], Elsewhere)


def _refuse_mixed(func: Any, given: list[Tensor]) -> None:
    indexed = func.name().startswith("aten::index") and isinstance(given[0], Elsewhere)
    # torch takes numbers that are tensors from the CPU on any device, and indices of what lies elsewhere.
    here = [x for x in given if not isinstance(x, Elsewhere) and x.dim() and not (indexed and _is_index(x))]
    if here:
        shapes = [tuple(x.shape) for x in here]
        raise RuntimeError(f"expected all tensors to be on the same device: {func.name()} has {shapes} on the CPU")


def _is_index(x: Tensor) -> bool:
    return not x.dtype.is_floating_point
