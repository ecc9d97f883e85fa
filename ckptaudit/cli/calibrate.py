"""`ckptaudit calibrate`: limits learned from runs that a team trusts."""

from __future__ import annotations

import argparse
from pathlib import Path

from ckptaudit.errors import CalibrationError, printable
from ckptaudit.judging.profiles import DEFAULT_PROFILE

HELP = "learn limits from trusted runs and write them as a configuration"


def arguments(parser: argparse.ArgumentParser) -> None:
    """The runs, how sure to be, and where to write."""
    parser.add_argument("--base", required=True, metavar="PATH", help="checkpoint that the runs started from")
    parser.add_argument(
        "--tuned",
        required=True,
        action="append",
        metavar="PATH",
        help="trusted run, pattern, or FOLDER@all; repeat",
    )
    parser.add_argument("--profile", default=DEFAULT_PROFILE, help="whose checks (default: %(default)s)")
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
    """Measure exactly, write the file, and hold the runs against it once more. Raises CkptAuditError."""
    _refuse(options)
    from ckptaudit.calibration.config_file import render, support, write
    from ckptaudit.calibration.learning import Learned, Settings, calibrate
    from ckptaudit.checkpoints import fingerprint
    from ckptaudit.judging.check_files import load_checks
    from ckptaudit.judging.config import load_config
    from ckptaudit.judging.profiles import companions, profile_file
    from ckptaudit.pipeline.session import AuditSession

    settings = Settings(options.margin, options.coverage, options.confidence, options.force)
    session = AuditSession(options.base, options.tuned, device=options.device, exact=True, profile=options.profile)
    joining = companions(options.profile)
    files = [load_checks(profile_file(options.profile))]
    if "steps" in session.compares and "steps" in joining:
        files.append(load_checks(joining["steps"]))
    requests = [request for file in files for request in session.requests(file)]
    session.expect(requests)
    found = calibrate(session, requests, settings)
    count = len({owner for item in found if isinstance(item, Learned) for owner in (s.run for s in item.deciding)})
    marks = {run.path: fingerprint(run.pair.tuned) for run in session.runs}
    write(render(session.base, marks, options.profile, found, settings, count), options.output)
    session.agree(load_config(options.output), files)
    broken = [v for file in files for r in session.requests(file) if (v := session.verdict(r)).closes]
    if broken:
        options.output.unlink()
        raise CalibrationError(
            f"{printable(broken[0].tuned)} fails {broken[0].check} under the limits it set; nothing was written."
        )
    learned = sum(isinstance(item, Learned) for item in found)
    print(f"{printable(options.output)}: {learned} limits from {count} trusted run{'s' * (count != 1)}.")
    print("\n".join(support(settings, count)))
    return 0


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
