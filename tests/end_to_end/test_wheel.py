"""What the wheel carries: an installed package must find its checks without the source tree."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_the_wheel_ships_checks_and_naming_rules(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    names = set(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist())
    assert {f"ckptaudit/bundled_checks/{p.name}" for p in (ROOT / "checks").glob("*.toml")} <= names
    assert {str(p.relative_to(ROOT)) for p in (ROOT / "ckptaudit").rglob("*.toml")} <= names
    page = {str(p.relative_to(ROOT)) for p in (ROOT / "ckptaudit" / "report" / "html").rglob("*") if p.is_file()}
    assert {name for name in page if "__pycache__" not in name} <= names
    licences = {name.rpartition("/")[2] for name in names if ".dist-info/licenses/" in name}
    assert {"LICENSE", "LICENSE-d3", "NOTICE"} <= licences
    assert not any("fixtures/" in name or "tests/" in name for name in names)
