"""`ckptaudit collect`: the gradients or the Fisher information that some checks need."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

from ckptaudit.cli.output import complain, show
from ckptaudit.errors import CollectionError, printable

HELP = "gradients or Fisher diagonal of a model on probe texts; `collect PLAN PART...` judges measured shards"


def arguments(parser: argparse.ArgumentParser) -> None:
    """What, of which model, on which probes, and where to."""
    parser.add_argument("what", choices=("gradients", "fisher"), help="what to compute")
    parser.add_argument(
        "--model", required=True, metavar="FOLDER", help="a causal language model in a local folder"
    )
    parser.add_argument(
        "--data", required=True, type=Path, metavar="FILE", help='JSON lines: {"text"} or {"prompt", "completion"}'
    )
    parser.add_argument(
        "-o", "--output", required=True, type=Path, metavar="FILE", help="safetensors file to write"
    )
    parser.add_argument("--samples", type=int, metavar="N", help="take the first N probes (default: all)")
    parser.add_argument(
        "--include", action="append", metavar="GLOB", help="weights by name, repeatable (default: all of them)"
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="type stored (default: float32)",
    )
    parser.add_argument(
        "--max-length", type=int, default=1024, metavar="N", help="tokens of a probe (default: 1024)"
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        metavar="N",
        help="probes in one pass (default: 8, or as many as take about 4 GiB)",
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N (default: cpu)")


def run(options: argparse.Namespace) -> int:
    """Collect and say what was written. Raises CkptAuditError."""
    from ckptaudit.behavior.gradients import Request, collect
    from ckptaudit.foreign_files.outputs import Output, refuse_unwritable, refuse_what_is_read

    for name in ("samples", "max_length", "batch_size"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise CollectionError(f"--{name.replace('_', '-')} {getattr(options, name)}: must be at least 1.")
    request = Request(
        what=options.what,
        model=options.model,
        data=options.data,
        output=options.output,
        samples=options.samples,
        include=tuple(options.include or ["*"]),
        dtype=options.dtype,
        max_length=options.max_length,
        device=options.device,
        batch_size=options.batch_size,
    )
    outputs = [Output(options.output, "--output")]
    refuse_unwritable(outputs)
    refuse_what_is_read(outputs, [options.data, Path(options.model)])
    done = collect(request, _drawn, lambda note: complain(f"NOTE: {note}"))
    resumed = f", the first {done.resumed_at} from an earlier run" if done.resumed_at else ""
    show(
        f"{printable(options.output)}: {options.what} of {done.tensors} weights on {done.samples} probes{resumed}; "
        f"mean loss {done.mean_loss:.4g} nats per token"
    )
    return 0


def _drawn(indices: Sequence[int]) -> Iterator[int]:
    from rich.console import Console
    from rich.progress import track

    yield from track(indices, "probes", console=Console(stderr=True), transient=True)
