"""`ckptaudit promote`: a registry's alias, a webhook's message or a script's turn, only where the gate is open."""

from __future__ import annotations

import argparse
from pathlib import Path

from ckptaudit.cli.output import show
from ckptaudit.errors import PromotionError, printable

HELP = "promote a release whose gate is open: an alias in MLflow's registry, a webhook, or a script of yours"

NOT_PROMOTED = 1


def arguments(parser: argparse.ArgumentParser) -> None:
    """The result, what it is about, and where to promote."""
    parser.add_argument("result", type=Path, help="a file that --audit-json wrote")
    parser.add_argument(
        "--folder",
        type=Path,
        metavar="PATH",
        help="promote only if this holds the files that were audited, byte by byte",
    )
    places = parser.add_subparsers(dest="place", required=True, metavar="PLACE")
    mlflow = places.add_parser("mlflow", help="tag a version of a registered model, and give it an alias")
    mlflow.add_argument("--model", required=True, metavar="NAME", help="the registered model")
    mlflow.add_argument("--version", required=True, metavar="N", help="its version that was audited")
    mlflow.add_argument("--alias", required=True, metavar="NAME", help="the alias that it gets, such as champion")
    mlflow.add_argument("--store", metavar="URI", help="the registry (default: MLflow's own, MLFLOW_TRACKING_URI)")
    webhook = places.add_parser("webhook", help="POST the answer as JSON")
    webhook.add_argument("--url", required=True, metavar="URL", help="http or https")
    places.add_parser("check", help="only say whether it may be promoted, for a script that does it: 0 or 1")


def run(options: argparse.Namespace) -> int:
    """Promote, or say why not and return 1. Raises CkptAuditError where it could not be tried."""
    from ckptaudit.release.promotion import promote_in_mlflow, refusal, same_files, send_to_webhook
    from ckptaudit.results.json_io import read_json
    from ckptaudit.results.records import LEFT_OUT

    result = read_json(options.result)
    if len(result.tuned) != 1:
        raise PromotionError(f"{printable(options.result)}: an audit of {len(result.tuned)} runs; promote one.")
    closed = refusal(result)
    changed = same_files(result, options.folder) if options.folder is not None and closed is None else ""
    if closed is not None or changed:
        why = f"the gate is closed by {closed.cause}" if closed else f"{options.folder} differs: {changed}"
        show(f"not promoted: {printable(why)}")
        return NOT_PROMOTED
    for line in result.not_judged:
        if line.startswith(LEFT_OUT):
            show(f"note: {printable(line)}")
    if options.place == "mlflow":
        asked = {name: getattr(options, name) for name in ("model", "version", "alias", "store")}
        promote_in_mlflow(result, **asked)
        version = f"{printable(options.model)} version {printable(options.version)}"
        show(f"promoted: {version} is {printable(options.alias)}")
    elif options.place == "check":
        print("may be promoted: the gate is open")
    else:
        show(f"promoted: {printable(options.url)} answered {send_to_webhook(result, options.url)}")
    return 0
