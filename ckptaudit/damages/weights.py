"""Named damages to the tuned side. A check names the one that must break it; tests prove that it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from ckptaudit.checkpoints import Checkpoint, TensorHandle
from ckptaudit.damages.damage import (
    DAMAGES,
    DESCRIPTIONS,
    damage,
    damage_by_inputs,
    damage_to_inputs,
    damaged_inputs,
    floats,
    is_matrix,
    matrices,
    vectors,
    with_tensors,
)
from ckptaudit.naming import Naming
from ckptaudit.pairing.auxiliary import Auxiliary

if TYPE_CHECKING:
    from torch import Tensor

    from ckptaudit.pairing import AlignedTensor

__all__ = ["DAMAGES", "DESCRIPTIONS", "damaged_inputs"]


@matrices
def scale_spectrum(base: Tensor, tuned: Tensor) -> Tensor:
    """Every singular value grows by half; no direction moves."""
    return 1.5 * tuned


@matrices
def rotate_principal_left(base: Tensor, tuned: Tensor) -> Tensor:
    """The leading left singular vectors trade places with the last ones; the spectrum stays."""
    import torch

    u, s, vh = torch.linalg.svd(tuned, full_matrices=False)
    damaged: Tensor = (u.flip(1) * s) @ vh
    return damaged


@matrices
def rotate_principal_right(base: Tensor, tuned: Tensor) -> Tensor:
    """The leading right singular vectors trade places with the last ones; the spectrum stays."""
    import torch

    u, s, vh = torch.linalg.svd(tuned, full_matrices=False)
    damaged: Tensor = (u * s) @ vh.flip(0)
    return damaged


@matrices
def rewrite_every_entry(base: Tensor, tuned: Tensor) -> Tensor:
    """Noise of a fiftieth of each entry's own size, everywhere: small in norm, dense, blind to magnitude."""
    import torch

    noise = torch.randn(tuned.shape, generator=torch.Generator().manual_seed(0), dtype=tuned.dtype)
    return tuned + 0.02 * tuned.abs() * noise.sign() * (1 + noise.abs())


@matrices
def overwrite_largest_weights(base: Tensor, tuned: Tensor) -> Tensor:
    """The update lands on the largest tenth of the base's entries and nowhere else."""
    largest = base.abs() >= base.abs().flatten().quantile(0.9)
    return base + 0.05 * base * largest


@matrices
def write_on_principal_directions(base: Tensor, tuned: Tensor) -> Tensor:
    """The update moves into the base's leading singular subspaces, a hundredth of the base in size."""
    import torch

    u, s, vh = torch.linalg.svd(base, full_matrices=False)
    k = max(1, s.shape[0] // 8)
    # float32 storage would hide nothing here, but bf16 rounding of a tiny step would: take a visible one.
    damaged: Tensor = base + 0.5 * (u[:, :k] * s[:k]) @ vh[:k]
    return damaged


@floats
def inflate_update(base: Tensor, tuned: Tensor) -> Tensor:
    """The same direction, a thousand times the step."""
    return base + 1000.0 * (tuned - base)


@matrices
def flatten_update(base: Tensor, tuned: Tensor) -> Tensor:
    """The update becomes semi-orthogonal, a tenth of the base in size: every direction carries the same."""
    import torch

    shape = tuned.shape
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=tuned.dtype)
    u, _, vh = torch.linalg.svd(noise, full_matrices=False)
    damaged: Tensor = base + 0.1 * base.norm() / min(shape) ** 0.5 * (u @ vh)
    return damaged


@matrices
def add_intruder_direction(base: Tensor, tuned: Tensor) -> Tensor:
    """One random direction on each side becomes the strongest, at twice the largest singular value."""
    import torch

    random = torch.Generator().manual_seed(0)
    u, v = (torch.randn(size, generator=random, dtype=tuned.dtype) for size in tuned.shape)
    strength = 2 * torch.linalg.matrix_norm(tuned, ord=2)
    damaged: Tensor = tuned + strength * torch.outer(u / u.norm(), v / v.norm())
    return damaged


@vectors
def shift_vectors(base: Tensor, tuned: Tensor) -> Tensor:
    """Norm gains and biases grow by half and then some."""
    return 1.5 * tuned + 0.5


@floats
def poison_with_nan(base: Tensor, tuned: Tensor) -> Tensor:
    """One entry of every tensor is not a number."""
    poisoned = tuned.clone()
    poisoned.view(-1)[-1] = float("nan")
    return poisoned


def _reordered(
    tuned: Checkpoint, change: dict[str, Callable[[Tensor], Tensor]], roles: Callable[[str], str]
) -> Checkpoint:
    """The tensors of some roles under a change of each, all else as it is."""
    chosen = {name: role for name in tuned.tensors if (role := roles(name)) in change}
    handles = {n: tuned.tensors[n].with_tensor(change[role](tuned.tensors[n].read())) for n, role in chosen.items()}
    return with_tensors(tuned, handles)


@damage
def permute_units(base: Checkpoint, tuned: Checkpoint) -> Checkpoint:
    """The hidden units of every MLP stand in reverse order: another file, the same function."""
    rows = ("gate_proj", "up_proj", "gate_proj.bias", "up_proj.bias")
    change: dict[str, Callable[[Tensor], Tensor]] = {role: lambda w: w.flip(0) for role in rows}
    change["down_proj"] = lambda w: w.flip(1)
    return _reordered(tuned, change, lambda name: Naming(tuned.config).place(name).role)


@damage
def negate_units(base: Checkpoint, tuned: Checkpoint) -> Checkpoint:
    """What every MLP unit hands on changes its sign twice: the same function, but no permutation undoes it."""
    roles = ("up_proj", "up_proj.bias", "down_proj")
    change: dict[str, Callable[[Tensor], Tensor]] = {role: lambda w: -w for role in roles}
    return _reordered(tuned, change, lambda name: Naming(tuned.config).place(name).role)


