"""The effective configuration: overrides and waivers applied to the checks and tensors that are there."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

import msgspec

from ckptaudit.errors import ConfigError, ended, printable
from ckptaudit.judging.check_files import CheckFile, load_checks
from ckptaudit.judging.checks import Check, Severity
from ckptaudit.judging.config import Config, Override
from ckptaudit.judging.limits import Limit, Limits
from ckptaudit.judging.profiles import profiles
from ckptaudit.judging.selection import JudgedMatrix, near, parts, selects, selects_nothing
from ckptaudit.judging.verdict import Verdict
from ckptaudit.judging.waivers import AppliedWaiver, apply_waiver, no_such_subject, unused
from ckptaudit.pairing import ModelPair

Pairs = Mapping[str, ModelPair]
"""The pairs of an audit by the path of the tuned side."""

Owned = dict[str, list[JudgedMatrix]]
"""By subject, what its verdict rests on."""

Key = tuple[str, Check]


class EffectiveConfig:
    """Which limit is in force where, what is forgiven, how grave a failure is.

    `files` hold the checks that are run, `known` further ones that the configuration may name. With
    `strict` a warning closes the gate; without `forgiving` no waiver holds; `today` is the date in UTC.
    Raises ConfigError naming every override and waiver that means nothing here, with the nearest names.
    """

    def __init__(
        self,
        config: Config,
        files: Sequence[CheckFile],
        pairs: Pairs,
        *,
        known: Sequence[CheckFile] = (),
        strict: bool = False,
        forgiving: bool = True,
        today: datetime.date | None = None,
    ) -> None:
        self.config, self.files, self.strict, self.forgiving = config, tuple(files), strict, forgiving
        self.today = today or datetime.datetime.now(datetime.UTC).date()
        self.notes: list[str] = []
        self._pairs, self._run, self._known = pairs, _by_id(files), _by_id(known)
        self._homes = {check: file.home(check) for file in (*known, *files) for check in file.checks}
        self._limits: dict[Key, Limits] = {}
        self._waivers: dict[Key, list[AppliedWaiver]] = {}
        problems = [*self._apply_overrides(), *self._apply_waivers()]
        if problems:
            raise ConfigError(ended(f"{printable(config.path)}: {'; '.join(problems)}"))

    def limits(self, check: Check, run: str, home: str = "") -> Limits:
        """The limits of a check on the tensors of a run; `home` names the file it is written in."""
        return self._limits.get((run, check)) or Limits.own(check, home or self._homes.get(check, ""))

    def waivers(self, check: Check, run: str) -> tuple[AppliedWaiver, ...]:
        """The waivers that concern a check of a run."""
        return tuple(self._waivers.get((run, check), ()))

    def effective(self, check: Check) -> Check:
        """The check with the severity that it has here."""
        said = [o.severity for o in self.config.overrides if o.check == check.id and o.severity is not None]
        severity: Severity = said[-1] if said else check.severity
        severity = "gate" if self.strict and severity == "warn" else severity
        return check if severity == check.severity else msgspec.structs.replace(check, severity=severity)

    def remarks(self, verdicts: Sequence[Verdict]) -> list[str]:
        """What the configuration holds that nothing needs, in sentences."""
        idle: dict[str, list[bool]] = {}
        waivers: dict[str, AppliedWaiver] = {}
        for (run, check), applied in self._waivers.items():
            for g in applied:
                waivers[g.waiver.label] = g
                idle.setdefault(g.waiver.label, []).append(unused(g, check.id, run, verdicts))
        return [*self.notes, *(_remark(waivers[label]) for label, all_idle in idle.items() if all(all_idle))]

    def overrides_of(self, check: Check) -> list[Override]:
        """The overrides that name a check, in the order of the file: a later one wins."""
        return [o for o in self.config.overrides if o.check == check.id]

    def _checks(self, name: str) -> list[Check]:
        return self._run.get(name) or self._known.get(name) or []

    def _unknown(self, name: str) -> str:
        ids = sorted({*self._run, *self._known})
        elsewhere = [
            profile.name
            for profile in profiles().values()
            if any(name in load_checks(path).by_id for path in profile.checks)
        ]
        where = f"it belongs to profile {' and '.join(elsewhere)}" if elsewhere else near(name, ids)
        return f"key check: '{printable(name)}' is not among the checks of this run; {where}"

    def _apply_overrides(self) -> Iterator[str]:
        for override in self.config.overrides:
            where = override.label.partition(" of ")[0]
            checks = self._checks(override.check)
            if not checks:
                yield f"{where}, {self._unknown(override.check)}"
            for check in checks:
                owned = {run: parts(check, pair) for run, pair in self._pairs.items()}
                problems = list(_problems(override, check, list(owned.values())))
                yield from (f"{where}, {problem}" for problem in problems)
                if not problems and override.limit is not None:
                    self._move(override, check, owned)
        self.notes += self._without_effect()

    def _move(self, override: Override, check: Check, owned: Mapping[str, Owned]) -> None:
        assert override.limit is not None  # one that only sets a severity moves nothing
        limit = Limit(override.limit, _origin(override))
        for run, subjects in owned.items():
            before = self.limits(check, run)
            named = {part.name: limit for part in chain(*subjects.values()) if selects(override, part)}
            narrowed = Limits(before.usual, {**before.moved, **named})
            self._limits[run, check] = narrowed if override.is_narrow else Limits(limit)

    def _without_effect(self) -> Iterator[str]:
        """Overrides of which later ones leave nothing."""
        ruling = {x.origin for limits in self._limits.values() for x in (limits.usual, *limits.moved.values())}
        for override in self.config.overrides if self._pairs else ():
            if override.limit is not None and self._checks(override.check) and _origin(override) not in ruling:
                yield f"{override.label} ({override.check}) decides nothing: later ones cover all that it names"

    def _apply_waivers(self) -> Iterator[str]:
        for waiver in self.config.waivers:
            where = waiver.label.partition(" of ")[0]
            checks = self._checks(waiver.check)
            if not checks:
                yield f"{where}, {self._unknown(waiver.check)}"
            for check in checks:
                ended = waiver.until < self.today
                found = {
                    run: apply_waiver(waiver, check, pair, has_ended=ended) for run, pair in self._pairs.items()
                }
                if found and not any(found.values()):
                    yield f"{where}, {no_such_subject(waiver, check, list(self._pairs.values()))}"
                for run, applied in found.items():
                    if applied is not None and self.forgiving:
                        self._waivers.setdefault((run, check), []).append(applied)


def _by_id(files: Sequence[CheckFile]) -> dict[str, list[Check]]:
    """Checks by id; of one id there are several only where files with different ones are run side by side."""
    found: dict[str, list[Check]] = {}
    for check in dict.fromkeys(check for file in files for check in file.checks):
        found.setdefault(check.id, []).append(check)
    return found


def _origin(override: Override) -> str:
    learned = "calibration, " if override.origin == "calibration" else ""
    return f"{learned}{override.label}: {printable(override.reason)}"


def _problems(override: Override, check: Check, owned: Sequence[Owned]) -> Iterator[str]:
    if override.limit is not None and override.at_most is None and check.at_most is not None:
        yield f"key at_least: {check.id} has at_most; move that"
    if override.limit is not None and override.at_least is None and check.at_least is not None:
        yield f"key at_most: {check.id} has at_least; move that"
    if override.is_narrow and check.counts_findings:
        yield f"{check.id} judges the pair as one; leave out roles, layers and tensors"
    elif override.is_narrow and check.scope in ("rollouts", "probes"):
        yield f"{check.id} judges {check.scope}, not weights; leave out roles, layers and tensors"
    elif override.is_narrow and owned:
        yield from selects_nothing(override, list(chain(*chain(*(o.values() for o in owned)))))
        yield from _splits(override, check, owned)


def _splits(override: Override, check: Check, owned: Sequence[Owned]) -> Iterator[str]:
    """An average or a sum has one limit; parts of it cannot be held to others."""
    if check.judge_by == "worst" and check.scope != "group":
        return
    for subject, its in chain(*(o.items() for o in owned)):
        hit = sum(selects(override, part) for part in its)
        if 0 < hit < len(its):
            how = "joint value" if check.scope == "group" else check.judge_by.replace("_", " ")
            whole = ", or whole layers" if check.per == "layer" else ""
            yield (
                f"{override.scope}: {check.id} judges {printable(subject)} by the {how} of {len(its)} tensors, "
                f"which has one limit, and this names {hit} of them; name all of them{whole}"
            )
            return


def _remark(applied: AppliedWaiver) -> str:
    waiver = applied.waiver
    what = f"{waiver.label} ({waiver.check}, {printable(waiver.subject)})"
    if applied.has_ended:
        return f"{what} ended on {waiver.until} and nothing needs it any more; remove it"
    return f"{what} forgave nothing; remove it"
