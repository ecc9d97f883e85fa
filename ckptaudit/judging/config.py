"""What a team decides for itself: `ckptaudit.toml`, read and validated with every mistake named at once."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from ckptaudit.behavior.facts import ProbeFacts, probe_facts
from ckptaudit.errors import CheckDefinitionError, ConfigError, ended, nearest, printable
from ckptaudit.foreign_files import is_regular
from ckptaudit.foreign_files.toml import glance
from ckptaudit.judging.check_files import CheckFile, load_checks
from ckptaudit.judging.checks import Severity
from ckptaudit.judging.profiles import default_profile, profile_named, profiles
from ckptaudit.judging.settings_file import PROJECT, SettingsFile, our_table, read_settings
from ckptaudit.rollouts.facts import RunFacts, facts_of

FILE_NAME = "ckptaudit.toml"
KEYS = ("profile", "checks", "frozen", "rollouts", "probes", "override", "waiver")

Origin = Literal["override", "calibration"]


class Override(msgspec.Struct, frozen=True, kw_only=True):
    """Another limit for a check's tensors, or another severity for the check, and why.

    `roles`, `layers` and `tensors` narrow it: a tensor must be meant by each of those that are given.
    `origin` is "calibration" where the limit was learned from trusted runs. `label` names the table.
    """

    check: str
    reason: str
    roles: tuple[str, ...] = ()
    layers: tuple[int, ...] = ()
    tensors: tuple[str, ...] = ()
    at_most: float | None = None
    at_least: float | None = None
    severity: Severity | None = None
    origin: Origin = "override"
    label: str = ""

    @property
    def limit(self) -> float | None:
        """The limit it sets; None if it is about severity alone."""
        return self.at_least if self.at_most is None else self.at_most

    @property
    def is_narrow(self) -> bool:
        """Whether it is about some of the check's tensors only."""
        return bool(self.roles or self.layers or self.tensors)

    @property
    def scope(self) -> str:
        """Which tensors it is about, in words."""
        parts = ((k, getattr(self, k)) for k in ("roles", "layers", "tensors"))
        said = [f"{key} {', '.join(printable(v) for v in values)}" for key, values in parts if values]
        return "; ".join(said) or "all of the check's tensors"


class Waiver(msgspec.Struct, frozen=True, kw_only=True):
    """One broken claim forgiven until a date, which is the last day it holds, in UTC.

    `subject` is a subject as ids show it (`layers.3`, `embed_tokens`, `model`) or a glob of tensor names.
    """

    check: str
    subject: str
    until: datetime.date
    reason: str
    label: str = ""


@dataclass(frozen=True)
class Config:
    """A configuration that has been read; without a `path` it is the empty one.

    `frozen` holds roles and globs of tensor names that training left alone on purpose; `facts` what a log of
    rollouts does not say of its run, `probes` how probes are run; `file` is what was read.
    """

    path: Path | None = None
    profile: str = ""
    checks: tuple[Path, ...] = ()
    frozen: tuple[str, ...] = ()
    overrides: tuple[Override, ...] = ()
    waivers: tuple[Waiver, ...] = ()
    facts: RunFacts = field(default_factory=RunFacts)
    probes: ProbeFacts = field(default_factory=ProbeFacts)
    file: SettingsFile | None = field(default=None, repr=False, compare=False)


def find_config(folders: Iterable[Path]) -> Path | None:
    """The first configuration of these folders: `ckptaudit.toml`, or a pyproject.toml with a [tool.ckptaudit]."""
    for folder in folders:
        if is_regular(folder / FILE_NAME):
            return folder / FILE_NAME
        project = folder / PROJECT
        if _is_ours(project):
            return project
    return None


def load_config(path: Path) -> Config:
    """Read a configuration. Raises ConfigError naming file, key and what is allowed."""
    file = read_settings(path)
    content, name = file.content, file.name
    problems = [_unknown(key, KEYS) for key in content if key not in KEYS]
    found = _Found(problems)
    profile = found.value(content, "profile", str, "")
    if profile and profile not in profiles():
        problems.append(f"key profile: '{printable(profile)}' is no profile; choose one of {', '.join(profiles())}")
    checks = tuple(path.parent / file for file in found.value(content, "checks", tuple[str, ...], ()))
    problems += (f"key checks: {printable(file)}: no such check file" for file in checks if not is_regular(file))
    frozen = found.value(content, "frozen", tuple[str, ...], ())
    overrides = found.tables(content, "override", Override, path.name)
    waivers = found.tables(content, "waiver", Waiver, path.name)
    if problems:
        raise ConfigError(ended(f"{name}: {'; '.join(problems)}"))
    facts, probes = facts_of(content, path), probe_facts(content, path)
    return Config(path, profile, checks, frozen, overrides, waivers, facts, probes, file)


