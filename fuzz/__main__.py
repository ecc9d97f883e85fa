"""`python -m fuzz --seconds 600 --seed 0`: damage, read, and keep what ended in anything but one clean line."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from random import Random
from time import monotonic

from ckptaudit.errors import CkptAuditError
from fuzz.mutations import mutated
from fuzz.targets import Target, targets

LONGEST_S = 10
FINDINGS = Path("fuzz/findings")


class TooSlowError(Exception):
    """A reader went on for longer than LONGEST_S."""


def judged(target: Target, folder: Path) -> str | None:
    """What was wrong with how the reader ended; None where it read the file or refused it in one clean line."""
    signal.signal(signal.SIGALRM, _late)
    signal.alarm(LONGEST_S)
    try:
        target.read(folder)
    except CkptAuditError as error:
        return None if str(error).isprintable() and len(str(error)) < 2000 else f"no clean line: {error!r}"
    except Exception:
        return traceback.format_exc()
    finally:
        signal.alarm(0)
    return None


def findings(seconds: float, seed: int, only: str = "") -> Iterator[tuple[Target, bytes, str]]:
    """Every damaged file on which a reader ended wrong, as long as there is time: the same for the same seed."""
    random, end = Random(seed), monotonic() + seconds
    with tempfile.TemporaryDirectory() as root:
        places = {}
        for target in (t for t in targets() if only in t.name):
            folder = Path(root) / target.name.replace(" ", "_") / "files"
            folder.mkdir(parents=True)
            places[target] = (folder, target.write(folder))
        honest = {target: path.read_bytes() for target, (_, path) in places.items()}
        while monotonic() < end:
            target = random.choice(list(places))
            data = mutated(honest[target], target.kind, random)
            folder, path = places[target]
            path.write_bytes(data)
            wrong = judged(target, folder)
            path.write_bytes(honest[target])
            if wrong:
                yield target, data, wrong


def _late(*_: object) -> None:
    raise TooSlowError(f"not done after {LONGEST_S} s")


def main() -> int:
    """1 if anything was found."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="targets whose name holds this")
    options = parser.parse_args()
    seen = set[str]()
    for target, data, wrong in findings(options.seconds, options.seed, options.only):
        # One of each place is enough.
        where = "\n".join(line for line in wrong.splitlines() if line.startswith('  File "'))[-300:] or wrong[:80]
        if where in seen:
            continue
        seen.add(where)
        FINDINGS.mkdir(parents=True, exist_ok=True)
        kept = FINDINGS / f"{target.name.replace(' ', '_')}-{options.seed}-{len(seen)}"
        kept.write_bytes(data)
        print(f"{target.name}: {wrong}\nkept as {kept}\n", file=sys.stderr)
    print(f"{len(seen)} findings")
    return int(bool(seen))


if __name__ == "__main__":
    raise SystemExit(main())
