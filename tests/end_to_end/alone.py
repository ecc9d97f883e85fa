"""An environment that holds the package and what it depends on, and nothing else that is installed here."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterable
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent.parent


def package_alone(place: Path, *extras: str) -> Path:
    """Make the environment and give its folder of programs; nothing is downloaded, packages are linked to."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [
        *project["dependencies"],
        *(line for name in extras for line in project["optional-dependencies"][name]),
    ]
    venv.create(place, with_pip=True)
    site = next((place / "lib").glob("python*/site-packages"))
    for found in _needed(Requirement(line).name for line in asked):
        _link(found, site)
    _scripts(distribution("pytest"), place / "bin")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(place / "dist")],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    wheel = next((place / "dist").glob("*.whl"))
    install = [place / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(list(map(str, install)), check=True, capture_output=True)
    return place / "bin"


def _needed(names: Iterable[str]) -> Iterable[Distribution]:
    """Those of the names that are installed, and all that they need, without their extras."""
    waiting, found = list(names), dict[str, Distribution]()
    while waiting:
        name = waiting.pop()
        key = name.lower().replace("_", "-")
        if key in found:
            continue
        try:
            found[key] = distribution(name)
        except PackageNotFoundError:
            continue
        needed = map(Requirement, found[key].requires or ())
        waiting += [r.name for r in needed if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found.values()


def _link(found: Distribution, site: Path) -> None:
    for top in {file.parts[0] for file in found.files or () if file.parts[0] not in ("..", "__pycache__")}:
        source = Path(str(found.locate_file(top)))
        if source.exists() and not (site / top).exists():
            (site / top).symlink_to(source)


def _scripts(found: Distribution, programs: Path) -> None:
    for entry in found.entry_points:
        if entry.group == "console_scripts":
            module, _, function = entry.value.partition(":")
            path = programs / entry.name
            path.write_text(
                f"#!{programs / 'python'}\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n"
            )
            path.chmod(0o755)
