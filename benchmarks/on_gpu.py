"""Tests and timings on a graphics card, within a budget, in one JSON file that says what failed or did not fit.

Each part is a process of its own: no error, hang or full memory of one takes the others along. Started by
`scripts/on_gpu.sh`; with `--device cpu --quick` all of it runs anywhere, on small sizes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import ZipFile

ROOT = Path(__file__).parent.parent

Found = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """A part of the run, and the seconds that it may take at most."""

    name: str
    seconds: int


PARTS = (Part("about", 60), Part("tests", 150), Part("layers", 60), Part("svd", 45), Part("experts", 240))
"""Longest first would leave nothing for the others; the reference stands before what it is least needed for."""

LEAST = 10
"""Seconds below which no part is begun."""

ENDING = 2
"""Seconds a part has to write what it has, before it is ended."""

STAND_IN = '''"""Stands in for the package of this name, which is not there: BLAKE2b, slower."""

from hashlib import blake2b


def blake3(data=b"", max_threads=1):
    return blake2b(data, digest_size=32)
'''


def main() -> int:
    """Run the parts. 0 where all were done, 1 where one failed, was stopped, or was left out."""
    given = _options()
    output: Path = given.output.resolve()
    report = Report(output, given.device, quick=given.quick)
    with TemporaryDirectory(prefix="on-gpu-") as name:
        scratch = Path(name)
        report.note("packages", prepare(scratch / "site", given.wheels))
        environment = _environment(scratch / "site")
        for part in PARTS:
            left = given.seconds - report.seconds - ENDING
            if given.only and part.name not in given.only:
                report.part(part.name, {"status": "left out", "error": "not asked for"})
            elif left < LEAST:
                report.part(part.name, {"status": "left out", "error": f"{left:.0f} s of the budget were left"})
            else:
                report.part(part.name, run_part(part.name, min(left, part.seconds), scratch, environment, given))
    print(f"{output}: {report.summary}")
    return 0 if report.is_complete else 1


class Report:
    """The JSON file, written anew after each part."""

    def __init__(self, output: Path, device: str, *, quick: bool) -> None:
        self._output, self._start = output, time.monotonic()
        self._found: Found = {
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "device": device,
            "quick": quick,
            "python": platform.python_version(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            "parts": {},
        }
        self._write()

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._start

    @property
    def is_complete(self) -> bool:
        """Whether every part was done."""
        return all(part["status"] == "done" for part in self._found["parts"].values())

    @property
    def summary(self) -> str:
        """Each part and what became of it."""
        return ", ".join(f"{name} {part['status']}" for name, part in self._found["parts"].items())

    def note(self, name: str, value: object) -> None:
        """Add a fact."""
        self._found[name] = value
        self._write()

    def part(self, name: str, found: Found) -> None:
        """Add what a part found."""
        self._found["parts"][name] = found
        said = f" ({found['error'].strip().splitlines()[-1]})" if found.get("error") else ""
        print(f"{self.seconds:5.0f} s  {name}: {found['status']}{said}")
        self._write()

    def _write(self) -> None:
        self._found["seconds"] = round(self.seconds, 1)
        aside = self._output.with_name(f"{self._output.name}.part")
        aside.write_text(json.dumps(self._found, indent=2) + "\n", encoding="utf-8")
        aside.replace(self._output)


def run_part(
    name: str, seconds: float, scratch: Path, environment: Mapping[str, str], given: argparse.Namespace
) -> Found:
    """A part in a process of its own. It writes what it has found as it goes, which stays if it is ended."""
    file, log = scratch / f"{name}.json", scratch / f"{name}.log"
    command = [sys.executable, "-m", "benchmarks.gpu_parts", name, str(file), f"--seconds={seconds:.0f}"]
    command += [f"--device={given.device}", f"--scratch={scratch}", *["--quick"] * given.quick]
    start = time.monotonic()
    status, error = ended(command, seconds, log, environment)
    found: Found = {"status": status, "seconds": round(time.monotonic() - start, 1)}
    if error:
        found["error"] = error
    return found | (json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {})


def ended(command: Sequence[str], seconds: float, log: Path, environment: Mapping[str, str]) -> tuple[str, str]:
    """What became of a process, and its last words where it failed; ended with all it started when time is up."""
    with log.open("wb") as written:
        process = subprocess.Popen(
            command, cwd=ROOT, env=dict(environment), stdout=written, stderr=written, start_new_session=True
        )
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            return "stopped", f"not done within {seconds:.0f} s"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return ("done", "") if code == 0 else ("failed", _tail(log))


def prepare(site: Path, wheels: Path | None) -> Found:
    """A folder for the import path: what wheels hold, the package's metadata, and a stand-in for a missing hash.

    Says what else the package needs and is not there.
    """
    site.mkdir(parents=True)
    for wheel in sorted(wheels.glob("*.whl")) if wheels is not None else ():
        with ZipFile(wheel) as packed:
            packed.extractall(site)
    sys.path.insert(0, str(site))
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    _describe(site, project)
    stands_in = find_spec("blake3") is None
    if stands_in:
        (site / "blake3.py").write_text(STAND_IN, encoding="utf-8")
    names = [requirement.partition(">")[0] for requirement in project["dependencies"]]
    missing = [name for name in names if find_spec(name.replace("-", "_")) is None]
    return {"missing": missing, "stand-ins": ["blake3"] if stands_in else []}


def _describe(site: Path, project: Mapping[str, Any]) -> None:
    """The metadata that an installation would have left, where there is none."""
    try:
        version("ckptaudit")
    except PackageNotFoundError:
        folder = site / "ckptaudit-0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: ckptaudit\nVersion: 0+source\n", encoding="utf-8"
        )
        plugins = project["entry-points"]["pytest11"]
        lines = ["[pytest11]", *(f"{name} = {module}" for name, module in plugins.items())]
        (folder / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _environment(site: Path) -> dict[str, str]:
    given = {
        name: value for name, value in os.environ.items() if not name.startswith("CKPTAUDIT_") and name != "CI"
    }
    places = [str(ROOT), str(site), *filter(None, [given.get("PYTHONPATH")])]
    return given | {"PYTHONPATH": os.pathsep.join(places), "PYTHONUNBUFFERED": "1"}


def _tail(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-2000:] or "it said nothing"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/on_gpu.sh", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("on_gpu.json"), help="default: on_gpu.json")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N or cpu (default: cuda)")
    parser.add_argument("--seconds", type=int, default=450, help="budget for everything (default: 450)")
    parser.add_argument("--quick", action="store_true", help="small sizes, to try every line")
    parser.add_argument("--only", nargs="+", metavar="PART", choices=[part.name for part in PARTS])
    parser.add_argument("--wheels", type=Path, help="a folder with wheels of what this Python lacks")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
