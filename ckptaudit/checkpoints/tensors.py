"""What every reader returns: a read-only map from tensor name to a handle. Opening reads headers only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, Literal

from ckptaudit.foreign_files.places import Place

if TYPE_CHECKING:
    from torch import Tensor

IndexEncoding = Literal["raw", "gap_delta"]
"""Indices as they are, or as the number of entries passed over since the last one."""


@dataclass(frozen=True, slots=True)
class LowRankUpdate:
    """The update of a merged weight before it was rounded to the weight's dtype: `scale * up @ down`.

    `transposed` says that the stored weight is the transpose of that product (`fan_in_fan_out`, embeddings).
    """

    up: TensorHandle
    down: TensorHandle
    scale: float
    transposed: bool = False

    @property
    def rank(self) -> int:
        """The most directions that the update can have."""
        return self.down.shape[0]

    def dense(self) -> Tensor:
        """`scale * up @ down` in float64, laid out as the weight is stored."""
        whole = self.scale * self.up.read().double() @ self.down.read().double()
        return whole.T if self.transposed else whole


@dataclass(frozen=True, slots=True)
class TensorHandle:
    """One tensor of a checkpoint: its header facts, and the way to its bytes.

    `low_rank` is there where a merged adapter changed the tensor by nothing but a low-rank update; `product`
    also where the adapter's product was added to what PiSSA left of the weight, and so is not its update.
    `quantised` is the eight-bit type that is widened to `dtype` when the tensor is read.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    file: Place
    load: Callable[[], Tensor] = field(repr=False, compare=False)
    low_rank: LowRankUpdate | None = field(default=None, repr=False, compare=False)
    product: LowRankUpdate | None = field(default=None, repr=False, compare=False)
    quantised: str = ""
    extent: tuple[int, int] | None = field(default=None, repr=False, compare=False)
    """First byte and number of bytes that `load` reads of `file`, where that is one range."""

    @property
    def precision(self) -> str:
        """The type that the tensor was rounded to before it was stored."""
        return self.quantised or self.dtype

    @property
    def parameters(self) -> int:
        """Number of entries."""
        return prod(self.shape)

    def read(self) -> Tensor:
        """The tensor on the CPU in its stored dtype. Raises CheckpointError if the file is damaged."""
        return self.load()

    def with_tensor(self, tensor: Tensor) -> TensorHandle:
        """The same handle over other contents; how damages are made for tests of the checks."""
        return replace(
            self,
            shape=tuple(tensor.shape),
            dtype=str(tensor.dtype).removeprefix("torch."),
            load=lambda: tensor,
            low_rank=None,
            product=None,
            quantised="",
            extent=None,
        )


@dataclass(frozen=True, slots=True)
class Factors:
    """The parts of one module's low-rank update, and the number that scales their product."""

    down: TensorHandle
    up: TensorHandle
    scale: float
    magnitude: TensorHandle | None = None
    bias: TensorHandle | None = None
    embedding: bool = False


@dataclass(frozen=True, slots=True)
class Adapter:
    """What an adapter changes: factors by module, and whole tensors that replace the base's."""

    path: str
    factors: Mapping[str, Factors]
    replaced: Mapping[str, TensorHandle]
    fan_in_fan_out: bool = False
    pissa: bool = False
    approximate: bool = False
    """Whether PiSSA took its directions from a randomised decomposition, which no one can repeat."""
    base: str | None = None
    saved: tuple[str, ...] = ()
    """How the names of the modules end that it holds in full (`modules_to_save`)."""


@dataclass(frozen=True, slots=True)
class ChangedEntries:
    """Where the indices and the new values of one weight lie in a sparse delta file."""

    path: Place
    name: str
    indices: TensorHandle
    values: TensorHandle
    encoding: IndexEncoding

    @property
    def count(self) -> int:
        """How many entries are changed."""
        return self.indices.parameters


@dataclass(frozen=True, slots=True)
class SparsePatch:
    """What a sparse delta file changes: by weight, the positions of some entries and their new values.

    `version` counts the deltas of a run; `covered` is the number of entries of all weights that it names, changed
    or not; `shapes` are theirs. Each is there where the file says so.
    """

    path: Place
    entries: Mapping[str, ChangedEntries]
    version: int | None = None
    covered: int | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint's tensors by name, in sorted order, and its model configuration if it has one.

    `adapter` is there where the tensors are an adapter's factors: `merge_adapter` makes weights of them.
    `merged_from` is the base and the adapter of which it then made them.
    """

    path: str
    format: str
    tensors: Mapping[str, TensorHandle]
    config: Mapping[str, object] = field(default_factory=dict)
    adapter: Adapter | None = None
    merged_from: tuple[Checkpoint, Checkpoint] | None = field(default=None, repr=False, compare=False)
    patches: tuple[SparsePatch, ...] = field(default=(), repr=False, compare=False)
    """Sparse deltas, in order; still without their base where `patched_from` is None."""
    patched_from: Checkpoint | None = field(default=None, repr=False, compare=False)
    place: Place | None = field(default=None, repr=False, compare=False)
    """Where `path` leads: a path here, or one in an object store."""

    @property
    def parameters(self) -> int:
        """Number of entries over all tensors."""
        return sum(handle.parameters for handle in self.tensors.values())

    @property
    def is_update(self) -> bool:
        """Whether its files hold the change of a base, and no model of their own."""
        return self.format in ("adapter", "sparse delta")

    @property
    def ties_embeddings(self) -> bool:
        """Whether the configuration says that the output head shares the input embedding."""
        return self.config.get("tie_word_embeddings") is True