def check_files(config: Config, profile: str = "") -> tuple[CheckFile, ...]:
    """The checks of a profile, by default the configuration's, and those the configuration adds.

    Raises CheckDefinitionError for a bad file or profile, and for an id that two of the files use.
    """
    chosen = profile_named(profile or config.profile or default_profile())
    paths = (*chosen.checks, *config.checks)
    files = tuple(load_checks(path) for path in paths)
    owners: dict[str, CheckFile] = {}
    for file in files:
        for check in file.checks:
            first = owners.setdefault(check.id, file)
            if first is not file:
                raise CheckDefinitionError(
                    f"{printable(file.path)}: check {check.id}: {first.path.name} has a check of this id as well; "
                    "give it another, or move the other's limit with an [[override]]."
                )
    return files


def _is_ours(project: Path) -> bool:
    content, text = glance(project)
    if content is None:
        return "[tool.ckptaudit" in text  # meant for us and broken: to be refused, not passed over
    return our_table(content) is not None


T = TypeVar("T")
Table = TypeVar("Table", Override, Waiver)


@dataclass
class _Found:
    """Values of the file so far, and what was wrong with the others."""

    problems: list[str]

    def value(self, content: dict[str, Any], key: str, kind: type[T], default: T, *, table: str = "") -> T:
        """A key's value, or the default beside a note of what is wrong with it."""
        if key not in content:
            return default
        try:
            if kind is datetime.date and type(content[key]) is not datetime.date:
                raise msgspec.ValidationError("a date without quotes is expected, such as 2027-01-31")
            return msgspec.convert(content[key], kind)
        except msgspec.ValidationError as error:
            said = str(error).partition(" - at `")[0].replace(" | null", "")
            self.problems.append(f"{table}key {key}: {printable(said[0].lower() + said[1:])}")
            return default

    def tables(self, content: dict[str, Any], key: str, kind: type[Table], file: str) -> tuple[Table, ...]:
        """The tables under a key, each with its label."""
        given = content.get(key, [])
        if not isinstance(given, list) or not all(isinstance(table, dict) for table in given):
            self.problems.append(f"key {key}: write each as a [[{key}]] table")
            return ()
        made = (self._table(table, kind, f"{key} {i} of {file}") for i, table in enumerate(given, start=1))
        return tuple(table for table in made if table is not None)

    def _table(self, table: dict[str, Any], kind: type[Table], label: str) -> Table | None:
        where = f"{label.partition(' of ')[0]}, "
        before = len(self.problems)
        fields = {f.name: f for f in msgspec.structs.fields(kind) if f.name != "label"}
        for unknown in (k for k in table if k not in fields):
            self.problems.append(f"{where}{_unknown(unknown, fields)}")
        self.problems += (f"{where}key {k}: at least one is required" for k in table if table[k] == [])
        missing = [f.name for f in fields.values() if f.required and f.name not in table]
        self.problems += (f"{where}key {name}: required" for name in missing)
        values = {k: self.value(table, k, fields[k].type, None, table=where) for k in table if k in fields}
        if len(self.problems) > before:
            return None
        made = kind(**values, label=label)
        faults = _override_faults(made) if isinstance(made, Override) else _waiver_faults(made)
        self.problems += (f"{where}{fault}" for fault in faults)
        return made


def _override_faults(override: Override) -> Iterator[str]:
    yield from _empty(override, ("check", "reason"))
    if any(layer < 0 for layer in override.layers):
        yield "key layers: layers count from 0"
    for key in ("roles", "tensors"):
        if not all(getattr(override, key)):
            yield f"key {key}: may not hold an empty name"
    limits = [v for v in (override.at_most, override.at_least) if v is not None]
    if len(limits) > 1 or (not limits and override.severity is None):
        yield "keys at_most, at_least: one of them is required, or severity"
    if not all(map(math.isfinite, limits)):
        yield f"key {'at_least' if override.at_most is None else 'at_most'}: a finite number is required"
    if override.severity is not None and override.is_narrow:
        yield "key severity: belongs to the whole check; leave out roles, layers and tensors"


def _waiver_faults(waiver: Waiver) -> Iterator[str]:
    yield from _empty(waiver, ("check", "subject", "reason"))


def _unknown(key: str, known: Iterable[str]) -> str:
    return f"key {printable(key)}: unknown; {nearest(key, list(known)).rstrip('.')}"


def _empty(table: Override | Waiver, keys: tuple[str, ...]) -> Iterator[str]:
    yield from (f"key {key}: may not be empty" for key in keys if not getattr(table, key).strip())
