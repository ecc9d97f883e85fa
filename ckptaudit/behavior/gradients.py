"""Gradients and Fisher information of a causal language model on probes, for the checks that need them.

Needs transformers, the extra `collect`. Nothing of the model's own code is run.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeVar

import msgspec

from ckptaudit.behavior.probes import Probe, plain_parts, read_probes
from ckptaudit.behavior.tokenizers import has_tokenizer, without_tokenizer
from ckptaudit.checkpoints import fingerprint, open_checkpoint
from ckptaudit.errors import CollectionError, parameter, printable

if TYPE_CHECKING:
    from torch import Tensor

    from ckptaudit.behavior.gradient_batches import Taken
    from ckptaudit.behavior.models import LanguageModel
    from ckptaudit.behavior.partial_file import Sink

What = Literal["gradients", "fisher"]
T = TypeVar("T")
Watch = Callable[[Sequence[T]], Iterable[T]]

SAVE_EVERY = 8
"""Samples, at least, between two points from which an interrupted run goes on."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to collect: of which model's weights (globs of names), on which probes, stored how and where.

    `samples` takes the first so many probes; `max_length` cuts each to its first so many tokens.
    `batch_size` probes are taken in one pass, or 8, and fewer if those would take more than about 4 GiB.
    """

    what: What
    model: str
    data: Path
    output: Path
    samples: int | None = None
    include: tuple[str, ...] = ("*",)
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    max_length: int = 1024
    device: str = "cpu"
    batch_size: int | None = None


@dataclass(frozen=True)
class Collected:
    """What a collection holds: the probes' mean loss in nats per scored token, and from where it went on."""

    samples: int
    tensors: int
    mean_loss: float
    resumed_at: int


def collect(
    request: Request,
    watch: Watch[int] = lambda indices: indices,
    say: Callable[[str], None] = warnings.warn,
) -> Collected:
    """Collect, and write one safetensors file when all is done; a rerun goes on where the last one broke off.

    "gradients": for each weight the gradient of each probe's mean token loss, `[samples, *shape]`, in the probes'
    order. "fisher": the mean of their squares, the empirical Fisher information's diagonal: the labels are the
    probes' own tokens and not drawn from the model.

    `watch` wraps the indices of the probes still to do, for a progress display; `say` is told, in a sentence, why
    probes are taken one at a time, or what the stored type loses. Raises CollectionError or CheckpointError, in one
    sentence.
    """
    probes = read_probes(request.data)[: request.samples]
    for probe in probes:
        plain_parts(probe)
    if not Path(request.model).is_dir():
        raise CollectionError(
            f"{parameter('model')} {printable(request.model)}: no such folder; give one saved by transformers."
        )
    if not has_tokenizer(Path(request.model)):
        raise CollectionError(f"{parameter('model')} {without_tokenizer(Path(request.model))}")
    key = _key(request, probes)
    # Imported late: torch and transformers take seconds, and a missing probe file should not wait for them.
    from ckptaudit.behavior.gradient_batches import default_size, longest_first, settled_size, taken
    from ckptaudit.behavior.models import load_model
    from ckptaudit.behavior.partial_file import open_sink

    model = load_model(request.model, request.device)
    weights = _chosen(model, request.include)
    samples = [model.sample(probe, max_length=request.max_length) for probe in probes]
    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    try:
        sink = open_sink(request.what, request.output, key, shapes, samples=len(probes), dtype=request.dtype)
        resumed_at = sink.done
        if not sink.done:
            size = request.batch_size or default_size(model, samples, weights)
            sink.size = settled_size(model, samples, weights, size, say)
        rest = longest_first(samples)[sink.done :]
        results = taken(model, [samples[index] for index in rest], weights, sink.size, say)
        saved = sink.done
        for index in watch(rest):
            ends = _put(index, next(results), sink)
            if ends and sink.done - saved >= SAVE_EVERY:
                sink.commit()
                saved = sink.done
        sink.finish()
        if sink.lost:
            say(
                f"{100 * sink.lost:.2g} % of the entries became zero as they were stored in {request.dtype}; "
                "collect with --dtype float32."
            )
    except OSError as error:
        where = f"{parameter('output')} {printable(request.output)}"
        raise CollectionError(f"{where}: cannot be written ({printable(error.strerror or error)}).") from error
    return Collected(len(probes), len(weights), sink.loss / len(probes), resumed_at)


def _put(index: int, result: Taken, sink: Sink) -> bool:
    """Whether an interrupted run can go on from here: batches are never taken up in their middle."""
    sink.add(index, result.gradients, result.loss)
    sink.size = result.size
    return result.ends


def _chosen(model: LanguageModel, include: Sequence[str]) -> dict[str, Tensor]:
    weights = {n: w for n, w in model.weights.items() if any(fnmatch(n, glob) for glob in include)}
    if not weights:
        raise CollectionError(
            f"{parameter('include')} {' '.join(map(printable, include))}: no weight is named so; there are, for "
            f"example, {', '.join(map(printable, list(model.weights)[:3]))}."
        )
    return weights


def _key(request: Request, probes: Sequence[Probe]) -> str:
    """What a partial file must agree on to be gone on with."""
    settings = ("what", "include", "dtype", "max_length", "batch_size")
    fixed = {k: v for k, v in asdict(request).items() if k in settings}
    content = (fixed, fingerprint(open_checkpoint(request.model)), [asdict(probe) for probe in probes])
    return blake2b(msgspec.json.encode(content), digest_size=16).hexdigest()
