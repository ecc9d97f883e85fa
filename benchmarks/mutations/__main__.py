"""Try every mutation; print the table and, if told so, keep it in docs/mutations.md."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.mutations import page
from benchmarks.mutations.catalogue import every
from benchmarks.mutations.release import bundled_pair, hybrid_pair
from benchmarks.mutations.trials import HEALTHY, Workshop, hold_to_one_thread


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutations", description=__doc__)
    parser.add_argument("--write", action="store_true", help="keep the table in docs/mutations.md")
    parser.add_argument("--only", default="", metavar="WORDS", help="mutations with these words in their names")
    given = parser.parse_args()
    hold_to_one_thread()
    started = time.monotonic()
    with TemporaryDirectory(prefix="mutations-") as name:
        workshop = Workshop(Path(name), [*map(bundled_pair, HEALTHY), hybrid_pair()])
        trials = []
        for mutation in (m for m in every() if given.only in m.name):
            trials.append(workshop.tried(mutation))
            print(page.row(trials[-1]), file=sys.stderr, flush=True)
        healthy = {name: workshop.caught(pair, pair.tuned) for name, pair in workshop.pairs.items()}
    if given.write:
        page.keep(trials, healthy)
    print(page.text(trials, healthy))
    print(f"{time.monotonic() - started:.0f} s, {time.process_time():.0f} s of processor", file=sys.stderr)


if __name__ == "__main__":
    main()
