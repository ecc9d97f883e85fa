"""`ckptaudit probes`: what a file of probes holds and what it can tell, and probes from a data set."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ckptaudit.cli.output import show_all
from ckptaudit.errors import ProbeError, nearest, parameter, printable

if TYPE_CHECKING:
    from ckptaudit.behavior.conversion import Conversion
    from ckptaudit.behavior.encoding import Encoding
    from ckptaudit.behavior.probe import Probe

HELP = "look into a file of probes, or make one from a data set"
SHOWN = 5


def arguments(parser: argparse.ArgumentParser) -> None:
    """What to do, with which file."""
    commands = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = commands.add_parser("check", help="read the file, and say how many probes each question rests on")
    check.add_argument("file", type=Path, metavar="FILE", help="JSON lines")
    check.add_argument("--model", type=Path, metavar="FOLDER", help="encode the probes with this model's tokenizer")
    check.add_argument("--tuned", type=Path, metavar="FOLDER", help="a second model, whose tokenizer must agree")
    check.add_argument(
        "--template",
        choices=("tuned", "base", "own"),
        default="tuned",
        help="whose chat template writes the conversations (default: tuned, where a second model is given)",
    )
    make = commands.add_parser("make", help="write probes from a data set in a format of TRL's or lm-eval's")
    make.add_argument("--from-dataset", required=True, type=Path, metavar="FILE", help="Parquet or JSON lines")
    make.add_argument("-o", "--output", required=True, type=Path, metavar="FILE", help="JSON lines to write")
    make.add_argument(
        "--map",
        action="append",
        default=[],
        metavar="KEY=COLUMN",
        help="which column holds a key of a probe, repeatable",
    )
    make.add_argument("--set", metavar="NAME", help="the probe set that all of them belong to")
    make.add_argument("--samples", type=int, metavar="N", help="draw this many at random (default: all)")


def run(options: argparse.Namespace) -> int:
    """Do it. Raises CkptAuditError."""
    if options.action == "make":
        return _make(options)
    show_all(_checked(options))
    return 0


def _checked(options: argparse.Namespace) -> Iterator[str]:
    from ckptaudit.behavior.probes import read_probes

    probes = read_probes(options.file)
    if options.tuned is not None and options.model is None:
        raise ProbeError(f"{parameter('tuned')} goes with {parameter('model')}, the base's folder.")
    encoded = list(_encoded(probes, options)) if options.model is not None else []
    yield f"{printable(options.file)}: {len(probes):,} probes"
    yield from _held(probes)
    yield from encoded
    yield ""
    yield from _rests(probes)


def _held(probes: Sequence[Probe]) -> Iterator[str]:
    from ckptaudit.behavior.contents import counted

    for title, counts in zip(("kinds", "sets", "safety"), counted(probes), strict=True):
        if counts:
            yield _row(title, _listed(counts))
    conversations = sum(probe.conversational for probe in probes)
    yield _row("written as", _listed({"conversations": conversations, "plain text": len(probes) - conversations}))


def _encoded(probes: Sequence[Probe], options: argparse.Namespace) -> Iterator[str]:
    """What the tokenizers make of the probes; every mistake that an audit would end on is raised here."""
    from ckptaudit.behavior.encoding import encode, encode_prompts
    from ckptaudit.behavior.tokenizers import agreement, has_tokenizer, open_tokenizer, refuse_other_ids, templates

    folder = _folder("model", options.model)
    second = None if options.tuned is None else _folder("tuned", options.tuned)
    base = open_tokenizer(folder)
    # As in an audit, a tuned side that brings no tokenizer gets the base's.
    tuned = base if second is None or not has_tokenizer(second) else open_tokenizer(second)
    shared = agreement(base, tuned)
    refuse_other_ids(base, tuned, [p for probe in probes for p in _plain(probe)])
    context, words = _limits(folder)
    found: list[dict[tuple[str, str], tuple[tuple[int, ...], int]]] = []
    for name, tokenizer, template in zip(
        ("base", "tuned"), (base, tuned), templates(base, tuned, options.template), strict=True
    ):
        if name == "tuned" and (options.tuned is None or options.template != "own"):
            continue
        encoding = encode(probes, tokenizer, template, context=context, words=words)
        encode_prompts(probes, tokenizer, template, context=context)
        yield _row("tokenizer", f"{shared.shared:,} tokens, {'a' if template else 'no'} chat template")
        yield from _tokens(encoding, context)
        found.append({(text.probe, text.text): (text.ids, text.scored_from) for text in encoding.texts})
    if len(found) > 1:
        both = found[0].keys() & found[1].keys()
        same = sum(found[0][key] == found[1][key] for key in both)
        yield _row("same tokens", f"{same:,} of {len(both):,} texts, on which divergences rest")


def _folder(option: str, path: Path) -> Path:
    """The folder that is meant, or the copy of it that the cache of the Hugging Face hub has. Raises ProbeError."""
    if path.is_dir():
        return path
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(str(path), local_files_only=True))
    except Exception as error:  # the hub's client raises errors of several libraries
        raise ProbeError(
            f"{parameter(option)} {printable(path)}: no such folder, and no model of that name in the cache of the "
            "Hugging Face hub; check the path."
        ) from error


def _plain(probe: Probe) -> Iterator[str]:
    for part in (probe.prompt, *probe.completions):
        yield part if isinstance(part, str) else "".join(message.content for message in part)


def _tokens(encoding: Encoding, context: int | None) -> Iterator[str]:
    texts = encoding.texts
    longest = max((len(text.ids) for text in texts), default=0)
    room = f" of a context of {context:,}" if context else ""
    scored = sum(text.tokens for text in texts)
    yield _row("texts", f"{len(texts):,} scored, {scored:,} tokens of them, the longest {longest:,}{room}")
    cut = [text for text in texts if text.cut]
    if cut:
        yield _row("cut", f"{len(cut):,} texts longer than the context")
    for reason, count in Counter(one.reason for one in encoding.excluded).items():
        lines = [str(one.line) for one in encoding.excluded if one.reason == reason]
        more = ", ..." if len(lines) > SHOWN else ""
        yield _row("excluded", f"{count:,} texts: {reason} (line {', '.join(lines[:SHOWN])}{more})")


def _limits(folder: Path) -> tuple[int | None, int | None]:
    """Context and vocabulary size, as the configuration says."""
    from ckptaudit.checkpoints.json_files import read_settings
    from ckptaudit.foreign_files import is_regular

    if not is_regular(folder / "config.json"):
        return None, None
    settings = read_settings(folder / "config.json")
    inner = settings.get("text_config")
    stated = inner if isinstance(inner, dict) else settings
    found = [stated.get(key) for key in ("max_position_embeddings", "vocab_size")]
    context, words = (n if isinstance(n, int) and not isinstance(n, bool) and n > 0 else None for n in found)
    return context, words


def _rests(probes: Sequence[Probe]) -> Iterator[str]:
    from ckptaudit.behavior.contents import bases

    rows = bases(probes)
    width = max(len(row.question) for row in rows)
    yield f"{'what can be judged':{width}}  probes  a share to within"
    for row in rows:
        margin = "" if row.margin is None else f"  +-{row.margin:.3f}"
        yield f"{row.question:{width}}  {row.probes:6,}{margin}".rstrip()


def _make(options: argparse.Namespace) -> int:
    from ckptaudit.atomic_write import replacing
    from ckptaudit.behavior.conversion import COLUMNS, converted
    from ckptaudit.behavior.dataset_files import dataset_rows
    from ckptaudit.foreign_files.outputs import Output, refuse_unwritable, refuse_what_is_read

    outputs = [Output(options.output, parameter("output"))]
    refuse_unwritable(outputs)
    refuse_what_is_read(outputs, [options.from_dataset])
    columns = _columns(options.map)
    if options.samples is not None and options.samples < 1:
        raise ProbeError(f"{parameter('samples')} {options.samples}: must be at least 1.")
    rows = dataset_rows(options.from_dataset, {*COLUMNS, *columns.values()})
    made = converted(rows, columns, options.set)
    where = f"{parameter('from_dataset')} {printable(options.from_dataset)}"
    if not made.lines:
        why = next(iter(made.reasons), "holds no row.")
        raise ProbeError(f"{where}: no row makes a probe; the first {why}")
    chosen = _drawn(len(made.lines), options.samples)
    try:
        with replacing(options.output) as file:
            file.writelines(made.lines[index] + b"\n" for index in chosen)
    except OSError as error:
        raise ProbeError(f"{parameter('output')} {printable(options.output)}: {error.strerror}.") from error
    show_all(_told(made, options.output, [made.probes[index] for index in chosen]))
    return 0


def _columns(given: Sequence[str]) -> Mapping[str, str]:
    from ckptaudit.behavior.probe_lines import KEYS

    pairs = dict(text.partition("=")[::2] for text in given)
    for key, column in pairs.items():
        if key not in KEYS:
            raise ProbeError(f"{parameter('map')} {printable(key)}: no key of a probe; {nearest(key, KEYS)}")
        if not column:
            raise ProbeError(f"{parameter('map')} {printable(key)}: write {printable(key)}=COLUMN.")
    return pairs


def _drawn(count: int, samples: int | None) -> Sequence[int]:
    """Indices in the order of the file; the same ones again in another run."""
    import random

    if samples is None or samples >= count:
        return range(count)
    return sorted(random.Random(0).sample(range(count), samples))


def _told(made: Conversion, output: Path, probes: Sequence[Probe]) -> Iterator[str]:
    yield f"{printable(output)}: {len(probes):,} probes"
    yield from _held(probes)
    if made.columns:
        names = sorted(made.columns)
        more = ", ..." if len(names) > SHOWN else ""
        yield _row("left out", f"columns {', '.join(map(printable, names[:SHOWN]))}{more}")
    for reason, rows in list(made.reasons.items())[:SHOWN]:
        yield _row("left out", f"{len(rows):,} rows, the first {rows[0]:,}: {reason}")


def _row(title: str, text: str) -> str:
    return f"{title:12}{text}"


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{printable(name)} {count:,}" for name, count in counts.items() if count)
