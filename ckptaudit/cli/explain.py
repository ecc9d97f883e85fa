"""`ckptaudit explain`: the limit in force for a check on a subject, who set it, and how the last result stood."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ckptaudit.cli.output import show_all
from ckptaudit.errors import CheckpointError, ConfigError, ended, printable

if TYPE_CHECKING:
    from ckptaudit.judging.check_files import CheckFile
    from ckptaudit.judging.checks import Check
    from ckptaudit.judging.config import Config
    from ckptaudit.judging.effective_config import EffectiveConfig
    from ckptaudit.judging.limits import Limit
    from ckptaudit.judging.selection import JudgedMatrix
    from ckptaudit.judging.verdict import Verdict
    from ckptaudit.pairing import ModelPair
    from ckptaudit.results.records import AuditResult

HELP = "print the limit in force for a check on a layer or tensor, and where it comes from"
LAST = "audit.json"
RUN = ""
"""The one pair there is; EffectiveConfig keeps pairs by the path of the tuned side."""

Row = tuple[str, str]


def arguments(parser: argparse.ArgumentParser) -> None:
    """A check, a subject, and where to look."""
    parser.add_argument("check", help="the id of a check, such as spectral-drift")
    parser.add_argument("subject", help="a subject of its verdicts, such as layers.3, or a tensor")
    parser.add_argument("--config", metavar="FILE", type=Path, help="default: what the gate finds in this folder")
    parser.add_argument("--profile", metavar="NAME", default="", help="default: the configuration's, else release")
    parser.add_argument("--base", metavar="PATH", help="checkpoint with the subject; default: the result's base")
    parser.add_argument("--result", metavar="FILE", type=Path, help=f"JSON of an audit; default: {LAST}, if there")


def run(options: argparse.Namespace) -> int:
    """Print it. Raises CkptAuditError, for unknown names with the nearest ones."""
    from ckptaudit.judging.config import Config, check_files, find_config, load_config

    path = options.config or find_config([Path.cwd()])
    config = load_config(path) if path else Config()
    joining = _joining(options.profile or config.profile)
    file, check = _chosen(options.check, (*check_files(config, options.profile), *joining))
    path = options.result or (Path(LAST) if Path(LAST).is_file() else None)
    result = _read(path) if path else None
    pair = _pair(options.base, result)
    effective = _effective(config, file, check, pair)
    parts = _parts(check, options.subject, pair) if pair else []
    rows = [("check", f"{check.id} on {printable(options.subject)}"), ("claim", check.claim)]
    rows += [("severity", effective.effective(check).severity), *_chain(effective, file, check)]
    rows += (
        [*_in_force(effective, check, parts), *_waivers(effective, check, options.subject, parts)] if pair else []
    )
    rows += [] if pair else _unplaced(effective, check)
    rows += _last(effective, check, options.subject, result, path, placed=pair is not None)
    show_all(line for label, text in rows for line in _wrapped(label, text))
    return 0


def _joining(profile: str) -> tuple[CheckFile, ...]:
    """The check files that join a profile for several runs, for rollouts, for probes and the like."""
    from ckptaudit.judging.check_files import load_checks
    from ckptaudit.judging.profiles import default_profile, profile_named

    companions = profile_named(profile or default_profile()).companions.values()
    return tuple(load_checks(path) for path in dict.fromkeys(path for paths in companions for path in paths))


def _chosen(name: str, files: tuple[CheckFile, ...]) -> tuple[CheckFile, Check]:
    from ckptaudit.judging.selection import near

    for file in files:
        if name in file.by_id:
            return file, file.by_id[name]
    known = [check.id for file in files for check in file.checks]
    where = " and ".join(file.path.name for file in files)
    raise _named(f"{printable(name)}: no such check in {where}; {near(name, known)}")


def _named(text: str) -> ConfigError:
    return ConfigError(ended(text))


def _read(path: Path) -> AuditResult:
    from ckptaudit.results.json_io import read_json

    return read_json(path)


def _pair(base: str | None, result: AuditResult | None) -> ModelPair | None:
    """The base with itself: every subject and tensor there is, read off its headers."""
    from ckptaudit.checkpoints import open_checkpoint
    from ckptaudit.pairing import pair_checkpoints

    if base is None and result is None:
        return None
    try:
        opened = open_checkpoint(base or (result.base if result else ""))
    except CheckpointError:
        if base is not None:
            raise
        return None  # the result's base has gone meanwhile; what its rows say is still worth telling
    return pair_checkpoints(opened, opened)


def _effective(config: Config, file: CheckFile, check: Check, pair: ModelPair | None) -> EffectiveConfig:
    from dataclasses import replace

    from ckptaudit.judging.effective_config import EffectiveConfig

    overrides = tuple(o for o in config.overrides if o.check == check.id)
    waivers = tuple(w for w in config.waivers if w.check == check.id)
    narrowed = replace(config, overrides=overrides, waivers=waivers)
    return EffectiveConfig(narrowed, [file], {RUN: pair} if pair else {})


def _parts(check: Check, subject: str, pair: ModelPair) -> list[JudgedMatrix]:
    """What the subject means to the check. Raises ConfigError with the nearest names."""
    from ckptaudit.judging.selection import fits, near, parts

    if _is_set(check, subject):
        return []
    owned = parts(check, pair)
    if subject in owned:
        return owned[subject]
    everything = [part for its in owned.values() for part in its]
    found = [p for p in everything if fits(subject, p.name, p.tensor.name, p.tensor.place.subject)]
    if not found:
        known = [*owned, *(p.tensor.name for p in everything)]
        raise _named(f"{printable(subject)}: {check.id} judges nothing of this name; {near(subject, known)}")
    return found


def _is_set(check: Check, subject: str) -> bool:
    """Whether the subject is one of the probe sets that a verdict on probes ranks."""
    from ckptaudit.behavior.sets import set_of_subject

    return check.scope == "probes" and set_of_subject(subject) is not None


def _of_set(verdict: Verdict, check: Check, subject: str) -> Verdict:
    """A verdict on all probes, as far as it is about one probe set."""
    from msgspec.structs import replace

    if not _is_set(check, subject):
        return verdict
    row = next((row for row in verdict.ranking if row.tensor == subject), None)
    if row is None:
        said = f"; {verdict.reason}" if verdict.reason else ""
        return replace(verdict, value=None, reason=f"it holds no value of {subject}{said}")
    said = "failed" if check.margin(row.value, verdict.limit) < 0 and verdict.outcome == "failed" else "passed"
    return replace(verdict, value=row.value, worst=subject, outcome=said)


def _chain(config: EffectiveConfig, file: CheckFile, check: Check) -> Iterator[Row]:
    """Everything that sets a limit, the strongest last."""
    from ckptaudit.judging.profiles import bundled_checks

    bundled = " of the bundled checks" if file.path == bundled_checks() / file.path.name else ""
    yield "set by", f"check: {check.sign} {check.limit:g} in {file.home(check)}{bundled}; {check.source}"
    for override in config.overrides_of(check):
        if override.limit is not None:
            yield (
                "moved by",
                f"{override.origin}: {check.sign} {override.limit:g} for {override.scope}; "
                f"{override.label}: {printable(override.reason)}",
            )


def _in_force(config: EffectiveConfig, check: Check, parts: list[JudgedMatrix]) -> Iterator[Row]:
    limits = config.limits(check, RUN)
    by_limit: dict[Limit, list[str]] = {}
    for part in parts:
        by_limit.setdefault(limits.of(part.name), []).append(part.name)
    for limit, names in (by_limit or {limits.usual: []}).items():
        who = f" for {_few(names)}" if len(by_limit) > 1 else ""
        yield "in force", f"{check.sign} {limit.value:g}{who}, from {limit.origin}"


def _unplaced(config: EffectiveConfig, check: Check) -> Iterator[Row]:
    """What can be said of a subject where no checkpoint tells which tensors it has."""
    moving = [o for o in config.overrides_of(check) if o.limit is not None]
    if not moving:
        yield "in force", f"{check.sign} {check.limit:g}, from {config.limits(check, RUN).usual.origin}"
    elif not moving[-1].is_narrow:
        yield "in force", f"{check.sign} {moving[-1].limit:g}, from {moving[-1].label}"
    else:
        yield "in force", "the last of these that names the tensor; --base PATH tells which"
    for waiver in config.config.waivers:
        yield "waiver", f"{waiver.label} for {printable(waiver.subject)}, until {waiver.until}"


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(map(printable, names[:3]))}{more}"


def _waivers(config: EffectiveConfig, check: Check, subject: str, parts: list[JudgedMatrix]) -> Iterator[Row]:
    names = frozenset(part.name for part in parts)
    for applied in config.waivers(check, RUN):
        if applied.concerns(subject, names) or applied.subjects & {p.tensor.place.subject for p in parts}:
            yield "waiver", applied.sentence


def _last(
    config: EffectiveConfig,
    check: Check,
    subject: str,
    result: AuditResult | None,
    path: Path | None,
    *,
    placed: bool,
) -> Iterator[Row]:
    from ckptaudit.judging.selection import PROBES
    from ckptaudit.report.failure import quantity

    if result is None:
        yield "last result", f"none: there is no {LAST} here, and --result names no other"
    wanted = PROBES if _is_set(check, subject) else subject
    found = [v for v in result.verdicts if v.check == check.id and v.subject == wanted] if result else []
    rows = [_of_set(v, check, subject) for v in found]
    if result is not None and not rows:
        yield "last result", f"{printable(path)} has no verdict of {check.id} on {printable(subject)}"
    for row in rows:
        if row.value is None:
            yield "last result", f"{row.outcome}: {printable(row.reason)} ({printable(row.tuned)})"
            continue
        # Where no checkpoint tells what an override names, the limit is the one it was judged by.
        limit = config.limits(check, RUN).of(row.worst).value if placed else row.limit
        margin = check.margin(row.value, limit)
        bound = {"upper_bound": "at most ", "lower_bound": "at least "}.get(row.kind or "", "")
        side = "inside" if margin >= 0 else "outside"
        then = "" if row.limit == limit else f", judged then by {row.sign} {row.limit:g}"
        yield (
            "last result",
            f"{row.outcome}: {bound}{quantity(check.metric, row.value)} in {printable(row.worst or subject)}, "
            f"{abs(margin):.4g} {side} the limit {check.sign} {limit:g}{then} ({printable(row.tuned)})",
        )


def _wrapped(label: str, text: str) -> list[str]:
    whole = f"{label:<13}{printable(text)}"
    return textwrap.wrap(whole, 100, subsequent_indent=" " * 13, break_long_words=False, break_on_hyphens=False)
