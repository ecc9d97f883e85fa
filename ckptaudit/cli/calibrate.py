"""`ckptaudit calibrate`: limits learned from runs that a team trusts."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from ckptaudit.cli.output import show, show_all
from ckptaudit.errors import CalibrationError, printable
from ckptaudit.judging.profiles import default_profile
from ckptaudit.options import AUXILIARY

if TYPE_CHECKING:
    from ckptaudit.judging.check_files import CheckFile
    from ckptaudit.measurement.store import MeasurementStore
    from ckptaudit.pipeline import OpenedAudit
    from ckptaudit.rollouts.facts import RunFacts

HELP = "learn limits from trusted runs and write them as a configuration"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The runs, how sure to be, and where to write."""
    parser.add_argument("--base", metavar="PATH", help="checkpoint that the runs started from")
    parser.add_argument(
        "--tuned", action="append", metavar="PATH", help="trusted run, pattern, or FOLDER@all; repeat"
    )
    for name in ("rollouts", "scalars"):
        parser.add_argument(
            f"--{name}", action="append", metavar="PATH", help=f"{AUXILIARY[name].help}; one for each run; repeat"
        )
    parser.add_argument("--probes", metavar="FILE", help=AUXILIARY["probes"].help)
    parser.add_argument("--profile", help=f"whose checks (default: {default_profile()}; of rollouts alone: theirs)")
    parser.add_argument(
        "--margin", type=float, default=1.5, help="room over the worst value (default: %(default)s)"
    )
    parser.add_argument(
        "--confidence", type=float, default=0.95, help="how sure to be of the coverage (default: %(default)s)"
    )
    parser.add_argument(
        "--coverage", type=float, default=0.9, help="share of further runs to cover (default: %(default)s)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument("--force", action="store_true", help="loosen limits past published separations as well")
    parser.add_argument("--overwrite", action="store_true", help="replace the file if there is one")
    parser.add_argument("-o", "--output", default="ckptaudit.toml", type=Path, metavar="FILE")


def run(options: argparse.Namespace) -> int:
    """Measure exactly, hold the runs against the limits learned, and write the file. Raises CkptAuditError."""
    _refuse(options)
    from ckptaudit.foreign_files.outputs import Output, refuse_unwritable, refuse_what_is_read

    output = Output(options.output, "--output")
    refuse_unwritable([output])
    from ckptaudit.atomic_write import write_text
    from ckptaudit.calibration.config_file import Given, render, support
    from ckptaudit.calibration.learning import Learned, Settings, calibrate
    from ckptaudit.checkpoints import fingerprint
    from ckptaudit.judging.config import Config
    from ckptaudit.options import AuditOptions
    from ckptaudit.pipeline import choose_checks, execute, open_audit, plan

    settings = Settings(options.margin, options.coverage, options.confidence, options.force)
    asked = AuditOptions(
        base=options.base or "",
        tuned=tuple(options.tuned or ()),
        rollouts=tuple(options.rollouts or ()),
        scalars=tuple(options.scalars or ()),
        auxiliary={"probes": options.probes} if options.probes else {},
        profile=options.profile or (default_profile() if options.base else ""),
        device=options.device,
        exact=True,
        complete=False,
    )
    facts = _facts()
    opened = open_audit(asked, facts)
    refuse_what_is_read([output], opened.places)
    files = [file for file in choose_checks(opened, Config()).files if not _compares_siblings(file)]
    planned = plan(opened, files, Config())
    measurements = execute(planned)
    found = calibrate(planned, measurements, settings)
    count = len({seen.run for item in found if isinstance(item, Learned) for seen in item.deciding})
    marks = {run.path: fingerprint(run.pair.tuned) for run in opened.runs if opened.has_pair}
    logs = {log.path: log.table.trainer for log in opened.logs.values()}
    given = Given(asked.base, marks, logs, asked.profile, facts if logs else None)
    text = render(given, found, settings, count)
    _verify(text, options.output.name, opened, files, measurements)
    try:
        write_text(options.output, text)
    except OSError as error:
        why = printable(error.strerror or error)
        raise CalibrationError(f"{printable(options.output)}: cannot be written ({why}).") from None
    learned = sum(isinstance(item, Learned) for item in found)
    show(f"{printable(options.output)}: {learned} limits from {count} trusted run{'s' * (count != 1)}.")
    show_all(support(settings, count))
    return 0


def _facts() -> RunFacts:
    """What the configuration here says of logs of rollouts."""
    from ckptaudit.judging.config import find_config, load_config
    from ckptaudit.rollouts.facts import RunFacts

    config = find_config([Path.cwd()])
    return load_config(config).facts if config else RunFacts()


def _compares_siblings(file: CheckFile) -> bool:
    return any(check.over == "siblings" for check in file.checks)


def _verify(
    text: str, name: str, opened: OpenedAudit, files: Sequence[CheckFile], measurements: MeasurementStore
) -> None:
    """Hold the runs against the limits they set, before any file is replaced. Raises CalibrationError."""
    from ckptaudit.judging.config import load_config
    from ckptaudit.pipeline import judge, plan

    with TemporaryDirectory(prefix="ckptaudit-") as folder:
        draft = Path(folder) / name
        draft.write_text(text, encoding="utf-8")
        config = load_config(draft)
    broken = [v for v in judge(plan(opened, files, config), measurements) if v.closes]
    if broken:
        raise CalibrationError(
            f"{printable(broken[0].tuned)} fails {broken[0].check} under the limits it set; nothing was written."
        )


def _refuse(options: argparse.Namespace) -> None:
    if not options.margin >= 1:
        raise CalibrationError(f"--margin {options.margin:g}: a factor of at least 1 is required.")
    for name in ("confidence", "coverage"):
        if not 0 < getattr(options, name) < 1:
            raise CalibrationError(f"--{name} {getattr(options, name):g}: a share between 0 and 1 is required.")
    if options.output.exists() and not options.overwrite:
        raise CalibrationError(
            f"{printable(options.output)}: there already; give another -o FILE, or --overwrite to replace it."
        )
