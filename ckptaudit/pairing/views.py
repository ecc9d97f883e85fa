"""A stored tensor as the weights it holds; a view's handle reads the tensor and takes its share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import TYPE_CHECKING

from ckptaudit.checkpoints import LowRankUpdate, TensorHandle
from ckptaudit.naming import Layout, Naming, Part, Place, with_lengths

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class View:
    """One weight as `[out, in]`, all of what is `stored` or a share; `stacked`: its first axis counts experts.

    `doubt` says why a fused tensor is kept whole.
    """

    name: str
    stored: str
    place: Place
    handle: TensorHandle
    stacked: bool = False
    doubt: str = ""

    @property
    def divided(self) -> bool:
        """Whether more is stored in the tensor than this weight."""
        return self.name != self.stored

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight, which need not be that of the stored tensor."""
        return self.handle.shape


def views_of(name: str, handle: TensorHandle, naming: Naming) -> tuple[View, ...]:
    """The weights that a stored tensor holds."""
    return _views(name, handle, naming, naming.layout(name, handle.shape))


def views_like(
    name: str, handle: TensorHandle, naming: Naming, shapes: Mapping[Place, tuple[int, ...]]
) -> tuple[View, ...]:
    """As `views_of`, divided as the other side divides it where its parts, stored apart, add up to this tensor."""
    layout = naming.layout(name, handle.shape)
    views = _views(name, handle, naming, layout)
    found = [shapes.get(view.place, ()) for view in views]
    if layout.stacked or any(part.groups > 1 for part in layout.parts) or not all(found):
        return views
    lengths = tuple(shape[0] for shape in found)
    if len(views) < 2 or sum(lengths) != sum(view.shape[0] for view in views):
        return views
    return _views(name, handle, naming, replace(layout, parts=with_lengths(layout.parts, lengths)))


def _views(name: str, handle: TensorHandle, naming: Naming, layout: Layout) -> tuple[View, ...]:
    handle_of_all = _laid_out(handle, layout, None)
    whole = View(name, name, naming.place(name), handle_of_all, layout.stacked, layout.doubt)
    if not layout.parts:
        return (whole,)
    return tuple(
        replace(
            whole,
            name=f"{name}[{part.role}]",
            place=_with_role(whole.place, part.role),
            handle=_laid_out(handle, layout, part),
        )
        for part in layout.parts
    )


def unstacked(view: View) -> Iterator[View]:
    """A stack of experts as one view for each; any other view as itself."""
    if not view.stacked:
        yield view
        return
    for index in range(view.shape[0]):
        yield View(
            name=f"{view.name}[{index}]",
            stored=view.stored,
            place=_placed(view.place, view.place.role, index),
            handle=one_of(view.handle, index),
        )


def one_of(handle: TensorHandle, index: int) -> TensorHandle:
    """One entry of the first axis; reading it reads the tensor and takes the entry."""
    return _derived(handle, handle.shape[1:], itemgetter(index))


def first_rows(handle: TensorHandle, rows: int) -> TensorHandle:
    """The same tensor without what stands behind its first rows."""
    return _derived(handle, (rows, *handle.shape[1:]), lambda tensor: tensor[:rows])


def _laid_out(handle: TensorHandle, layout: Layout, part: Part | None) -> TensorHandle:
    shape = handle.shape
    if not layout.turned and part is None:
        return handle
    if layout.turned:
        shape = (*shape[:-2], shape[-1], shape[-2])
    # Counted from the end: what is read may have more axes in front, such as one for gradients of several batches.
    axis = int(layout.stacked) - len(shape)
    if part is not None:
        shape = (*shape[:axis], part.length, *shape[axis:][1:])
    laid_out = _derived(handle, shape, lambda tensor: _taken(tensor.mT if layout.turned else tensor, part, axis))
    # PiSSA starts from the directions of the whole weight; a part of a fused one has no such start of its own.
    product = _share(handle.product, layout, part) if part is None else None
    return replace(laid_out, low_rank=_share(handle.low_rank, layout, part), product=product)


def _share(update: LowRankUpdate | None, layout: Layout, part: Part | None) -> LowRankUpdate | None:
    """What remains of an adapter's update: the part's rows of `up`, where `up @ down` is the weight as laid out."""
    if update is None or layout.stacked or update.transposed is not layout.turned:
        return None
    return replace(update, transposed=False, up=_laid_out(update.up, Layout(), part))


def _taken(tensor: Tensor, part: Part | None, axis: int) -> Tensor:
    if part is None:
        return tensor
    runs: Tensor = tensor.unflatten(axis, (part.groups, -1))  # type: ignore[no-untyped-call]
    taken = runs.narrow(axis, part.start, part.stop - part.start).flatten(axis - 1, axis)
    if not part.interleaved:
        return taken
    pairs: Tensor = taken.unflatten(axis, (part.interleaved, -1, 2))  # type: ignore[no-untyped-call]
    return pairs.transpose(axis - 1, axis).flatten(axis - 2, axis)


def _derived(handle: TensorHandle, shape: tuple[int, ...], change: Callable[[Tensor], Tensor]) -> TensorHandle:
    return replace(handle, shape=shape, load=lambda: change(handle.read()), low_rank=None, product=None)


def _with_role(place: Place, role: str) -> Place:
    return _placed(place, f"{role}.bias" if place.role.endswith(".bias") else role, place.expert)


def _placed(place: Place, role: str, expert: int | None) -> Place:
    return Place(place.layer, role, place.stack, place.in_experts, expert)
