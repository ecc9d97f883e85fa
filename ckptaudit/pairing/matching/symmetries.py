"""Which axes of a model's weights may be permuted together, read from a table and the model's own numbers."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import msgspec

from ckptaudit.errors import MeasurementError, printable
from ckptaudit.pairing import AlignedTensor, ModelPair

Axis = tuple[str, int | None]
"""An axis by name and layer; the residual stream belongs to no layer."""

FIXED: Axis = ("fixed", None)


class Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One architecture's axes: role of a weight to what its rows and its columns run along."""

    model_types: tuple[str, ...]
    rows: dict[str, str]
    columns: dict[str, str]


@dataclass(frozen=True)
class Symmetries:
    """The weights of a pair by the axes they run along."""

    weights: tuple[AlignedTensor, ...]
    axes: Mapping[str, tuple[Axis, Axis]]
    heads: int
    kv_heads: int

    @property
    def layers(self) -> tuple[int, ...]:
        """Numbers of the layers, in order."""
        return tuple(sorted({layer for pair in self.axes.values() for _, layer in pair if layer is not None}))

    def along(self, axis: Axis) -> tuple[AlignedTensor, ...]:
        """The weights that have this axis."""
        return tuple(w for w in self.weights if axis in self.axes[w.name])

    def weight(self, role: str, layer: int) -> AlignedTensor | None:
        """A layer's weight by role; None where the model has none, such as a bias."""
        found = (w for w in self.weights if w.place.role == role and w.place.layer == layer)
        return next(found, None)


def symmetries_of(pair: ModelPair) -> Symmetries:
    """The axes of a pair's weights. Raises MeasurementError where the architecture is not described."""
    config = {**pair.tuned.config, **pair.base.config}
    kind = config.get("model_type")
    table = next((t for t in _tables() if kind in t.model_types), None)
    if table is None:
        known = ", ".join(kind for t in _tables() for kind in t.model_types)
        raise MeasurementError(
            f"no table says which units of a model of type {printable(str(kind))} may change places; known are "
            f"{known}"
        )
    if pair.unaligned:
        raise MeasurementError(f"units can only be matched where all weights align; {pair.unaligned[0]} does not")
    heads = _number(config, "num_attention_heads")
    kv_heads = _number(config, "num_key_value_heads") if config.get("num_key_value_heads") else heads
    axes = {tensor.name: _axes(table, tensor) for tensor in pair.aligned}
    found = Symmetries(pair.aligned, axes, heads, kv_heads)
    _expect_heads_to_fit(found)
    return found


@cache
def _tables() -> tuple[Table, ...]:
    files = sorted(Path(__file__).parent.glob("*.toml"))
    return tuple(msgspec.convert(tomllib.loads(file.read_text(encoding="utf-8")), Table) for file in files)


def _axes(table: Table, tensor: AlignedTensor) -> tuple[Axis, Axis]:
    role = tensor.place.role
    if role not in table.rows:
        raise MeasurementError(f"no table says which axes of {printable(tensor.name)} may be permuted")
    rows, columns = table.rows[role], table.columns.get(role, "fixed")
    return _axis(rows, tensor), _axis(columns, tensor)


def _axis(name: str, tensor: AlignedTensor) -> Axis:
    return (name, None if name in ("stream", "fixed") else tensor.place.layer)


def _number(config: Mapping[str, object], key: str) -> int:
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
        raise MeasurementError(f"config.json does not say {key}, without which heads cannot be told apart")
    return value


def _expect_heads_to_fit(found: Symmetries) -> None:
    for layer in found.layers:
        for role, heads in (("q_proj", found.heads), ("k_proj", found.kv_heads), ("v_proj", found.kv_heads)):
            weight = found.weight(role, layer)
            if weight is None or weight.shape[0] % heads or found.heads % found.kv_heads:
                raise MeasurementError(f"the {role} of layer {layer} does not divide into {heads} heads")