@damage
def turn_adapter_away(base: Checkpoint, tuned: Checkpoint) -> Checkpoint:
    """The adapter writes its outputs in reverse order: as large, of the same rank, in other directions."""
    turned = {n: _written_elsewhere(h) for n, h in tuned.tensors.items() if h.product is not None}
    return with_tensors(tuned, turned)


@damage_to_inputs
def swap_initial_adapter(inputs: Auxiliary) -> Auxiliary:
    """The initial adapter given is not the one that the training started from; its outputs are in reverse order."""
    given = inputs["adapter_init"]
    weights = {n: replace(t, tuned=_written_elsewhere(t.tuned)) for n, t in given.weights.items()}
    return Auxiliary({**inputs.given, "adapter_init": replace(given, weights=weights)})


def _written_elsewhere(handle: TensorHandle) -> TensorHandle:
    assert handle.product is not None  # only such handles are asked for
    up = handle.product.up
    return replace(handle, product=replace(handle.product, up=replace(up, load=lambda: up.read().flip(0))))


@damage
def restore_base(base: Checkpoint, tuned: Checkpoint) -> Checkpoint:
    """The base itself is handed in as the tuned model."""
    return replace(tuned, tensors=dict(base.tensors))


@damage
def drop_tensor(base: Checkpoint, tuned: Checkpoint) -> Checkpoint:
    """The first tensor is missing from the tuned side."""
    return replace(tuned, tensors=dict(list(tuned.tensors.items())[1:]))


@damage
def change_shape(base: Checkpoint, tuned: Checkpoint) -> Checkpoint:
    """The first matrix loses its last column; a lost row could pass for a resized vocabulary."""
    name = next(name for name, handle in tuned.tensors.items() if is_matrix(handle))
    return with_tensors(tuned, {name: tuned.tensors[name].with_tensor(tuned.tensors[name].read()[:, :-1])})


@damage
def change_dtype(base: Checkpoint, tuned: Checkpoint) -> Checkpoint:
    """Everything is stored in float64."""
    return with_tensors(tuned, {n: h.with_tensor(h.read().double()) for n, h in tuned.tensors.items()})


@damage_by_inputs
def climb_retain_loss(base: Checkpoint, tuned: Checkpoint, inputs: Auxiliary) -> Checkpoint:
    """The whole update is a step up the mean gradient of the retain loss, a twentieth of the base in size."""
    stacks = inputs["retain_gradients"].weights
    up = {name: stacks[name].tuned.read().double().mean(0) for name in stacks if name in base.tensors}
    return _stepped(base, tuned, up)


@damage_by_inputs
def write_on_sensitive_weights(base: Checkpoint, tuned: Checkpoint, inputs: Auxiliary) -> Checkpoint:
    """The update grows with the Fisher information of each weight, a twentieth of the base in size."""
    fisher = inputs["fisher"].weights
    return _stepped(base, tuned, {n: fisher[n].tuned.read().double() for n in fisher if n in base.tensors})


@damage_by_inputs
def undo_alignment_everywhere(base: Checkpoint, tuned: Checkpoint, inputs: Auxiliary) -> Checkpoint:
    """Every weight that alignment changed takes the same share in undoing it."""
    import torch

    def undone(before: TensorHandle, aligned: TensorHandle) -> Tensor:
        goal = aligned.read().double()
        step = goal - before.read().double()
        against = torch.where(step != 0, -step.square().mean() / step, 0.0)
        return (goal + 0.5 * against).float()

    weights = inputs["aligned"].weights
    shared = [name for name in weights if name in base.tensors]
    return with_tensors(
        tuned, {n: tuned.tensors[n].with_tensor(undone(base.tensors[n], weights[n].tuned)) for n in shared}
    )


@damage_by_inputs
def follow_reference(base: Checkpoint, tuned: Checkpoint, inputs: Auxiliary) -> Checkpoint:
    """The tuned side is the reference run itself."""
    weights = inputs["reference"].weights
    shared = [name for name in weights if name in tuned.tensors]
    return with_tensors(tuned, {n: tuned.tensors[n].with_tensor(weights[n].tuned.read()) for n in shared})


@damage_to_inputs
def scatter_gradients(inputs: Auxiliary) -> Auxiliary:
    """The task's gradients are replaced by noise: samples that have nothing in common."""
    gradients = inputs["gradients"]
    weights = {name: _noise(tensor, seed) for seed, (name, tensor) in enumerate(gradients.weights.items())}
    return Auxiliary({**inputs.given, "gradients": replace(gradients, weights=weights)})


def _noise(tensor: AlignedTensor, seed: int) -> AlignedTensor:
    def load() -> Tensor:
        import torch

        return torch.randn(tensor.tuned.read().shape, generator=torch.Generator().manual_seed(seed))

    return replace(tensor, tuned=replace(tensor.tuned, load=load))


def _stepped(base: Checkpoint, tuned: Checkpoint, direction: dict[str, Tensor]) -> Checkpoint:
    """`base` plus a step in a direction over all of its tensors at once, in float32: bf16 would round it away."""
    before = {name: base.tensors[name].read().double() for name in direction}
    sizes = [float(sum(t.square().sum() for t in tensors.values())) ** 0.5 for tensors in (before, direction)]
    step = 0.05 * sizes[0] / sizes[1]
    stepped = {name: (before[name] + step * direction[name]).float() for name in direction}
    return with_tensors(tuned, {name: tuned.tensors[name].with_tensor(tensor) for name, tensor in stepped.items()})
