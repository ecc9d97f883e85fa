"""Reading check files, with every mistake named at once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import msgspec

from ckptaudit.damages import damages_of
from ckptaudit.errors import CheckDefinitionError, nearest, printable
from ckptaudit.foreign_files.toml import glance, read_toml
from ckptaudit.judging.checks import CHOICES, Check, Guard, Separation
from ckptaudit.metrics import (
    METRICS,
    FindingsMetric,
    GroupMetric,
    Metric,
    ProbesMetric,
    RolloutsMetric,
    Scope,
    matrix_metrics,
)

FILE_KEYS = ("check", "include", "exclude")


@dataclass(frozen=True)
class CheckFile:
    """The checks of one file, those it includes first; `homes` names the files that included ones stand in.

    `read` has the SHA-256 of every file that was read: the included ones, and the file itself.
    """

    path: Path
    checks: tuple[Check, ...]
    homes: Mapping[str, str] = field(default_factory=dict)
    read: Mapping[Path, str] = field(default_factory=dict)

    @cached_property
    def by_id(self) -> dict[str, Check]:
        """Checks by id."""
        return {check.id: check for check in self.checks}

    def home(self, check: Check) -> str:
        """The name of the file in which the check is written."""
        return self.homes.get(check.id, self.path.name)


def holds_checks(path: Path) -> bool:
    """Whether a TOML file is meant as a check file; one that is and cannot be parsed must not be passed over."""
    content, text = glance(path)
    if content is None:
        return "[[check]]" in text
    return "check" in content or ("include" in content and set(content) <= set(FILE_KEYS))


def load_checks(path: Path) -> CheckFile:
    """Read a check file. Raises CheckDefinitionError naming file, check, key and what is allowed."""
    return _load(path, open_files=())


def _load(path: Path, open_files: tuple[Path, ...]) -> CheckFile:
    file = read_toml(path, "check", CheckDefinitionError)
    content = file.content
    included = _included(path, content, open_files)
    own, problems = [], _file_problems(content)
    tables = content.get("check", [])
    for position, table in enumerate(tables if isinstance(tables, list) else [], start=1):
        try:
            own.append(_check(table))
        except _Problem as problem:
            label = table.get("id") if isinstance(table, dict) else None
            problems.append(f"check {printable(label) if label else f'number {position}'}, {problem}")
    problems += _repeated(check.id for check in (*included.checks, *own))
    if not problems and not (included.checks or own):
        problems.append("key check: no [[check]] table; add at least one")
    if problems:
        raise CheckDefinitionError(f"{printable(path)}: {'; '.join(problems)}.")
    return CheckFile(path, (*included.checks, *own), included.homes, {**included.read, path: file.sha256})


def _included(path: Path, content: dict[str, Any], open_files: tuple[Path, ...]) -> CheckFile:
    names, excluded = content.get("include", []), content.get("exclude", [])
    for key, value in (("include", names), ("exclude", excluded)):
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise CheckDefinitionError(f"{printable(path)}: key {key}: a list of strings is allowed.")
    if path.resolve() in open_files:
        raise CheckDefinitionError(f"{printable(path)}: key include: the file includes itself; remove the cycle.")
    files = [_load(path.parent / name, (*open_files, path.resolve())) for name in names]
    homes = {check.id: file.home(check) for file in files for check in file.checks}
    checks = [check for file in files for check in file.checks]
    ids = [check.id for check in checks]
    for unknown in (e for e in excluded if e not in ids):
        raise CheckDefinitionError(
            f"{printable(path)}: key exclude: '{printable(unknown)}' is not among the included checks; "
            f"{nearest(unknown, ids) if ids else 'nothing is included.'}"
        )
    read = {one: digest for file in files for one, digest in file.read.items()}
    return CheckFile(path, tuple(check for check in checks if check.id not in excluded), homes, read)


class _Problem(Exception):
    """A mistake in one check table, in words: key, and what is allowed."""


def _file_problems(content: dict[str, Any]) -> list[str]:
    problems = [f"key {printable(k)}: allowed are {', '.join(FILE_KEYS)}" for k in content if k not in FILE_KEYS]
    if not isinstance(content.get("check", []), list):
        problems.append("key check: write each check as a [[check]] table")
    return problems


def _check(table: object) -> Check:
    if not isinstance(table, dict):
        raise _Problem("key check: write each check as a [[check]] table")
    _expect_choices(table)
    try:
        check = msgspec.convert(table, Check)
    except msgspec.ValidationError as error:
        raise _Problem(_in_words(str(error))) from error
    problems = list(_check_problems(check))
    if problems:
        raise _Problem("; ".join(problems))
    return check


def _expect_choices(table: dict[str, Any]) -> None:
    for key, allowed in CHOICES.items():
        if key in table and table[key] not in allowed:
            raise _Problem(f"key {key}: '{printable(table[key])}' is not one of {', '.join(allowed)}")


def _check_problems(check: Check) -> Iterable[str]:
    if not check.id or not all(c.isalnum() or c in "-_" for c in check.id):
        yield "key id: letters, digits, '-' and '_' are allowed"
    for key in ("claim", "source", "remedy"):
        if not getattr(check, key).strip():
            yield f"key {key}: may not be empty"
    if (check.at_most is None) == (check.at_least is None):
        yield "keys at_most, at_least: exactly one of them is required"
    elif not math.isfinite(check.limit):
        yield f"key {'at_most' if check.at_most is not None else 'at_least'}: a finite number is required"
    yield from _metric_problems(check)
    if not check.roles or not all(check.roles):
        yield "key roles: at least one group or role name is required"
    damages = _damages(check)
    if damages and check.breaks_when not in damages:
        meant = nearest(check.breaks_when, sorted(damages))
        yield f"key breaks_when: unknown damage {check.breaks_when!r}; {meant}"


def _damages(check: Check) -> Mapping[str, str]:
    """The damages that may break it; of whatever scope, where its metric is unknown."""
    scopes = [check.scope] if check.metric in METRICS else get_args(Scope)
    return {damage: text for scope in scopes for damage, text in damages_of(scope).items()}


def _metric_problems(check: Check) -> Iterable[str]:
    metric = METRICS.get(check.metric)
    if metric is None:
        yield f"key metric: unknown metric {check.metric!r}; {nearest(check.metric, sorted(METRICS))}"
        return
    yield from _per_problems(check, metric)
    if isinstance(metric, GroupMetric):
        yield from _group_problems(check, metric)
    if check.never_beyond is not None:
        yield from _separation_problems(check, check.never_beyond)
    guard = check.only_where
    if guard is not None and check.over is not None:
        yield f"key only_where: {check.metric} compares runs, and a guard looks at one alone"
    known = sorted(matrix_metrics())
    if guard is not None and guard.metric not in known:
        yield f"key only_where.metric: unknown metric {guard.metric!r}; {nearest(guard.metric, known)}"
    if guard is not None and not math.isfinite(guard.at_least):
        yield "key only_where.at_least: a finite number is required"


def _per_problems(check: Check, metric: Metric) -> Iterable[str]:
    if isinstance(metric, RolloutsMetric | ProbesMetric):
        if check.per not in metric.per:
            yield f"key per: {check.metric} is a quantity of a {' or '.join(metric.per)}"
        for key, given in (("judge_by", check.judge_by != "worst"), ("only_where", check.only_where is not None)):
            if given:
                yield f"key {key}: {check.metric} is of {metric.scope}, and every one counts; leave the key out"
    elif check.per in ("step", "run", "probe_set", "probes"):
        yield f"key per: {check.metric} is of weights; step and run are of rollouts, probe_set and probes of probes"
    elif isinstance(metric, FindingsMetric) and check.per != "model":
        yield f"key per: {check.metric} counts findings of the pair, so only model is allowed"


def _group_problems(check: Check, metric: GroupMetric) -> Iterable[str]:
    allowed = metric.per
    if check.per not in allowed:
        yield f"key per: {check.metric} is a quantity of a {' or '.join(allowed)}"
    if check.judge_by != "worst":
        yield f"key judge_by: {check.metric} gives one number for all weights together; leave the key out"
    if check.only_where is not None:
        yield f"key only_where: {check.metric} is of several weights together; leave the key out"


def _separation_problems(check: Check, separation: Separation) -> Iterable[str]:
    if not math.isfinite(separation.value):
        yield "key never_beyond.value: a finite number is required"
    elif check.margin(separation.value) > 0:
        yield f"key never_beyond.value: {separation.value:g} lies inside the limit {check.sign} {check.limit:g}"
    if not separation.source.strip():
        yield "key never_beyond.source: may not be empty"


def _in_words(message: str) -> str:
    """The validator's message with its `$.key` turned into `key ...:`; unknown keys get the allowed ones."""
    text, _, where = message.partition(" - at `$.")
    key = f"key {where.rstrip('`')}: " if where else ""
    if "unknown field" in text:
        unknown = text.split("`")[1]
        inner = {"only_where": Guard, "never_beyond": Separation}
        fields = next((s for key, s in inner.items() if where.startswith(key)), Check).__struct_fields__
        return f"key {printable(unknown)}: unknown; {nearest(unknown, list(fields)).rstrip('.')}"
    return printable(f"{key}{text[0].lower()}{text[1:]}")


def _repeated(ids: Iterable[str]) -> list[str]:
    seen: set[str] = set()
    repeated: set[str] = set()
    for name in ids:
        (repeated if name in seen else seen).add(name)
    return [f"check {name}: the id is used twice" for name in sorted(repeated)]
