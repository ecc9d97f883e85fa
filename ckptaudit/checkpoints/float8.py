"""Eight-bit floats widened to what they stand for; other quantised weights recognised and refused.

A float8 weight times its scales is rounded to the model's own dtype, as DeepSeek's and transformers'
conversions do: an unchanged weight then equals its bfloat16 copy bit for bit, and no update is invented.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING

from ckptaudit.checkpoints.json_files import clipped
from ckptaudit.checkpoints.tensors import TensorHandle
from ckptaudit.errors import CheckpointError, printable

if TYPE_CHECKING:
    from torch import Tensor

SCALES = ("_scale_inv", "_scale")
WIDE = ("bfloat16", "float16", "float32")
FLOAT8_METHODS = frozenset({"fp8", "fbgemm_fp8", "compressed-tensors", "modelopt"})
PACKED = (
    ".qweight", ".qzeros", ".weight_packed", ".quant_map", ".absmax", ".weight.quant_state.bitsandbytes__nf4",
    ".weight.quant_state.bitsandbytes__fp4", ".SCB", "_blocks",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Widened:
    """A float8 weight and, if it has them, its scales: one per tensor, per row, or per block."""

    weight: TensorHandle
    scale: TensorHandle | None
    block: tuple[int, int]
    dtype: str

    def load(self) -> Tensor:
        """The weight times its scales in float32, rounded once to the model's dtype."""
        from ckptaudit.checkpoints.storage import DTYPES

        wide = self.weight.read().float()
        if self.scale is not None:
            wide = wide * self._spread(self.scale.read().float())
        return wide.to(DTYPES[self.dtype])

    def _spread(self, scale: Tensor) -> Tensor:
        """The scales, each repeated over the entries that it holds for."""
        if scale.numel() == 1:
            return scale.reshape(())
        for axis, size in ((-2, self.block[0]), (-1, self.block[1])):
            length = self.weight.shape[axis]
            if scale.shape[axis] not in (1, length):
                scale = scale.repeat_interleave(size, dim=axis).narrow(axis, 0, length)
        return scale


def widen(
    path: object, tensors: Mapping[str, TensorHandle], config: Mapping[str, object]
) -> dict[str, TensorHandle]:
    """The tensors with float8 weights widened and their scales folded in. Raises for other quantisations."""
    quantised = config.get("quantization_config")
    settings = quantised if isinstance(quantised, dict) else {}
    _refuse_packed(path, tensors, settings)
    narrow = {
        name: handle for name, handle in tensors.items() if handle.dtype.startswith("float8_e") and _scaled(name)
    }
    if not narrow:
        return dict(tensors)
    scales = {name: _scale(tensors, name) for name in narrow}
    used = {handle.name for handle in scales.values() if handle is not None}
    dtype, block = _wide_dtype(config), _block(settings)
    widened = {name: _widened(path, Widened(handle, scales[name], block, dtype)) for name, handle in narrow.items()}
    return {name: widened.get(name, handle) for name, handle in tensors.items() if name not in used}


def _scaled(name: str) -> bool:
    return not name.endswith(SCALES)


def _scale(tensors: Mapping[str, TensorHandle], name: str) -> TensorHandle | None:
    return next((tensors[name + suffix] for suffix in SCALES if name + suffix in tensors), None)


def _widened(path: object, plan: Widened) -> TensorHandle:
    weight, scale = plan.weight, plan.scale
    if scale is not None and not _fits(weight.shape, scale.shape, scale.dtype, plan.block):
        raise CheckpointError(
            f"{printable(path)}: the scales of {clipped(weight.name)} have shape {list(scale.shape)}, "
            "which does not fit "
            f"{list(weight.shape)} in blocks of {list(plan.block)}; dequantise the model to bfloat16 first."
        )
    # Not `replace`, which takes ten times as long: a mixture of experts has tens of thousands of these.
    return TensorHandle(
        weight.name, weight.shape, plan.dtype, weight.file, plan.load, quantised=weight.dtype, extent=weight.extent
    )


@lru_cache(maxsize=1024)
def _fits(weight: tuple[int, ...], scale: tuple[int, ...], dtype: str, block: tuple[int, int]) -> bool:
    if "float" not in dtype:
        return False  # exponents stored as bytes: multiplying by them would be silently wrong
    if prod(scale) == 1:
        return True
    if len(weight) < 2 or len(scale) != len(weight) or scale[:-2] != weight[:-2]:
        return False
    pairs = zip(weight[-2:], scale[-2:], block, strict=True)
    return all(count in (1, length, -(-length // size)) for length, count, size in pairs)


def _block(settings: Mapping[str, object]) -> tuple[int, int]:
    block = settings.get("weight_block_size")
    if isinstance(block, list) and len(block) == 2 and all(type(b) is int and b > 0 for b in block):
        return block[0], block[1]
    return 128, 128


def _wide_dtype(config: Mapping[str, object]) -> str:
    stated = str(config.get("dtype") or config.get("torch_dtype")).removeprefix("torch.")
    return stated if stated in WIDE else "bfloat16"


def _refuse_packed(path: object, tensors: Mapping[str, TensorHandle], settings: Mapping[str, object]) -> None:
    method = settings.get("quant_method")
    packed = next((name for name, handle in tensors.items() if _is_packed(tensors, name, handle)), None)
    if packed is None and (method is None or (isinstance(method, str) and method in FLOAT8_METHODS)):
        return
    if packed is None and tensors and all(handle.dtype in WIDE for handle in tensors.values()):
        return  # the key is left over: nothing is quantised here
    what = f"quantised with {clipped(method)}" if method else f"quantised (it holds {clipped(packed)})"
    raise CheckpointError(
        f"{printable(path)}: {what}, and its update cannot be seen through that rounding; "
        "audit the unquantised weights instead."
    )


def _is_packed(tensors: Mapping[str, TensorHandle], name: str, handle: TensorHandle) -> bool:
    return name.endswith(PACKED) or (handle.dtype in ("int8", "uint8") and _scale(tensors, name) is not None)
