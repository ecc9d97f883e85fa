"""Time our gate, and what people use today, alternating; print the tables and, if told so, keep them."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks import tables
from benchmarks.family import FAMILY, LARGE_FAMILY, LARGER_FAMILY, Kind
from benchmarks.installed import gate_python, modeldelta
from benchmarks.limits import least_work
from benchmarks.modes import IMPORT_TORCH, Mode, Place, modes
from benchmarks.timing import Run, timed
from ckptaudit.options import DEFAULT_MEMORY
from ckptaudit.sizes import parse_size

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- measured: begin -->\n", "<!-- measured: end -->\n"
PLAIN_RUNS = 7


def main() -> None:
    """Measure and print."""
    given = _options()
    build: Path = given.build.resolve()
    python = given.python or gate_python(build)
    every = modes(python, build / "modeldelta" / "bin" / "modeldelta")
    chosen = [m for m in every if not given.only or any(name in m.name for name in given.only)]
    if any(m.name == "modeldelta" for m in chosen):
        modeldelta(build)
    if kinds := _kinds(given, chosen):
        with TemporaryDirectory(prefix="benchmark-") as name:
            print(_of_kinds(kinds, Path(name), given))
        return
    # Outside of this repository: pytest would take its settings and its conftest for the gate's.
    with TemporaryDirectory(prefix="benchmark-") as name:
        scratch = Path(name)
        torch = [timed([str(python), "-c", IMPORT_TORCH], folder=scratch) for _ in range(3)]
        places = {layers: _place(layers, build, scratch) for layers in given.layers}
        runs = {layers: _rounds(chosen, place, layers, given) for layers, place in places.items()}
        results = tables.Results(chosen, runs, torch)
        text = "\n\n".join(_sections(results, places, python))
    print(text)
    if given.write:
        _keep(text)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--layers", type=int, nargs="+", help="default: 4 12 24; 2 for the family, 1 for large")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of our own modes (default: 3)")
    parser.add_argument("--slow-rounds", type=int, default=1, help="of them, rounds with the comparators")
    parser.add_argument(
        "--only", nargs="+", metavar="MODE", help="modes with these words in the name; cached needs first"
    )
    parser.add_argument(
        "--family", action="store_true", help="a few layers of each pair of the family, not one pair"
    )
    parser.add_argument(
        "--large", action="store_true", help="one layer in the shapes of Qwen2.5-7B, of three pairs"
    )
    parser.add_argument(
        "--larger",
        action="store_true",
        help="one layer of DeepSeek-V3 with 8 experts, one of Llama-3-70B; gate only",
    )
    parser.add_argument("--python", type=Path, help="an interpreter that has the package, instead of a new one")
    parser.add_argument("--quick", action="store_true", help="4 layers, one round")
    parser.add_argument("--write", action="store_true", help=f"keep the tables in {PAGE.relative_to(ROOT)}")
    parser.add_argument(
        "--build", type=Path, default=ROOT / "build" / "benchmarks", help="folder for pairs and runs"
    )
    given = parser.parse_args()
    given.layers = sorted(
        given.layers or ([1] if given.large or given.larger else [2] if given.family else [4, 12, 24])
    )
    if given.quick:
        given.layers, given.rounds, given.slow_rounds = [4], 1, 1
    return given


def _place(layers: int, build: Path, scratch: Path) -> Place:
    base, tuned = map(Path, _printed_by("benchmarks.pair", layers, build / "pairs").splitlines())
    return Place(base, tuned, scratch)


def _kinds(given: argparse.Namespace, chosen: Sequence[Mode]) -> dict[Kind, list[Mode]]:
    """The pairs to be timed, and in which modes: comparators take minutes for a large layer, of one pair alone."""
    gate = [mode for mode in chosen if mode.name.startswith("gate")]
    if given.larger:
        return dict.fromkeys(LARGER_FAMILY, gate)
    if given.large:
        return {kind: list(chosen) if kind == LARGE_FAMILY[0] else gate for kind in LARGE_FAMILY}
    return {kind: list(chosen) for kind in FAMILY if given.family}


def _of_kinds(kinds: Mapping[Kind, Sequence[Mode]], scratch: Path, given: argparse.Namespace) -> str:
    """A table of one round of each mode on each pair; pairs that the gate refuses are timed like the others."""
    taken: dict[str, dict[str, Run]] = {}
    for kind, chosen in kinds.items():
        arguments = given.layers[0], given.build.resolve() / "pairs", f"{kind.shapes.name}: {kind.name}"
        base, tuned = map(Path, _printed_by("benchmarks.pair", *arguments).splitlines())
        place = Place(base, tuned, scratch / kind.name)
        place.scratch.mkdir()
        for mode in chosen:
            command = mode.command(place)
            mode.prepare(place)
            run = timed(command, folder=place.scratch, codes=(0, 1))
            taken.setdefault(kind.name, {})[mode.name] = run
            print(
                f"{kind.name}: {mode.name} {run.seconds:.2f} s, {run.cpu_seconds:.2f} s of processor, "
                f"{run.peak_bytes / 2**20:.0f} MiB, load before {run.load:.1f}",
                file=sys.stderr,
                flush=True,
            )
    table = tables.family(taken, modes(Path(), Path()))
    return f"{os.cpu_count()} cores, {_processor()}, torch {version('torch')}\n\n{table}"


def _rounds(chosen: Sequence[Mode], place: Place, layers: int, given: argparse.Namespace) -> dict[str, list[Run]]:
    """Complete rounds, each mode once in each: a slow spell of the machine falls on all of them alike."""
    taken: dict[str, list[Run]] = {}
    for number in range(given.rounds):
        for mode in chosen:
            if mode.slow and (number >= given.slow_rounds or layers not in (given.layers[0], given.layers[-1])):
                continue
            command = mode.command(place)
            mode.prepare(place)
            run = timed(command, folder=place.scratch)
            taken.setdefault(mode.name, []).append(run)
            print(
                f"{layers} layers, round {number + 1}: {mode.name} {run.seconds:.2f} s, {run.cpu_seconds:.2f} s of "
                f"processor, {run.peak_bytes / 2**20:.0f} MiB, load before {run.load:.1f}",
                file=sys.stderr,
                flush=True,
            )
    return taken


def _sections(results: tables.Results, places: dict[int, Place], python: Path) -> Iterator[str]:
    yield _machine(results)
    for layers in sorted(results.runs):
        place = places[layers]
        size = sum(_weights(side).stat().st_size for side in (place.base, place.tuned))
        yield f"### {layers} layers, {size / 1e6:,.0f} MB in two files"
        yield tables.speed(results, layers)
    if len(results.runs) > 1:
        yield "### Growth with the number of layers"
        yield tables.growth(results)
    yield "### Peak memory of the process, beyond importing torch"
    largest = _shapes(places[min(places)])
    yield tables.memory(results, (8 * 4 * max(m * n for m, n in largest) + parse_size(DEFAULT_MEMORY)) / 2**20)
    yield _caches(places[max(places)], max(places))
    yield from _limits(results, places)
    yield "### A plain pytest run with the plugin installed"
    yield _plugin(python, places[min(places)].scratch)


def _caches(place: Place, layers: int) -> str:
    sizes = {
        kind: sum(file.stat().st_size for file in place.cache(kind).glob("*.safetensors")) / 2**20
        for kind in ("gate", "exact")
    }
    return (
        f"The cache of {layers} layers: {sizes['gate']:.0f} MiB for the gate, {sizes['exact']:.0f} MiB for exact."
    )


def _limits(results: tables.Results, places: dict[int, Place]) -> Iterator[str]:
    layers = max(results.runs)
    place = places[layers]
    files = [_weights(side) for side in (place.base, place.tuned)]
    rates = json.loads(_printed_by("benchmarks.machine", files[0]))
    changed = float(_printed_by("benchmarks.limits", *files))
    size = sum(file.stat().st_size for file in files)
    work = {mode.name: least_work(mode.name, _shapes(place), size) for mode in results.modes}
    yield f"### Physical limits at {layers} layers"
    yield (
        f"Measured rates: reading {rates['read'] / 1e9:.1f} GB/s from files that the system holds in memory "
        f"({rates['disk'] / 1e9:.1f} from the disk), {rates['memory'] / 1e9:.1f} GB/s through memory, matrix "
        f"products {rates['float32'] / 1e9:.0f} GFLOPS in float32 and {rates['float64'] / 1e9:.0f} in float64. "
        f"The update changes {changed:.1%} of the entries."
    )
    yield tables.limits(results, layers, work, rates)


def _plugin(python: Path, scratch: Path) -> str:
    """Milliseconds that the plugin adds to a run that audits nothing; with and without alternating."""
    folder = scratch / "plain"
    folder.mkdir(exist_ok=True)
    (folder / "test_nothing.py").write_text("def test_nothing():\n    pass\n")
    plain = [str(python), "-P", "-m", "pytest", "-q"]
    pairs = [
        (timed([*plain, "-p", "no:ckptaudit"], folder=folder), timed(plain, folder=folder))
        for _ in range(PLAIN_RUNS)
    ]
    without, with_it = (min(run.seconds for run in side) for side in zip(*pairs, strict=True))
    return f"{1e3 * without:.0f} ms without it, {1e3 * with_it:.0f} ms with it (best of {PLAIN_RUNS})."


def _machine(results: tables.Results) -> str:
    loads = [run.load for runs in results.runs.values() for each in runs.values() for run in each]
    return (
        f"{os.cpu_count()} cores, {_processor()}, Python {platform.python_version()}, torch {version('torch')}; "
        f"importing torch alone takes {min(run.seconds for run in results.torch):.1f} s and "
        f"{min(run.peak_bytes for run in results.torch) / 2**20:.0f} MiB. The load average before the runs was "
        f"{min(loads):.1f} to {max(loads):.1f}, the runs' own share included."
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((x.partition(":")[2].strip() for x in lines if x.startswith("model name")), platform.machine())


def _printed_by(module: str, *arguments: object) -> str:
    """What a module prints in a process of its own: this one must stay free of torch, see `timed`."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def _weights(side: Path) -> Path:
    return side / "model.safetensors"


def _shapes(place: Place) -> list[tuple[int, int]]:
    """The shapes of all matrices, by the file's own header."""
    with _weights(place.base).open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    shapes = [entry["shape"] for name, entry in header.items() if name != "__metadata__"]
    return [(shape[0], shape[1]) for shape in shapes if len(shape) == 2]


def _keep(text: str) -> None:
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{text}\n\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
