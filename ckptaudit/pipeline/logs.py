"""The logs of an audit: whose run each is, and what is judged where no weights were given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ckptaudit.checkpoints.paths import labels
from ckptaudit.errors import CheckpointError, RolloutError, parameter
from ckptaudit.judging.check_files import CheckFile, load_checks
from ckptaudit.judging.config import Config
from ckptaudit.judging.profiles import bundled_check_files
from ckptaudit.options import AuditOptions
from ckptaudit.pairing.runs import Run, RunGroup, unpaired
from ckptaudit.rollouts.run_log import RunLog

LOGS = ("rollouts", "scalars")


def refuse_half_a_pair(options: AuditOptions) -> None:
    """Raise CheckpointError where one side of the pair is missing, or all of it and no log stands for it."""
    if bool(options.base) != bool(options.tuned):
        missing = "base" if options.tuned else "tuned"
        raise CheckpointError(f"an audit compares two checkpoints; {parameter(missing)} PATH is missing.")
    if options.base:
        return
    if not options.logs[0]:
        raise CheckpointError(
            f"nothing to audit: give {parameter('base')} PATH and {parameter('tuned')} PATH, or "
            f"{parameter('rollouts')} PATH alone."
        )
    beside = [name for name in options.auxiliary if name not in LOGS]
    if beside:
        raise CheckpointError(
            f"{parameter(beside[0])} is judged beside a pair of checkpoints; give {parameter('base')} PATH and "
            f"{parameter('tuned')} PATH."
        )


def runs_of_logs(logs: Sequence[RunLog]) -> tuple[Run, ...]:
    """A run for each log, of which no weights were given."""
    paths = [log.path for log in logs]
    return tuple(unpaired(label, path) for label, path in zip(labels(paths), paths, strict=True))


def logs_of_runs(logs: Sequence[RunLog], runs: Sequence[Run], groups: Sequence[RunGroup]) -> dict[str, RunLog]:
    """Logs by the path of the run they are judged with: one log with the first, several with a training run each.

    The checkpoints of one training run share its log, which is judged with the first of them. Raises RolloutError
    where there are several logs, and not as many training runs.
    """
    later = {run.path for group in groups if group.over == "steps" for run in group.runs[1:]}
    firsts = [run.path for run in runs if run.path not in later]
    if len(logs) > 1 and len(logs) != len(firsts):
        trained = f"{len(firsts)} training run{'s' * (len(firsts) != 1)}"
        raise RolloutError(
            f"{parameter('rollouts')}: {len(logs)} logs were given for {trained}; give one log for each, in the "
            f"order of {parameter('tuned')}."
        )
    return dict(zip(firsts, logs, strict=False))


def inputs_with_logs(options: AuditOptions, logs: Sequence[RunLog]) -> dict[str, str]:
    """What was given beside the pair by name, the logs among it as they were found."""
    found = {name: path for name, path in options.auxiliary.items() if name not in LOGS}
    given = {"rollouts": [log.path for log in logs], "scalars": options.logs[1]}
    return found | {name: ", ".join(paths) for name, paths in given.items() if paths}


def of_rollouts(file: CheckFile) -> CheckFile:
    """The file without its checks of weights."""
    return replace(file, checks=tuple(check for check in file.checks if check.scope == "rollouts"))


def without_weights(config: Config, files: Sequence[CheckFile]) -> Config:
    """The configuration without what it says of checks of weights: it is the same for audits with a pair.

    `files` are known beside the bundled ones and the configuration's own.
    """
    if not (config.overrides or config.waivers):
        return config
    every = (*files, *map(load_checks, (*bundled_check_files(), *config.checks)))
    of_weights = {check.id for file in every for check in file.checks if check.scope != "rollouts"}
    of_logs = {check.id for file in every for check in file.checks if check.scope == "rollouts"}
    passed_over = of_weights - of_logs
    return replace(
        config,
        overrides=tuple(o for o in config.overrides if o.check not in passed_over),
        waivers=tuple(w for w in config.waivers if w.check not in passed_over),
    )
